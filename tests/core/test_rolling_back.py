"""Rollback: exactly the run's labels go, whatever happened since, and however often it is broken off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.builders import (
    add_samples,
    documents,
    draw_label,
    edit_label,
    labels_in,
    make_dataset,
    make_run,
    remove_label,
)
from valflow import database, rolling_back, runs
from valflow.cli import main as valflow
from valflow.errors import RollbackRefused, SelectionError
from valflow.evaluation import evaluate


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    return make_dataset(tmp_path)


@pytest.fixture
def run(dataset: Any) -> str:
    return make_run(dataset, "FINALIZED")


def content(dataset: Any) -> dict[str, dict[str, Any]]:
    """Everything in the samples that a rollback must leave alone."""
    own = ("last_modified_at", "_rand", "auto")
    return {i: {k: v for k, v in d.items() if k not in own} for i, d in documents(dataset).items()}


def test_the_field_goes_with_its_last_label(dataset: Any, run: str) -> None:
    before = content(dataset)
    assert len(labels_in(dataset, "auto")) == 6
    record = rolling_back.roll_back(run, "ann", note="wrong model")
    dataset.reload()
    assert not dataset.has_field("auto")
    assert dataset.list_runs() == []
    assert content(dataset) == before
    assert record["state"] == "ROLLED_BACK"
    assert [h["event"] for h in record["history"]][-2:] == ["begin_rollback", "roll_back"]
    assert record["rollback"]["reviewer"] == "ann"
    assert record["rollback"]["left"] == 0


def test_the_samples_are_new_again(dataset: Any, run: str) -> None:
    rolling_back.roll_back(run, "ann")
    again = make_run(dataset, "FINALIZED")
    assert again != run
    assert len(labels_in(dataset, "auto")) == 6


def test_labels_of_people_and_of_other_runs_stay(dataset: Any, tmp_path: Path, run: str) -> None:
    sample = dataset.first().id
    drawn = draw_label(dataset, "auto", sample)
    add_samples(dataset, tmp_path, [(("cat", 0.9),)])
    later = make_run(dataset, "FINALIZED")
    rolling_back.roll_back(run, "ann")
    left = labels_in(dataset, "auto")
    assert drawn in left
    assert {label.get("run") for label in left.values()} == {None, later}
    dataset.reload()
    assert dataset.list_runs() == [later]
    assert set(dataset.exists("auto").values("id")) == {sample, dataset.last().id}


def test_edited_labels_are_listed_and_kept(dataset: Any, run: str) -> None:
    edited = sorted(labels_in(dataset, "auto"))[0]
    edit_label(dataset, "auto", edited, label="horse")
    preview = rolling_back.preview(run)
    assert (preview.labels, preview.edited) == (5, (edited,))
    record = rolling_back.roll_back(run, "ann", digest=preview.digest)
    assert list(labels_in(dataset, "auto")) == [edited]
    assert record["rollback"]["left"] == 1


def test_edited_labels_go_where_that_is_asked(dataset: Any, run: str) -> None:
    edit_label(dataset, "auto", sorted(labels_in(dataset, "auto"))[0], label="horse")
    assert rolling_back.preview(run, including_edited=True).labels == 6
    rolling_back.roll_back(run, "ann", including_edited=True)
    assert labels_in(dataset, "auto") == {}


def test_a_field_of_others_keeps_its_empty_samples(dataset: Any) -> None:
    dataset.clone_sample_field("ground_truth", "theirs")
    dataset.reload()
    before = labels_in(dataset, "theirs")
    run = make_run(dataset, "FINALIZED", label_field="theirs", append=True)
    rolling_back.roll_back(run, "ann")
    dataset.reload()
    assert dataset.has_field("theirs")
    assert labels_in(dataset, "theirs").keys() == before.keys()
    assert dataset.exists("theirs").count() == len(dataset)


def test_labels_that_are_gone_already(dataset: Any, run: str) -> None:
    remove_label(dataset, "auto", sorted(labels_in(dataset, "auto"))[0])
    assert (rolling_back.preview(run).labels, rolling_back.preview(run).gone) == (5, 1)
    rolling_back.roll_back(run, "ann")
    assert labels_in(dataset, "auto") == {}


def test_a_deleted_field_is_no_obstacle(dataset: Any, run: str) -> None:
    dataset.reload()
    dataset.delete_sample_field("auto")
    assert rolling_back.preview(run).gone == 6
    assert rolling_back.roll_back(run, "ann")["state"] == "ROLLED_BACK"


@pytest.mark.parametrize("step", ["_remove_labels", "_remove_traces", "_count"])
def test_it_goes_on_after_a_crash(dataset: Any, run: str, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rolling_back, step, die)
    with pytest.raises(KeyboardInterrupt):
        rolling_back.roll_back(run, "ann")
    monkeypatch.undo()
    assert runs.load(run)["state"] == "ROLLING_BACK"
    record = rolling_back.roll_back(run, "bob")
    assert record["state"] == "ROLLED_BACK"
    assert record["rollback"]["reviewer"] == "ann"
    dataset.reload()
    assert not dataset.has_field("auto")


def test_a_crash_in_the_middle_of_the_labels(dataset: Any, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rolling_back, "BATCH", 1)
    removed = rolling_back._remove_batch
    calls = []

    def die_at_the_second(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        removed(*arguments)

    monkeypatch.setattr(rolling_back, "_remove_batch", die_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        rolling_back.roll_back(run, "ann")
    assert len(labels_in(dataset, "auto")) == 4
    monkeypatch.undo()
    rolling_back.roll_back(run, "ann")
    assert labels_in(dataset, "auto") == {}


@pytest.mark.parametrize("state", ["IN_REVIEW", "VALIDATED", "DISCARDED"])
def test_only_a_finalized_run(dataset: Any, state: str) -> None:
    run = make_run(dataset, state)
    with pytest.raises(RollbackRefused, match=f"is {state}; only a run that is FINALIZED"):
        rolling_back.roll_back(run, "ann")


def test_what_changed_since_the_preview_is_refused(dataset: Any, run: str) -> None:
    seen = rolling_back.preview(run)
    edit_label(dataset, "auto", sorted(labels_in(dataset, "auto"))[0], label="horse")
    with pytest.raises(RollbackRefused, match="have changed since you saw them"):
        rolling_back.roll_back(run, "ann", digest=seen.digest)
    with pytest.raises(RollbackRefused, match="at least 8 characters"):
        rolling_back.roll_back(run, "ann", digest="abc")
    assert len(labels_in(dataset, "auto")) == 6


def test_needs_a_person(run: str) -> None:
    with pytest.raises(SelectionError, match="name of the machine"):
        rolling_back.roll_back(run, "policy")
    with pytest.raises(RollbackRefused, match="needs the name"):
        rolling_back.roll_back(run, "  ")


class TestEvaluation:
    def test_of_the_run_goes(self, dataset: Any) -> None:
        run = make_run(dataset, "FINALIZED", evaluation={"ground_truth": "ground_truth"})
        evaluate(dataset, "auto", "ground_truth", "val_eval", run_key=run, iou=0.5)
        assert dataset.list_evaluations() == ["val_eval"]
        rolling_back.roll_back(run, "ann")
        dataset.reload()
        assert dataset.list_evaluations() == []
        assert not dataset.has_field("val_eval_tp")

    def test_of_somebody_else_stays(self, dataset: Any, run: str) -> None:
        database.runs().update_one(
            {"run": run},
            {"$set": {"config.evaluation": {"eval_key": "theirs", "ground_truth": "ground_truth"}}},
        )
        dataset.evaluate_detections("pred", gt_field="ground_truth", eval_key="theirs")
        rolling_back.roll_back(run, "ann")
        dataset.reload()
        assert dataset.list_evaluations() == ["theirs"]


class TestCommand:
    def test_previews_and_confirms_by_digest(
        self, dataset: Any, run: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert valflow(["rollback", run, "--preview", "--reviewer", "ann"]) == 0
        shown = capsys.readouterr().out
        assert "labels to be removed  6" in shown
        digest = rolling_back.preview(run).digest
        assert digest in shown
        assert valflow(["rollback", run, "--digest", digest, "--reviewer", "ann"]) == 0
        assert "6 labels left" in capsys.readouterr().out

    def test_nobody_to_ask(self, run: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert valflow(["rollback", run, "--reviewer", "ann"]) == 1
        assert "confirm with --yes" in capsys.readouterr().err
