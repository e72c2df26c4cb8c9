"""The seam for label types: everything that depends on what a label is made of.

Another type is another adapter, not a copy of the pipeline.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bson import ObjectId

LabelDict = dict[str, Any]

APPROVED, REJECTED, INVALID = "approved", "rejected", "invalid"
AUDIT, INFERENCE_FAILED = "audit", "inference_failed"
WORKFLOW_TAGS = (APPROVED, REJECTED, AUDIT, INVALID, INFERENCE_FAILED)
MISSING_OBJECT = "missing_object"
PROBLEM_TAGS = (
    "needs_correction",
    "false_positive",
    "wrong_class",
    "poor_bbox",
    MISSING_OBJECT,
    "low_confidence",
    "ambiguous",
)
# Attributes that the workflow adds to final labels.
WORKFLOW_ATTRIBUTES = ("run", "source")
_ID_BYTES = 12


# Where a label lies that speaks about all of its image.
WHOLE_IMAGE = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class LabelType:
    """How one type of label is stored, in documents and in expressions of the database.

    Under review there is always a list of labels: a field that holds a single one is reviewed as a list of one
    (``in_review``), so that a label which somebody adds meanwhile is seen, and nothing is overwritten.

    Attributes:
        name: the name in configurations and run records.
        field_class: name of the FiftyOne class of the sample field.
        label_class: name of the FiftyOne class of a single label.
        list_name: attribute that holds the list of labels; None where the field holds a single label.
        geometry: attributes beside ``label`` whose change makes a label *edited*.
        form: what FiftyOne's annotation forms call the type of the review field.
        needs_masks: whether a label without a mask is incomplete.
    """

    name: str
    field_class: str
    label_class: str
    list_name: str | None
    geometry: tuple[str, ...]
    form: str
    needs_masks: bool = False

    @property
    def is_single(self) -> bool:
        """Whether a sample holds at most one label."""
        return self.list_name is None

    @property
    def has_boxes(self) -> bool:
        """Whether a label stands at a place in its image; otherwise it speaks about the whole."""
        return "bounding_box" in self.geometry

    @property
    def in_review(self) -> LabelType:
        """The type of the review field."""
        return CLASSIFICATIONS if self.is_single else self

    def path(self, field: str) -> str:
        """Where queries find attributes of labels below a sample field, be it a list or a single one."""
        return field if self.list_name is None else f"{field}.{self.list_name}"

    def list_path(self, field: str) -> str:
        """The path of the list of labels below a sample field; only of types that have lists."""
        assert self.list_name is not None, f"{self.field_class} holds a single label"
        return f"{field}.{self.list_name}"

    def holds_any(self, field: str) -> dict[str, Any]:
        """Query for samples with a label in a field."""
        last = "_id" if self.is_single else "0"
        return {f"{self.path(field)}.{last}": {"$exists": True}}

    def labels_in(self, value: str) -> Any:
        """Expression for the labels of a field's value (``$auto``, ``$$f``) as a list; missing where there is none."""
        if self.list_name is not None:
            return f"{value}.{self.list_name}"
        return {"$cond": [{"$gt": [f"{value}._id", None]}, [value], "$$REMOVE"]}

    def first_labels_in(self, samples: str, field: str) -> Any:
        """The same for the field of the first of joined samples (``$sample``)."""
        if self.list_name is not None:
            return {"$first": f"{samples}.{self.path(field)}"}
        return {"$let": {"vars": {"f": {"$first": f"{samples}.{field}"}}, "in": self.labels_in("$$f")}}

    def value_with(self, field: str, labels: Any) -> Any:
        """Expression for what a field holds when ``labels`` (an expression) are added to it.

        A list goes on; a single label stays, because another one would have to take its place.
        """
        is_there = {"$gt": [f"${field}", None]}
        if self.list_name is None:
            return {"$cond": [{"$gt": [f"${field}._id", None]}, f"${field}", {"$first": labels}]}
        path, cls = f"${self.path(field)}", {"$literal": self.field_class}
        known = {"$ifNull": [f"{path}._id", []]}
        new = {"$filter": {"input": labels, "as": "d", "cond": {"$not": [{"$in": ["$$d._id", known]}]}}}
        merged = {"_cls": cls, self.list_name: {"$concatArrays": [{"$ifNull": [path, []]}, new]}}
        # Most samples have no labels to compare with.
        fresh = {"_cls": cls, self.list_name: labels}
        return {"$cond": [is_there, {"$mergeObjects": [f"${field}", merged]}, fresh]}

    def value_of(self, field: str, labels: Any) -> Any:
        """Expression for what a field holds when exactly ``labels`` (an expression) are left in it."""
        if self.list_name is None:
            return {"$first": labels}
        return {"$mergeObjects": [f"${field}", {self.list_name: labels}]}

    def labels_of(self, document: Mapping[str, Any], field: str) -> list[LabelDict]:
        """The labels in a field of a raw sample document."""
        value = document.get(field)
        if not value:
            return []
        return [value] if self.list_name is None else value.get(self.list_name) or []

    def field_value(self, labels: list[LabelDict]) -> dict[str, Any] | None:
        """The raw value of a sample field that holds ``labels``; None for a single one that is not there."""
        if self.list_name is None:
            return labels[0] if labels else None
        return {"_cls": self.field_class, self.list_name: labels}

    def fiftyone_class(self) -> Any:
        """The FiftyOne class of the sample field."""
        import fiftyone as fo

        return getattr(fo, self.field_class)


_PLACE = ("bounding_box", "mask", "mask_path")
DETECTIONS = LabelType("detections", "Detections", "Detection", "detections", _PLACE, "detections")
INSTANCES = LabelType(
    "instances", "Detections", "Detection", "detections", _PLACE, "detections", needs_masks=True
)
CLASSIFICATIONS = LabelType(
    "classifications", "Classifications", "Classification", "classifications", (), "classifications"
)
CLASSIFICATION = LabelType("classification", "Classification", "Classification", None, (), "classifications")

LABEL_TYPES = (DETECTIONS, INSTANCES, CLASSIFICATIONS, CLASSIFICATION)
BY_NAME = {t.name: t for t in LABEL_TYPES}
# Instances are Detections, too: which of the two a field means is said by configuration, or by its masks.
BY_FIELD_CLASS = {t.field_class: t for t in reversed(LABEL_TYPES)}


def label_type_of(record: Mapping[str, Any]) -> LabelType:
    """The adapter of a run."""
    return BY_NAME[record["label_type"]]


def review_type_of(record: Mapping[str, Any]) -> LabelType:
    """The adapter of the review field of a run."""
    return label_type_of(record).in_review


def box_of(label: Mapping[str, Any]) -> tuple[float, float, float, float] | None:
    """``x, y, width, height`` of a label, relative to its image; None where it has no box."""
    box = label.get("bounding_box")
    return (box[0], box[1], box[2], box[3]) if box and len(box) == 4 else None


def label_id(run: str, sample_id: ObjectId, index: int) -> ObjectId:
    """The id of the run's ``index``-th label on a sample: the same however often a shard is repeated."""
    return _numbered(_first_id(run, sample_id), index)


def _first_id(run: str, sample_id: ObjectId) -> int:
    return int.from_bytes(hashlib.sha256(f"{run}:{sample_id}".encode()).digest()[:_ID_BYTES], "big")


def _numbered(first: int, index: int) -> ObjectId:
    return ObjectId(((first + index) % (1 << 8 * _ID_BYTES)).to_bytes(_ID_BYTES, "big"))


def candidates(
    labels: list[LabelDict],
    run: str,
    sample_id: ObjectId,
    *,
    min_confidence: float,
    classes: frozenset[str] | None,
    label_type: LabelType = DETECTIONS,
) -> list[LabelDict]:
    """Raw labels of a model or field, as they enter the review.

    Labels below the floor and outside ``classes`` are left out; a label without a usable confidence
    stays, because only a person can judge it. Ids are derived, workflow tags are taken off.
    """
    kept = []
    first = _first_id(run, sample_id)
    # Class and box are always there, if only as null: tables are made of one list per attribute.
    empty = {"label": None, "bounding_box": None} if label_type.has_boxes else {"label": None}
    for index, label in enumerate(labels):
        confidence = label.get("confidence")
        if confidence is not None and not math.isfinite(confidence):
            confidence = None
        if confidence is not None and confidence < min_confidence:
            continue
        if classes is not None and label.get("label") not in classes:
            continue
        entry = {**empty, **label}
        for ours in WORKFLOW_ATTRIBUTES:
            entry.pop(ours, None)
        entry["_id"] = _numbered(first, index)
        entry["confidence"] = confidence
        entry["tags"] = [t for t in label.get("tags") or () if t not in WORKFLOW_TAGS]
        kept.append(entry)
    return kept
