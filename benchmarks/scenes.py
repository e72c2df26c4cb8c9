"""Datasets to measure on: synthetic predictions and ground truth, the same in every run.

10,000 samples hold about 80,000 labels of 30 classes in a long-tailed mix. The truth lacks some of them, has
moved boxes and other classes.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from bson import ObjectId

WIDTH, HEIGHT = 640, 480
CLASSES = tuple(f"class_{number:02d}" for number in range(30))
PREDICTIONS, TRUTH = "predictions", "ground_truth"
# One label in a hundred is written twice, so that the label checks have something to find.
DOUBLED = 0.01
_WRITE_BATCH = 1000
_FILES_PER_FOLDER = 10_000  # a file cannot have more than 65,000 links


@dataclass(frozen=True)
class Scenes:
    """Synthetic predictions and ground truth: (N,) columns in the order of the samples."""

    samples: int
    sample: np.ndarray
    label: np.ndarray
    confidence: np.ndarray
    boxes: np.ndarray
    true_sample: np.ndarray
    true_label: np.ndarray
    true_boxes: np.ndarray


def make_scenes(samples: int, labels_per_sample: float = 8, classes: int = 30, seed: int = 0) -> Scenes:
    """Predictions in a long-tailed class mix; the truth lacks some, has moved boxes and other classes."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, classes + 1)
    sizes = np.clip(rng.poisson(labels_per_sample, samples), 0, 30)
    total = int(sizes.sum())
    sample = np.repeat(np.arange(samples), sizes)
    label = rng.choice(classes, total, p=share / share.sum())
    extent = rng.uniform(0.02, 0.3, (total, 2))
    boxes = np.hstack([rng.uniform(0, 1, (total, 2)) * (1 - extent), extent])
    there = rng.random(total) > 0.1
    moved = np.clip(boxes[there] + rng.normal(0, 0.01, (int(there.sum()), 4)), 0.001, 0.999)
    true_label = label[there].copy()
    other = rng.random(len(true_label)) < 0.08
    true_label[other] = rng.integers(0, classes, int(other.sum()))
    return Scenes(samples, sample, label, rng.beta(3, 1.5, total), boxes, sample[there], true_label, moved)


def thresholds(seed: int = 3) -> dict[str, float]:
    """A threshold for every class, between 0.4 and 0.8."""
    levels = np.random.default_rng(seed).uniform(0.4, 0.8, len(CLASSES))
    return dict(zip(CLASSES, levels.round(3).tolist(), strict=True))


def write_dataset(
    name: str,
    scenes: Scenes,
    *,
    field: str = PREDICTIONS,
    truth: str | None = TRUTH,
    attributes: dict[str, str] | None = None,
    doubled: float = 0.0,
    folder: Path | None = None,
) -> Any:
    """A persistent FiftyOne dataset, written raw in bounded memory; one of this name is replaced.

    Args:
        name: its name.
        scenes: its labels.
        field: where the predictions go.
        truth: where the ground truth goes; None leaves it out.
        attributes: what every prediction carries besides.
        doubled: share of the predictions that is written twice.
        folder: where the images go, all of them links to one file; None names files that do not exist.
    """
    from valflow import database

    extra = attributes or {}
    paths = _link_images(scenes.samples, folder) if folder else _no_images(scenes.samples)
    dataset = _declare(name, field, truth, extra)
    collection = database.samples_of(dataset)
    pattern = collection.find_one()
    assert pattern is not None
    collection.delete_many({})
    batch: list[dict[str, Any]] = []
    for number, (path, found, true) in enumerate(
        zip(paths, _predicted(scenes, extra, doubled), _true(scenes), strict=True)
    ):
        document = {**pattern, "_id": ObjectId(), "filepath": path, "_rand": number / scenes.samples}
        document[field] = {"_cls": "Detections", "detections": found}
        if truth is not None:
            document[truth] = {"_cls": "Detections", "detections": true}
        batch.append(document)
        if len(batch) == _WRITE_BATCH:
            collection.insert_many(batch, ordered=False)
            batch = []
    if batch:
        collection.insert_many(batch, ordered=False)
    dataset.reload()
    return dataset


def _declare(name: str, field: str, truth: str | None, attributes: dict[str, str]) -> Any:
    """A dataset with one sample, from which FiftyOne learns the schema."""
    import fiftyone as fo

    dataset = fo.Dataset(name, persistent=True, overwrite=True)
    box = [0.1, 0.1, 0.2, 0.2]
    found = fo.Detection(label=CLASSES[0], bounding_box=box, confidence=0.5, **attributes)
    fields = {field: fo.Detections(detections=[found])}
    if truth is not None:
        fields[truth] = fo.Detections(detections=[fo.Detection(label=CLASSES[0], bounding_box=box)])
    metadata = fo.ImageMetadata(width=WIDTH, height=HEIGHT, num_channels=3, mime_type="image/png")
    others = {"captured_at": datetime(2024, 1, 1, tzinfo=UTC), "camera": "north"}
    sample = fo.Sample("/nowhere/pattern.png", tags=["benchmark"], metadata=metadata, **others, **fields)
    dataset.add_sample(sample, dynamic=True)
    return dataset


def _no_images(samples: int) -> Iterator[str]:
    return (f"/nowhere/{number:07d}.png" for number in range(samples))


def _link_images(samples: int, folder: Path) -> Iterator[str]:
    """Paths of image files that exist; links, because reading pixels is the model's work and not measured."""
    from PIL import Image

    image = Image.new("RGB", (WIDTH, HEIGHT), (90, 110, 130))
    for number in range(samples):
        part = folder / f"{number // _FILES_PER_FOLDER:03d}"
        if number % _FILES_PER_FOLDER == 0:
            part.mkdir(parents=True)
            image.save(part / "scene.png")
        path = part / f"{number:07d}.png"
        os.link(part / "scene.png", path)
        yield str(path)


def _predicted(scenes: Scenes, extra: dict[str, str], share: float) -> Iterator[list[dict[str, Any]]]:
    doubled = (np.random.default_rng(1).random(len(scenes.sample)) < share).tolist()
    levels, boxes, codes = scenes.confidence.tolist(), scenes.boxes.tolist(), scenes.label.tolist()
    for start, stop in _bounds(scenes.sample, scenes.samples):
        labels = []
        for i in range(start, stop):
            labels.append({**_label(codes[i], boxes[i]), "confidence": levels[i], **extra})
            if doubled[i]:
                labels.append({**_label(codes[i], boxes[i]), "confidence": levels[i] * 0.9, **extra})
        yield labels


def _true(scenes: Scenes) -> Iterator[list[dict[str, Any]]]:
    boxes, codes = scenes.true_boxes.tolist(), scenes.true_label.tolist()
    for start, stop in _bounds(scenes.true_sample, scenes.samples):
        yield [_label(codes[i], boxes[i]) for i in range(start, stop)]


def _bounds(sample: np.ndarray, samples: int) -> Iterator[tuple[int, int]]:
    edges = np.searchsorted(sample, np.arange(samples + 1)).tolist()
    yield from itertools.pairwise(edges)


def _label(code: int, box: list[float]) -> dict[str, Any]:
    return {
        "_id": ObjectId(),
        "_cls": "Detection",
        "tags": [],
        "attributes": {},
        "label": CLASSES[code],
        "bounding_box": box,
    }
