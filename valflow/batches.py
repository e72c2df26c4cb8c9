"""The batch that a certificate speaks about: its labels as columns, kept so that they can be read again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from bson import ObjectId
from numpy.typing import NDArray

from valflow import collector, database
from valflow.certify import box_shapes, neighbour_overlaps, second_opinions
from valflow.label_types import WHOLE_IMAGE, LabelType, label_type_of
from valflow.ledger import UNDECIDED

Floats = NDArray[np.float64]

# Kept beside the scores: they tell people what to look at first.
_KEPT_FEATURES = ("disagreement",)
# A part of a stored batch: at most 44 bytes per label, far below the 16 MB of a document.
_LABELS_PER_PART = 100_000
_CURSOR_BATCH = 1000
# Ids as raw bytes.
ID = np.dtype("V12")


@dataclass(frozen=True)
class Batch:
    """Labels that wait for a certificate, in a fixed order.

    Attributes:
        label_ids: (N,) raw bytes of their ids.
        sample_ids: (N,) raw bytes of the ids of their samples.
        classes: (N,) names as predicted.
        confidence: (N,) in [0, 1], NaN where there is none.
        features: (N,) each, by name; NaN where a label has none.
    """

    label_ids: NDArray[np.void]
    sample_ids: NDArray[np.void]
    classes: NDArray[np.str_]
    confidence: Floats
    features: Mapping[str, Floats] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.label_ids)

    def identities(self) -> list[str]:
        """What a label is, whatever run proposes it: sample, class and confidence."""
        columns = zip(self.sample_ids.tolist(), self.classes.tolist(), self.confidence.tolist(), strict=True)
        return [f"{sample.hex()}:{confidence!r}:{label}" for sample, label, confidence in columns]


def object_id(raw: Any) -> ObjectId:
    """The id that raw bytes stand for."""
    return ObjectId(bytes(raw))


def read_batch(
    record: dict[str, Any], dataset: Any, attributes: Sequence[str] = (), second_opinion: str | None = None
) -> Batch:
    """Labels of a run that are undecided and pass their checks, with features, in order of samples and predictions.

    Args:
        record: the run; its labels must lie in the ledger.
        dataset: its dataset.
        attributes: numbers that predictions carry, taken as features.
        second_opinion: field of another model's predictions, with which agreement becomes a feature.
    """
    columns = _read_columns(record, attributes)
    samples, ids, classes, confidence, boxes, candidate, *extra = columns
    images = np.unique(samples, return_inverse=True)[1] if len(samples) else np.zeros(0, np.int64)
    area, aspect = box_shapes(boxes)
    features = {
        "log_area": area,
        "log_aspect": aspect,
        # Among all predictions of an image: one that fails a check is a neighbour, too.
        "overlap": neighbour_overlaps(images, boxes),
        **dict(zip(attributes, extra, strict=True)),
    }
    if second_opinion is not None:
        other = _read_field(record, dataset, second_opinion, samples)
        # As numbers: raw bytes cannot be looked up.
        places = np.unique(np.concatenate([samples, other[0]]), return_inverse=True)[1]
        own, others = places[: len(samples)], places[len(samples) :]
        agree, disagree = second_opinions(own, boxes, classes, others, *other[1:])
        features |= {"agreement": agree, "disagreement": disagree}
    return Batch(
        ids[candidate],
        samples[candidate],
        classes[candidate],
        confidence[candidate],
        {name: values[candidate] for name, values in features.items()},
    )


@collector.paused()
def _read_columns(record: dict[str, Any], attributes: Sequence[str]) -> list[NDArray[Any]]:
    """Columns of all predictions: sample, id, class, confidence, box, whether it is a candidate, and attributes."""
    label_type = label_type_of(record)
    wanted = {f"a{i}": f"$$p.{name}" for i, name in enumerate(attributes)}
    of_prediction = {"b": "$$p.bounding_box", **wanted}
    cursor = database.ledger().aggregate(
        [
            {"$match": {"run": record["run"], "labels.0": {"$exists": True}, "status": {"$ne": "drawn"}}},
            {"$sort": {"sample_id": 1}},
            {
                "$project": {
                    "_id": 0,
                    "sample_id": 1,
                    "labels._id": 1,
                    "labels.label": 1,
                    "labels.confidence": 1,
                    "labels.state": 1,
                    "labels.invalid": 1,
                    "p": {"$map": {"input": "$predicted", "as": "p", "in": of_prediction}},
                }
            },
        ],
        allowDiskUse=True,
        batchSize=_CURSOR_BATCH,
    )
    samples, ids, classes, confidence, boxes, candidate = [], [], [], [], [], []
    extra: list[list[float]] = [[] for _ in attributes]
    for document in cursor:
        sample = document["sample_id"].binary
        for entry, prediction in zip(document["labels"], document["p"], strict=True):
            samples.append(sample)
            ids.append(entry["_id"].binary)
            classes.append(str(entry["label"]))
            confidence.append(_share(entry["confidence"]))
            boxes.append(_box(prediction.get("b"), label_type))
            candidate.append(entry["state"] == UNDECIDED and not entry["invalid"])
            for values, name in zip(extra, wanted, strict=True):
                values.append(_number(prediction.get(name)))
    return [
        np.frombuffer(b"".join(samples), ID),
        np.frombuffer(b"".join(ids), ID),
        np.array(classes, dtype=str),
        np.array(confidence, float),
        np.array(boxes, float).reshape(-1, 4),
        np.array(candidate, bool),
        *(np.array(values, float) for values in extra),
    ]


@collector.paused()
def _read_field(record: dict[str, Any], dataset: Any, name: str, samples: NDArray[np.void]) -> list[Any]:
    """Sample, box, class and confidence of every label of another field on these samples."""
    label_type = label_type_of(record)
    wanted = [object_id(s) for s in np.unique(samples)]
    rows: list[tuple[bytes, tuple[float, ...], str, float]] = []
    for start in range(0, len(wanted), _CURSOR_BATCH):
        part = {"_id": {"$in": wanted[start : start + _CURSOR_BATCH]}}
        for sample in database.samples_of(dataset).find(part, {label_type.path(name): 1}):
            for label in label_type.labels_of(sample, name):
                confidence = label.get("confidence")
                weight = 1.0 if confidence is None else float(confidence)
                box = _box(label.get("bounding_box"), label_type)
                rows.append((sample["_id"].binary, box, str(label.get("label")), weight))
    images, boxes, classes, weights = zip(*rows, strict=True) if rows else ((), (), (), ())
    return [
        np.frombuffer(b"".join(images), ID),
        np.array(boxes, float).reshape(-1, 4),
        np.array(classes, dtype=str),
        np.array(weights, float),
    ]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else np.nan


def _share(value: Any) -> float:
    """A confidence; one that is none, or outside of [0, 1], promises nothing."""
    number = _number(value)
    return number if 0.0 <= number <= 1.0 else np.nan


def _box(value: Any, label_type: LabelType) -> tuple[float, ...]:
    if not label_type.has_boxes:
        return WHOLE_IMAGE
    return tuple(value) if isinstance(value, list) and len(value) == 4 else (np.nan,) * 4


def store_batch(run: str, batch: Batch, quality: Floats) -> None:
    """Keep which labels a proposal is about, and their qualities, to the last bit; replaces what was kept."""
    database.batches().delete_many({"run": run})
    names, code = np.unique(batch.classes, return_inverse=True)
    kept = [name for name in _KEPT_FEATURES if name in batch.features]
    for part, start in enumerate(range(0, len(batch), _LABELS_PER_PART)):
        rows = slice(start, start + _LABELS_PER_PART)
        database.batches().insert_one(
            {
                "run": run,
                "part": part,
                "classes": names.tolist(),
                "labels": batch.label_ids[rows].tobytes(),
                "samples": batch.sample_ids[rows].tobytes(),
                "class": code[rows].astype("<i4").tobytes(),
                "confidence": batch.confidence[rows].astype("<f8").tobytes(),
                "quality": np.asarray(quality, float)[rows].astype("<f8").tobytes(),
                **{name: batch.features[name][rows].astype("<f8").tobytes() for name in kept},
            }
        )


def load_batch(run: str) -> tuple[Batch, Floats]:
    """The batch of a run, without most features, and the qualities of its labels; empty where none was stored."""
    parts = list(database.batches().find({"run": run}).sort("part", 1))

    def column(name: str, kind: Any) -> NDArray[Any]:
        return np.frombuffer(b"".join(p[name] for p in parts), kind)

    names = np.array(parts[0]["classes"] if parts else [], dtype=str)
    batch = Batch(
        column("labels", ID),
        column("samples", ID),
        names[column("class", "<i4")],
        column("confidence", "<f8"),
        {name: column(name, "<f8") for name in _KEPT_FEATURES if parts and name in parts[0]},
    )
    return batch, column("quality", "<f8").astype(float)
