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

    def __init__(self, page: Any, within: Any = None) -> None:
        self.page = page
        self.within = page if within is None else within

    def button(self, label: str) -> Any:
        """A button by its text, in which the name of its icon comes first."""
        return self.within.locator("button.MuiButton-root", has_text=re.compile(label)).first

    def click(self, label: str, then: str | None = None) -> None:
        self.button(label).click()
        if then:
            self.sees(then)

    def sees(self, text: str) -> None:
        self.page.get_by_text(re.compile(text)).first.wait_for()

    def type(self, label: str, text: str) -> None:
        field = self.within.locator(f"xpath=.//*[contains(text(),'{label}')]/following::input[1]").first
        field.fill(text)
        self.page.keyboard.press("Tab")

    def row(self, cell: str) -> None:
        """Click the row of a table that begins with this cell."""
        self.page.locator("tr", has=self.page.locator("td", has_text=re.compile(f"^{cell}$"))).locator(
            "td"
        ).first.click()

    def tiles(self, number: int, of: str = "") -> None:
        """Wait until the grid holds so many (patches, samples)."""
        wanted = re.compile(rf"^{number}\b.*{of}")
        self.page.locator("[data-cy=entry-counts]", has_text=wanted).wait_for()
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
        modal.locator(
            "[data-cy=panel-tab-fo-sample-modal-plugin]"
        ).click()  # it opens with what was open last
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

    def correct_patch(self, modal: Any, to: str) -> None:
        """Choose another class for the label of an open patch, whose form the annotation tab shows at once."""
        modal.get_by_text("Annotate", exact=True).first.click()
        self._choose_class(modal, to)

    def draw(self, modal: Any, box: tuple[float, float, float, float], label: str) -> None:
        """Draw a box (x, y, width, height, relative to the picture, which is 4 by 3) and name its class."""
        modal.locator("[data-cy=detection-mode]").click()
        left, top, width, height = _picture(modal.locator("[data-cy=lighter-sample-renderer-canvas]").first)
        x, y = left + box[0] * width, top + box[1] * height
        mouse = self.page.mouse
        mouse.move(x, y)
        mouse.down()
        for share in (0.5, 1.0):
            mouse.move(x + share * box[2] * width, y + share * box[3] * height, steps=3)
        with self.page.expect_response(lambda r: r.request.method == "PATCH" and r.ok):
            mouse.up()
        self._choose_class(modal, label)

    def _choose_class(self, modal: Any, name: str) -> None:
        modal.locator("[data-cy=root_label_container] [role=combobox]").first.click()
        with self.page.expect_response(lambda r: r.request.method == "PATCH" and r.ok):
            self.page.get_by_role("option", name=name, exact=True).click()

    def select_label(self, modal: Any, at: tuple[float, float]) -> None:
        """Click on a label of an open picture, which is 4 by 3, at a place relative to it."""
        left, top, width, height = _picture(modal.locator("[data-cy=sample-canvas]").first)
        x, y = left + at[0] * width, top + at[1] * height
        self.page.mouse.move(x - 3, y - 3)
        self.page.wait_for_timeout(1000)  # the picture looks what is under the mouse
        self.page.mouse.click(x, y)

    def judge(self, modal: Any, reviewer: str | None = None) -> Screen:
        """The panel in an open picture, with the reviewer's name typed."""
        modal.locator("[data-cy=panel-tab-judge_labels]").click()
        beside = Screen(self.page, modal)
        if reviewer:
            beside.type("Your name", reviewer)
            beside.sees(f"Your name: {reviewer}")
        return beside

    def close_tile(self) -> None:
        """Back to the grid, by a click beside the picture."""
        modal = self.page.locator("[data-cy=modal]")

        def is_closed() -> bool:
            if modal.count():
                self.page.mouse.click(8, 700)
                self.page.wait_for_timeout(500)
            return modal.count() == 0

        eventually(is_closed, 30)

    def operator(self, label: str) -> None:
        """Choose an operator in the operator browser."""
        self.page.keyboard.press("Backquote")
        self.page.get_by_placeholder(re.compile("operations", re.IGNORECASE)).first.wait_for()
        self.page.keyboard.type(label)
        self.page.get_by_text(label, exact=True).last.click()


def _picture(canvas: Any) -> tuple[float, float, float, float]:
    """Where a picture of 4 by 3 lies in the middle of its canvas: left, top, width, height in pixels."""
    box = canvas.bounding_box()
    scale = min(box["width"] / 4, box["height"] / 3)
    width, height = 4 * scale, 3 * scale
    return box["x"] + (box["width"] - width) / 2, box["y"] + (box["height"] - height) / 2, width, height


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
