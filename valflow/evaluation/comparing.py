"""The evaluate stage: a run's labels against ground truth, stored as FiftyOne's own evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bson import ObjectId

from valflow import database
from valflow.errors import EvaluationError
from valflow.evaluation import storing
from valflow.evaluation.labels import Images, LabelTable, read_labels, read_predicted, run_samples
from valflow.evaluation.matching import Matches, match, overlap
from valflow.evaluation.scores import (
    Sweep,
    coco_figures,
    detection_metrics,
    precision_recall_points,
    sweep,
)
from valflow.label_types import DETECTIONS

WORST_SHOWN = 24
# An overlap with the right class below this is chance, not a badly drawn box.
_TOUCHES = 0.1


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
) -> dict[str, Any]:
    """Compare labels with ground truth and store the outcome as FiftyOne's COCO evaluation.

    Only images whose ground truth field is set take part: an image that nobody annotated says nothing about
    right and wrong, and FiftyOne would count every label on it as a false positive. What is stored under
    ``eval_key`` covers this run's images and all labels of the field on them, and equals
    ``evaluate_detections(label_field, ground_truth, eval_key, method="coco", iou=iou, compute_mAP=True)`` on
    those images. Labels without a confidence rank behind all others (FiftyOne matches them last, too, but
    refuses to compute its mAP).

    Args:
        dataset: a FiftyOne dataset of images.
        label_field: field with the finalized Detections.
        ground_truth: field with the true Detections.
        eval_key: name of the evaluation; an earlier one of ours under this name is replaced.
        run_key: the labeling run.
        iou: least overlap of a match, in (0, 1].
        sample_ids: the run's samples; None takes those that the ledger says it looked at.
        classes: classes that count; None takes all that occur.

    Returns:
        The metrics as plain JSON: ``iou, eval_key, ground_truth, run{...}, dataset{...}, worst[...]``. ``run``
        is about this run's images: ``approved`` (labels of this run in the field), ``discarded`` (predictions
        that were not approved), ``all`` (all predictions), each with ``precision, recall, f1, tp, fp, fn,
        labels, mAP, mAP50``; ``per_class`` and ``coco`` (COCO's twelve figures) of the approved ones, and
        ``pr_curve``. ``dataset`` is about the whole label field on all annotated images. A figure that has
        nothing to measure is None.

    Raises:
        EvaluationError: a field is missing or not of Detections, no image has ground truth, or the key
            belongs to an evaluation that is not ours. Nothing was written then.
    """
    dataset.reload()
    _check_fields(dataset, label_field, ground_truth, iou)
    storing.check_key(dataset, label_field, ground_truth, eval_key)
    everything = _read(dataset, label_field, ground_truth)
    seen = [ObjectId(str(i)) for i in sample_ids] if sample_ids is not None else run_samples(run_key)
    of_run = everything.on(seen)
    if not of_run.images.annotated.any():
        raise EvaluationError(
            f"expected ground truth in {ground_truth!r} on some of the {len(of_run.images)} images of run "
            f"{run_key!r}, found none; annotate some of them, or set evaluation to null"
        )
    annotated = of_run.annotated()
    run = _run_metrics(annotated, run_key, iou, classes)
    run["images_without_ground_truth"] = len(of_run.images) - len(annotated.images)
    whole = everything.annotated()
    same = len(whole.images) == len(annotated.images)
    _store(dataset, label_field, ground_truth, eval_key, annotated, iou, run_key, classes, len(everything.images))
    return {
        "eval_key": eval_key,
        "ground_truth": ground_truth,
        "iou": iou,
        "run": run,
        "dataset": {
            "images_without_ground_truth": len(everything.images) - len(whole.images),
            **_dataset_metrics(annotated if same else whole, iou, classes),
        },
        "worst": _worst(dataset, annotated, run_key, iou, classes),
    }


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

    def of_run(self, run_key: str, classes: Sequence[str] | None) -> tuple[LabelTable, LabelTable]:
        """The run's labels and the true ones, of the classes that count."""
        mine = self.predicted.where(self.predicted.run == run_key)
        return mine.of_classes(classes), self.true.of_classes(classes)

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


def _check_fields(dataset: Any, label_field: str, ground_truth: str, iou: float) -> None:
    if not 0 < iou <= 1:
        raise EvaluationError(f"expected an IoU threshold above 0 and at most 1, found {iou}")
    if label_field == ground_truth:
        raise EvaluationError(f"expected two fields to compare, found {label_field!r} twice")
    schema = dataset.get_field_schema()
    for field in (label_field, ground_truth):
        found = getattr(schema.get(field), "document_type", None)
        if found is not DETECTIONS.fiftyone_class():
            what = found.__name__ if found is not None else "another type" if field in schema else "no such field"
            raise EvaluationError(
                f"expected {DETECTIONS.field_class} in field {field!r} of {dataset.name!r}, found {what}; "
                f"its fields of that type: {', '.join(_detection_fields(schema)) or 'none'}"
            )


def _detection_fields(schema: dict[str, Any]) -> list[str]:
    wanted = DETECTIONS.fiftyone_class()
    return [name for name, field in schema.items() if getattr(field, "document_type", None) is wanted]


def _read(dataset: Any, label_field: str, ground_truth: str) -> _Sides:
    return _Sides(*read_labels(dataset, label_field, ground_truth))


def _run_metrics(sides: _Sides, run_key: str, iou: float, classes: Sequence[str] | None) -> dict[str, Any]:
    approved, true = sides.of_run(run_key, classes)
    predicted, was_approved = read_predicted(run_key, sides.images)
    discarded = predicted.where(~was_approved).of_classes(classes)
    predicted = predicted.of_classes(classes)
    names = list(classes) if classes is not None else sorted({*approved.label, *predicted.label, *true.label})
    figures, class_ap = coco_figures(approved, true, sides.images, names)
    approved_figures, approved_matches = _set_metrics(approved, true, iou, names)
    all_figures, all_matches = _set_metrics(predicted, true, iou, names)
    discarded_figures, _ = _set_metrics(discarded, true, iou, names)
    per_class = approved_figures.pop("per_class")
    for row in per_class:
        row["ap"] = class_ap[row["label"]]
    approved_figures["mAP"], approved_figures["mAP50"] = figures["AP"], figures["AP50"]
    for other in (all_figures, discarded_figures):
        del other["per_class"]
    return {
        "images": len(sides.images),
        "ground_truth_labels": len(true),
        "without_confidence": int(np.isnan(approved.confidence).sum()),
        "approved": approved_figures,
        "discarded": discarded_figures,
        "all": all_figures,
        "per_class": per_class,
        "coco": figures,
        "pr_curve": {
            "approved": precision_recall_points(approved_matches, approved, true),
            "all": precision_recall_points(all_matches, predicted, true),
        },
    }


def _dataset_metrics(sides: _Sides, iou: float, classes: Sequence[str] | None) -> dict[str, Any]:
    predicted, true = sides.predicted.of_classes(classes), sides.true.of_classes(classes)
    names = list(classes) if classes is not None else sorted({*predicted.label, *true.label})
    figures, _ = _set_metrics(predicted, true, iou, names)
    per_class = figures.pop("per_class")
    return {
        "images": len(sides.images),
        "images_with_labels": len(np.unique(sides.predicted.sample)),
        "ground_truth_labels": len(true),
        "approved": figures,
        "per_class": per_class,
    }


def _set_metrics(
    labels: LabelTable, true: LabelTable, iou: float, names: Sequence[str]
) -> tuple[dict[str, Any], Matches]:
    matches = match(labels, true, iou)
    metrics = detection_metrics(matches, labels, true, names)
    curves = sweep(labels, true, names)
    metrics["mAP"], metrics["mAP50"] = curves.mean_ap(), curves.mean_ap(0)
    for row, ap in zip(metrics["per_class"], curves.class_ap().values(), strict=True):
        row["ap"] = ap
    return metrics, matches


def _store(
    dataset: Any,
    label_field: str,
    ground_truth: str,
    eval_key: str,
    sides: _Sides,
    iou: float,
    run_key: str,
    classes: Sequence[str] | None,
    dataset_size: int,
) -> None:
    """Write marks and results of all labels in the field on these images."""
    matches = match(sides.predicted, sides.true, iou)
    curves: Sweep = sweep(sides.predicted, sides.true, classes, true_first=True)
    method = storing.claim(dataset, storing.coco_config(label_field, ground_truth, iou, run_key), eval_key)
    storing.write_marks(
        dataset,
        label_field,
        ground_truth,
        eval_key,
        images=sides.images,
        predictions=sides.predicted,
        truth=sides.true,
        matches=matches,
    )
    storing.store_results(
        dataset,
        method,
        eval_key,
        whole_dataset=len(sides.images) == dataset_size,
        predictions=sides.predicted,
        truth=sides.true,
        matches=matches,
        curves=curves,
    )


def _worst(
    dataset: Any, sides: _Sides, run_key: str, iou: float, classes: Sequence[str] | None
) -> list[dict[str, Any]]:
    """The run's most confident errors, then its largest missed objects, for a person to look at."""
    labels, true = sides.of_run(run_key, classes)
    matches = match(labels, true, iou)
    wrong = np.flatnonzero(matches.truth < 0)
    wrong = wrong[np.argsort(-np.nan_to_num(labels.confidence[wrong], nan=-1.0), kind="stable")][:WORST_SHOWN]
    missed = np.flatnonzero(matches.prediction < 0)
    missed = missed[np.argsort(-true.boxes[missed, 2:].prod(axis=1), kind="stable")][: WORST_SHOWN - len(wrong)]
    rows = [_error(labels, int(i), "false_positive") | _cause(labels, int(i), true, iou) for i in wrong]
    rows += [_error(true, int(i), "missed") for i in missed]
    places = [int(labels.sample[i]) for i in wrong] + [int(true.sample[i]) for i in missed]
    sample_ids = [sides.images.ids[place] for place in places]
    found = database.samples_of(dataset).find({"_id": {"$in": sample_ids}}, {"filepath": 1})
    paths = {document["_id"]: document["filepath"] for document in found}
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


def _cause(labels: LabelTable, i: int, true: LabelTable, iou: float) -> dict[str, Any]:
    """Why a label is wrong, in the words of an audit: the nearest true object decides."""
    here = np.flatnonzero(true.sample == labels.sample[i])
    ious = overlap(np.repeat(labels.boxes[i : i + 1], len(here), axis=0), true.boxes[here])
    same = true.label[here] == labels.label[i]
    if (same & (ious >= iou)).any():
        return {"cause": "duplicate"}
    if (ious >= iou).any():
        best = int(np.argmax(ious))
        return {"cause": "wrong_class", "true_label": true.label[here[best]], "iou": float(ious[best])}
    if (same & (ious >= _TOUCHES)).any():
        return {"cause": "bad_box", "iou": float(ious[same].max())}
    return {"cause": "not_an_object"}
