"""Inference beside the bare loop of the same model, and beside FiftyOne's ``apply_model``.

Run as ``python -m benchmarks.bench_infer [--images 400]``. Wall time, because what is compared is how long a device
stands idle; the three take turns, and the best of the rounds counts, which is what other work on the machine
disturbs least. The models are matrix products of a given length, which keep a core busy as a real one does, or
a wait, which is what a GPU looks like from here.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import own_database
from benchmarks.paced_model import PacedModel

LEAST_BUSY, LEAST_FASTER = 0.95, 2.0
SIZE = (240, 320, 3)
# Name, seconds per image, labels per image, whether it computes (or waits), images in relation to the rest.
CASES = (
    ("50 ms, computing", 0.05, 5, True, 0.25),
    ("50 ms, waiting (a device elsewhere)", 0.05, 5, False, 0.25),
    ("2 ms, waiting", 0.002, 5, False, 1.0),
    ("0 ms, 50 labels: writing dominates", 0.0, 50, False, 1.0),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    head = (
        "model",
        "bare loop",
        "reading alone",
        "apply_model",
        "valflow",
        "of the bound",
        "of apply_model",
        "limit",
    )
    with own_database() as meter:
        paths = write_images(meter.folder / "images", options.images)
        print(f"\n## Inference, {options.images} images of {SIZE[1]}x{SIZE[0]}\n")
        print(
            f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; images per second, best of {options.rounds}\n"
        )
        print_row(head)
        print_row(tuple("---" for _ in head))
        for case in CASES:
            print_row(compare(case, paths, meter.folder, options.rounds))


def print_row(row: tuple[str, ...]) -> None:
    """One line of the table, as soon as it is known."""
    print("| " + " | ".join(row) + " |", flush=True)


def write_images(folder: Path, number: int) -> list[str]:
    """JPEG pictures with something to decode."""
    from PIL import Image

    folder.mkdir(parents=True)
    rng, paths = np.random.default_rng(0), []
    for i in range(number):
        small = Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8))
        paths.append(str(folder / f"{i}.jpg"))
        small.resize((SIZE[1], SIZE[0]), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def compare(
    case: tuple[str, float, int, bool, float], paths: list[str], folder: Path, rounds: int
) -> tuple[str, ...]:
    """One row: all ways in turn, the best time of each."""
    name, seconds, labels, computing, part = case
    paths = paths[: max(8, int(len(paths) * part))]
    kwargs: dict[str, Any] = {"seconds": seconds, "labels": labels, "computing": computing}
    ways: dict[str, Callable[[], float]] = {
        "bare": lambda: bare_loop(PacedModel(**kwargs), paths),
        "read": lambda: read_alone(paths),
        "theirs": lambda: apply_model(PacedModel(**kwargs), paths),
        "ours": lambda: ours(kwargs, paths, folder),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for way, measure in ways.items():
            best[way] = min(best[way], measure())
    speed = {way: len(paths) / took for way, took in best.items()}
    bound = min(speed["bare"], speed["read"])
    writing = seconds == 0
    limit = f"{LEAST_FASTER:.0f}x apply_model" if writing else f"{LEAST_BUSY:.0%} of the bound"
    return (
        name,
        *(f"{speed[way]:.1f}" for way in ("bare", "read", "theirs", "ours")),
        f"{speed['ours'] / bound:.0%}",
        f"{speed['ours'] / speed['theirs']:.1f}x",
        limit,
    )


def bare_loop(model: PacedModel, paths: list[str]) -> float:
    """The model alone, on images in memory."""
    image = np.zeros(SIZE, np.uint8)
    begin = time.perf_counter()
    with model:
        for start in range(0, len(paths), 16):
            model.predict_all([image] * len(paths[start : start + 16]))
    return time.perf_counter() - begin


def read_alone(paths: list[str]) -> float:
    """Decoding alone, by as many threads as inference has."""
    from concurrent.futures import ThreadPoolExecutor

    from valflow.models.images import read_array

    begin = time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(read_array, paths):
            pass
    return time.perf_counter() - begin


def apply_model(model: PacedModel, paths: list[str]) -> float:
    """FiftyOne's own way into a field."""
    dataset = _dataset(paths)
    begin = time.perf_counter()
    dataset.apply_model(model, "found", batch_size=16, progress=False)
    took = time.perf_counter() - begin
    dataset.delete()
    return took


def ours(kwargs: dict[str, Any], paths: list[str], folder: Path) -> float:
    """Every sample accounted for, its labels in the review field and in the ledger."""
    from valflow import inference, opening, runs
    from valflow.config import config_from_mapping

    dataset = _dataset(paths)
    config = config_from_mapping(
        {
            "dataset": dataset.name,
            "label_field": "found",
            "model": {"kind": "python", "path": "benchmarks.paced_model:PacedModel", "kwargs": kwargs},
            "batch_size": 16,
            "shard_size": 512,
            "output_dir": str(folder / "runs"),
        }
    )
    run = opening.open_run(config).run
    assert run is not None
    record = opening.prepare(runs.load(run), dataset)
    begin = time.perf_counter()
    for shard in range(record["target"]["shards"]):
        inference.infer_shard(run, shard)
    took = time.perf_counter() - begin
    inference.finish_inference(runs.load(run))
    dataset.delete()
    return took


def _dataset(paths: list[str]) -> Any:
    import fiftyone as fo

    dataset = fo.Dataset(persistent=True)
    dataset.add_samples([fo.Sample(path) for path in paths], progress=False)
    return dataset


if __name__ == "__main__":
    main()
