"""What the benchmarks of inference share: pictures, both ways into a field, and their labels to compare."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from benchmarks.measuring import Meter
from valflow import side_process


class Cost(NamedTuple):
    """Wall seconds, and CPU seconds of Python, mongod and the processes beside the model together."""

    wall: float
    cpu: float


def timed(meter: Meter, work: Callable[[], Any]) -> Cost:
    """What a piece of work takes."""
    with meter.measure() as measured:
        before, begin = _cpu_beside(), time.perf_counter()
        work()
        wall, after = time.perf_counter() - begin, _cpu_beside()
    # One that ended meanwhile takes its seconds along: they are as few as it was asked for work.
    beside = sum(seconds - before.get(process, 0.0) for process, seconds in after.items())
    return Cost(wall, measured.cpu + beside)


def _cpu_beside() -> dict[psutil.Process, float]:
    children = psutil.Process().children()
    return {p: sum(p.cpu_times()[:2]) for p in children if side_process.__file__ in p.cmdline()}


def print_row(row: tuple[str, ...]) -> None:
    """One line of the table, as soon as it is known."""
    print("| " + " | ".join(row) + " |", flush=True)


def write_images(folder: Path, number: int, size: tuple[int, int, int]) -> list[str]:
    """JPEG pictures with something to decode; ``size`` is height, width, 3."""
    from PIL import Image

    folder.mkdir(parents=True)
    rng, paths = np.random.default_rng(0), []
    for i in range(number):
        small = Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8))
        paths.append(str(folder / f"{i}.jpg"))
        small.resize((size[1], size[0]), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


Found = dict[str, list[tuple[str, tuple[float, ...], float]]]


@dataclass
class Theirs:
    """FiftyOne's own way into a field.

    Attributes:
        make: gives the model.
        paths: of the images.
        meter: of the CPU.
        batch_size: images at once.
        options: more of ``apply_model``'s.
        found: the labels of the last run.
    """

    make: Callable[[], Any]
    paths: list[str]
    meter: Meter
    batch_size: int
    options: Mapping[str, Any] = field(default_factory=dict)
    found: Found = field(default_factory=dict)

    def run(self) -> Cost:
        """Label a fresh dataset."""
        dataset, model = _dataset(self.paths), self.make()
        cost = timed(
            self.meter,
            lambda: dataset.apply_model(
                model, "found", batch_size=self.batch_size, progress=False, **self.options
            ),
        )
        self.found = _labels(dataset, "found")
        dataset.delete()
        return cost


@dataclass
class Ours:
    """Every sample accounted for, its labels in the review field and in the ledger.

    Attributes:
        model: section of the configuration.
        paths: of the images.
        meter: of the CPU.
        batch_size: images at once.
        beside: what reads and writes beside the model.
        found: the labels of the last run.
    """

    model: Mapping[str, Any]
    paths: list[str]
    meter: Meter
    batch_size: int | str
    beside: str = "auto"
    found: Found = field(default_factory=dict)

    def run(self) -> Cost:
        """Label a fresh dataset."""
        from valflow import inference, opening, runs
        from valflow.config import config_from_mapping

        dataset = _dataset(self.paths)
        config = config_from_mapping(
            {
                "dataset": dataset.name,
                "label_field": "found",
                "model": dict(self.model),
                "batch_size": self.batch_size,
                "min_confidence": 0.0,
                "runner": {"beside": self.beside},
                "output_dir": str(self.meter.folder / "runs"),
            }
        )
        run = opening.open_run(config).run
        assert run is not None
        record = opening.prepare(runs.load(run), dataset)

        def label() -> None:
            # As the flow has them at work.
            with ThreadPoolExecutor(config.runner.shards_at_a_time) as pool:
                list(pool.map(partial(inference.infer_shard, run), range(record["target"]["shards"])))

        cost = timed(self.meter, label)
        record = inference.finish_inference(runs.load(run))
        if record["counts"]["failed_samples"]:
            raise SystemExit(f"{record['counts']['failed_samples']} samples failed: {record['failed'][0]}")
        self.found = _labels(dataset, record["staging_field"])
        dataset.delete()
        return cost


def _labels(dataset: Any, name: str) -> Found:
    """Class, box and confidence of all labels of a field, by file."""
    samples = dataset._sample_collection.find({}, {"filepath": 1, name: 1})
    return {
        d["filepath"]: [
            (one["label"], tuple(one["bounding_box"]), one["confidence"])
            for one in (d.get(name) or {}).get("detections") or []
        ]
        for d in samples
    }


def _dataset(paths: list[str]) -> Any:
    import fiftyone as fo

    dataset = fo.Dataset(persistent=True)
    dataset.add_samples([fo.Sample(path) for path in paths], progress=False)
    return dataset
