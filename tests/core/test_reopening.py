"""Back into review: every label as it stood before the decision, whatever died in between, and final again after it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from tests.builders import (
    accept,
    bring_to,
    decide,
    documents,
    draw_label,
    edit_label,
    entries,
    ids_where,
    labels_in,
    make_dataset,
    make_run,
    remove_label,
)
from valflow import (
    actions,
    app_edits,
    database,
    decisions,
    opening,
    promotion,
    reopening,
    rolling_back,
    runs,
    undoing,
)
from valflow.cli import main as valflow
from valflow.config import LabelingConfig
from valflow.errors import RollbackRefused, RunBusy, StaleAttempt
from valflow.evaluation import evaluate
from valflow.selections import Selection

STAGING = "auto_in_review"


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    return make_dataset(tmp_path)


@pytest.fixture
def run(dataset: Any) -> str:
    """Finalized, after a review with everything in it."""
    return reviewed(dataset)


def reviewed(dataset: Any, **changes: Any) -> str:
    run = make_run(dataset, **changes)
    low = ids_where(run, label="dog", state="undecided")
    middle = ids_where(run, label="cat", state="undecided")
    edit_label(dataset, STAGING, middle[0], label="horse", occluded=True)
    edit_label(dataset, STAGING, middle[1], label="cow")
    edit_label(dataset, STAGING, low[1], tags=["look again"])
    draw_label(dataset, STAGING, str(dataset.last().id))
    actions.approve(run, Selection(label_ids=(middle[0],)), "ann")
    actions.reject(run, Selection(label_ids=(low[0],)), "ann")
    actions.tag(run, "wrong_class", Selection(label_ids=(middle[2],)), "bob")
    app_edits.adopt_drawn(run, "ann")
    bring_to(run, dataset, "FINALIZED")
    return run


@pytest.fixture
def before(dataset: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """How the review stood when it was decided, by run; filled while ``run`` is made."""
    seen: dict[str, Any] = {}
    accepted = decisions._accept

    def look(record: Any, *rest: Any) -> Any:
        done = accepted(record, *rest)
        seen.update(copy.deepcopy(review_of(dataset, record["run"])))
        return done

    monkeypatch.setattr(decisions, "_accept", look)
    return seen


def review_of(dataset: Any, run: str) -> dict[str, Any]:
    """What is in review: labels as people see them, and what the ledger says of each."""
    labels = {i: {**d, "tags": sorted(d["tags"])} for i, d in labels_in(dataset, STAGING).items()}
    shown = {i: {k: v for k, v in d.items() if v is not None} for i, d in labels.items()}
    kept = ("state", "action", "prev", "invalid", "tags", "label")
    return {"shown": shown, "ledger": {i: {k: e[k] for k in kept} for i, e in entries(run).items()}}


def a_final_label(dataset: Any) -> str:
    """One that the policy approved."""
    return min(i for i, d in labels_in(dataset, "auto").items() if d["source"] == "auto")


def finish(run: str, dataset: Any) -> runs.Record:
    """Decide once more, and promote."""
    return promotion.promote(accept(decide(runs.load(run), dataset), dataset), dataset)


def test_everything_is_as_it_was_before_the_decision(dataset: Any, before: dict[str, Any], run: str) -> None:
    assert len(before["shown"]) == 13
    record = rolling_back.roll_back(run, "carol", reopen=True, note="look again")
    dataset.reload()
    assert not dataset.has_field("auto")
    assert review_of(dataset, run) == before
    assert (record["state"], record["round"], record["open"]) == ("IN_REVIEW", 2, True)
    assert (record["decision"], record["frozen"], record["verification"]) == (None, None, None)
    assert "finalized" not in record["counts"]
    last = record["history"][-3:]
    assert [h["event"] for h in last] == ["begin_rollback", "begin_reopen", "reopen"]
    assert {h["actor"] for h in last} == {"carol"}
    assert len(dataset.match_tags("wrong_class")) == 1


def test_nothing_is_mistaken_for_an_edit(dataset: Any, run: str) -> None:
    rolling_back.roll_back(run, "carol", reopen=True)
    found = app_edits.read_edits(run)
    assert (found.approved, found.rejected, found.drawn, found.vanished) == (0, 0, 0, ())


def test_it_can_be_decided_again(dataset: Any, run: str) -> None:
    first = labels_in(dataset, "auto")
    rolling_back.roll_back(run, "carol", reopen=True)
    more = [i for i in ids_where(run, state="undecided") if i not in first]
    actions.approve(run, Selection(label_ids=(more[0],)), "carol")
    actions.reject(run, Selection(label_ids=(sorted(first)[0],)), "carol")
    seen = decisions.preview(run, "carol")
    assert seen.labels == len(first)
    record = finish(run, dataset)
    final = labels_in(dataset, "auto")
    assert record["state"] == "FINALIZED"
    assert set(final) == {*sorted(first)[1:], more[0]}
    same = {i: d for i, d in first.items() if i in final}
    assert {i: final[i] for i in same} == same
    dataset.reload()
    assert not dataset.has_field(STAGING)
    rolling_back.roll_back(run, "carol")
    assert labels_in(dataset, "auto") == {}


def test_undo_goes_back_beyond_the_decision(run: str) -> None:
    rolling_back.roll_back(run, "carol", reopen=True)
    tagged = ids_where(run, label="cat")
    assert undoing.undo(run, "bob", own=True).changed == 1
    assert not any(entries(run)[i]["tags"] for i in tagged)


def test_a_run_that_was_rolled_back_before(dataset: Any, before: dict[str, Any], run: str) -> None:
    rolling_back.roll_back(run, "ann")
    with pytest.raises(RollbackRefused, match="--reopen brings it back"):
        rolling_back.roll_back(run, "ann")
    seen = rolling_back.preview(run, reopen=True)
    assert seen.labels == 0
    assert seen.to_review == {"approved": 8, "rejected": 1, "undecided": 4}
    rolling_back.roll_back(run, "carol", digest=seen.digest, reopen=True)
    assert review_of(dataset, run) == before


class TestEditedSince:
    def test_is_refused_without_a_word(self, dataset: Any, run: str) -> None:
        edited = a_final_label(dataset)
        edit_label(dataset, "auto", edited, label="mule")
        with pytest.raises(
            RollbackRefused, match=f"1 labels of .* edited since \\({edited}\\).*--including-ed"
        ):
            rolling_back.roll_back(run, "ann", reopen=True)
        assert runs.load(run)["state"] == "FINALIZED"

    def test_comes_into_review_as_it_was_edited(self, dataset: Any) -> None:
        run = reviewed(dataset, evaluation={"ground_truth": "ground_truth"})
        evaluate(dataset, "auto", "ground_truth", "val_eval", run_key=run, iou=0.5)
        edited = a_final_label(dataset)
        edit_label(dataset, "auto", edited, label="mule", occluded=False)
        rolling_back.roll_back(run, "ann", reopen=True, including_edited=True)
        label = labels_in(dataset, STAGING)[edited]
        assert (label["label"], label["occluded"]) == ("mule", False)
        assert not {"val_eval", "val_eval_id", "val_eval_iou", "run", "source"} & label.keys()
        record = finish(run, dataset)
        final = labels_in(dataset, "auto")[edited]
        assert (final["label"], final["source"], record["state"]) == ("mule", "edited", "FINALIZED")

    def test_stays_in_the_ledger_where_it_only_goes(self, dataset: Any, run: str) -> None:
        edited = a_final_label(dataset)
        edit_label(dataset, "auto", edited, label="mule")
        rolling_back.roll_back(run, "ann", including_edited=True)
        kept = database.ledger().find_one({"run": run, "edited_since.labels._id": ObjectId(edited)})
        assert kept is not None
        rolling_back.roll_back(run, "ann", reopen=True)
        assert labels_in(dataset, STAGING)[edited]["label"] == "mule"

    def test_what_a_rollback_has_kept_can_still_come(self, dataset: Any, run: str) -> None:
        edited = a_final_label(dataset)
        edit_label(dataset, "auto", edited, label="mule")
        rolling_back.roll_back(run, "ann")
        rolling_back.roll_back(run, "ann", reopen=True, including_edited=True)
        assert labels_in(dataset, "auto") == {}
        assert labels_in(dataset, STAGING)[edited]["label"] == "mule"


def test_what_was_deleted_since_comes_back(dataset: Any, run: str) -> None:
    gone = sorted(labels_in(dataset, "auto"))[0]
    remove_label(dataset, "auto", gone)
    assert rolling_back.preview(run, reopen=True).gone == 1
    rolling_back.roll_back(run, "ann", reopen=True)
    assert gone in labels_in(dataset, STAGING)


STEPS = [
    (rolling_back, "_keep_edits"),
    (rolling_back, "_remove_traces"),
    (reopening, "declare_field"),
    (reopening, "_clear_strangers"),
    (reopening, "_restore_batch"),
    (reopening, "_open_review"),
]


@pytest.mark.parametrize(("module", "step"), STEPS, ids=[step for _, step in STEPS])
def test_it_goes_on_after_a_crash(
    dataset: Any, before: dict[str, Any], run: str, module: Any, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, step, die)
        with pytest.raises(KeyboardInterrupt):
            rolling_back.roll_back(run, "ann", reopen=True, including_edited=True)
    record = runs.load(run)
    assert record["state"] in rolling_back.GOING
    assert record["open"]
    assert opening.open_run(LabelingConfig.model_validate(record["config"])).outcome == "skipped"
    record = rolling_back.go_on(run)
    assert (record["state"], record["round"]) == ("IN_REVIEW", 2)
    assert review_of(dataset, run) == before


def test_a_process_that_wakes_up_writes_nothing(
    dataset: Any, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore = reopening._restore_batch

    def overtaken(record: Any, *rest: Any) -> None:
        database.runs().update_one({"run": run}, {"$inc": {"attempt": 1}, "$set": {"heartbeat_at": None}})
        restore(record, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(reopening, "_restore_batch", overtaken)
        with pytest.raises(StaleAttempt):
            rolling_back.roll_back(run, "ann", reopen=True)
    assert labels_in(dataset, STAGING) == {}
    assert rolling_back.go_on(run)["state"] == "IN_REVIEW"


def test_leftovers_of_another_run_are_not_reviewed(
    dataset: Any, run: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clear = reopening._clear_strangers

    def with_leftover(record: Any, data: Any) -> None:
        place = str(data.take(1, seed=1).first().id)
        database.ledger().delete_many({"run": run, "sample_id": ObjectId(place)})
        draw_label(data, STAGING, place)
        clear(record, data)
        assert documents(data)[place].get(STAGING) is None

    monkeypatch.setattr(reopening, "_clear_strangers", with_leftover)
    assert rolling_back.roll_back(run, "ann", reopen=True)["state"] == "IN_REVIEW"


class TestRefused:
    def test_another_run_is_open(self, dataset: Any, run: str) -> None:
        rolling_back.roll_back(run, "ann")
        other = make_run(dataset)
        for act in (rolling_back.preview, lambda r, **o: rolling_back.roll_back(r, "ann", **o)):
            with pytest.raises(RollbackRefused, match=f"run {other} into .* is open \\(IN_REVIEW\\)"):
                act(run, reopen=True)

    def test_another_run_is_opened_at_that_moment(
        self, dataset: Any, run: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rolling_back.roll_back(run, "ann")
        monkeypatch.setattr(reopening, "check", lambda *_: make_run(dataset))
        with pytest.raises(RunBusy, match="is open; finish or discard it first"):
            rolling_back.roll_back(run, "ann", reopen=True)
        assert runs.load(run)["state"] == "ROLLED_BACK"

    def test_somebody_labelled_the_samples_since(self, dataset: Any, run: str) -> None:
        rolling_back.roll_back(run, "ann")
        later = make_run(dataset, "FINALIZED")
        with pytest.raises(RollbackRefused, match=f"run {later} has labelled 4 of the samples"):
            rolling_back.roll_back(run, "ann", reopen=True)
        rolling_back.roll_back(later, "ann")
        assert rolling_back.roll_back(run, "ann", reopen=True)["state"] == "IN_REVIEW"

    def test_the_field_is_another_one(self, dataset: Any, run: str) -> None:
        rolling_back.roll_back(run, "ann")
        dataset.reload()
        dataset.clone_sample_field("ground_truth", "auto")
        with pytest.raises(RollbackRefused, match=r"'auto' .* another one by now"):
            rolling_back.roll_back(run, "ann", reopen=True)

    def test_the_review_is_open(self, dataset: Any) -> None:
        with pytest.raises(RollbackRefused, match="can be reopened; its review is open"):
            rolling_back.roll_back(make_run(dataset), "ann", reopen=True)

    def test_a_discarded_run(self, dataset: Any) -> None:
        with pytest.raises(RollbackRefused, match="DISCARDED; only a run that is FINALIZED or ROLLED_BACK"):
            rolling_back.roll_back(make_run(dataset, "DISCARDED"), "ann", reopen=True)


def test_by_command(dataset: Any, run: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["rollback", run, "--reopen", "--reviewer", "ann"]
    assert valflow([*command, "--preview"]) == 0
    shown = capsys.readouterr().out
    assert "back into review      8 approved, 1 rejected, 4 undecided" in shown
    digest = rolling_back.preview(run, reopen=True).digest
    assert valflow([*command, "--digest", digest]) == 0
    assert "in review again (round 2)" in capsys.readouterr().out
    assert valflow([*command, "--yes"]) == 1
    assert "its review is open" in capsys.readouterr().err
