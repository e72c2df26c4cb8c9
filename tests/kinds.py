"""Datasets of every label type, small and known, and the walk of a run through all stages as the flow makes it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bson import ObjectId
from PIL import Image

from tests.builders import box
from tests.models import Corner
from valflow import database, decisions, opening, promotion, runs
from valflow.config import LabelingConfig, config_from_mapping
from valflow.label_types import BY_NAME, LabelType

Row = Sequence[tuple[str, float | None]]

WIDTH, HEIGHT = 80, 60
_SEVERAL: Row = (("cat", 0.95), ("dog", 0.8), ("bird", 0.6), ("ant", 0.3))
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Kind:
    """A label type and what its samples hold.

    Attributes:
        name: of the label type.
        rows: classes and confidences of the predictions on each sample.
        true: classes of the true labels on each sample.
    """

    name: str
    rows: tuple[Row, ...]
    true: tuple[tuple[str, ...], ...]

    @property
    def type(self) -> LabelType:
        """The adapter."""
        return BY_NAME[self.name]

    @property
    def labels(self) -> int:
        """Number of predictions."""
        return sum(map(len, self.rows))

    def label(self, place: int, name: str, confidence: float | None = None) -> Any:
        """The n-th label of an image."""
        import fiftyone as fo

        if not self.type.has_boxes:
            return fo.Classification(label=name, confidence=confidence)
        more = {"mask": mask(place)} if self.type.needs_masks else {}
        return fo.Detection(label=name, bounding_box=box(place), confidence=confidence, **more)

    def value(self, labels: list[Any]) -> Any:
        """What a sample field holds."""
        import fiftyone as fo

        if self.type.list_name is None:
            return labels[0] if labels else None
        return getattr(fo, self.type.field_class)(**{self.type.list_name: labels})


# Half of the labels stand above the usual threshold of 0.7; the bird is a dog in truth, and nobody sees the cow.
_MANY = (("cat", "dog", "dog", "ant", "cow"),) * 3
_WHOLE = (("cat", "dog", "ant", "cow"),) * 3
_SINGLE: tuple[Row, ...] = tuple((pair,) for pair in _SEVERAL * 3)
_ONE = (("cat",), ("dog",), ("dog",), ("ant",)) * 3
_NOTHING, _COW = ((),), (("cow",),)
KINDS = (
    Kind("detections", (*(_SEVERAL,) * 3, *_NOTHING), _MANY + _COW),
    Kind("instances", (*(_SEVERAL,) * 3, *_NOTHING), _MANY + _COW),
    Kind("classifications", (*(_SEVERAL,) * 3, *_NOTHING), _WHOLE + _COW),
    Kind("classification", _SINGLE + _NOTHING, _ONE + _COW),
)
BY_KIND = {kind.name: kind for kind in KINDS}


class Finder(Corner):
    """Finds a cat and, where an image has room for more than one label, a dog.

    Args:
        name: of the label type that it gives.
    """

    classes = ("cat", "dog", "bird", "ant", "cow")

    def __init__(self, name: str) -> None:
        self.name = name

    def predict(self, arg: Any) -> Any:
        kind = BY_KIND[self.name]
        return kind.value([kind.label(0, "cat", 0.9), kind.label(1, "dog", 0.8)])


def mask(place: int) -> np.ndarray:
    """A disc that fills its box, cut off at the bottom by as many rows as its place."""
    y, x = np.mgrid[0:30, 0:12]
    disc = ((x - 5.5) / 6) ** 2 + ((y - 14.5) / 15) ** 2 <= 1
    disc[30 - place :] = False
    return np.asarray(disc)


def make_kind(kind: Kind, folder: Path, *, with_truth: bool = True) -> Any:
    """A persistent dataset with the fields ``pred`` and ``ground_truth`` of the type."""
    import fiftyone as fo

    dataset = fo.Dataset(f"{kind.name}-{next(_numbers)}", persistent=True)
    for name in ("pred", *(["ground_truth"] if with_truth else [])):
        dataset.add_sample_field(name, fo.EmbeddedDocumentField, embedded_doc_type=kind.type.fiftyone_class())
    added = []
    for number, (row, true) in enumerate(zip(kind.rows, kind.true, strict=True)):
        path = folder / f"{dataset.name}-{number}.png"
        Image.new("RGB", (WIDTH, HEIGHT), (number * 16 % 256, 90, 120)).save(path)
        sample = fo.Sample(str(path), pred=kind.value([kind.label(i, *pair) for i, pair in enumerate(row)]))
        if with_truth:
            sample["ground_truth"] = kind.value([kind.label(i, name) for i, name in enumerate(true)])
        added.append(sample)
    dataset.add_samples(added)
    dataset.compute_metadata()
    return dataset


def kind_config(kind: Kind, dataset: Any, **changes: Any) -> LabelingConfig:
    """A configuration that labels ``auto`` from the field ``pred``, compares and exports."""
    folder = Path(dataset.first().filepath).parent
    values = {
        "dataset": dataset.name,
        "label_field": "auto",
        "label_type": kind.name,
        "model": {"kind": "field", "field": "pred"},
        "output_dir": str(folder / "runs"),
        "evaluation": {"ground_truth": "ground_truth"},
        "review": {"checklist": []},
    }
    return config_from_mapping({**values, **changes})


def open_review(kind: Kind, dataset: Any, **changes: Any) -> str:
    """Open a run and bring it into its review, with the checks of suites; returns its key."""
    from tasks.triage import decide_by_policy
    from tests.builders import infer

    opened = opening.open_run(kind_config(kind, dataset, **changes))
    assert opened.run is not None, opened
    record = opening.prepare(runs.load(opened.run), dataset)
    infer(record, dataset)
    decide_by_policy(opened.run)
    return opened.run


def finalize(run: str, dataset: Any) -> runs.Record:
    """IN_REVIEW to FINALIZED, through the gate."""
    from tasks.validate import pass_gate

    decisions.submit(run, decisions.Decision("finalize", "ann"))
    outcome = pass_gate(run)
    assert outcome.passed, [c for c in outcome.to_json()["checks"] if c["status"] in ("failed", "error")]
    return promotion.promote(runs.load(run), dataset)


def stored(dataset: Any, field: str, label_type: LabelType) -> dict[str, list[dict[str, Any]]]:
    """The raw labels of every sample that has the field, by sample id."""
    found = database.samples_of(dataset).find({field: {"$ne": None}})
    return {str(d["_id"]): label_type.labels_of(d, field) for d in found}


def everything_else(dataset: Any, *fields: str) -> dict[ObjectId, dict[str, Any]]:
    """All of the samples but these fields and what every write changes."""
    left_out = ("last_modified_at", "_rand", *fields)
    return {
        d["_id"]: {k: v for k, v in d.items() if k not in left_out}
        for d in database.samples_of(dataset).find()
    }
