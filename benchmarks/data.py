"""Datasets to measure on: synthetic predictions and ground truth on real (if tiny) image files.

10,000 samples hold about 80,000 labels of 30 classes in a long-tailed mix. One label in a hundred is doubled,
so that the label checks have something to find.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from bson import ObjectId

from benchmarks.measuring import HEIGHT, WIDTH, Scenes, make_scenes

PREDICTIONS, TRUTH = "predictions", "ground_truth"
CLASSES = tuple(f"class_{number:02d}" for number in range(30))
DOUBLED = 0.01
_WRITE_BATCH = 1000
_FILES_PER_FOLDER = 10_000  # a file cannot have more than 65,000 links


def thresholds(seed: int = 3) -> dict[str, float]:
    """A threshold for every class, between 0.4 and 0.8."""
    levels = np.random.default_rng(seed).uniform(0.4, 0.8, len(CLASSES))
    return dict(zip(CLASSES, levels.round(3).tolist(), strict=True))


def write_dataset(name: str, samples: int, folder: Path) -> Any:
    """A persistent FiftyOne dataset, written raw in bounded memory.

    Args:
        name: its name; a dataset of this name is replaced.
        samples: number of images.
        folder: where the images go, all of them links to one file.
    """
    from valflow import database

    scenes = make_scenes(samples, classes=len(CLASSES))
    paths = _link_images(samples, folder)
    dataset = _declare(name, next(paths))
    collection = database.samples_of(dataset)
    pattern = collection.find_one()
    assert pattern is not None
    collection.delete_many({})
    batch: list[dict[str, Any]] = []
    for path, predicted, true in zip(_all(paths, pattern), _predicted(scenes), _true(scenes), strict=True):
        document = {**pattern, "_id": ObjectId(), "filepath": path}
        document[PREDICTIONS] = {"_cls": "Detections", "detections": predicted}
        document[TRUTH] = {"_cls": "Detections", "detections": true}
        batch.append(document)
        if len(batch) == _WRITE_BATCH:
            collection.insert_many(batch, ordered=False)
            batch = []
    if batch:
        collection.insert_many(batch, ordered=False)
    dataset.reload()
    return dataset


def _declare(name: str, path: str) -> Any:
    """A dataset with one sample, from which FiftyOne learns the schema."""
    import fiftyone as fo

    dataset = fo.Dataset(name, persistent=True, overwrite=True)
    box = [0.1, 0.1, 0.2, 0.2]
    predicted = fo.Detection(label=CLASSES[0], bounding_box=box, confidence=0.5)
    dataset.add_sample(
        fo.Sample(
            path,
            tags=["benchmark"],
            metadata=fo.ImageMetadata(width=WIDTH, height=HEIGHT, num_channels=3, mime_type="image/png"),
            captured_at=datetime(2024, 1, 1, tzinfo=UTC),
            camera="north",
            **{
                PREDICTIONS: fo.Detections(detections=[predicted]),
                TRUTH: fo.Detections(detections=[fo.Detection(label=CLASSES[0], bounding_box=box)]),
            },
        ),
        dynamic=True,
    )
    return dataset


def _all(rest: Iterator[str], pattern: dict[str, Any]) -> Iterator[str]:
    yield pattern["filepath"]
    yield from rest


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


def _predicted(scenes: Scenes) -> Iterator[list[dict[str, Any]]]:
    rng = np.random.default_rng(1)
    doubled = (rng.random(len(scenes.sample)) < DOUBLED).tolist()
    levels, boxes, codes = scenes.confidence.tolist(), scenes.boxes.tolist(), scenes.label.tolist()
    for start, stop in _bounds(scenes.sample, scenes.samples):
        labels = []
        for i in range(start, stop):
            labels.append({**_label(codes[i], boxes[i]), "confidence": levels[i]})
            if doubled[i]:
                labels.append({**_label(codes[i], list(boxes[i])), "confidence": levels[i] * 0.9})
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
