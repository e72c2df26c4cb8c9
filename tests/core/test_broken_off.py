"""A process dies in the middle of something, and the next one does it again: what was half done is whole then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fiftyone.core.utils import to_slug

from tasks.triage import decide_by_policy
from tasks.validate import pass_gate
from tests.builders import bring_to, counts, edit_label, entries, ids_where, make_dataset, make_run
from valflow import (
    actions,
    audits,
    checklist,
    database,
    decisions,
    label_states,
    ledger,
    problem_tags,
    promotion,
    references,
    runs,
    undoing,
)
from valflow.evaluation import evaluate
from valflow.evaluation.storing import MARKS
from valflow.review_app import save_workspace, workspace_name
from valflow.selections import Selection
from valflow.states import State

CATS = Selection(classes=("cat",))


class Died(BaseException):
    """Stands for the end of the process: nothing catches it."""


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    """Three samples with cat 0.95, dog 0.8, cat 0.6, dog 0.3 each, and one without labels."""
    return make_dataset(tmp_path)


@pytest.fixture
def dies(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Calls a function during which another one, given by name, dies; and makes the process look dead."""

    def die(module: Any, name: str, call: Callable[[], object]) -> None:
        def dead(*_: object, **__: object) -> None:
            raise Died

        with monkeypatch.context() as patched:
            patched.setattr(module, name, dead)
            patched.setattr(runs, "_this_process", lambda: "elsewhere:1")
            with pytest.raises(Died):
                call()
        database.actions().update_many(
            {"writing": {"$exists": True}}, {"$set": {"writing.heartbeat_at": None}}
        )

    return die


class TestTag:
    @pytest.mark.parametrize("during", ["_holders", "_mark_samples", "_changes"])
    def test_given_again_it_is_on_labels_and_samples(
        self, dataset: Any, dies: Callable[..., Any], during: str
    ) -> None:
        run = make_run(dataset)
        dies(problem_tags, during, lambda: actions.tag(run, "poor_bbox", CATS, "ann", "too wide"))
        actions.tag(run, "poor_bbox", CATS, "ann", "too wide")
        dataset.reload()
        assert dataset.count_sample_tags() == {"poor_bbox": 3}
        assert dataset.count_label_tags("auto_in_review")["poor_bbox"] == 6
        assert ledger.problem_tag_counts(run) == {"poor_bbox": 6}
        assert checklist.issue_notes(run) == {"cat": ["too wide (ann, poor_bbox)"]}

    @pytest.mark.parametrize("during", ["_holders", "_mark_samples", "_changes"])
    def test_not_given_again_the_confirmation_finishes_it(
        self, dataset: Any, dies: Callable[..., Any], during: str
    ) -> None:
        run = make_run(dataset)
        dies(problem_tags, during, lambda: actions.tag(run, "poor_bbox", CATS, "ann"))
        decisions.preview(run, "ann")
        dataset.reload()
        assert dataset.count_sample_tags() == {"poor_bbox": 3}

    def test_taken_back_it_leaves_what_was_there_before(self, dataset: Any, dies: Callable[..., Any]) -> None:
        run = make_run(dataset)
        first = dataset.first()
        first.tags = ["poor_bbox"]
        first.save()
        dies(problem_tags, "_changes", lambda: actions.tag(run, "poor_bbox", CATS, "ann"))
        decisions.preview(run, "ann")
        undoing.undo(run, "ann")
        dataset.reload()
        assert dataset.count_sample_tags() == {"poor_bbox": 1}
        assert "poor_bbox" not in dataset.count_label_tags("auto_in_review")

    def test_of_a_process_that_lives_is_left_to_it(
        self, dataset: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(problem_tags, "_WAIT_FOR_OTHERS", 0.2)
        run = make_run(dataset)
        actions.tag(run, "poor_bbox", CATS, "ann")
        unfinished = {"$set": {"writing": problem_tags.writing()}}
        database.actions().update_one({"run": run, "event": "tag"}, unfinished)
        decisions.preview(run, "ann")
        assert database.actions().count_documents({"run": run, "writing": {"$exists": True}}) == 1


class TestRefusal:
    @pytest.mark.parametrize(
        ("module", "during"),
        [(label_states, "mark_invalid"), (actions, "state_change"), (decisions, "reopen")],
    )
    def test_validated_again_the_labels_wait_for_a_person(
        self, dataset: Any, dies: Callable[..., Any], module: Any, during: str
    ) -> None:
        run = make_run(dataset, classes=["cat", "dog"])
        label = ids_where(run, state="approved")[0]
        edit_label(dataset, "auto_in_review", label, label="unicorn")
        bring_to(run, dataset, State.REVIEWED)
        dies(module, during, lambda: pass_gate(run))
        assert not pass_gate(run).passed
        record, entry = runs.load(run), entries(run)[label]
        assert (record["state"], record["round"]) == ("IN_REVIEW", 2)
        assert entry["state"] == "undecided"
        assert "unicorn" in entry["invalid"][0]
        refused = [a for a in actions.history_of(run) if a["event"] == "refuse"]
        assert [a["seq"] for a in refused] == [record["action_seq"]] == [entry["action"]]
        assert counts(run)["approved"] == 5


def test_a_review_that_is_open_has_its_workspace(dataset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(dataset, State.PREDICTED)
    transition = runs.transition

    def open_and_die(*arguments: Any, **options: Any) -> None:
        transition(*arguments, **options)
        raise Died

    monkeypatch.setattr(runs, "transition", open_and_die)
    with pytest.raises(Died):
        decide_by_policy(run)
    record = runs.load(run)
    assert (record["state"], record["workspace"]) == ("IN_REVIEW", to_slug(workspace_name(run)))
    dataset.reload()
    assert dataset.list_workspaces() == [workspace_name(run)]


def test_nothing_is_left_of_an_evaluation_that_died(dataset: Any) -> None:
    run = make_run(dataset, State.FINALIZED)
    database.connection()[MARKS].insert_one(
        {"_id": {"token": 1, "sample": 1}, "of": f"{dataset._doc.id}/val_eval"}
    )
    database.connection()[MARKS].insert_one({"_id": {"token": 2, "sample": 1}, "of": "another"})
    evaluate(dataset, "auto", "ground_truth", "val_eval", run_key=run)
    assert [d["of"] for d in database.connection()[MARKS].find()] == ["another"]
    database.connection()[MARKS].drop()


def test_results_of_an_evaluation_are_there_once(dataset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from fiftyone.core.odm.runs import RunDocument

    run, db = make_run(dataset, State.FINALIZED), database.connection()
    before = db["fs.files"].count_documents({}), db["fs.chunks"].count_documents({})
    save = RunDocument.save

    def save_or_die(document: Any, *arguments: Any, **options: Any) -> Any:
        if document.results:
            raise Died
        return save(document, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(RunDocument, "save", save_or_die)
        with pytest.raises(Died):
            evaluate(dataset, "auto", "ground_truth", "val_eval", run_key=run)
    assert db["fs.files"].count_documents({}) == before[0] + 1
    evaluate(dataset, "auto", "ground_truth", "val_eval", run_key=run)
    assert db["fs.files"].count_documents({}) == before[0] + 1
    assert db["fs.chunks"].count_documents({}) == before[1] + 1
    assert dataset.load_evaluation_results("val_eval") is not None


class TestReferences:
    """FiftyOne writes a document, and then the dataset's reference to it: a death in between leaves no second one."""

    @pytest.mark.parametrize(
        ("kind", "collection"), [("workspaces", "workspaces"), ("runs", "runs"), ("saved_views", "views")]
    )
    def test_what_lost_its_reference_is_not_made_twice(
        self, dataset: Any, kind: str, collection: str
    ) -> None:
        run, waiting = make_run(dataset), make_run(dataset, label_field="waiting")
        actions.tag(run, "false_positive", CATS, "ann")
        actions.approve(run, CATS, "ann")
        bring_to(run, dataset, "VALIDATED")
        promotion.promote(runs.load(run), dataset)
        save_workspace(runs.load(waiting), dataset)
        db, identifier = database.connection(), dataset._doc.id
        documents = {"_dataset_id": identifier}
        there = db[collection].count_documents(documents)
        empty: Any = {} if kind == "runs" else []
        assert there > 0
        db["datasets"].update_one({"_id": identifier}, {"$set": {kind: empty}})
        dataset.reload()
        save_workspace(runs.load(waiting), dataset)
        promotion.register(runs.load(run), dataset)
        assert db[collection].count_documents(documents) == there
        assert run in dataset.list_runs()
        assert dataset.list_saved_views() == ["false_positive"]
        assert dataset.list_workspaces() == [workspace_name(waiting)]

    def test_what_refers_to_nothing_goes(self, dataset: Any) -> None:
        run = make_run(dataset, "FINALIZED")
        database.connection()["runs"].delete_many({"_dataset_id": dataset._doc.id, "key": run})
        dataset.reload()
        references.adopt(dataset, "runs", run)
        held = database.connection()["datasets"].find_one({"_id": dataset._doc.id}, {"runs": 1})
        assert held is not None
        assert held["runs"] == {}
        assert dataset.list_runs() == []


def test_the_verdicts_of_one_judge_are_written_down_all_or_none(
    dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(dataset)
    audit = audits.draw(run, "ann", size=2, seed=7)
    said = {item["number"]: "correct" for item in audit["items"]}
    writes: list[object] = []
    collection = type(database.audits())
    update_one = collection.update_one
    monkeypatch.setattr(
        collection, "update_one", lambda self, *a, **o: writes.append(a) or update_one(self, *a, **o)
    )
    audits.record_verdicts(audit, said, "ann", 7)
    assert len(writes) == 1, "each write more is a place to die with half of the verdicts"
    judged = audits.latest(run)
    assert judged is not None
    assert [(i["verdict"], i["reviewer"], i["action"]) for i in judged["items"]] == [
        ("correct", "ann", 7)
    ] * 2
    audits.record_verdicts(audit, dict.fromkeys(said, "wrong_class"), "bob", 8)
    again = audits.latest(run)
    assert again is not None
    assert again["items"] == judged["items"], "the first verdict stays"
