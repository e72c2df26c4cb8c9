"""A person in front of a real browser: what they see of the panel, and do with the mouse."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.browser import page_at

ANNOTATED = "annotate-label-"  # before the id of a label in the list of the annotation tab


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
        self.page.keyboard.press("Tab")

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

    def open_tile(self, place: int = 0) -> Any:
        """Open a picture; returns what lies above the grid."""
        self.page.locator("[data-cy=looker]").nth(place).click()
        modal = self.page.locator("[data-cy=modal]")
        modal.locator("[data-cy=sample-canvas]").first.wait_for()
        return modal

    def annotate(self, place: int = 0) -> Any:
        """Open a picture in the App's annotation tab; returns what lies above the grid."""
        modal = self.open_tile(place)
        modal.get_by_text("Annotate", exact=True).first.click()
        modal.locator("[data-cy^=annotate-label-]").first.wait_for()
        return modal

    def change_class(self, modal: Any, to: str, label: str | None = None) -> str:
        """Choose another class for a label (the first one) in the annotation tab, wait until it is saved."""
        chosen = modal.locator(f"[data-cy={ANNOTATED}{label}]" if label else f"[data-cy^={ANNOTATED}]").first
        name = str(chosen.get_attribute("data-cy")).removeprefix(ANNOTATED)
        chosen.click()
        with self.page.expect_response(lambda r: r.request.method == "PATCH" and r.ok):
            modal.get_by_label(to, exact=True).first.click()
        return name

    def close_tile(self) -> None:
        """Back to the grid."""
        modal = self.page.locator("[data-cy=modal]")

        def is_closed() -> bool:
            if modal.count():
                self.page.keyboard.press("Escape")  # the first ones end what is selected in it
            return modal.count() == 0

        eventually(is_closed, 20)


@contextmanager
def opened(address: str, width: int = 1600, height: int = 1250) -> Iterator[Screen]:
    """A browser at an address."""
    with page_at(address, width, height) as page:
        yield Screen(page)


def eventually(claim: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something has come true."""
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.5)
