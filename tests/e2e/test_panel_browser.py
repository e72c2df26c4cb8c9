"""From the printed address to the finalized labels with the mouse: real server, worker, App and browser."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import CHROMIUM, page_at
from tests.builders import counts, entries, labels_in
from valflow import audits, database, prefect_api, review_app, runs
from valflow.config import config_from_mapping
from valflow.stack import Stack

pytestmark = [
    pytest.mark.stack,
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium"),
]


class Screen:
    """What a person sees of the panel, and does with the mouse."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def button(self, label: str) -> Any:
        return self.page.locator("button.MuiButton-root", has_text=re.compile(label)).first

    def click(self, label: str, then: str | None = None) -> None:
        self.button(label).click()
        if then:
            self.sees(then)

    def sees(self, text: str) -> None:
        self.page.get_by_text(re.compile(text)).first.wait_for()

    def type(self, label: str, text: str) -> None:
        field = self.page.locator(f"xpath=//*[contains(text(),'{label}')]/following::input[1]")
        field.fill(text)
        field.press("Tab")

    def tiles(self, number: int) -> None:
        """Wait until the grid holds so many."""
        self.page.locator("[data-cy=entry-counts]", has_text=re.compile(rf"^{number}\b")).wait_for()
        self.page.locator("[data-cy=looker]").first.wait_for()

    def number_on(self, label: str) -> int:
        """The number of labels that a button names."""
        return int(re.findall(r"\d+", self.button(label).inner_text())[0])

    def slider_end(self) -> float:
        """The upper end of the confidence range; a pixel of the slider is not a hundredth."""
        text = self.page.get_by_text(re.compile(r"to \d\.\d\d")).first.inner_text()
        return float(re.findall(r"to (\d\.\d\d)", text)[0])

    def select(self, *places: int) -> None:
        """Tick tiles in the grid, from the first."""
        for place in places:
            tile = self.page.locator("[data-cy=looker]").nth(place)
            tile.hover()
            self.page.wait_for_timeout(500)
            corner = tile.bounding_box()
            self.page.mouse.click(corner["x"] + 16, corner["y"] + 16)
            self.page.wait_for_timeout(500)

    def slide_down_to(self, share: float) -> None:
        """Move the upper end of the confidence."""
        slider = self.page.locator(".MuiSlider-root", has=self.page.locator("input[min='0'][max='1']")).last
        # The panel is drawn anew after each answer: an element may go while it is looked at.
        box = None
        while box is None:
            self.page.wait_for_timeout(1000)
            box = slider.bounding_box()
        self.page.mouse.click(box["x"] + box["width"] * share, box["y"] + box["height"] / 2)


@pytest.fixture
def scenes(tmp_path: Path) -> Iterator[Any]:
    from examples.digits.scenes import build_dataset

    dataset = build_dataset("panel-digits", tmp_path / "scenes", 30, overwrite=True)
    yield dataset
    dataset.delete()


@pytest.fixture
def waiting(in_stack: Stack, scenes: Any, tmp_path: Path) -> str:
    """A run that is suspended in Prefect and waits for a person."""
    config = config_from_mapping(
        {
            "dataset": scenes.name,
            "label_field": "found",
            "model": {"kind": "python", "path": "examples.digits.model:DigitDetector"},
            "approval": {"threshold": 0.9},
            "output_dir": str(tmp_path / "runs"),
        }
    )
    flow_run = prefect_api.trigger(config)
    prefect_api.wait_for(flow_run, ["Suspended"], timeout=240)
    record = runs.find_by_flow_run(flow_run)
    assert record is not None
    return str(record["run"])


@pytest.fixture
def screen(waiting: str, in_stack: Stack) -> Iterator[Screen]:
    """The browser, at the address that was printed."""
    with page_at(str(review_app.address_of(runs.load(waiting), in_stack.app_url))) as page:
        yield Screen(page)


def eventually(claim: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.5)


def undecided_up_to(run: str, confidence: float) -> int:
    return sum(e["state"] == "undecided" and e["confidence"] <= confidence for e in entries(run).values())


def test_a_review_with_the_mouse(screen: Screen, waiting: str, scenes: Any) -> None:
    start = counts(waiting)
    screen.button("Add \\d+ labels for approval").wait_for()
    screen.tiles(min(start["undecided"], 100))
    screen.type("Your name", "ann")
    eventually(lambda: database.runs().count_documents({"run": waiting, "edits_read_at": {"$ne": None}}) == 1)

    screen.select(0, 1)
    screen.click("Add 2 labels", "2 labels approved")
    assert counts(waiting)["approved"] == start["approved"] + 2
    screen.click("Undo: approve", "2 labels as before")
    assert counts(waiting) == start

    for end in (0.6, 0.35):  # the nearer end of the slider moves, so in two steps
        screen.slide_down_to(end)
        screen.sees("|".join(f"to {end + pixel / 100:.2f}" for pixel in (-2, -1, 0, 1)))
    eventually(
        lambda: screen.number_on("Reject \\d+ labels") == undecided_up_to(waiting, screen.slider_end())
    )
    shown = screen.number_on("Reject \\d+ labels")
    screen.click("false_positive", "tagged false_positive")
    screen.click("Reject \\d+ labels", f"{shown} labels rejected")
    assert counts(waiting)["rejected"] == shown

    screen.click("^Approval$", "Checklist")
    screen.click("Draw an audit", "0 of 59 judged")
    screen.tiles(30)
    screen.select(0)
    screen.click("Not an object", "1 of 59 judged")
    screen.tiles(29)
    screen.click("All other labels", "30 of 59 judged")
    screen.tiles(29)
    screen.click("All other labels", "1 wrong of 59")
    assert len(audits.open_items(waiting)) == 0

    approved = counts(waiting)["approved"]
    screen.click("Finalize Labels", "Labels to be added")
    screen.click("^Confirm$", "resumed the Prefect run")
    screen.sees(f"{approved} labels added")
    eventually(lambda: bool(runs.load(waiting).get("completed_at")))
    screen.sees("validation: \\d+ of \\d+ checks passed")

    record = runs.load(waiting)
    assert (record["decision"]["reviewer"], record["decision"]["via"]) == ("ann", "app")
    wanted = {i for i, e in entries(waiting).items() if e["state"] == "approved"}
    scenes.reload()
    assert set(labels_in(scenes, "found")) == wanted
    assert len(wanted) == approved
    assert len(scenes.match_tags("false_positive")) > 0
