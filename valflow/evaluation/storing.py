"""The evaluation as FiftyOne's own: the run, the marks on labels and samples, the results.

What ``dataset.evaluate_detections(..., method="coco", compute_mAP=True)`` leaves behind, written in bulk.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import orjson
from bson import ObjectId

from valflow import database, references
from valflow.errors import EvaluationError
from valflow.evaluation.labels import Images, LabelTable
from valflow.evaluation.matching import IOU_THRESHOLDS, MAX_PREDICTIONS, Comparison
from valflow.evaluation.scores import RECALLS, Sweep
from valflow.label_types import DETECTIONS, LabelType
from valflow.schema_changes import changing

# Samples whose marks travel to the database at a time.
_WRITE_BATCH = 1_000
MARKS = "valflow_marks"


def is_known_to_fiftyone(label_type: LabelType) -> bool:
    """Whether FiftyOne has an evaluation for the type; lists of classifications have none."""
    return label_type.has_boxes or label_type.is_single


def check_key(
    dataset: Any, label_field: str, ground_truth: str, eval_key: str, label_type: LabelType = DETECTIONS
) -> None:
    """Make sure that this evaluation may be written under this key.

    Raises:
        EvaluationError: the key is not usable, or belongs to an evaluation or a field that is not ours.
    """
    if not is_known_to_fiftyone(label_type):
        return
    if not eval_key.isidentifier():
        raise EvaluationError(
            f"expected an evaluation key that is a Python identifier, found {eval_key!r}; "
            "choose one like 'val_eval'"
        )
    if dataset.has_evaluation(eval_key):
        maker = _maker(dataset, eval_key)
        if maker is None:
            raise EvaluationError(
                f"expected the evaluation key {eval_key!r} to be free or ours, found an evaluation on "
                f"{dataset.name!r} that valflow did not make; nothing was written. Choose another "
                f"evaluation.eval_key, or delete it: dataset.delete_evaluation({eval_key!r})"
            )
        return
    paths = [eval_key]
    if label_type.has_boxes:
        paths = [
            *_sample_fields(eval_key),
            *_label_fields(label_field, eval_key),
            *_label_fields(ground_truth, eval_key),
        ]
    taken = [path for path in paths if dataset.get_field(path) is not None]
    if taken:
        raise EvaluationError(
            f"expected the fields of the evaluation {eval_key!r} to be free, found {', '.join(taken)} on "
            f"{dataset.name!r}; nothing was written. Choose another evaluation.eval_key"
        )


def store(
    dataset: Any,
    config: Any,
    eval_key: str,
    *,
    images: Images,
    comparison: Comparison,
    curves: Sweep,
    whole_dataset: bool,
) -> None:
    """Write an evaluation as FiftyOne's own; an earlier one under this key is removed with its marks.

    Args:
        dataset: a FiftyOne dataset.
        config: from :func:`coco_config`.
        eval_key: checked by :func:`check_key`.
        images: the images that were evaluated.
        comparison: all labels of both fields on them, in the order of the images.
        curves: their precision over recall, in FiftyOne's order.
        whole_dataset: whether these are all images of the dataset.
    """
    method = config.build()
    with changing(dataset):
        references.adopt(dataset, "evaluations", eval_key)
        delete(dataset, eval_key)
        # The run comes first: after a crash it still says that the fields are ours.
        method.register_run(dataset, eval_key)
        method.register_samples(dataset, eval_key)
    write_marks(dataset, config, eval_key, images, comparison)
    with changing(dataset):
        save_results(
            dataset,
            method,
            eval_key,
            functools.partial(_results, method, eval_key, comparison, curves),
            mark=_sample_fields(eval_key)[0],
            whole_dataset=whole_dataset,
        )


def coco_config(
    label_field: str, ground_truth: str, iou: float, run_key: str, label_type: LabelType = DETECTIONS
) -> Any:
    """FiftyOne's configuration of the evaluation, signed with our run."""
    from fiftyone.utils.eval.coco import COCOEvaluationConfig

    return COCOEvaluationConfig(
        label_field,
        ground_truth,
        iou=iou,
        classwise=True,
        use_masks=label_type.needs_masks,
        compute_mAP=True,
        iou_threshs=list(IOU_THRESHOLDS),
        max_preds=MAX_PREDICTIONS,
        valflow_run=run_key,
    )


def write_marks(dataset: Any, config: Any, eval_key: str, images: Images, comparison: Comparison) -> None:
    """Mark every label tp, fp or fn and count them per sample, server-side, by label id.

    Labels that were added since they were read stay without a mark, labels that were deleted stay deleted.
    The fields must have been declared.
    """
    marks = database.connection()[MARKS]
    of = f"{dataset._doc.id}/{eval_key}"
    marks.delete_many({"of": of})  # left behind by an evaluation that was killed
    token = ObjectId()
    update: list[dict[str, Any]] = [
        {"$match": {"_id.token": token}},
        {"$set": {"_id": "$_id.sample"}},
        {
            "$merge": {
                "into": dataset._sample_collection_name,
                "on": "_id",
                "whenMatched": _mark_stages(config.pred_field, config.gt_field, eval_key),
                "whenNotMatched": "discard",
            }
        },
    ]
    try:
        for batch in _mark_batches(token, eval_key, images, comparison):
            marks.insert_many([{**mark, "of": of} for mark in batch], ordered=False)
            marks.aggregate(update).close()
            marks.delete_many({"_id.token": token})
    finally:
        marks.delete_many({"_id.token": token})
    dataset.sync_last_modified_at()
    dataset.reload()


def save_results(
    dataset: Any,
    method: Any,
    eval_key: str,
    build: Callable[[Any], Any],
    *,
    mark: str,
    whole_dataset: bool,
) -> None:
    """Save the results so that ``dataset.load_evaluation_results`` finds them.

    Unless the whole dataset was evaluated, the evaluation's view is "samples that carry its mark": as exact
    as a list of ids, however many they are.

    Args:
        dataset: a FiftyOne dataset.
        method: FiftyOne's evaluation, registered under ``eval_key``.
        eval_key: name of the evaluation.
        build: makes FiftyOne's results for the samples that were evaluated.
        mark: a sample field that all of them carry.
        whole_dataset: whether these are all samples of the dataset.
    """
    samples = dataset
    if not whole_dataset:
        samples = dataset.exists(mark)
        info = dataset.get_evaluation_info(eval_key)
        method.save_run_info(samples, info, overwrite=True, cleanup=False)
    results = build(samples)
    # As FiftyOne's save_run_results does, whose way to JSON takes longer than the whole matching.
    run = method._get_run_doc(samples, eval_key)
    forget_results(dataset, eval_key)
    run.results.put(
        orjson.dumps(results.serialize(), option=orjson.OPT_SERIALIZE_NUMPY),
        content_type="application/json",
        _id=_results_id(dataset, eval_key),
    )
    run.results_meta = dict(results.get_meta() or {})
    run.save()
    method.add_fields_to_sidebar_group(
        samples, eval_key, omit_fields=(method.config.pred_field, method.config.gt_field)
    )


def forget_results(dataset: Any, eval_key: str) -> None:
    """Delete the file of results that an evaluation of ours under this key has or was about to get, or parts of it."""
    from gridfs import GridFS

    GridFS(database.connection()).delete(_results_id(dataset, eval_key))


def _results_id(dataset: Any, eval_key: str) -> ObjectId:
    """Always the same, so that a file whose evaluation died before it could refer to it is found again."""
    name = f"{dataset._doc.id}/{eval_key}".encode()
    return ObjectId(hashlib.blake2b(name, digest_size=12).digest())


def _results(method: Any, eval_key: str, comparison: Comparison, curves: Sweep, samples: Any) -> Any:
    from fiftyone.utils.eval.coco import COCODetectionResults

    return COCODetectionResults(
        samples,
        method.config,
        eval_key,
        list(_match_rows(comparison)),
        curves.precision,
        RECALLS,
        np.array(IOU_THRESHOLDS),
        curves.classes,
        recall_sweep=curves.recall,
        thresholds=curves.confidence,
        backend=method,
    )


def remove_evaluation(dataset: Any, eval_key: str, run: str) -> None:
    """Delete the evaluation of a run with its marks; one of another run, or of somebody else, stays."""
    references.adopt(dataset, "evaluations", eval_key)
    if dataset.has_evaluation(eval_key) and _maker(dataset, eval_key) != run:
        return
    delete(dataset, eval_key)
    forget_results(dataset, eval_key)


def delete(dataset: Any, eval_key: str) -> None:
    """Delete what a dataset has under this key, the fields first: without the run they would be nobody's.

    FiftyOne deletes the run also where it could not delete the fields, the database being away at that moment.
    """
    if dataset.has_evaluation(eval_key):
        method = dataset.get_evaluation_info(eval_key).config.build()
        method.cleanup(dataset, eval_key)
        method.delete_run(dataset, eval_key, cleanup=False)


def _maker(dataset: Any, eval_key: str) -> str | None:
    """The run that made an evaluation, None when it is not ours."""
    try:
        config = dataset.get_evaluation_info(eval_key).config
    except ValueError:  # made by a FiftyOne that this one cannot read
        return None
    return getattr(config, "valflow_run", None)


def _sample_fields(eval_key: str) -> tuple[str, str, str]:
    return f"{eval_key}_tp", f"{eval_key}_fp", f"{eval_key}_fn"


def _label_fields(field: str, eval_key: str) -> tuple[str, ...]:
    path = DETECTIONS.list_path(field)
    return f"{path}.{eval_key}", f"{path}.{eval_key}_id", f"{path}.{eval_key}_iou"


def _mark_stages(label_field: str, ground_truth: str, eval_key: str) -> list[dict[str, Any]]:
    """The update of one sample document; ``$$new`` is its document of marks."""

    def marked(field: str, side: str) -> dict[str, Any]:
        path = f"${DETECTIONS.list_path(field)}"
        label = {
            "$let": {
                "vars": {"i": {"$indexOfArray": [f"$$new.{side}.ids", "$$d._id"]}},
                "in": {
                    "$cond": [
                        {"$lt": ["$$i", 0]},
                        "$$d",
                        # Ready-made marks: to put them together here would cost a quarter more.
                        {"$mergeObjects": ["$$d", {"$arrayElemAt": [f"$$new.{side}.marks", "$$i"]}]},
                    ]
                },
            }
        }
        labels = {DETECTIONS.list_name: {"$map": {"input": path, "as": "d", "in": label}}}
        # A sample without the field keeps being without it.
        return {"$cond": [{"$isArray": path}, {"$mergeObjects": [f"${field}", labels]}, f"${field}"]}

    counts = {
        field: f"$$new.{name}"
        for field, name in zip(_sample_fields(eval_key), ("tp", "fp", "fn"), strict=True)
    }
    return [
        {
            "$set": {
                label_field: marked(label_field, "predicted"),
                ground_truth: marked(ground_truth, "true"),
                "last_modified_at": "$$NOW",
                **counts,
            }
        }
    ]


def _mark_batches(
    token: ObjectId, eval_key: str, images: Images, comparison: Comparison
) -> Iterator[list[dict[str, Any]]]:
    predictions, truth, matches = comparison.predictions, comparison.truth, comparison.matches
    matched_by = matches.prediction
    true_iou = np.where(matched_by >= 0, matches.iou[matched_by] if len(matches.iou) else np.nan, np.nan)
    marks_of_predictions = _marks(eval_key, "fp", matches.truth, truth, matches.iou)
    marks_of_truth = _marks(eval_key, "fn", matched_by, predictions, true_iou)
    sides = (
        _Side(predictions, marks_of_predictions, len(images)),
        _Side(truth, marks_of_truth, len(images)),
    )
    hits = np.bincount(predictions.sample[matches.truth >= 0], minlength=len(images)).tolist()
    missed = np.bincount(truth.sample[matched_by < 0], minlength=len(images)).tolist()
    labels = np.bincount(predictions.sample, minlength=len(images)).tolist()
    for start in range(0, len(images), _WRITE_BATCH):
        yield [
            {
                "_id": {"token": token, "sample": images.ids[i]},
                "predicted": sides[0].of(i),
                "true": sides[1].of(i),
                "tp": hits[i],
                "fp": labels[i] - hits[i],
                "fn": missed[i],
            }
            for i in range(start, min(start + _WRITE_BATCH, len(images)))
        ]


class _Side:
    """The marks of one label field, cut into samples."""

    def __init__(self, table: LabelTable, marks: list[dict[str, Any]], images: int) -> None:
        self.ids = table.ids.tolist()
        self.marks = marks
        self.bounds = np.searchsorted(table.sample, np.arange(images + 1)).tolist()

    def of(self, image: int) -> dict[str, Any]:
        part = slice(self.bounds[image], self.bounds[image + 1])
        return {"ids": self.ids[part], "marks": self.marks[part]}


def _marks(
    eval_key: str, unmatched: str, places: np.ndarray, partners: LabelTable, iou: np.ndarray
) -> list[dict[str, Any]]:
    """What FiftyOne writes on every label: the id of its partner is the empty string where it has none."""
    partner, overlap = f"{eval_key}_id", f"{eval_key}_iou"
    names = partners.id_texts
    alone = {eval_key: unmatched, partner: ""}
    return [
        alone if place < 0 else {eval_key: "tp", partner: names[place], overlap: value}
        for place, value in zip(places.tolist(), iou.tolist(), strict=True)
    ]


def _match_rows(comparison: Comparison) -> Iterator[tuple[Any, ...]]:
    """FiftyOne's ``(gt_label, pred_label, iou, pred_confidence, gt_id, pred_id)`` for its report."""
    predictions, truth, matches = comparison.predictions, comparison.truth, comparison.matches
    true_labels, true_ids = truth.label.tolist(), truth.id_texts
    rows = zip(
        predictions.label.tolist(),
        predictions.id_texts,
        (None if v != v else v for v in predictions.confidence.tolist()),
        matches.truth.tolist(),
        matches.iou.tolist(),
        strict=True,
    )
    for label, label_id, confidence, place, iou in rows:
        if place >= 0:
            yield true_labels[place], label, iou, confidence, true_ids[place], label_id
        else:
            yield None, label, None, confidence, None, label_id
    for place in np.flatnonzero(matches.prediction < 0).tolist():
        yield true_labels[place], None, None, None, true_ids[place], None
