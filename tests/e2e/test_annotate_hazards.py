"""What the App's annotation tab can destroy, done on purpose in a real browser: nothing that was decided is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.browser import MARKS
from tests.builders import counts, entries, labels_in, make_dataset, make_run
from tests.e2e.browsing import Screen, eventually, opened
from valflow import correcting, database, decisions, review_app, reviewing, runs
from valflow.errors import LabelsVanished
from valflow.selections import Selection
from valflow.stack import Stack

pytestmark = MARKS
FIELD = "auto_in_review"


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    """Three samples with cat 0.95, dog 0.8, cat 0.6, dog 0.3 each, and one without."""
    return make_dataset(tmp_path)


@pytest.fixture
def run(dataset: Any) -> str:
    run = make_run(dataset)
    review_app.save_workspace(runs.load(run), dataset)
    return run


def name(screen: Screen, run: str) -> None:
    """Type a name, and wait until the panel has looked at the run under it."""
    screen.type("Your name", "ann")
    eventually(lambda: runs.load(run).get("edits_read_at") is not None)
    screen.page.wait_for_timeout(1000)


def test_annotate_on_a_view_that_hides_labels(in_stack: Stack, dataset: Any, run: str) -> None:
    from fiftyone import ViewField

    before = labels_in(dataset, FIELD)
    dataset.default_classes = ["bird"]
    dataset.save()
    correcting.open_form(runs.load(run), dataset)
    dataset.save_view("only dogs", dataset.filter_labels(FIELD, ViewField("label") == "dog"))
    with opened(f"{in_stack.app_url}/datasets/{dataset.name}?view=only-dogs") as screen:
        modal = screen.annotate()
        # The screen is old by now: the App compares what it shows with the sample, and hidden labels are not shown.
        assert (
            reviewing.reject(run, Selection(classes=("dog",), max_confidence=0.4), "bob")
            == "3 labels rejected"
        )
        decided = entries(run)
        screen.change_class(modal, "bird")
        eventually(lambda: labels_in(dataset, FIELD).keys() < before.keys(), 20)
    lost = before.keys() - labels_in(dataset, FIELD).keys()
    # Stopped and named, for the reviewer in the panel too; what was decided is as it was.
    with pytest.raises(LabelsVanished) as stopped:
        decisions.submit(run, decisions.Decision("finalize", "ann", override="a test"))
    assert all(label in str(stopped.value) for label in lost)
    assert runs.load(run)["state"] == "IN_REVIEW"
    assert entries(run) == decided
    kept = {str(d["_id"]) for e in database.ledger().find({"run": run}) for d in e.get("predicted", [])}
    assert lost <= kept


def test_a_stale_annotate_screen_wipes_no_approval(in_stack: Stack, dataset: Any, run: str) -> None:
    with opened(str(review_app.address_of(runs.load(run), in_stack.app_url))) as screen:
        screen.button("Add \\d+ labels for approval").wait_for()
        name(screen, run)
        screen.click("Draw missing objects", "Drawing")  # whole samples, all labels of each
        screen.tiles(4)
        modal = screen.annotate()
        assert reviewing.approve(run, Selection(all=True), "bob").startswith("6 labels approved")
        decided = entries(run)
        screen.change_class(modal, "dog")
        tagged = labels_in(dataset, FIELD)
        wiped = [i for i, label in tagged.items() if "approved" not in label["tags"]]
        assert wiped, "a stale screen does not wipe tags any more: facts about it can go"
        assert tagged.keys() == decided.keys()
        assert entries(run) == decided
    assert counts(run) == {"approved": 12, "rejected": 0, "undecided": 0}
