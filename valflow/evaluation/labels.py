"""Labels as columns: what the matching works on, and the raw reads that fill it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from bson import ObjectId

from valflow import database, masks
from valflow.label_types import APPROVED, DETECTIONS, WHOLE_IMAGE, LabelType

_READ_BATCH = 10_000
# What is read of a label.
_MASK_PARTS = ("mask", "mask_path")
_PARTS = ("_id", "label", "confidence", "bounding_box", "iscrowd", "run")


@dataclass(frozen=True)
class LabelTable:
    """One row per label.

    Attributes:
        classes: names of the classes; not all of them need to occur.
        class_id: position of the label's class in ``classes``, -1 where it has none, (N,) int.
        ids: label ids, (N,) object.
        sample: position of the label's image, (N,) int.
        confidence: (N,) float in [0, 1], NaN where the label has none.
        boxes: ``x, y, w, h`` relative to the image, (N, 4) float.
        crowd: whether a true label stands for a group of objects, (N,) bool.
        run: key of the run that made the label, None for others, (N,) object.
        masks: in COCO's run lengths over the whole image, (N,) object; None for labels that have no masks.
    """

    classes: tuple[str, ...]
    class_id: np.ndarray
    ids: np.ndarray
    sample: np.ndarray
    confidence: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray
    run: np.ndarray
    masks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def label(self) -> np.ndarray:
        """Class names, (N,) object; None where a label has none."""
        return _objects([*self.classes, None])[self.class_id]

    @cached_property
    def id_texts(self) -> list[str]:
        """The label ids as FiftyOne writes them in marks and results."""
        return [str(i) for i in self.ids.tolist()]

    def where(self, keep: np.ndarray) -> LabelTable:
        """The rows that ``keep`` selects: (N,) bool, or (M,) positions."""
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "classes"}
        columns = {name: column[keep] for name, column in columns.items() if column is not None}
        return replace(self, **columns)

    def at(self, sample: np.ndarray) -> LabelTable:
        """The same labels with other positions of their images, (N,)."""
        return replace(self, sample=sample)

    def codes(self, classes: Sequence[str]) -> np.ndarray:
        """Position of every label's class in another list of classes, -1 where it is not listed, (N,) int."""
        if tuple(classes) == self.classes:
            return self.class_id
        place = {name: i for i, name in enumerate(classes)}
        return np.array([*(place.get(name, -1) for name in self.classes), -1])[self.class_id]

    def of_classes(self, classes: Sequence[str] | None) -> LabelTable:
        """The rows of these classes; None keeps all."""
        return self if classes is None else self.where(self.codes(classes) >= 0)


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


def table_of(labels: Iterable[tuple[int, dict[str, Any]]], label_type: LabelType = DETECTIONS) -> LabelTable:
    """Raw label dicts, each with the position of its image, as columns."""
    rows = [(place, *(_part(label, part, label_type) for part in _PARTS)) for place, label in labels]
    return _table(
        [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(1 + len(_PARTS))]
    )


def read_labels(
    dataset: Any,
    label_field: str,
    ground_truth: str,
    sample_ids: Sequence[ObjectId] | None = None,
    label_type: LabelType = DETECTIONS,
) -> tuple[Images, LabelTable, LabelTable]:
    """Predicted and true labels of a dataset in one raw read.

    Args:
        dataset: a FiftyOne dataset of images.
        label_field: field of predictions.
        ground_truth: field of true labels.
        sample_ids: only these samples; None reads all.
        label_type: what both fields hold.

    Returns:
        The images in the order of the dataset, the predicted labels, the true labels.
    """
    project = {
        "w": "$metadata.width",
        "h": "$metadata.height",
        "annotated": {"$eq": [{"$type": f"${ground_truth}"}, "object"]},
        "predicted": _columns(label_type.labels_in(f"${label_field}"), label_type),
        "true": _columns(label_type.labels_in(f"${ground_truth}"), label_type),
    }
    ids: list[ObjectId] = []
    sizes: list[tuple[Any, Any]] = []
    annotated: list[bool] = []
    predicted, true = _Collected(label_type), _Collected(label_type)
    for document in _documents(dataset, project, sample_ids):
        size = (document.get("w"), document.get("h"))
        predicted.add(len(ids), document["predicted"], size)
        true.add(len(ids), document["true"], size)
        ids.append(document["_id"])
        sizes.append(size)
        annotated.append(document["annotated"])
    images = Images(
        ids=_objects(ids),
        sizes=np.array(sizes, dtype=np.float64).reshape(len(ids), 2),
        annotated=np.array(annotated, dtype=bool),
    )
    return images, predicted.table(), true.table()


def read_predicted(
    run_key: str, images: Images, label_type: LabelType = DETECTIONS
) -> tuple[LabelTable, np.ndarray]:
    """What the model of a run predicted on these images, and what became of it, from the ledger.

    Returns:
        The labels as predicted, and whether each was approved, (N,) bool.
    """
    places = {sample_id: place for place, sample_id in enumerate(images.ids)}
    collected = _Collected(label_type)
    approved: list[bool] = []
    project = {
        "_id": 0,
        "sample_id": 1,
        "states": "$labels.state",
        "predicted": _columns("$predicted", label_type),
    }
    query = {"run": run_key, "predicted.0": {"$exists": True}}
    for entry in database.ledger().aggregate([{"$match": query}, {"$project": project}]):
        place = places.get(entry["sample_id"])
        if place is not None:
            collected.add(place, entry["predicted"], tuple(images.sizes[place]))
            approved += [state == APPROVED for state in entry["states"]]
    return collected.table(), np.array(approved, dtype=bool)


def run_samples(run_key: str) -> list[ObjectId]:
    """The samples that a run looked at, whether it found something or not."""
    query = {"run": run_key, "status": {"$in": ["labelled", "empty"]}}
    return [entry["sample_id"] for entry in database.ledger().find(query, {"_id": 0, "sample_id": 1})]


def _columns(labels: Any, label_type: LabelType) -> list[Any]:
    """The labels of one document as lists; a list without the names of its parts is a third of the bytes.

    A part that a label lacks would shorten ``$path.part``, so it is asked for label by label.
    """

    def each(value: Any) -> dict[str, Any]:
        return {"$map": {"input": {"$ifNull": [labels, []]}, "as": "d", "in": {"$ifNull": [value, None]}}}

    # The old place of the crowd flag is the second one.
    crowd = {"$ifNull": ["$$d.iscrowd", "$$d.attributes.iscrowd.value"]}
    others: dict[str, Any] = {"iscrowd": crowd}
    if not label_type.has_boxes:
        others["bounding_box"] = list(WHOLE_IMAGE)
    parts = (*_PARTS, *_MASK_PARTS) if label_type.needs_masks else _PARTS
    return [each(others.get(part, f"$$d.{part}")) for part in parts]


def _part(label: dict[str, Any], part: str, label_type: LabelType) -> Any:
    if part == "bounding_box" and not label_type.has_boxes:
        return WHOLE_IMAGE
    if part == "iscrowd" and label.get(part) is None:
        return ((label.get("attributes") or {}).get(part) or {}).get("value")
    return label.get(part)


class _Collected:
    """Columns that grow document by document."""

    def __init__(self, label_type: LabelType) -> None:
        self.columns: list[list[Any]] = [[] for _ in range(1 + len(_PARTS))]
        self.masks: list[masks.Rle] | None = [] if label_type.needs_masks else None

    def add(self, place: int, parts: list[list[Any]], size: tuple[Any, Any]) -> None:
        """Take the labels of an image of this width and height."""
        if not parts[0]:
            return
        self.columns[0] += [place] * len(parts[0])
        for column, values in zip(self.columns[1:], parts, strict=False):
            column += values
        if self.masks is not None:
            names = ("_id", *_MASK_PARTS)
            boxes = parts[_PARTS.index("bounding_box")]
            for box, *values in zip(boxes, parts[0], *parts[len(_PARTS) :], strict=True):
                label = {"bounding_box": box, **dict(zip(names, values, strict=True))}
                self.masks.append(masks.as_rle(label, *masks.canvas_of(*size)))

    def table(self) -> LabelTable:
        table = _table(self.columns)
        return table if self.masks is None else replace(table, masks=_objects(self.masks))


def _table(columns: list[list[Any]]) -> LabelTable:
    places, ids, labels, confidences, boxes, crowds, runs = columns
    names = sorted({name for name in labels if name is not None})
    codes: dict[str | None, int] = {name: i for i, name in enumerate(names)} | {None: -1}
    return LabelTable(
        classes=tuple(names),
        class_id=np.fromiter((codes[name] for name in labels), dtype=np.int64, count=len(labels)),
        ids=_objects(ids),
        sample=np.array(places, dtype=np.int64),
        confidence=np.array(confidences, dtype=np.float64),  # None becomes NaN
        boxes=_box_array(boxes),
        crowd=np.fromiter(
            (flag is not None and flag == flag and bool(flag) for flag in crowds), bool, len(crowds)
        ),
        run=_objects(runs),
    )


def _box_array(boxes: Sequence[Any]) -> np.ndarray:
    """(N, 4) boxes; one of missing or endless numbers becomes a box without area, which overlaps nothing."""
    whole = [b if isinstance(b, list | tuple) and len(b) == 4 else (np.nan,) * 4 for b in boxes]
    found = np.array(whole, dtype=np.float64).reshape(len(boxes), 4)
    found[~np.isfinite(found).all(axis=1)] = 0.0
    return found


def _documents(
    dataset: Any, project: dict[str, Any], sample_ids: Sequence[ObjectId] | None
) -> Iterator[dict[str, Any]]:
    collection = database.samples_of(dataset)
    if sample_ids is None:
        yield from collection.aggregate([{"$project": project}])
        return
    for start in range(0, len(sample_ids), _READ_BATCH):
        part = list(sample_ids[start : start + _READ_BATCH])
        yield from collection.aggregate([{"$match": {"_id": {"$in": part}}}, {"$project": project}])


def _objects(values: list[Any]) -> np.ndarray:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column
