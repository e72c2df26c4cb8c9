"""The evaluate stage: a run's labels against ground truth, stored as FiftyOne's own evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bson import ObjectId

from valflow import collector, database
from valflow.errors import EvaluationError
from valflow.evaluation import classifying, storing
from valflow.evaluation.labels import Images, LabelTable, read_labels, read_predicted, run_samples
from valflow.evaluation.matching import Comparison, overlap
from valflow.evaluation.scores import (
    classes_of,
    coco_figures,
    detection_metrics,
    precision_recall_points,
    sweep,
)
from valflow.label_types import DETECTIONS, LabelType

WORST_SHOWN = 24
# An overlap with the right class below this is chance, not a badly drawn box.
_TOUCHES = 0.1


@collector.paused()
def evaluate(
    dataset: Any,
    label_field: str,
    ground_truth: str,
    eval_key: str,
    *,
    run_key: str,
    iou: float = 0.5,
    sample_ids: Sequence[Any] | None = None,
    classes: Sequence[str] | None = None,
    label_type: LabelType = DETECTIONS,
) -> dict[str, Any]:
    """Compare labels with ground truth and store the outcome as FiftyOne's COCO evaluation.

    Only images whose ground truth field is set take part: an image that nobody annotated says nothing about
    right and wrong, and FiftyOne would count every label on it as a false positive. What is stored under
    ``eval_key`` covers this run's images and all labels of the field on them, and equals
    ``evaluate_detections(label_field, ground_truth, eval_key, method="coco", iou=iou, compute_mAP=True)`` on
    those images. Labels without a confidence rank behind all others (FiftyOne matches them last, too, but
    refuses to compute its mAP).

    Labels of whole images are compared class by class: of a single one FiftyOne's evaluation is its simple one of
    classifications; for lists of classifications it has none, so that only the metrics are kept.

    Args:
        dataset: a FiftyOne dataset of images.
        label_field: field with the finalized labels.
        ground_truth: field with the true labels.
        eval_key: name of the evaluation; an earlier one of ours under this name is replaced.
        run_key: the labeling run.
        iou: least overlap of a match, in (0, 1].
        sample_ids: the run's samples; None takes those that the ledger says it looked at.
        classes: classes that count; None takes all that occur.
        label_type: what both fields hold.

    Returns:
        The metrics as plain JSON: ``iou, eval_key, ground_truth, run{...}, dataset{...}, worst[...]``.
        ``run`` is about this run's images: ``approved`` (labels of this run in the field), ``discarded``
        (predictions that were not approved), ``all`` (all predictions), each with ``precision, recall, f1,
        tp, fp, fn, labels, mAP, mAP50``; ``per_class`` and ``coco`` (COCO's twelve figures) of the approved
        boxes, for labels of whole images ``accuracy`` and ``confusion`` instead; ``pr_curve``.
        ``dataset`` is about the whole label field on all annotated images. A figure that
        has nothing to measure is None.

    Raises:
        EvaluationError: a field is missing or of another type, no image has ground truth, or the key
            belongs to an evaluation that is not ours. Nothing was written then.
    """
    dataset.reload()
    _check_fields(dataset, label_field, ground_truth, iou, label_type)
    storing.check_key(dataset, label_field, ground_truth, eval_key, label_type)
    everything = _Sides(*read_labels(dataset, label_field, ground_truth, label_type=label_type))
    seen = [ObjectId(str(i)) for i in sample_ids] if sample_ids is not None else run_samples(run_key)
    of_run = everything.on(seen)
    if not of_run.images.annotated.any():
        raise EvaluationError(
            f"expected ground truth in {ground_truth!r} on some of the {len(of_run.images)} images of run "
            f"{run_key!r}, found none; annotate some of them, or set evaluation to null"
        )
    annotated, whole = of_run.annotated(), everything.annotated()
    in_field = Comparison(annotated.predicted, annotated.true, iou)
    approved = _of_run(in_field, run_key, classes)
    same = len(whole.images) == len(annotated.images)
    in_dataset = in_field if same else Comparison(whole.predicted, whole.true, iou)
    metrics: dict[str, Any] = {
        "eval_key": eval_key if storing.is_known_to_fiftyone(label_type) else None,
        "ground_truth": ground_truth,
        "iou": iou if label_type.has_boxes else None,
        "run": _run_metrics(annotated.images, approved, run_key, classes, label_type),
        "dataset": _dataset_metrics(whole.images, in_dataset, classes, label_type),
        "worst": _worst(dataset, annotated.images, approved, label_type),
    }
    metrics["run"]["images_without_ground_truth"] = len(of_run.images) - len(annotated.images)
    metrics["dataset"]["images_without_ground_truth"] = len(everything.images) - len(whole.images)
    whole_dataset = len(annotated.images) == len(everything.images)
    if label_type.is_single:
        config = classifying.simple_config(label_field, ground_truth, run_key)
        classifying.store(dataset, config, eval_key, annotated.images, in_field, whole_dataset)
    elif label_type.has_boxes:
        storing.store(
            dataset,
            storing.coco_config(label_field, ground_truth, iou, run_key, label_type),
            eval_key,
            images=annotated.images,
            comparison=in_field,
            curves=sweep(in_field, classes, true_first=True),
            whole_dataset=whole_dataset,
        )
    return metrics


@dataclass(frozen=True)
class _Sides:
    """Predicted and true labels of the same images."""

    images: Images
    predicted: LabelTable
    true: LabelTable

    def on(self, sample_ids: Sequence[ObjectId]) -> _Sides:
        """Only these samples."""
        wanted = frozenset(sample_ids)
        return self._kept(np.fromiter((i in wanted for i in self.images.ids), bool, len(self.images)))

    def annotated(self) -> _Sides:
        """Only images with ground truth."""
        return self._kept(self.images.annotated)

    def _kept(self, keep: np.ndarray) -> _Sides:
        if keep.all():
            return self
        place = np.cumsum(keep) - 1
        images = Images(self.images.ids[keep], self.images.sizes[keep], self.images.annotated[keep])
        sides = []
        for table in (self.predicted, self.true):
            part = table.where(keep[table.sample])
            sides.append(part.at(place[part.sample]))
        return _Sides(images, *sides)


def _check_fields(
    dataset: Any, label_field: str, ground_truth: str, iou: float, label_type: LabelType
) -> None:
    if not 0 < iou <= 1:
        raise EvaluationError(f"expected an IoU threshold above 0 and at most 1, found {iou}")
    if label_field == ground_truth:
        raise EvaluationError(f"expected two fields to compare, found {label_field!r} twice")
    schema = dataset.get_field_schema()
    for field in (label_field, ground_truth):
        found = getattr(schema.get(field), "document_type", None)
        if found is not label_type.fiftyone_class():
            what = (
                found.__name__
                if found is not None
                else "another type"
                if field in schema
                else "no such field"
            )
            raise EvaluationError(
                f"expected {label_type.field_class} in field {field!r} of {dataset.name!r}, found {what}; "
                f"its fields of that type: {', '.join(_fields_of(schema, label_type)) or 'none'}"
            )


def _fields_of(schema: dict[str, Any], label_type: LabelType) -> list[str]:
    wanted = label_type.fiftyone_class()
    return [name for name, field in schema.items() if getattr(field, "document_type", None) is wanted]


def _of_run(in_field: Comparison, run_key: str, classes: Sequence[str] | None) -> Comparison:
    """The labels of one run, of the classes that count; often these are all labels of the field."""
    mine = in_field.predictions.run == run_key
    if mine.all() and classes is None:
        return in_field
    labels = in_field.predictions.where(mine).of_classes(classes)
    return Comparison(labels, in_field.truth.of_classes(classes), in_field.iou)


def _run_metrics(
    images: Images,
    approved: Comparison,
    run_key: str,
    classes: Sequence[str] | None,
    label_type: LabelType,
) -> dict[str, Any]:
    true = approved.truth
    predicted, was_approved = read_predicted(run_key, images, label_type)
    discarded = Comparison(predicted.where(~was_approved).of_classes(classes), true, approved.iou)
    everything = Comparison(predicted.of_classes(classes), true, approved.iou)
    names = list(classes) if classes is not None else classes_of(approved.predictions, predicted, true)
    own: dict[str, Any] = {}
    if label_type.has_boxes and not label_type.needs_masks:
        figures, class_ap = coco_figures(approved.predictions, true, images, names)
        of_approved = detection_metrics(approved, names)
        of_approved["mAP"], of_approved["mAP50"] = figures["AP"], figures["AP50"]
        per_class = of_approved.pop("per_class")
        for row in per_class:
            row["ap"] = class_ap[row["label"]]
        own["coco"] = figures
    else:
        of_approved, per_class = _set_metrics(approved, names, label_type)
    if not label_type.has_boxes:
        own |= classifying.figures(approved, len(images), label_type)
    return {
        "images": len(images),
        "ground_truth_labels": len(true),
        "without_confidence": int(np.isnan(approved.predictions.confidence).sum()),
        "approved": of_approved,
        "discarded": _set_metrics(discarded, names, label_type)[0],
        "all": _set_metrics(everything, names, label_type)[0],
        "per_class": per_class,
        **own,
        "pr_curve": {
            "approved": precision_recall_points(approved),
            "all": precision_recall_points(everything),
        },
    }


def _dataset_metrics(
    images: Images, comparison: Comparison, classes: Sequence[str] | None, label_type: LabelType
) -> dict[str, Any]:
    names = list(classes) if classes is not None else classes_of(comparison.predictions, comparison.truth)
    figures, per_class = _set_metrics(comparison, names, label_type)
    return {
        "images": len(images),
        "images_with_labels": len(np.unique(comparison.predictions.sample)),
        "ground_truth_labels": int((comparison.truth.codes(names) >= 0).sum()),
        "approved": figures,
        "per_class": per_class,
    }


def _set_metrics(
    comparison: Comparison, names: Sequence[str], label_type: LabelType
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The figures of one set of labels, and those of its classes."""
    metrics = detection_metrics(comparison, names)
    if label_type.is_single:
        # Of one label per image there is nothing to rank.
        return metrics, metrics.pop("per_class")
    curves = sweep(comparison, names)
    metrics["mAP"] = curves.mean_ap()
    if label_type.has_boxes:
        metrics["mAP50"] = curves.mean_ap(0)
    per_class = metrics.pop("per_class")
    for row, ap in zip(per_class, curves.class_ap().values(), strict=True):
        row["ap"] = ap
    return metrics, per_class


def _worst(
    dataset: Any, images: Images, comparison: Comparison, label_type: LabelType
) -> list[dict[str, Any]]:
    """The most confident errors, then the largest missed objects, for a person to look at."""
    labels, true = comparison.predictions, comparison.truth
    wrong = np.flatnonzero(comparison.matches.truth < 0)
    wrong = wrong[np.argsort(-np.nan_to_num(labels.confidence[wrong], nan=-1.0), kind="stable")][:WORST_SHOWN]
    missed = np.flatnonzero(comparison.matches.prediction < 0)
    missed = missed[np.argsort(-true.boxes[missed, 2:].prod(axis=1), kind="stable")][
        : WORST_SHOWN - len(wrong)
    ]
    rows = [_error(labels, int(i), "false_positive") | _cause(comparison, int(i)) for i in wrong]
    rows += [_error(true, int(i), "missed") for i in missed]
    places = [int(labels.sample[i]) for i in wrong] + [int(true.sample[i]) for i in missed]
    sample_ids = [images.ids[place] for place in places]
    found = database.samples_of(dataset).find({"_id": {"$in": sample_ids}}, {"filepath": 1})
    paths = {document["_id"]: document["filepath"] for document in found}
    if not label_type.has_boxes:
        rows = [{**row, "bounding_box": None} for row in rows]
    return [
        {"sample_id": str(sample_id), "filepath": paths.get(sample_id), **row}
        for sample_id, row in zip(sample_ids, rows, strict=True)
    ]


def _error(table: LabelTable, i: int, kind: str) -> dict[str, Any]:
    confidence = float(table.confidence[i])
    return {
        "label_id": str(table.ids[i]),
        "kind": kind,
        "label": table.label[i],
        "confidence": None if np.isnan(confidence) else confidence,
        "bounding_box": table.boxes[i].tolist(),
    }


def _cause(comparison: Comparison, i: int) -> dict[str, Any]:
    """Why a label is wrong, in the words of an audit: the nearest true object decides."""
    labels, true, iou = comparison.predictions, comparison.truth, comparison.iou
    here = np.flatnonzero(true.sample == labels.sample[i])
    ious = overlap(np.repeat(labels.boxes[i : i + 1], len(here), axis=0), true.boxes[here])
    same = true.codes(labels.classes)[here] == labels.class_id[i]
    if (same & (ious >= iou)).any():
        return {"cause": "duplicate"}
    if (ious >= iou).any():
        best = int(np.argmax(ious))
        return {"cause": "wrong_class", "true_label": true.label[here[best]], "iou": float(ious[best])}
    if (same & (ious >= _TOUCHES)).any():
        return {"cause": "bad_box", "iou": float(ious[same].max())}
    return {"cause": "not_an_object"}
