"""Inference: every sample accounted for, and nothing done twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from tests.builders import (
    add_samples,
    bring_to,
    documents,
    entries,
    infer,
    labels_in,
    make_config,
    make_dataset,
    make_run,
)
from valflow import database, decisions, inference, ledger, opening, runs, tables
from valflow.errors import ConfigError, InferenceFailed, StaleAttempt
from valflow.inference import choose_shard_size, find_targets
from valflow.label_types import label_id
from valflow.models import open_model
from valflow.validation import allowed_classes

ODD = "tests.models:Odd"


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    """Six images whose red is 0, 16, 32, 48, 64 and 80."""
    return make_dataset(tmp_path, samples=6, empty=0)


def python(path: str = ODD, **kwargs: Any) -> dict[str, Any]:
    return {"kind": "python", "path": path, "kwargs": kwargs}


def outcomes(run: str) -> dict[str, tuple[str, str | None]]:
    return {
        str(d["sample_id"]): (d["status"], d["reason"])
        for d in database.ledger().find({"run": run}).sort("sample_id", 1)
    }


def statuses(run: str) -> list[str]:
    return [status for status, _ in outcomes(run).values()]


class TestModels:
    def test_one_label_per_image_where_it_belongs(self, dataset: Any) -> None:
        run = make_run(dataset, "PREDICTED", model=python(), batch_size=4)
        record = runs.load(run)
        assert record["counts"] == {"samples": 6, "failed_samples": 0, "empty_samples": 0}
        assert record["model"]["name"] == "Odd"
        staged = [d["auto_in_review"]["detections"] for d in documents(dataset).values()]
        assert [d[0]["bounding_box"][3] * 257 - 1 for d in staged] == pytest.approx([0, 16, 32, 48, 64, 80])
        assert [d[0]["_id"] for d in staged] == [label_id(run, ObjectId(i), 0) for i in documents(dataset)]
        dataset.reload()
        assert dataset.count_values("auto_in_review.detections.label") == {"cat": 3, "dog": 3}

    @pytest.mark.parametrize(
        ("how", "reason"),
        [
            pytest.param("raise", "the model failed: RuntimeError: no idea at 32", id="raises"),
            pytest.param(
                "type",
                "the model failed: TypeError: expected fiftyone.Detections, the model returned Classification; "
                "label_type: classification would take them",
                id="other-type",
            ),
        ],
    )
    def test_that_fails_on_one_image(self, dataset: Any, how: str, reason: str) -> None:
        run = make_run(dataset, "PREDICTED", model=python(on=[32], how=how), max_failed_share=0.2)
        assert statuses(run) == ["labelled", "labelled", "failed", "labelled", "labelled", "labelled"]
        (failed,) = runs.load(run)["failed"]
        third = dataset.skip(2).first()
        assert failed == {"sample_id": ObjectId(third.id), "filepath": third.filepath, "reason": reason}
        # Nobody else's result slipped into another place.
        staged = [(d.get("auto_in_review") or {}).get("detections", []) for d in documents(dataset).values()]
        assert [round(d["bounding_box"][3] * 257 - 1) for labels in staged for d in labels] == [
            0,
            16,
            48,
            64,
            80,
        ]
        assert [d["tags"] for d in documents(dataset).values()][2] == ["inference_failed"]

    def test_that_gives_too_few_results_for_a_batch(self, dataset: Any) -> None:
        run = make_run(dataset, "PREDICTED", model=python(short=True))
        assert Counter(statuses(run)) == {"labelled": 6}

    def test_that_finds_nothing(self, dataset: Any) -> None:
        run = make_run(dataset, "PREDICTED", model=python(on=[0, 16], how="none"))
        assert statuses(run)[:2] == ["empty", "empty"]
        assert runs.load(run)["counts"]["empty_samples"] == 2
        assert "auto_in_review" not in documents(dataset)[dataset.first().id]

    def test_that_is_unsure_beyond_measure(self, dataset: Any) -> None:
        run = make_run(dataset, "IN_REVIEW", model=python(on=[0], how="infinite"))
        assert [e["confidence"] for e in entries(run).values()].count(None) == 1
        assert runs.load(run)["counts"]["undecided"] == 1

    @pytest.mark.parametrize(
        ("how", "column"),
        [pytest.param("no_box", "w", id="no-box"), pytest.param("no_class", "label", id="no-class")],
    )
    def test_whose_labels_are_incomplete(self, dataset: Any, how: str, column: str) -> None:
        run = make_run(dataset, "PREDICTED", model=python(on=[0, 48], how=how))
        (table,) = tables.predicted_tables(runs.load(run), dataset)
        assert len(table) == 6
        assert table[column].isna().tolist() == [True, False, False, True, False, False]
        expected = [str(label_id(run, ObjectId(i), 0)) for i in documents(dataset)]
        assert table["label_id"].tolist() == expected

    def test_that_does_not_name_its_classes_restricts_none(self, dataset: Any) -> None:
        changes = {"model": python("tests.models:Silent"), "evaluation": {"ground_truth": "ground_truth"}}
        run = make_run(dataset, "PREDICTED", **changes)
        assert allowed_classes(runs.load(run), dataset) == []

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            pytest.param("no_such_module:Model", "ModuleNotFoundError", id="module"),
            pytest.param("tests.models:Nobody", "AttributeError", id="class"),
            pytest.param("builtins:dict", "expected a fiftyone.core.models.Model", id="no-model"),
            pytest.param("tests.models:Film", "expected a model of images", id="video"),
        ],
    )
    def test_that_cannot_be_used(self, path: str, expected: str) -> None:
        from valflow.config import PythonModelConfig

        with pytest.raises(ConfigError, match=expected):
            open_model(PythonModelConfig(path=path))

    def test_of_unknown_arguments(self) -> None:
        from valflow.config import PythonModelConfig

        with pytest.raises(ConfigError, match="cannot be loaded: TypeError"):
            open_model(PythonModelConfig(path=ODD, kwargs={"size": 3}))


class TestImages:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            pytest.param(None, "no such file", id="missing"),
            pytest.param(b"not an image", "not a readable image", id="corrupt"),
            pytest.param(b"", "an empty file", id="empty"),
        ],
    )
    def test_that_cannot_be_read(self, dataset: Any, content: bytes | None, reason: str) -> None:
        sample = dataset.first()
        Path(sample.filepath).unlink()
        if content is not None:
            Path(sample.filepath).write_bytes(content)
        run = make_run(dataset, "PREDICTED", model=python(), max_failed_share=0.2)
        assert outcomes(run)[sample.id][0] == "failed"
        (failed,) = runs.load(run)["failed"]
        assert failed["filepath"] == sample.filepath
        assert failed["reason"].startswith(reason)
        assert documents(dataset)[sample.id]["tags"] == ["inference_failed"]

    def test_too_many_of_them_stop_the_run(self, dataset: Any) -> None:
        images = {s.filepath: Path(s.filepath).read_bytes() for s in dataset[:2]}
        for path in images:
            Path(path).unlink()
        run = opening.open_run(make_config(dataset, model=python(), max_failed_share=0.3)).run
        assert run is not None
        record = opening.prepare(runs.load(run), dataset)
        with pytest.raises(
            InferenceFailed, match=r"2 of 6 samples could not be labelled \(33%; .* allows 30%\)"
        ):
            infer(record, dataset)
        record = runs.load(run)
        assert record["state"] == "CREATED"
        assert len(record["failed"]) == 2
        # Another try looks at them again, and at nothing else.
        model = open_model(make_config(dataset, model=python()).model).model
        model.seen.clear()
        for path, content in images.items():
            Path(path).write_bytes(content)
        record = infer(record, dataset)
        assert (record["state"], record["failed"], record["counts"]["failed_samples"]) == ("PREDICTED", [], 0)
        assert sorted(model.seen) == [0, 16]
        assert all(d["tags"] == [] for d in documents(dataset).values())

    def test_exactly_as_many_as_allowed(self, dataset: Any) -> None:
        for sample in dataset[:3]:
            Path(sample.filepath).unlink()
        assert make_run(dataset, "PREDICTED", model=python(), max_failed_share=0.5)

    def test_of_deleted_samples(self, dataset: Any) -> None:
        run = make_run(dataset, "CREATED", max_failed_share=0.5)
        gone = dataset.first().id
        dataset.delete_samples([gone])
        record = infer(runs.load(run), dataset)
        assert record["failed"] == [
            {"sample_id": ObjectId(gone), "filepath": None, "reason": "the sample was deleted"}
        ]
        assert bring_to(run, dataset, "IN_REVIEW")["counts"]["predicted"] == 20


class TestFields:
    def test_floor_classes_and_foreign_marks(self, tmp_path: Path) -> None:
        dataset = make_dataset(
            tmp_path, predictions=[[("cat", 0.9), ("cat", 0.1), ("dog", 0.9), ("cat", None)]]
        )
        database.samples_of(dataset).update_one(
            {}, {"$set": {"pred.detections.$[].tags": ["approved", "mine"], "pred.detections.$[].run": "old"}}
        )
        run = make_run(dataset, "PREDICTED", classes=["cat"])
        staged = list(labels_in(dataset, "auto_in_review").values())
        assert [(d["label"], d["confidence"], d["tags"]) for d in staged] == [
            ("cat", 0.9, ["mine"]), ("cat", None, ["mine"])
        ]  # fmt: skip
        assert [d["_id"] for d in staged] == [label_id(run, ObjectId(dataset.first().id), i) for i in (0, 3)]
        assert all("run" not in d for d in staged)
        assert len(labels_in(dataset, "pred")) == 4

    def test_samples_without_predictions_are_empty(self, tmp_path: Path) -> None:
        dataset = make_dataset(tmp_path, samples=3, empty=2)
        database.samples_of(dataset).update_one(
            {"_id": ObjectId(dataset.last().id)}, {"$unset": {"pred": ""}}
        )
        run = make_run(dataset, "PREDICTED")
        assert statuses(run) == ["labelled", "empty", "empty"]

    def test_a_run_in_which_nothing_was_found(self, tmp_path: Path) -> None:
        dataset = make_dataset(tmp_path, samples=2, empty=2)
        run = make_run(dataset)
        assert runs.load(run)["counts"]["predicted"] == 0
        assert list(tables.predicted_tables(runs.load(run), dataset)) == []
        assert decisions.submit(run, decisions.Decision("discard", "ann"))["state"] == "DISCARDED"


class TestRepetition:
    def test_of_a_half_done_shard_changes_nothing(
        self, dataset: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = make_run(dataset, "CREATED", model=python(), batch_size=2, shard_size=6)
        with monkeypatch.context() as patch:
            real, calls = inference._write_batch, []

            def die_at_the_third(*arguments: Any) -> Any:
                calls.append(None)
                if len(calls) == 3:
                    raise KeyboardInterrupt
                return real(*arguments)

            patch.setattr(inference, "_write_batch", die_at_the_third)
            with pytest.raises(KeyboardInterrupt):
                inference.infer_shard(run, 0)
        before = documents(dataset)
        assert len(labels_in(dataset, "auto_in_review")) == 4
        with pytest.raises(InferenceFailed, match=r"2 samples of run .* were not looked at"):
            inference.finish_inference(runs.load(run))
        model = open_model(make_config(dataset, model=python()).model).model
        model.seen.clear()
        assert inference.infer_shard(run, 0) == {"labelled": 2, "empty": 0, "failed": 0}
        assert sorted(model.seen) == [64, 80]
        after = documents(dataset)
        assert all(after[i] == d for i, d in before.items() if "auto_in_review" in d)
        assert inference.infer_shard(run, 0) == {"labelled": 0, "empty": 0, "failed": 0}
        assert inference.finish_inference(runs.load(run))["counts"]["samples"] == 6

    def test_of_a_batch_that_was_written_but_not_accounted_for(
        self, dataset: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = make_run(dataset, "CREATED", model=python())
        with monkeypatch.context() as patch:

            def die(*_: Any) -> None:
                raise KeyboardInterrupt

            patch.setattr(ledger, "account", die)
            with pytest.raises(KeyboardInterrupt):
                inference.infer_shard(run, 0)
        # Somebody has already corrected a label, which the repetition must not undo.
        first = dataset.first().id
        database.samples_of(dataset).update_one(
            {"_id": ObjectId(first)}, {"$set": {"auto_in_review.detections.0.label": "owl"}}
        )
        inference.infer_shard(run, 0)
        assert documents(dataset)[first]["auto_in_review"]["detections"][0]["label"] == "owl"
        assert len(labels_in(dataset, "auto_in_review")) == 6
        assert len(entries(run)) == 6

    def test_a_finished_inference_is_left_alone(self, dataset: Any) -> None:
        run = make_run(dataset, "PREDICTED")
        record = runs.load(run)
        assert inference.finish_inference(record) == record
        assert opening.prepare(record, dataset) == record
        assert inference.infer_shard(run, 0) == {"labelled": 0, "empty": 0, "failed": 0}

    @pytest.mark.parametrize("moment", ["before", "between"])
    def test_a_run_that_was_discarded_meanwhile_writes_nothing(
        self, dataset: Any, moment: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = make_run(dataset, "CREATED", model=python(), batch_size=2, shard_size=6)
        real, calls = inference._write_batch, []

        def discard_at_the_second(*arguments: Any) -> Any:
            calls.append(None)
            if len(calls) == 2:
                decisions.submit(run, decisions.Decision("discard", "ann"))
            return real(*arguments)

        if moment == "before":
            decisions.submit(run, decisions.Decision("discard", "ann"))
            assert inference.infer_shard(run, 0) == {"labelled": 0, "empty": 0, "failed": 0}
        else:
            monkeypatch.setattr(inference, "_write_batch", discard_at_the_second)
            with pytest.raises(StaleAttempt, match="is DISCARDED in attempt 1 by now"):
                inference.infer_shard(run, 0)
        assert inference.finish_inference(runs.load(run))["state"] == "DISCARDED"
        dataset.reload()
        # A value in an undeclared field would make the dataset unreadable.
        assert all("auto_in_review" not in d for d in documents(dataset).values())
        assert len([s.id for s in dataset]) == 6
        assert bring_to(make_run(dataset, model=python()), dataset)["counts"]["predicted"] == 6


class TestTargets:
    @pytest.mark.parametrize(
        ("samples", "changes", "expected"),
        [
            pytest.param(1000, {}, 128, id="two-batches"),
            pytest.param(100_000, {}, 1000, id="at-most-a-hundred-shards"),
            pytest.param(1000, {"shard_size": 10}, 10, id="as-configured"),
            pytest.param(10_000, {"shard_size": 10}, 100, id="configured-too-small"),
            pytest.param(0, {}, 128, id="nothing"),
            pytest.param(10, {"batch_size": 1}, 2, id="small-batches"),
        ],
    )
    def test_shard_size(self, dataset: Any, samples: int, changes: dict, expected: int) -> None:
        assert choose_shard_size(samples, make_config(dataset, **changes)) == expected

    def test_choose(self, dataset: Any, tmp_path: Path) -> None:
        first, second, third, *_ = everything = dataset.values("id")
        dataset.select([first, second]).tag_samples("gold")
        dataset.save_view("best", dataset.select([second, third]))
        dataset.save_view("twice", dataset.select([first, second]).concat(dataset.select([second])))

        def chosen(**target: Any) -> list[str]:
            return [str(i) for i in find_targets(dataset, make_config(dataset, target=target), [])]

        assert chosen() == everything
        assert chosen(tags=["gold"]) == [first, second]
        assert chosen(view="best") == [second, third]
        assert chosen(view="best", tags=["gold"]) == [second]
        assert chosen(ids=[third, first]) == [first, third]
        assert chosen(limit=2) == [first, second]
        assert chosen(view="best", limit=1) == [second]
        assert chosen(view="twice") == [first, second]

    def test_shards_cover_them_once(self, dataset: Any) -> None:
        run = make_run(dataset, "CREATED", shard_size=4, batch_size=2)
        record = runs.load(run)
        assert record["target"] == {"samples": 6, "shards": 2, "shard_size": 4}
        assert [len(ledger.pending(run, shard)) for shard in (0, 1, 2)] == [4, 2, 0]

    def test_samples_that_come_later_wait_for_the_next_run(self, dataset: Any, tmp_path: Path) -> None:
        run = make_run(dataset, "CREATED")
        add_samples(dataset, tmp_path, [[("owl", 0.9)]])
        assert bring_to(run, dataset)["counts"]["samples"] == 6
