"""What the benchmarks share: a database of their own, synthetic datasets, CPU seconds, and the table.

Figures are CPU seconds of this process and of mongod together, so that a slow client with a fast server,
or the reverse, cannot hide; a row's wall time is printed beside it.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from bson import ObjectId

from valflow.mongod import Mongod

WIDTH, HEIGHT = 640, 480


@contextmanager
def own_database() -> Iterator[Meter]:
    """A mongod on a free port that FiftyOne will use; enter before anything imports fiftyone."""
    with (
        tempfile.TemporaryDirectory(prefix="valflow-bench-") as folder,
        Mongod(Path(folder) / "db") as mongod,
    ):
        os.environ.update(mongod.environment)
        os.environ["FIFTYONE_SHOW_PROGRESS_BARS"] = "false"
        os.environ["FIFTYONE_DO_NOT_TRACK"] = "true"
        yield Meter(_server_process(mongod))


@dataclass
class Measured:
    """Cost of one operation in seconds."""

    cpu: float
    wall: float


@dataclass
class Meter:
    """Measures CPU of this process and the server, and collects the rows of the table."""

    server: psutil.Process
    rows: list[tuple[str, ...]] = field(default_factory=list)

    @contextmanager
    def measure(self) -> Iterator[Measured]:
        """Time what runs inside."""
        gc.collect()
        result = Measured(0.0, 0.0)
        cpu, wall = self._cpu(), time.perf_counter()
        yield result
        result.cpu, result.wall = self._cpu() - cpu, time.perf_counter() - wall

    def row(
        self, name: str, labels: int, measured: Measured, ratio: float | None = None, goal: str = ""
    ) -> None:
        """Add one line; ``ratio`` is how many times cheaper than the row it is compared with."""
        self.rows.append(
            (
                name,
                f"{labels:,}",
                f"{measured.cpu:.2f}",
                f"{measured.wall:.2f}",
                f"{measured.cpu / max(labels, 1) * 1e6:.1f}",
                "" if ratio is None else f"{ratio:.1f}x",
                goal,
            )
        )

    def print_table(self, title: str) -> None:
        """Print the rows as a Markdown table."""
        head = ("operation", "labels", "CPU s", "wall s", "CPU µs/label", "ratio", "limit")
        widths = [max(len(row[i]) for row in (head, *self.rows)) for i in range(len(head))]
        print(f"\n{title}\n")
        for line in (head, tuple("-" * w for w in widths), *self.rows):
            cells = (
                c.ljust(w) if i == 0 else c.rjust(w)
                for i, (c, w) in enumerate(zip(line, widths, strict=True))
            )
            print("| " + " | ".join(cells) + " |")

    def _cpu(self) -> float:
        return sum(sum(p.cpu_times()[:2]) for p in (psutil.Process(), self.server))


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


def insert(scenes: Scenes, name: str, *, run: str, folder: str = "/nowhere", truth: bool = True) -> Any:
    """A FiftyOne dataset of these scenes, written raw; predictions look like finalized labels."""
    import fiftyone as fo

    dataset = fo.Dataset(name, overwrite=True)
    _add_samples(dataset, scenes.samples, folder)
    dataset.add_sample_field("final", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    for attribute in ("run", "source"):
        dataset.add_sample_field(f"final.detections.{attribute}", fo.StringField)
    extra = {"run": run, "source": "auto"}
    _write(dataset, "final", scenes.sample, scenes.label, scenes.boxes, scenes.confidence, extra)
    if truth:
        dataset.add_sample_field("truth", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
        _write(dataset, "truth", scenes.true_sample, scenes.true_label, scenes.true_boxes, None, {})
    dataset.reload()
    return dataset


def _add_samples(dataset: Any, samples: int, folder: str) -> None:
    """One sample through FiftyOne, the others as copies of its document: a hundred times faster."""
    import fiftyone as fo

    from valflow import database

    metadata = fo.ImageMetadata(width=WIDTH, height=HEIGHT)
    dataset.add_sample(fo.Sample(f"{folder}/{0:06d}.png", metadata=metadata))
    collection = database.samples_of(dataset)
    first = collection.find_one()
    assert first is not None
    for start in range(1, samples, 10_000):
        collection.insert_many(
            [
                first | {"_id": ObjectId(), "filepath": f"{folder}/{i:06d}.png", "_rand": i / samples}
                for i in range(start, min(start + 10_000, samples))
            ]
        )


def _write(
    dataset: Any,
    name: str,
    sample: np.ndarray,
    label: np.ndarray,
    boxes: np.ndarray,
    confidence: np.ndarray | None,
    extra: dict[str, Any],
) -> None:
    from pymongo import UpdateOne

    from valflow import database

    collection = database.samples_of(dataset)
    ids = [document["_id"] for document in collection.find({}, {"_id": 1})]
    lists: list[list[dict[str, Any]]] = [[] for _ in ids]
    levels = confidence.tolist() if confidence is not None else [None] * len(sample)
    for s, c, box, level in zip(sample.tolist(), label.tolist(), boxes.tolist(), levels, strict=True):
        detection = {
            "_id": ObjectId(),
            "_cls": "Detection",
            "tags": [],
            "attributes": {},
            "label": f"class_{c:02d}",
            "bounding_box": box,
            **extra,
        }
        if level is not None:
            detection["confidence"] = level
        lists[s].append(detection)
    updates = [
        UpdateOne({"_id": i}, {"$set": {name: {"_cls": "Detections", "detections": found}}})
        for i, found in zip(ids, lists, strict=True)
    ]
    for start in range(0, len(updates), 1000):
        collection.bulk_write(updates[start : start + 1000], ordered=False)


def _server_process(mongod: Mongod) -> psutil.Process:
    """The mongod itself, which runs below the process that holds its leash."""
    family = [psutil.Process(mongod.pid), *psutil.Process(mongod.pid).children(recursive=True)]
    return next(p for p in family if p.name().startswith("mongod"))
