"""Tags that people see follow the ledger, whoever writes when; and valflow's own writes are no edits of people."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from tests.builders import draw_label, entries, ids_where, labels_in, make_dataset, make_run
from valflow import actions, app_edits, database, mirroring, own_writes, runs, undoing
from valflow.own_writes import Stamp
from valflow.reviewing import Shown
from valflow.selections import Selection

FIELD = "auto_in_review"


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    """Three samples with four labels each, and one without."""
    return make_dataset(tmp_path)


@pytest.fixture
def run(dataset: Any) -> str:
    """A run whose samples nobody has touched for an hour when a person looks first."""
    run = make_run(dataset)
    long_ago = database.now() - timedelta(hours=1)
    database.samples_of(dataset).update_many({}, {"$set": {"last_modified_at": long_ago}})
    app_edits.read_edits(run)
    return run


def to_look_at(run: str, dataset: Any) -> int:
    query = own_writes.changed_by_others(runs.load(run))
    assert query is not None
    return database.samples_of(dataset).count_documents(query)


def shown_states(run: str, dataset: Any) -> bool:
    """Whether every label carries the tag of its state, and no other."""
    staged = labels_in(dataset, FIELD)
    wanted = {i: [] if e["state"] == "undecided" else [e["state"]] for i, e in entries(run).items()}
    return {i: d["tags"] for i, d in staged.items()} == wanted


def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on every sample is one too many to be mirrored before the answer."""
    monkeypatch.setattr(mirroring, "_AT_ONCE", 0)


class TestOwnWrites:
    @pytest.mark.parametrize(
        "act",
        [
            lambda run: actions.approve(run, Selection(all=True), "ann"),
            lambda run: actions.reset(run, "ann"),
            lambda run: actions.tag(run, "poor_bbox", Selection(all=True), "ann"),
        ],
        ids=["approve", "reset", "tag"],
    )
    def test_there_is_nothing_to_look_at_after_an_action(self, run: str, dataset: Any, act: Any) -> None:
        act(run)
        assert to_look_at(run, dataset) == 0
        undoing.undo(run, "ann")
        assert to_look_at(run, dataset) == 0

    def test_what_a_person_did_before_an_action_is_seen_after_it(self, run: str, dataset: Any) -> None:
        drawn_on = entries(run)[ids_where(run, state="undecided")[0]]["sample_id"]
        draw_label(dataset, FIELD, drawn_on)
        record = actions.begin(
            run
        )  # the action does not look, as one of another process that looked just before
        with_labels = {"run": run, "labels.0": {"$exists": True}}
        database.ledger().update_many(with_labels, {"$set": {"dirty": record["action_seq"]}})
        mirroring.mirror_tags(record, dataset)
        assert to_look_at(run, dataset) == 1
        assert app_edits.read_edits(run).drawn == 1

    def test_what_a_person_does_after_an_action_is_seen(self, run: str, dataset: Any) -> None:
        actions.reject(run, Selection(classes=("dog",)), "ann")
        label = ids_where(run, state="undecided")[0]
        dataset.select_labels(ids=[label], fields=FIELD).tag_labels("approved", label_fields=FIELD)
        assert app_edits.read_edits(run).approved == 1

    def test_stamps_are_forgotten_once_they_are_old(self, run: str) -> None:
        actions.approve(run, Selection(all=True), "ann")
        assert len(runs.load(run)["own_writes"]) >= 1
        own_writes.looked_at(run, database.now() + timedelta(minutes=1))
        assert runs.load(run)["own_writes"] == []


class TestMirroring:
    def test_tags_of_many_samples_follow_after_the_answer(
        self, run: str, dataset: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slowly(monkeypatch)
        assert actions.approve(run, Selection(all=True), "ann").changed == 6
        assert not shown_states(run, dataset)
        actions.reject(run, Selection(classes=("dog",)), "ann")  # on top of what is still to follow
        mirroring.wait(run)
        assert shown_states(run, dataset)
        assert database.ledger().count_documents({"run": run, "dirty": {"$exists": True}}) == 0

    def test_they_rest_while_a_person_waits_for_an_answer(
        self, run: str, dataset: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slowly(monkeypatch)
        with mirroring.answering():
            actions.approve(run, Selection(all=True), "ann")
            mirroring._at_work[run].join(0.3)
            assert mirroring._at_work[run].is_alive()
        mirroring.wait(run)
        assert shown_states(run, dataset)

    def test_an_action_on_some_labels_writes_to_no_other_sample(self, run: str, dataset: Any) -> None:
        label = ids_where(run, state="undecided")[0]
        actions.approve(run, Shown(label_ids=(label,), states=("undecided",), protected=()), "ann")
        young = {"last_modified_at": {"$gt": database.now() - timedelta(minutes=30)}}
        changed = [str(d["_id"]) for d in database.samples_of(dataset).find(young)]
        assert changed == [entries(run)[label]["sample_id"]]

    def test_tags_that_lag_behind_are_no_actions(
        self, run: str, dataset: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(mirroring, "_start", lambda *_: None)  # the process died before they followed
        slowly(monkeypatch)
        actions.reset(run, "ann")
        before = entries(run)
        assert app_edits.read_edits(run) == app_edits.Edits()
        assert entries(run) == before
        monkeypatch.undo()
        actions.approve(run, Selection(classes=("cat",)), "ann")
        assert shown_states(run, dataset)

    def test_the_later_of_two_states_is_shown_whoever_writes_last(
        self, run: str, dataset: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        label = ids_where(run, state="undecided")[0]
        write, done = mirroring._write_tags, []

        def overtaken(*of: Any) -> None:
            if not done:
                done.append(True)
                actions.reject(run, Shown(label_ids=(label,)), "bob")
            write(*of)

        monkeypatch.setattr(mirroring, "_write_tags", overtaken)
        actions.approve(run, Selection(label_ids=(label,)), "ann")
        assert entries(run)[label]["state"] == "rejected"
        assert shown_states(run, dataset)

    def test_an_older_state_written_between_a_later_write_and_its_end(
        self, run: str, dataset: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process that stood still has read the older state, and writes it just then."""
        label = ids_where(run, state="undecided")[0]
        sample_id = ObjectId(entries(run)[label]["sample_id"])
        mirroring.mark(run, [sample_id], 1)
        older = {"$match": {"run": run, "sample_id": sample_id}}
        read = list(database.ledger().aggregate([older, mirroring._IDS_BY_TAG]))
        unmark = mirroring._unmark

        def overtaken(documents: Any) -> None:
            monkeypatch.setattr(mirroring, "_unmark", unmark)
            path, samples = f"{FIELD}.detections", database.samples_of(dataset)
            mirroring._write_tags(samples, path, read, Stamp.take(run))
            unmark(read)
            unmark(documents)

        monkeypatch.setattr(mirroring, "_unmark", overtaken)
        actions.approve(run, Selection(label_ids=(label,)), "ann")
        assert entries(run)[label]["state"] == "approved"
        assert shown_states(run, dataset)
