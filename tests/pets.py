"""A dataset whose predictions are known to the digit: what flow and stack tests run on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

CLASSES = ("cat", "dog")
# Per sample, left to right: half of the labels stand above the usual threshold of 0.7.
CONFIDENCES = (0.95, 0.8, 0.5, 0.3)


def make_pets(name: str, folder: Path, samples: int) -> Any:
    """A persistent dataset with the field ``predictions``: four labels on each sample."""
    import fiftyone as fo

    dataset = fo.Dataset(name, persistent=True)
    add_pets(dataset, folder, samples)
    return dataset


def add_pets(dataset: Any, folder: Path, samples: int) -> None:
    """Grow the dataset."""
    import fiftyone as fo

    first = len(dataset)
    added = []
    for number in range(first, first + samples):
        path = folder / f"{dataset.name}-{number}.png"
        Image.new("RGB", (80, 60), (number * 8 % 256, 90, 120)).save(path)
        labels = [
            fo.Detection(
                label=CLASSES[(number + i) % 2],
                bounding_box=[0.05 + 0.24 * i, 0.1, 0.2, 0.5],
                confidence=confidence,
            )
            for i, confidence in enumerate(CONFIDENCES)
        ]
        added.append(fo.Sample(str(path), predictions=fo.Detections(detections=labels)))
    dataset.add_samples(added)


def set_class(dataset: Any, field: str, label_id: str, name: str) -> None:
    """Correct a label as the App does: on its sample, in the review field."""
    dataset.reload()
    sample = dataset[dataset.select_labels(ids=[label_id], fields=field).first().id]
    next(d for d in sample[field].detections if d.id == label_id).label = name
    sample.save()
