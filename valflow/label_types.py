"""The seam for label types: everything that depends on what a label is made of.

Detections come first; another type is another adapter, not a copy of the pipeline.
"""

from __future__ import annotations

import hashlib
import math
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


@dataclass(frozen=True)
class LabelType:
    """How one type of label is stored.

    Attributes:
        name: the name in run records.
        field_class: name of the FiftyOne class of the sample field.
        label_class: name of the FiftyOne class of a single label.
        list_name: attribute that holds the list of labels.
        geometry: attributes beside ``label`` whose change makes a label *edited*.
    """

    name: str
    field_class: str
    label_class: str
    list_name: str
    geometry: tuple[str, ...]

    def list_path(self, field: str) -> str:
        """The path of the list of labels below a sample field."""
        return f"{field}.{self.list_name}"

    def empty_field(self, labels: list[LabelDict]) -> dict[str, Any]:
        """The raw value of a sample field that holds ``labels``."""
        return {"_cls": self.field_class, self.list_name: labels}

    def fiftyone_class(self) -> Any:
        """The FiftyOne class of the sample field."""
        import fiftyone as fo

        return getattr(fo, self.field_class)


DETECTIONS = LabelType(
    "detections", "Detections", "Detection", "detections", ("bounding_box", "mask", "mask_path")
)

BY_FIELD_CLASS = {t.field_class: t for t in (DETECTIONS,)}
BY_NAME = {t.name: t for t in (DETECTIONS,)}


def label_type_of(record: dict[str, Any]) -> LabelType:
    """The adapter of a run."""
    return BY_NAME[record["label_type"]]


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
) -> list[LabelDict]:
    """Raw labels of a model or field, as they enter the review.

    Labels below the floor and outside ``classes`` are left out; a label without a usable confidence
    stays, because only a person can judge it. Ids are derived, workflow tags are taken off.
    """
    kept = []
    first = _first_id(run, sample_id)
    for index, label in enumerate(labels):
        confidence = label.get("confidence")
        if confidence is not None and not math.isfinite(confidence):
            confidence = None
        if confidence is not None and confidence < min_confidence:
            continue
        if classes is not None and label.get("label") not in classes:
            continue
        # Class and box are always there, if only as null: tables are made of one list per attribute.
        entry = {"label": None, "bounding_box": None, **label}
        for ours in WORKFLOW_ATTRIBUTES:
            entry.pop(ours, None)
        entry["_id"] = _numbered(first, index)
        entry["confidence"] = confidence
        entry["tags"] = [t for t in label.get("tags") or () if t not in WORKFLOW_TAGS]
        kept.append(entry)
    return kept
