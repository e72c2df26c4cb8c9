"""From the settings of a new run to its final labels with the mouse: real server, worker, App and browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import MARKS
from tests.builders import counts, entries, ids_where, labels_in, make_dataset
from tests.e2e.browsing import Screen, eventually, opened
from valflow import audits, database, reviewing, runs, undoing
from valflow.review_order import rank
from valflow.stack import Stack

pytestmark = MARKS
FIELD = "found_in_review"
Box = tuple[float, float, float, float]


@pytest.fixture
def scenes(tmp_path: Path) -> Iterator[Any]:
    from examples.digits.scenes import build_dataset

    dataset = build_dataset("panel-digits", tmp_path / "scenes", 30, overwrite=True)
    yield dataset
    dataset.delete()


@pytest.fixture
def screen(scenes: Any, in_stack: Stack) -> Iterator[Screen]:
    """The browser at the dataset, with no panel open."""
    with opened(f"{in_stack.app_url}/datasets/{scenes.name}") as screen:
        screen.tiles(30)
        yield screen


class Review:
    """What a reviewer does, one step after the other, and what the database must say after each.

    Attributes:
        states: what the clicks so far have made of each label.
        corrected: the label that was corrected by hand, and its class now.
        drawn: the label that was drawn.
    """

    def __init__(self, screen: Screen, run: str) -> None:
        self.screen, self.run = screen, run
        self.states = self.found()
        self.corrected = ("", "")
        self.drawn = ""

    def found(self) -> dict[str, str]:
        """State of each label in the database."""
        return {i: str(e["state"]) for i, e in entries(self.run).items()}

    def decided(self, labels: list[str], state: str) -> None:
        """These labels have got this state, and no other label has changed."""
        self.states |= dict.fromkeys(labels, state)
        assert self.found() == self.states

    def undecided(self, **where: Any) -> list[str]:
        return ids_where(self.run, state="undecided", **where)

    def page(self, classes: tuple[str, ...] = ()) -> list[str]:
        """Labels on the first page, in the order of the tiles."""
        shown = reviewing.screen(("undecided",), classes)
        return reviewing.page_of_labels(self.run, shown, 1, ranking=rank(self.run, shown)).label_ids

    def sample_page(self) -> list[str]:
        """Samples on the first page, in the order of the tiles."""
        shown = reviewing.screen(("undecided",))
        return reviewing.page_of_samples(self.run, shown, 1, ranking=rank(self.run, shown)).sample_ids

    def to_samples(self) -> None:
        self.screen.click("Samples$")
        self.screen.tiles(len(self.sample_page()), "sample")

    def to_patches(self) -> None:
        self.screen.click("Patches$")
        self.screen.tiles(len(self.page()), "patch")

    # -- what is done

    def approve_patches_and_undo(self) -> None:
        self.screen.select(0, 1)
        chosen = self.page()[:2]
        self.screen.click("Add 2 labels", "2 labels approved")
        self.decided(chosen, "approved")
        self.screen.click("Undo: approve", "2 labels as before")
        self.decided(chosen, "undecided")

    def filter_by_class_and_reject(self) -> None:
        rows = [r for r in reviewing.table(self.run, reviewing.screen(("undecided",))) if r["current"]]
        least = min(rows, key=lambda r: r["current"])
        chosen = self.undecided(label=least["label"])
        self.screen.row(least["label"])
        self.screen.tiles(len(chosen), "patch")
        self.screen.click(f"Reject {reviewing.in_words(len(chosen))}$", "rejected")
        self.decided(chosen, "rejected")
        self.screen.click("Undo class", "put back to undecided")
        before = dict(self.states)
        self.decided([i for i, e in entries(self.run).items() if e["label"] == least["label"]], "undecided")
        self.screen.click("Undo: reset", "as before")
        self.states = before
        self.decided(chosen, "rejected")
        self.screen.click("Show all classes")
        self.screen.tiles(len(self.page()), "patch")

    def filter_by_confidence_tag_and_reject(self) -> None:
        for end in (0.6, 0.35):  # the nearer end of the slider moves, so in two steps
            self.screen.slide_down_to(end)
            self.screen.sees("|".join(f"to {end + pixel / 100:.2f}" for pixel in (-2, -1, 0, 1)))
        below = [
            i for i in self.undecided() if entries(self.run)[i]["confidence"] <= self.screen.slider_end()
        ]
        self.screen.tiles(len(below), "patch")
        self.screen.click("false_positive", "tagged false_positive")
        self.decided([], "")
        self.screen.click(f"Reject {len(below)} labels", "labels rejected")
        self.decided(below, "rejected")
        self.screen.click("Show all classes")
        self.screen.tiles(len(self.page()), "patch")

    def approve_a_sample(self) -> None:
        self.to_samples()
        chosen = self.undecided(sample_id=self.sample_page()[0])
        self.screen.select(0)
        self.screen.click(f"Add {reviewing.in_words(len(chosen))} for", "approved")
        self.decided(chosen, "approved")
        self.screen.tiles(len(self.sample_page()), "sample")

    def approve_in_an_open_picture(self, reviewer: str) -> None:
        """Select one label in the picture, and approve it in the panel beside it."""
        place, label, at = self._label_that_stands_alone()
        modal = self.screen.open_tile(place)
        beside = self.screen.judge(modal, reviewer)
        beside.button("Add \\d+ labels? for approval").wait_for()
        modal.locator("[data-cy=panel-tab-fo-sample-modal-plugin]").click()
        self.screen.select_label(modal, at)
        self.screen.judge(modal)
        beside.click("Add 1 label for approval", "1 label approved")
        self.decided([label], "approved")
        self.screen.close_tile()

    def undo_in_the_operator_browser(self, reviewer: str) -> None:
        last = undoing.last_undoable(self.run, reviewer)
        assert last is not None
        back = [i for i, e in entries(self.run).items() if e["action"] == last["seq"]]
        self.screen.operator("valflow: undo my last action")
        dialog = Screen(self.screen.page, self.screen.page.locator("[role=dialog]"))
        dialog.type("Your name", reviewer)
        dialog.within.locator("button", has_text="Execute").click()
        eventually(lambda: {self.found()[i] for i in back} == {"undecided"})
        self.decided(back, "undecided")

    def correct_a_patch(self) -> None:
        self.screen.click("Correct labels$", "Correcting")
        self.screen.tiles(len(self.page()), "patch")
        label = self.page()[0]
        other = "4" if entries(self.run)[label]["label"] != "4" else "7"
        self.screen.correct_patch(self.screen.open_tile(0), other)
        self.corrected = (label, other)
        self.screen.close_tile()
        self.screen.select(0)
        self.screen.click("Add 1 label for", "1 label approved")
        self.decided([label], "approved")

    def draw_a_box(self, dataset: Any, reviewer: str) -> None:
        self.screen.click("Draw missing objects", "Drawing")
        assert not self.screen.button("for approval").is_visible()
        self.screen.tiles(30, "sample")
        sample = reviewing.page_of_samples(self.run, None, 1).sample_ids[0]
        modal = self.screen.annotate()
        self.screen.draw(modal, _free_place(dataset, sample), "3")
        self.screen.close_tile()
        self.screen.click("Patches$", f"1 label drawn by {reviewer} approved")
        [self.drawn] = set(entries(self.run)) - set(self.states)
        self.decided([self.drawn], "approved")

    def judge_an_audit(self, reviewer: str) -> None:
        """Two in the modal, one in the grid, the rest by pages."""
        self.screen.click("^Approval$", "Checklist")
        self.screen.click("Draw an audit", "0 of 59 judged")
        self.screen.tiles(30, "patch")
        items = [str(i["label_id"]) for i in audits.open_items(self.run)]
        modal = self.screen.open_tile(0)
        beside = self.screen.judge(modal)
        beside.sees("1 of 59")
        beside.click("Wrong class", "1 of 59 judged, 1 wrong so far")
        beside.sees("2 of 59")
        beside.click("Correct$", "2 of 59 judged, 1 wrong so far")
        self.decided(items[:1], "rejected")
        self.screen.close_tile()
        self.screen.click("Refresh")
        self.screen.tiles(28, "patch")
        self.screen.select(0)
        self.screen.click("Not an object", "3 of 59 judged")
        self.decided(items[2:3], "rejected")
        self.screen.tiles(27, "patch")
        self.screen.click("All other labels", "30 of 59 judged")
        self.screen.tiles(29, "patch")
        self.screen.click("All other labels", "2 wrong of 59")
        assert {i["reviewer"] for i in audits.latest(self.run)["items"]} == {reviewer}
        self.decided([], "")

    def finalize(self) -> None:
        approved = counts(self.run)["approved"]
        self.screen.click("Finalize Labels", "Labels to be added")
        self.screen.click("^Confirm$", "resumed the Prefect run")
        self.screen.sees(f"{approved} labels added")
        eventually(lambda: bool(runs.load(self.run).get("completed_at")))
        self.screen.sees("validation: \\d+ of \\d+ checks passed")

    # -- where

    def _label_that_stands_alone(self) -> tuple[int, str, tuple[float, float]]:
        """An undecided label whose middle lies in no other one: place of its tile, id, middle."""
        staged = labels_in(database.dataset_of(runs.load(self.run)), FIELD)
        known = entries(self.run)
        for place, sample in enumerate(self.sample_page()):
            boxes = {i: staged[i]["bounding_box"] for i, e in known.items() if e["sample_id"] == sample}
            for label in self.undecided(sample_id=sample):
                x, y, width, height = boxes[label]
                at = (x + width / 2, y + height / 2)
                if not any(_covers(box, at) for i, box in boxes.items() if i != label):
                    return place, label, at
        raise AssertionError("every undecided label is covered by another one")


def _covers(box: Box, at: tuple[float, float]) -> bool:
    return box[0] <= at[0] <= box[0] + box[2] and box[1] <= at[1] <= box[1] + box[3]


def _free_place(dataset: Any, sample: str) -> Box:
    """A box of a tenth of the picture that touches no label."""
    dataset.reload()
    taken = [d.bounding_box for d in dataset[sample][FIELD].detections]
    for x, y in ((a / 20, b / 20) for a in range(1, 17) for b in range(2, 17)):
        if not any(
            x < t[0] + t[2] + 0.02 and t[0] < x + 0.12 and y < t[1] + t[3] + 0.02 and t[1] < y + 0.12
            for t in taken
        ):
            return x, y, 0.1, 0.1
    raise AssertionError("no free place")


def fill_in(screen: Screen, values: dict[str, str]) -> Screen:
    dialog = Screen(screen.page, screen.page.locator("[role=dialog]"))
    for label, value in values.items():
        dialog.type(label, value)
        screen.page.wait_for_timeout(1000)  # the form is drawn anew after each
    return dialog


def send(dialog: Screen) -> None:
    dialog.within.locator("button", has_text="Execute").click()


def start_a_run(screen: Screen, dataset: Any) -> str:
    """Fill in the form, and wait until the run is suspended."""
    screen.page.locator("[data-cy=new-panel-btn]").first.click()
    screen.page.locator("[data-cy=new-panel-option-auto_labeling]").click()
    screen.sees("No labeling run of this dataset yet")
    screen.click("New run$", "What to label")
    values = {"Model": "examples.digits.model:DigitDetektor", "Label field": "my labels"}
    dialog = fill_in(screen, {**values, "Name of the run": "by hand"})
    dialog.sees("expected a Python identifier")
    dialog = fill_in(screen, {"Label field": "found"})
    send(dialog)
    screen.sees("Nothing was started")
    screen.click("New run$", "What to label")  # what was filled in is there again
    send(fill_in(screen, {"Model": "examples.digits.model:DigitDetector"}))
    screen.sees("A run was started")
    eventually(lambda: [r["state"] for r in runs.list_runs(dataset.name)] == ["IN_REVIEW"], 240)
    [record] = runs.list_runs(dataset.name)
    eventually(lambda: bool(runs.load(record["run"]).get("suspended_in")), 60)
    return str(record["run"])


def test_a_review_with_the_mouse(screen: Screen, scenes: Any) -> None:
    run = start_a_run(screen, scenes)
    screen.sees("waits for a reviewer")  # without a click
    screen.row("by hand")
    screen.button("Add \\d+ labels for approval").wait_for()
    review = Review(screen, run)
    screen.tiles(len(review.page()), "patch")
    screen.type("Your name", "ann")
    eventually(lambda: runs.load(run).get("edits_read_at") is not None)

    review.approve_patches_and_undo()
    review.filter_by_class_and_reject()
    review.filter_by_confidence_tag_and_reject()
    review.approve_a_sample()
    review.approve_in_an_open_picture("ann")
    review.undo_in_the_operator_browser("ann")
    review.correct_a_patch()
    review.draw_a_box(scenes, "ann")
    review.judge_an_audit("ann")
    review.finalize()

    record = runs.load(run)
    assert (record["decision"]["reviewer"], record["decision"]["via"]) == ("ann", "app")
    scenes.reload()
    final = labels_in(scenes, "found")
    assert set(final) == {i for i, state in review.states.items() if state == "approved"}
    label, now = review.corrected
    if label in final:  # unless the audit drew it as wrong
        assert (final[label]["label"], final[label]["source"]) == (now, "edited")
    if review.drawn in final:
        assert (final[review.drawn]["label"], final[review.drawn]["source"]) == ("3", "human")
    others = {i: d["source"] for i, d in final.items() if i not in (label, review.drawn)}
    by_policy = {i for i, e in entries(run).items() if e["action"] == 1}
    assert {i for i, source in others.items() if source == "auto"} == by_policy & set(others)
    assert set(others.values()) == {"auto", "human"}
    assert len(scenes.match_tags("false_positive")) > 0


def test_an_operator_says_why_it_cannot_run(in_stack: Stack, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    with opened(f"{in_stack.app_url}/datasets/{dataset.name}") as screen:
        screen.tiles(4)
        screen.operator("valflow: approve labels")
        screen.sees("No run is in review")
        screen.sees(re.escape(f"{dataset.name} has no labeling run that waits for a person"))
