"""Tags of large actions follow after the answer: in order, and whoever dies in between."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from tests.builders import documents, entries, ids_where, make_dataset, make_run
from valflow import actions, database, decisions, ledger, mirroring, problem_tags, undoing
from valflow.selections import Selection

FIELD = "auto_in_review"
EVERYTHING = Selection(all=True)


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    """Three samples with four labels each, and one without."""
    return make_dataset(tmp_path)


@pytest.fixture
def run(dataset: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run of which every sample is one too many to be tagged before the answer; its first carries a tag."""
    run = make_run(dataset)
    sample = {"_id": ObjectId(entries(run)[ids_where(run)[0]]["sample_id"])}
    database.samples_of(dataset).update_one(sample, {"$push": {"tags": "odd"}})
    monkeypatch.setattr(problem_tags, "AT_ONCE", 0)
    return run


def shown(dataset: Any, name: str) -> tuple[int, int]:
    """How many samples and labels of the review field carry a tag."""
    dataset.reload()
    return dataset.count_sample_tags().get(name, 0), dataset.count_label_tags(FIELD).get(name, 0)


def without_times(found: dict[Any, dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    return {i: {k: v for k, v in d.items() if k != "last_modified_at"} for i, d in found.items()}


def nothing_is_left(run: str) -> bool:
    """Whether every tag that was put on and taken off is where it should be."""
    waiting = database.actions().count_documents({"run": run, "writing": {"$exists": True}})
    return waiting == 0 and not any(e.get("untag") for e in entries(run).values())


def die(run: str) -> None:
    """The process that should write the tags is gone."""
    last = {"run": run, "writing": {"$exists": True}}
    assert database.actions().update_many(last, {"$set": {"writing.heartbeat_at": None}}).matched_count == 1


class TestTagsOfManySamples:
    def test_follow_after_the_answer(self, run: str, dataset: Any) -> None:
        with mirroring.answering():
            assert actions.tag(run, "poor_bbox", EVERYTHING, "ann").changed == 12
            assert ledger.problem_tag_counts(run) == {"poor_bbox": 12}
            assert shown(dataset, "poor_bbox") == (0, 0)
        mirroring.wait(run)
        assert shown(dataset, "poor_bbox") == (3, 12)
        with mirroring.answering():
            assert undoing.undo(run, "ann").changed == 12
            assert ledger.problem_tag_counts(run) == {}
            assert shown(dataset, "poor_bbox") == (3, 12)
        mirroring.wait(run)
        assert shown(dataset, "poor_bbox") == (0, 0)
        assert nothing_is_left(run)

    def test_follow_in_the_order_of_the_actions(self, run: str, dataset: Any) -> None:
        before = documents(dataset)
        with mirroring.answering():  # nothing is written but what an undo must wait for
            actions.tag(run, "odd", EVERYTHING, "ann")
            undoing.undo(run, "ann")
            actions.tag(run, "odd", Selection(classes=("cat",)), "ann")
        mirroring.wait(run)
        assert shown(dataset, "odd") == (3, 6)
        undoing.undo(run, "ann")
        mirroring.wait(run)
        assert without_times(documents(dataset)) == without_times(before)
        assert nothing_is_left(run)

    def test_an_undo_does_not_wait_for_what_the_run_has_still_to_write(self, run: str, dataset: Any) -> None:
        written = threading.Event()
        mirroring.afterwards(run, written.wait)
        try:
            actions.tag(run, "poor_bbox", EVERYTHING, "ann")
            assert undoing.undo(run, "ann").changed == 12
            assert not written.is_set()
        finally:
            written.set()
        mirroring.wait(run)
        assert shown(dataset, "poor_bbox") == (0, 0)
        assert nothing_is_left(run)

    def test_are_written_before_a_decision(self, run: str, dataset: Any) -> None:
        with mirroring.answering():
            actions.tag(run, "odd", EVERYTHING, "ann")
            decisions.preview(run, "ann")
            assert shown(dataset, "odd") == (3, 12)


class TestAfterACrash:
    """The process died with its answer given and no tag written."""

    @pytest.fixture(autouse=True)
    def _dying(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mirroring, "afterwards", lambda *_: None)

    def test_a_decision_puts_them_on(self, run: str, dataset: Any) -> None:
        actions.tag(run, "odd", EVERYTHING, "ann")
        die(run)
        assert shown(dataset, "odd") == (1, 0)
        decisions.preview(run, "ann")
        assert shown(dataset, "odd") == (3, 12)
        assert nothing_is_left(run)

    def test_the_next_undo_puts_them_on_and_off(self, run: str, dataset: Any) -> None:
        before = documents(dataset)
        actions.tag(run, "odd", EVERYTHING, "ann")
        die(run)
        undoing.undo(run, "ann")
        assert shown(dataset, "odd") == (3, 12)
        die(run)
        decisions.preview(run, "ann")
        assert without_times(documents(dataset)) == without_times(before)
        assert nothing_is_left(run)

    def test_the_next_tag_comes_after_them(
        self, run: str, dataset: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        actions.tag(run, "odd", EVERYTHING, "ann")
        die(run)
        monkeypatch.setattr(problem_tags, "AT_ONCE", 1000)
        actions.tag(run, "odd", EVERYTHING, "bob")
        assert shown(dataset, "odd") == (3, 12)
        assert nothing_is_left(run)


def test_a_tag_that_is_given_again_while_it_is_taken_off_stays(
    run: str, dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(problem_tags, "AT_ONCE", 1000)
    withdraw = problem_tags.withdraw
    actions.tag(run, "poor_bbox", EVERYTHING, "ann")

    def meanwhile(run: str, action: int) -> int:
        changed = withdraw(run, action)
        # An action with a lower number, whose process was slow, does not wait for this one.
        with monkeypatch.context() as patch:
            patch.setattr(problem_tags, "_earlier", lambda *_: None)
            patch.setattr(problem_tags, "withdraw", withdraw)
            actions.tag(run, "poor_bbox", EVERYTHING, "bob")
        return changed

    with monkeypatch.context() as patch:
        patch.setattr(problem_tags, "withdraw", meanwhile)
        undoing.undo(run, "ann", own=True)
    assert shown(dataset, "poor_bbox") == (3, 12)
    assert {t["tag"] for e in entries(run).values() for t in e["tags"]} == {"poor_bbox"}
