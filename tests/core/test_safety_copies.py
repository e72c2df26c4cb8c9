"""Safety copies: complete before anything changes, kept by count and age, brought back without destroying anything."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from tests.builders import (
    documents,
    draw_label,
    edit_label,
    labels_in,
    make_dataset,
    make_run,
    remove_label,
)
from valflow import bringing_back, database, promotion, rolling_back, runs, safety_copies
from valflow.cli import main as valflow
from valflow.errors import ConfigError, RollbackRefused

# A field of others, to which the run adds.
FIELD = "theirs"


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    made = make_dataset(tmp_path)
    made.clone_sample_field("ground_truth", FIELD)
    made.reload()
    for sample in made.iter_samples(autosave=True):
        sample.tags = ["seen"]
    return made


@pytest.fixture
def run(dataset: Any) -> str:
    return make_run(dataset, "FINALIZED", label_field=FIELD, append=True)


def field_of(dataset: Any) -> dict[str, Any]:
    """Label field and tags, without what an evaluation or a clock may change."""
    return {i: {k: d.get(k) for k in (FIELD, "tags")} for i, d in documents(dataset).items()}


def in_any_order(field: dict[str, Any]) -> dict[str, Any]:
    """What comes back stands last."""
    return {i: {d["_id"]: d for d in (f[FIELD] or {}).get("detections", [])} for i, f in field.items()}


def theirs(dataset: Any) -> list[str]:
    """Labels of others on samples that the run has labelled too, in order."""
    mixed = [(d.get(FIELD) or {}).get("detections") or [] for d in documents(dataset).values()]
    return sorted(
        str(x["_id"]) for labels in mixed if any("run" in y for y in labels) for x in labels if "run" not in x
    )


class TestMaking:
    def test_before_a_finalization(self, dataset: Any) -> None:
        run = make_run(dataset, "VALIDATED", label_field=FIELD, append=True)
        before = field_of(dataset)
        promotion.promote(runs.load(run), dataset)
        (copy,) = safety_copies.of_run(run)
        assert (copy["why"], copy["by"], copy["samples"], copy["labels"]) == ("finalize", "ann", 3, 12)
        held = {
            str(d["_id"]["sample"]): {FIELD: d.get("field"), "tags": d["tags"]}
            for d in database.copied().find(safety_copies.content(copy["_id"]))
        }
        assert held == {i: d for i, d in before.items() if i in held}
        assert len(held) == 3
        assert safety_copies.digest_of(copy["_id"]) == copy["digest"]

    def test_before_a_rollback(self, dataset: Any, run: str) -> None:
        rolling_back.roll_back(run, "bob")
        assert [(c["why"], c["by"], c["labels"]) for c in safety_copies.of_run(run)] == [
            ("rollback", "bob", 18),
            ("finalize", "ann", 12),
        ]

    def test_a_repetition_changes_nothing(self, dataset: Any, run: str) -> None:
        (copy,) = safety_copies.of_run(run)
        record, samples = runs.load(run), safety_copies.samples_of(copy["_id"])
        database.copies().update_one({"_id": copy["_id"]}, {"$set": {"complete": False}})
        again = safety_copies.make(record, dataset, copy["_id"], "finalize", "eve", samples)
        assert again == copy

    def test_none_where_that_is_configured(self, dataset: Any) -> None:
        run = make_run(dataset, "FINALIZED", label_field=FIELD, append=True, safety_copies={"keep": 0})
        assert safety_copies.of_run(run) == []
        assert database.copied().count_documents({}) == 0 or not safety_copies.of_run(run)
        with pytest.raises(RollbackRefused, match=r"no safety copy .*: it has none left"):
            rolling_back.preview(run, from_copy="latest")

    @pytest.mark.parametrize("wrong", [{"keep": -1}, {"max_age": "a month"}, {"count": 3}])
    def test_settings_are_checked(self, dataset: Any, wrong: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=r"safety_copies|count: unknown"):
            make_run(dataset, safety_copies=wrong)


class TestPruning:
    def test_by_count_per_field(self, dataset: Any) -> None:
        settings = {"label_field": FIELD, "append": True, "safety_copies": {"keep": 2}}
        other = make_run(dataset, "FINALIZED")
        keys = [make_run(dataset, "FINALIZED", **settings, target={"only": "all"}) for _ in range(3)]
        left = [len(safety_copies.of_run(key)) for key in keys]
        assert left == [0, 1, 1]
        assert len(safety_copies.of_run(other)) == 1
        kept = {c["_id"] for key in (*keys, other) for c in safety_copies.of_run(key)}
        records = {c["_id"] for c in database.copies().find({"dataset_id": str(dataset._doc.id)})}
        assert kept == records

    def test_by_age(self, dataset: Any, run: str) -> None:
        past = database.now() - timedelta(seconds=1)
        database.copies().update_many({"run": run}, {"$set": {"expires_at": past}})
        assert safety_copies.prune(runs.load(run)) == 1
        assert safety_copies.of_run(run) == []

    def test_broken_off_it_is_finished(self, dataset: Any, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
        (copy,) = safety_copies.of_run(run)
        database.copies().update_one({"_id": copy["_id"]}, {"$set": {"going": True}})
        database.copied().delete_one(safety_copies.content(copy["_id"]))
        assert safety_copies.of_run(run) == []
        assert safety_copies.prune(runs.load(run)) == 1
        assert database.copied().count_documents(safety_copies.content(copy["_id"])) == 0

    def test_one_that_was_never_finished(self, dataset: Any, run: str) -> None:
        database.copies().insert_one({**safety_copies.of_run(run)[0], "_id": "0" * 32, "complete": False})
        safety_copies.prune(runs.load(run))
        assert [c["_id"] for c in safety_copies.of_run(run)] == [runs.load(run)["copy"]]
        assert database.copies().find_one({"_id": "0" * 32}) is None


class TestOfAFinalRun:
    """The copy from before the finalization."""

    def test_is_the_field_of_before(self, dataset: Any) -> None:
        before = field_of(dataset)
        run = make_run(dataset, "FINALIZED", label_field=FIELD, append=True)
        record = rolling_back.roll_back(run, "ann", from_copy="latest")
        assert record["state"] == "ROLLED_BACK"
        assert field_of(dataset) == before

    def test_what_is_missing_comes_back_and_what_people_did_stays(self, dataset: Any, run: str) -> None:
        gone, edited, *_ = theirs(dataset)
        sample = dataset.first().id
        remove_label(dataset, FIELD, gone)
        edit_label(dataset, FIELD, edited, label="horse")
        drawn = draw_label(dataset, FIELD, sample, "mine")
        database.samples_of(dataset).update_one({"_id": ObjectId(sample)}, {"$set": {"tags": ["done"]}})
        seen = rolling_back.preview(run, from_copy="latest")
        found = seen.copy
        assert found is not None
        assert (seen.labels, found.missing, found.missing_own) == (6, 1, 0)
        assert (found.changed_ids, found.added_ids) == ((edited,), (drawn,))
        assert (found.missing_tags, found.added_tags, found.deleted_samples) == (1, 1, 0)
        rolling_back.roll_back(run, "ann", digest=seen.digest, from_copy="latest")
        left = labels_in(dataset, FIELD)
        assert {gone, edited, drawn} <= left.keys()
        assert left[edited]["label"] == "horse"
        assert all("run" not in d for d in left.values())
        assert set(dataset[sample].tags) == {"done", "seen"}

    def test_exactly(self, dataset: Any) -> None:
        before = field_of(dataset)
        run = make_run(dataset, "FINALIZED", label_field=FIELD, append=True)
        gone, edited, *_ = theirs(dataset)
        remove_label(dataset, FIELD, gone)
        edit_label(dataset, FIELD, edited, label="horse")
        drawn = draw_label(dataset, FIELD, dataset.first().id, "mine")
        own = min(i for i, d in labels_in(dataset, FIELD).items() if "run" in d)
        edit_label(dataset, FIELD, own, label="mule")
        rolling_back.roll_back(run, "ann", from_copy="latest", exactly=True)
        assert field_of(dataset) == before
        # What it took is in the copy from before it, and in the ledger.
        last = safety_copies.of_run(run)[0]
        path = "field.detections._id"
        assert database.copied().find_one({**safety_copies.content(last["_id"]), path: ObjectId(drawn)})
        assert database.ledger().find_one({"run": run, "edited_since.labels._id": ObjectId(own)})

    def test_own_labels_that_were_edited_stay(self, dataset: Any, run: str) -> None:
        own = min(i for i, d in labels_in(dataset, FIELD).items() if "run" in d)
        edit_label(dataset, FIELD, own, label="mule")
        record = rolling_back.roll_back(run, "ann", from_copy="latest")
        assert [i for i, d in labels_in(dataset, FIELD).items() if "run" in d] == [own]
        assert record["rollback"]["left"] == 1

    def test_samples_that_are_gone(self, dataset: Any, run: str) -> None:
        dataset.reload()
        dataset.delete_samples([dataset.first().id])
        found = rolling_back.preview(run, from_copy="latest").copy
        assert found is not None
        assert (found.deleted_samples, found.missing) == (1, 0)
        rolling_back.roll_back(run, "ann", from_copy="latest")
        assert len(dataset) == 3

    def test_a_field_that_valflow_made_goes(self, dataset: Any) -> None:
        run = make_run(dataset, "FINALIZED")
        rolling_back.roll_back(run, "ann", from_copy="latest")
        dataset.reload()
        assert not dataset.has_field("auto")

    def test_a_field_deleted_by_hand_comes_back(self, dataset: Any, run: str) -> None:
        before = {i for i, d in labels_in(dataset, FIELD).items() if "run" not in d}
        concerned = set(theirs(dataset))
        dataset.reload()
        dataset.delete_sample_field(FIELD)
        rolling_back.roll_back(run, "ann", from_copy="latest")
        assert labels_in(dataset, FIELD).keys() == concerned < before
        dataset.reload()
        assert dataset.count(f"{FIELD}.detections") == len(concerned)


class TestOfARunThatWasRolledBack:
    """The copy from before the rollback."""

    @pytest.mark.parametrize("made_by_us", [True, False], ids=["field-of-ours", "field-of-others"])
    def test_takes_the_rollback_back(self, dataset: Any, made_by_us: bool) -> None:
        settings = {} if made_by_us else {"label_field": FIELD, "append": True}
        run = make_run(dataset, "FINALIZED", **settings)
        field = settings.get("label_field", "auto")
        final = {i: d.get(field) for i, d in documents(dataset).items()}
        rolling_back.roll_back(run, "ann")
        record = rolling_back.roll_back(run, "bob", from_copy="latest")
        assert (record["state"], record["open"], record["counts"]["finalized"]) == ("FINALIZED", False, 6)
        assert {i: d.get(field) for i, d in documents(dataset).items()} == final
        dataset.reload()
        assert dataset.list_runs() == [run]
        assert dataset.count(f"{field}.detections") == sum(
            len((d or {}).get("detections") or []) for d in final.values()
        )
        rolling_back.roll_back(run, "ann")
        assert not any("run" in d for d in labels_in(dataset, field).values())

    def test_the_next_run_would_label_twice(self, dataset: Any) -> None:
        run = make_run(dataset, "FINALIZED")
        rolling_back.roll_back(run, "ann")
        later = make_run(dataset, "FINALIZED")
        with pytest.raises(RollbackRefused, match=f"run {later} has labelled 4"):
            rolling_back.roll_back(run, "ann", from_copy="latest")


CRASHES = [
    (safety_copies, "_copy_batch"),
    (safety_copies, "_count"),
    (rolling_back, "_remove_labels"),
    (bringing_back, "apply"),
    (rolling_back, "_remove_traces"),
]


@pytest.mark.parametrize(("module", "step"), CRASHES, ids=[step for _, step in CRASHES])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_it_goes_on_after_a_crash(
    dataset: Any, module: Any, step: str, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = field_of(dataset)
    run = make_run(dataset, "FINALIZED", label_field=FIELD, append=True)
    remove_label(dataset, FIELD, theirs(dataset)[0])
    real = getattr(module, step)

    def die(*arguments: Any, **options: Any) -> None:
        if moment == "after":
            real(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, step, die)
        with pytest.raises(KeyboardInterrupt):
            rolling_back.roll_back(run, "ann", from_copy="latest")
    record = rolling_back.go_on(run)
    assert record["state"] == "ROLLED_BACK"
    assert in_any_order(field_of(dataset)) == in_any_order(before)
    assert [c["labels"] for c in safety_copies.of_run(run)] == [17, 12]


class TestRefused:
    def test_a_copy_changed_by_hand(self, dataset: Any, run: str) -> None:
        (copy,) = safety_copies.of_run(run)
        database.copied().update_one(safety_copies.content(copy["_id"]), {"$set": {"tags": ["mine"]}})
        with pytest.raises(RollbackRefused, match="is not what was copied"):
            rolling_back.roll_back(run, "ann", from_copy="latest")

    def test_what_changed_since_the_preview(self, dataset: Any, run: str) -> None:
        seen = rolling_back.preview(run, from_copy="latest")
        draw_label(dataset, FIELD, dataset.first().id)
        with pytest.raises(RollbackRefused, match="have changed since you saw them"):
            rolling_back.roll_back(run, "ann", digest=seen.digest, from_copy="latest")

    def test_an_unknown_copy(self, run: str) -> None:
        with pytest.raises(RollbackRefused, match=r"begins with 'nowhere': [0-9a-f]{32}: before the finaliz"):
            rolling_back.preview(run, from_copy="nowhere")

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"reopen": True, "from_copy": "latest"}, "not both at once"),
            ({"exactly": True}, "add --from-copy"),
        ],
        ids=["reopen-and-copy", "exactly-what"],
    )
    def test_options_that_do_not_go_together(self, run: str, options: dict[str, Any], says: str) -> None:
        with pytest.raises(RollbackRefused, match=says):
            rolling_back.preview(run, **options)

    def test_the_field_is_another_one(self, dataset: Any) -> None:
        run = make_run(dataset, "FINALIZED")
        rolling_back.roll_back(run, "ann")
        dataset.reload()
        dataset.clone_sample_field("ground_truth", "auto")
        with pytest.raises(RollbackRefused, match="another one by now"):
            rolling_back.roll_back(run, "ann", from_copy="latest")


def test_a_copy_in_use_is_not_pruned(dataset: Any, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy,) = safety_copies.of_run(run)

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bringing_back, "apply", die)
        with pytest.raises(KeyboardInterrupt):
            rolling_back.roll_back(run, "ann", from_copy="latest")
    database.copies().update_many({"run": run}, {"$set": {"expires_at": database.now()}})
    safety_copies.prune(runs.load(run))
    assert safety_copies.find(copy["_id"]) is not None
    assert rolling_back.go_on(run)["state"] == "ROLLED_BACK"


def test_by_command(dataset: Any, run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert valflow(["show", run]) == 0
    assert "before the finalization by ann" in capsys.readouterr().out
    remove_label(dataset, FIELD, theirs(dataset)[0])
    command = ["rollback", run, "--reviewer", "ann", "--from-copy"]
    assert valflow([*command, "--preview"]) == 0
    assert "come back             1 labels (0 of this run), 0 tags" in capsys.readouterr().out
    assert valflow([*command, "--yes"]) == 0
    assert "From the safety copy 1 labels came back" in capsys.readouterr().out
    assert valflow([*command, "--yes"]) == 0
    assert "is final again: 6 labels came back" in capsys.readouterr().out
