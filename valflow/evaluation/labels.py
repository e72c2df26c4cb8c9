"""Labels as columns: what the matching works on, and the raw reads that fill it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from bson import ObjectId

from valflow import database
from valflow.label_types import APPROVED, DETECTIONS

_READ_BATCH = 10_000


@dataclass(frozen=True)
class LabelTable:
    """One row per label.

    Attributes:
        ids: label ids, (N,) object.
        sample: position of the label's image, (N,) int.
        label: class names, (N,) object.
        confidence: (N,) float in [0, 1], NaN where the label has none.
        boxes: ``x, y, w, h`` relative to the image, (N, 4) float.
        crowd: whether a true label stands for a group of objects, (N,) bool.
        run: key of the run that made the label, None for others, (N,) object.
    """

    ids: np.ndarray
    sample: np.ndarray
    label: np.ndarray
    confidence: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray
    run: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def where(self, keep: np.ndarray) -> LabelTable:
        """The rows that ``keep`` selects: (N,) bool, or (M,) positions."""
        return LabelTable(
            self.ids[keep],
            self.sample[keep],
            self.label[keep],
            self.confidence[keep],
            self.boxes[keep],
            self.crowd[keep],
            self.run[keep],
        )

    def at(self, sample: np.ndarray) -> LabelTable:
        """The same labels with other positions of their images, (N,)."""
        return replace(self, sample=sample)

    def of_classes(self, classes: Sequence[str] | None) -> LabelTable:
        """The rows of these classes; None keeps all."""
        if classes is None:
            return self
        wanted = frozenset(classes)
        return self.where(np.fromiter((c in wanted for c in self.label), dtype=bool, count=len(self)))


@dataclass(frozen=True)
class Images:
    """The images that labels belong to; ``LabelTable.sample`` points into these.

    Attributes:
        ids: sample ids, (M,) object.
        sizes: width and height in pixels, (M, 2) float, NaN where the metadata is missing.
        annotated: whether the ground truth field is set (an empty list is set), (M,) bool.
    """

    ids: np.ndarray
    sizes: np.ndarray
    annotated: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def table_of(labels: Iterable[tuple[int, dict[str, Any]]]) -> LabelTable:
    """Raw label dicts, each with the position of its image, as columns."""
    rows = list(labels)
    size = len(rows)
    boxes = np.array([d["bounding_box"] for _, d in rows], dtype=np.float64).reshape(size, 4)
    return LabelTable(
        ids=_objects([d["_id"] for _, d in rows]),
        sample=np.fromiter((s for s, _ in rows), dtype=np.int64, count=size),
        label=_objects([d.get("label") for _, d in rows]),
        # None becomes NaN.
        confidence=np.array([d.get("confidence") for _, d in rows], dtype=np.float64),
        boxes=boxes,
        crowd=np.fromiter((_is_crowd(d) for _, d in rows), dtype=bool, count=size),
        run=_objects([d.get("run") for _, d in rows]),
    )


def read_labels(
    dataset: Any,
    label_field: str,
    ground_truth: str,
    sample_ids: Sequence[ObjectId] | None = None,
) -> tuple[Images, LabelTable, LabelTable]:
    """Predicted and true labels of a dataset in one raw read.

    Args:
        dataset: a FiftyOne dataset of images.
        label_field: field of predicted Detections.
        ground_truth: field of true Detections.
        sample_ids: only these samples; None reads all.

    Returns:
        The images in the order of the dataset, the predicted labels, the true labels.
    """
    predicted_path, true_path = DETECTIONS.list_path(label_field), DETECTIONS.list_path(ground_truth)
    fields = {"metadata.width": 1, "metadata.height": 1, f"{ground_truth}._cls": 1}
    for part in ("_id", "label", "bounding_box", "confidence", "run"):
        fields[f"{predicted_path}.{part}"] = 1
    for part in ("_id", "label", "bounding_box", "iscrowd", "attributes.iscrowd"):
        fields[f"{true_path}.{part}"] = 1
    ids: list[ObjectId] = []
    sizes: list[tuple[Any, Any]] = []
    annotated: list[bool] = []
    predicted: list[tuple[int, dict[str, Any]]] = []
    true: list[tuple[int, dict[str, Any]]] = []
    for place, document in enumerate(_documents(dataset, fields, sample_ids)):
        metadata = document.get("metadata") or {}
        ids.append(document["_id"])
        sizes.append((metadata.get("width"), metadata.get("height")))
        annotated.append(document.get(ground_truth) is not None)
        predicted += [(place, d) for d in (document.get(label_field) or {}).get(DETECTIONS.list_name) or ()]
        true += [(place, d) for d in (document.get(ground_truth) or {}).get(DETECTIONS.list_name) or ()]
    images = Images(
        ids=_objects(ids),
        sizes=np.array(sizes, dtype=np.float64).reshape(len(ids), 2),
        annotated=np.array(annotated, dtype=bool),
    )
    return images, table_of(predicted), table_of(true)


def read_predicted(run_key: str, images: Images) -> tuple[LabelTable, np.ndarray]:
    """What the model of a run predicted on these images, and what became of it, from the ledger.

    Returns:
        The labels as predicted, and whether each was approved, (N,) bool.
    """
    places = {sample_id: place for place, sample_id in enumerate(images.ids)}
    rows: list[tuple[int, dict[str, Any]]] = []
    approved: list[bool] = []
    parts = ("_id", "label", "confidence", "bounding_box")
    fields = {"_id": 0, "sample_id": 1, "labels.state": 1} | {f"predicted.{part}": 1 for part in parts}
    for entry in database.ledger().find({"run": run_key, "predicted.0": {"$exists": True}}, fields):
        place = places.get(entry["sample_id"])
        if place is not None:
            rows += [(place, label) for label in entry["predicted"]]
            approved += [label["state"] == APPROVED for label in entry["labels"]]
    return table_of(rows), np.array(approved, dtype=bool)


def run_samples(run_key: str) -> list[ObjectId]:
    """The samples that a run looked at, whether it found something or not."""
    query = {"run": run_key, "status": {"$in": ["labelled", "empty"]}}
    return [entry["sample_id"] for entry in database.ledger().find(query, {"_id": 0, "sample_id": 1})]


def _documents(
    dataset: Any, fields: dict[str, int], sample_ids: Sequence[ObjectId] | None
) -> Iterator[dict[str, Any]]:
    collection = database.samples_of(dataset)
    if sample_ids is None:
        yield from collection.find({}, fields)
        return
    for start in range(0, len(sample_ids), _READ_BATCH):
        yield from collection.find({"_id": {"$in": list(sample_ids[start : start + _READ_BATCH])}}, fields)


def _is_crowd(label: dict[str, Any]) -> bool:
    """The COCO crowd flag, where FiftyOne looks for it: a dynamic attribute, else the old ``attributes``."""
    flag = label.get("iscrowd")
    if flag is None and label.get("attributes"):
        flag = label["attributes"].get("iscrowd", {}).get("value")
    return bool(flag) and not (isinstance(flag, float) and math.isnan(flag))


def _objects(values: list[Any]) -> np.ndarray:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column
