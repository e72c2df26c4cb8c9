"""Datasets large enough for a certificate, of which it is known which predictions are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from bson import ObjectId
from PIL import Image

from tests.builders import HEIGHT, WIDTH, box, make_run
from valflow import audits, database

LABELS_PER_SAMPLE = 5
SETTINGS: dict[str, Any] = {
    "mode": "certified",
    "max_error": 0.1,
    "confidence": 0.9,
    "min_group": 120,
    "lot": None,
    "seed": 7,
}


def make_large_dataset(folder: Path, *, samples: int = 200, seed: int = 0, name: str | None = None) -> Any:
    """Images with five predictions each; a prediction is right as often as its confidence says.

    ``ground_truth`` holds a box of the same class where a prediction is right, and nothing where it is wrong.
    """
    import fiftyone as fo

    dataset = fo.Dataset(name, persistent=True)
    for field in ("pred", "ground_truth"):
        dataset.add_sample_field(field, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    grow(dataset, folder, samples, seed)
    return dataset


def grow(dataset: Any, folder: Path, samples: int, seed: int, *, share_right: float = 1.0) -> None:
    """Add images of the same kind; ``share_right`` spoils that part of the right predictions."""
    import fiftyone as fo

    path = folder / f"{dataset.name}.png"
    if not path.exists():
        Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 60)).save(path)
    random = np.random.default_rng(seed)
    added = []
    for _ in range(samples):
        confidence = 0.2 + 0.8 * random.beta(6.0, 0.6, LABELS_PER_SAMPLE)
        right = random.random(LABELS_PER_SAMPLE) < confidence * share_right
        names = random.choice(["cat", "dog"], LABELS_PER_SAMPLE, p=[0.7, 0.3])
        found = [
            fo.Detection(label=str(names[i]), bounding_box=box(i), confidence=float(confidence[i]))
            for i in range(LABELS_PER_SAMPLE)
        ]
        true = [fo.Detection(label=str(names[i]), bounding_box=box(i)) for i in np.flatnonzero(right)]
        added.append(
            fo.Sample(
                str(path), pred=fo.Detections(detections=found), ground_truth=fo.Detections(detections=true)
            )
        )
    dataset.add_samples(added)


def make_certified_run(dataset: Any, **approval: Any) -> str:
    """A run in review whose certificate waits for verdicts."""
    return make_run(dataset, approval={**SETTINGS, **approval})


def right_labels(run: str, dataset: Any) -> set[ObjectId]:
    """Ids of the run's labels that are right, by their place and class."""
    truth = {
        (d["_id"], label["label"], tuple(label["bounding_box"]))
        for d in database.samples_of(dataset).find({}, {"ground_truth": 1})
        for label in d["ground_truth"]["detections"]
    }
    return {
        p["_id"]
        for d in database.ledger().find({"run": run})
        for p in d.get("predicted", [])
        if (d["sample_id"], p["label"], tuple(p["bounding_box"])) in truth
    }


def honest_verdicts(run: str, dataset: Any) -> dict[int, str]:
    """What a careful reviewer says about the draw of a run."""
    right = right_labels(run, dataset)
    audit = audits.certificate_audit(run)
    assert audit is not None
    return {i["number"]: "correct" if i["label_id"] in right else "not_an_object" for i in audit["items"]}


def judge_honestly(run: str, dataset: Any, reviewer: str = "ann") -> None:
    """Give all verdicts of the certificate's audit."""
    audits.judge(run, honest_verdicts(run, dataset), reviewer)
