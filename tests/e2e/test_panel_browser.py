"""From the printed address to the finalized labels with the mouse: real server, worker, App and browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import MARKS
from tests.builders import counts, entries, labels_in
from tests.e2e.browsing import Screen, eventually, opened
from valflow import audits, database, prefect_api, review_app, runs
from valflow.config import config_from_mapping
from valflow.stack import Stack

pytestmark = MARKS


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
    with opened(str(review_app.address_of(runs.load(waiting), in_stack.app_url))) as screen:
        yield screen


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
