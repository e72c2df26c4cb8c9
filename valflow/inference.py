"""Inference: which samples, in which shards, by which model; every sample accounted for."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from bson import ObjectId
from pymongo import UpdateOne

from valflow import beside, collector, database, intake, ledger, masks, overlapping, runs, schema_changes
from valflow.batch_size import BatchSize
from valflow.choosing_types import chosen_type
from valflow.config import LabelingConfig, MergeModelConfig, ModelConfig
from valflow.errors import InferenceFailed, StaleAttempt
from valflow.label_types import (
    BY_FIELD_CLASS,
    INFERENCE_FAILED,
    LabelDict,
    LabelType,
    candidates,
    label_type_of,
    review_type_of,
)
from valflow.models import open_model
from valflow.models.documents import document_of, documents_in
from valflow.models.merge import open_source as open_merge
from valflow.models.source import RawLabels, class_of
from valflow.states import Event, State, is_past

MAX_SHARDS = 100
# Images whose predictions are written at once where `batch_size` is `auto`.
PER_WRITE = 64

Prediction = list[LabelDict] | Exception


def find_targets(dataset: Any, config: LabelingConfig, earlier_runs: Sequence[str]) -> list[ObjectId]:
    """Ids of the samples that a run would label, in the dataset's order.

    Args:
        dataset: the FiftyOne dataset.
        config: ``target`` chooses; ``label_field`` tells what already has labels.
        earlier_runs: finalized runs into the still existing label field.
    """
    target = config.target
    view = dataset.load_saved_view(target.view) if target.view else dataset.view()
    if target.ids:
        view = view.select(target.ids)
    if target.tags:
        view = view.match_tags(target.tags)
    ids = [ObjectId(i) for i in dict.fromkeys(view.values("id"))]
    if isinstance(config.model, MergeModelConfig):
        known = open_merge(config.model).samples()
        ids = [i for i in ids if i in known]
    if target.only == "new":
        seen = ledger.seen_samples(earlier_runs)
        ids = [i for i in ids if i not in seen]
    label_type = chosen_type(config, dataset)
    # A second label would have to take the place of a single one.
    if (target.only == "remaining" or label_type.is_single) and dataset.has_field(config.label_field):
        holding = label_type.holds_any(config.label_field)
        labelled = {d["_id"] for d in database.samples_of(dataset).find(holding, {"_id": 1})}
        ids = [i for i in ids if i not in labelled]
    return ids[: target.limit]


def choose_shard_size(samples: int, config: LabelingConfig) -> int:
    """Samples per shard: a few batches, so that a crash costs little, and at most 100 shards per run."""
    if config.shard_size is not None:
        return max(config.shard_size, -(-samples // MAX_SHARDS))
    return max(2 * _images_per_write(config), -(-samples // MAX_SHARDS), 1)


def open_shards(
    record: runs.Record, dataset: Any, config: LabelingConfig, earlier_runs: Sequence[str]
) -> runs.Record:
    """Freeze the targets of a run and declare its staging field; returns the record with ``target`` filled in."""
    if record.get("target"):
        return record
    fence = runs.fence_of(record)
    ledger.forget_targets(record["run"])
    targets = find_targets(dataset, config, earlier_runs)
    size = choose_shard_size(len(targets), config)
    shards = ledger.open_targets(record["run"], targets, size)
    if targets:
        with schema_changes.changing(dataset):
            declare_field(dataset, record["staging_field"], review_type_of(record))
    runs.update(fence, {"target": {"samples": len(targets), "shards": shards, "shard_size": size}})
    return runs.load(record["run"])


def declare_field(dataset: Any, field: str, label_type: LabelType) -> None:
    """Declare a label field; a raw write into an undeclared field would make the dataset unreadable."""
    import fiftyone as fo

    if not dataset.has_field(field):
        dataset.add_sample_field(
            field, fo.EmbeddedDocumentField, embedded_doc_type=label_type.fiftyone_class()
        )
    for attribute, kind in (("label", fo.StringField), ("confidence", fo.FloatField)):
        # Raw writes do not tell FiftyOne what a label holds; the App needs to know.
        path = f"{label_type.path(field)}.{attribute}"
        if dataset.get_field(path) is None:
            dataset.add_sample_field(path, kind)


def infer_shard(run: str, shard: int) -> dict[str, int]:
    """Predict what is still pending in a shard. Safe to repeat and to overlap with a repetition of itself.

    Returns:
        Number of samples by outcome.
    """
    record = runs.load(run)
    config = LabelingConfig.model_validate(record["config"])
    waiting = ledger.pending(run, shard)
    outcomes = {ledger.LABELLED: 0, ledger.EMPTY: 0, ledger.FAILED: 0}
    if not waiting or record["state"] != State.CREATED.value:
        return outcomes
    dataset = _load_dataset_cached(run)
    source, label_type = open_model(config.model), label_type_of(record)
    processes = beside.processes_for(source, config.runner)
    # Another process does not know which attempt this one holds, and the record may be of a later one.
    held = {**record, "attempt": runs.fence_of(record).attempt}

    def write(batch: overlapping.Batch) -> None:
        sample_ids, found = batch
        labels = [_converted(p, label_type) for p in found]
        if processes is None:
            written = write_predictions(held, sample_ids, labels)
        else:
            written = processes.write(write_predictions, held, sample_ids, [_portable(p) for p in labels])
        for status, n in written.items():
            outcomes[status] += n

    size = _batch_size_cached(run, config.batch_size)
    batches = overlapping.predictions(source, dataset, waiting, size, processes)
    with closing(batches), overlapping.in_background(write) as put:
        for batch in overlapping.grouped(batches, _images_per_write(config)):
            put(batch)
    return outcomes


def write_predictions(
    record: runs.Record, sample_ids: Sequence[ObjectId], predictions: Sequence[Prediction]
) -> dict[str, int]:
    """Write predictions of some samples into ledger and review field. Safe to repeat.

    Returns:
        Number of samples by outcome.

    Raises:
        StaleAttempt: the run has ended.
    """
    config = LabelingConfig.model_validate(record["config"])
    dataset = _load_dataset_cached(record["run"])
    written = _write_batch(record, config, dataset, sample_ids, predictions)
    _leave_if_ended(record, dataset, sample_ids)
    return written


@functools.lru_cache(maxsize=4)
def _batch_size_cached(run: str, setting: int | Literal["auto"]) -> BatchSize:
    # What one shard has found out serves the next ones.
    return BatchSize(setting)


def _images_per_write(config: LabelingConfig) -> int:
    return PER_WRITE if config.batch_size == "auto" else config.batch_size


def _leave_if_ended(record: runs.Record, dataset: Any, sample_ids: Sequence[ObjectId]) -> None:
    """Stop where somebody discarded the run meanwhile, and take back what was written since.

    The review field is gone then, and a value in an undeclared field makes the dataset unreadable.

    Raises:
        StaleAttempt: the run has ended.
    """
    now = runs.load(record["run"])
    if now["open"]:
        return
    staging, path = record["staging_field"], review_type_of(record).list_path(record["staging_field"])
    batch = {"$in": list(sample_ids)}
    ours = database.ledger().distinct("labels._id", {"run": record["run"], "sample_id": batch})
    database.samples_of(dataset).update_many(
        {"_id": batch, f"{path}._id": {"$in": ours}}, {"$unset": {staging: ""}}
    )
    raise StaleAttempt(f"run {record['run']} is {now['state']} by now; its inference stops here")


def finish_inference(record: runs.Record) -> runs.Record:
    """Count what became of the samples, and move the run on to PREDICTED.

    Raises:
        InferenceFailed: more samples failed than ``max_failed_share`` allows, or some were not looked at.
    """
    if is_past(record["state"], State.PREDICTED):
        return record
    config = LabelingConfig.model_validate(record["config"])
    by_status = ledger.status_counts(record["run"])
    if by_status.get(ledger.PENDING):
        raise InferenceFailed(
            f"{by_status[ledger.PENDING]} samples of run {record['run']} were not looked at; run it again to go on"
        )
    total, failed = sum(by_status.values()), by_status.get(ledger.FAILED, 0)
    counts = {"samples": total, "failed_samples": failed, "empty_samples": by_status.get(ledger.EMPTY, 0)}
    failures = _describe_failures(record)
    changes = {"counts": counts, "failed": failures, "intake": ledger.noted_counts(record["run"])}
    runs.update(runs.fence_of(record), changes)
    if total and failed / total > config.max_failed_share:
        # Another try must look at them again.
        database.ledger().delete_many({"run": record["run"], "status": ledger.FAILED})
        raise InferenceFailed(
            f"{failed} of {total} samples could not be labelled ({failed / total:.0%}; max_failed_share allows "
            f"{config.max_failed_share:.0%}). First: {failures[0]['filepath']}: {failures[0]['reason']}. "
            "Mend the files or the model and run again, or raise max_failed_share"
        )
    return runs.transition(record, Event.INFER, actor="system", figures=counts)


@functools.lru_cache(maxsize=4)
def _load_dataset_cached(run: str) -> Any:
    # Loading writes to the database each time; shards need no more than the samples.
    return database.dataset_of(runs.load(run))


def prediction_source(config: ModelConfig, dataset: Any, label_type: LabelType) -> Any:
    """A function ``sample ids -> one Prediction per id``."""
    source = open_model(config)

    def predict(sample_ids: Sequence[ObjectId]) -> list[Prediction]:
        predictions = source.predict(source.fetch(dataset, sample_ids))
        return [_converted(p, label_type) for p in predictions]

    return predict


def _converted(prediction: Any, label_type: LabelType) -> Prediction:
    if isinstance(prediction, Exception | list):
        return prediction
    try:
        return _raw_labels(prediction, label_type)
    except Exception as error:  # noqa: BLE001 - recorded as this sample's failure; too many stop the run
        return RuntimeError(f"the model failed: {type(error).__name__}: {error}")


def _portable(prediction: Prediction) -> Prediction:
    # What a model raises need not be an error that other processes know.
    return RuntimeError(str(prediction)) if isinstance(prediction, Exception) else prediction


def _raw_labels(prediction: Any, label_type: LabelType) -> list[LabelDict]:
    """The labels of a prediction as raw dicts.

    Raises:
        TypeError: it is of another type than the run's.
    """
    if prediction is None:
        return []
    found = class_of(prediction)
    if found != label_type.field_class:
        other = BY_FIELD_CLASS.get(found or "")
        hint = f"; label_type: {other.name} would take them" if other else ""
        raise TypeError(f"expected fiftyone.{label_type.field_class}, the model returned {found}{hint}")
    if isinstance(prediction, RawLabels):
        return prediction.labels
    if label_type.list_name is None:
        return [document_of(prediction)]
    return documents_in(prediction, label_type.list_name)


@collector.paused()
def _write_batch(
    record: runs.Record,
    config: LabelingConfig,
    dataset: Any,
    sample_ids: Sequence[ObjectId],
    predictions: Sequence[Prediction],
) -> dict[str, int]:
    # The model may have taken long: somebody else may be at work by now.
    runs.require(runs.fence_of(record), State.CREATED)
    if not schema_changes.is_declared(dataset, record["staging_field"]):
        raise InferenceFailed(
            f"the review field {record['staging_field']!r} was deleted or renamed while run {record['run']} was "
            f"labelling {record['dataset']}. `valflow discard {record['run']}`, and start again"
        )
    classes = None if config.classes is None else frozenset(config.classes)
    label_type = label_type_of(record)
    outcomes: list[tuple[ObjectId, str, str | None]] = []
    failed: list[ObjectId] = []
    found: dict[ObjectId, list[LabelDict]] = {}
    noted: dict[ObjectId, dict[str, int]] = {}
    samples = database.samples_of(dataset)
    sizes = intake.large_samples(samples, sample_ids)
    for sample_id, prediction in zip(sample_ids, predictions, strict=True):
        labels: list[LabelDict] = []
        problem = str(prediction) if isinstance(prediction, Exception) else None
        if not isinstance(prediction, Exception):
            usable, odd = intake.take_in(prediction, label_type)
            labels = candidates(
                usable,
                record["run"],
                sample_id,
                min_confidence=config.min_confidence,
                classes=classes,
                label_type=label_type,
            )
            if config.mask_dir is not None:
                labels, problem = masks.in_files(labels, Path(config.mask_dir), record["run"])
            noted[sample_id] = odd + intake.left_out(usable, labels, config.min_confidence)
            problem = problem or intake.why_not_storable(labels, sizes.get(sample_id, 0))
        if problem is not None:
            outcomes.append((sample_id, ledger.FAILED, problem))
            failed.append(sample_id)
            continue
        outcomes.append((sample_id, ledger.LABELLED if labels else ledger.EMPTY, None))
        if labels:
            found[sample_id] = labels
    if failed:
        samples.update_many(
            {"_id": {"$in": failed}},
            {"$addToSet": {"tags": INFERENCE_FAILED}, "$currentDate": {"last_modified_at": True}},
        )
    done = {"$in": [sample_id for sample_id, status, _ in outcomes if status != ledger.FAILED]}
    samples.update_many(
        {"_id": done, "tags": INFERENCE_FAILED},
        {"$pull": {"tags": INFERENCE_FAILED}, "$currentDate": {"last_modified_at": True}},
    )
    ledger.account(record["run"], outcomes, _stage(record, samples, found), noted)
    return {s: sum(o[1] == s for o in outcomes) for s in (ledger.LABELLED, ledger.EMPTY, ledger.FAILED)}


def _stage(
    record: runs.Record, samples: Any, found: dict[ObjectId, list[LabelDict]]
) -> dict[ObjectId, list[LabelDict]]:
    """Write labels into the review field where it is missing; returns what stands there now.

    A repetition must not undo what happened since: where it meets labels, those are the run's.
    """
    if not found:
        return found
    label_type, staging = review_type_of(record), record["staging_field"]
    now = database.now()
    updates = [
        UpdateOne(
            {"_id": sample_id, f"{staging}.{label_type.list_name}": {"$exists": False}},
            {"$set": {staging: label_type.field_value(labels), "last_modified_at": now}},
        )
        for sample_id, labels in found.items()
    ]
    if samples.bulk_write(updates, ordered=False).modified_count == len(updates):
        return found
    staged = samples.find({"_id": {"$in": list(found)}}, {label_type.list_path(staging): 1})
    there = {d["_id"]: label_type.labels_of(d, staging) for d in staged}
    return {sample_id: there.get(sample_id) or labels for sample_id, labels in found.items()}


def _describe_failures(record: runs.Record) -> list[dict[str, Any]]:
    failed = ledger.failed_samples(record["run"])
    if not failed:
        return []
    samples = database.samples_of(database.dataset_of(record))
    cursor = samples.find({"_id": {"$in": [f["sample_id"] for f in failed]}}, {"filepath": 1})
    paths = {d["_id"]: d["filepath"] for d in cursor}
    return [
        {"sample_id": f["sample_id"], "filepath": paths.get(f["sample_id"]), "reason": f["reason"]}
        for f in failed
    ]
