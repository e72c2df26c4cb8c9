"""Inference beside the bare loop of the same model, and beside FiftyOne's ``apply_model``.

Run as ``python -m benchmarks.bench_infer [--images 400]``. Wall time, because what is compared is how long a device
stands idle; the ways take turns, and the best of the rounds counts, which is what other work on the machine disturbs
least. The models are matrix products of a given length, which keep a core busy as a real one does, or a wait, which is
what a device elsewhere looks like from here. Where torch sees a GPU, ``benchmarks.bench_gpu`` does the same there with
a real detector.

``apply_model`` needs a FiftyOne model, so it gets the function wrapped as one; valflow gets the function. Both must
come to the same labels, or the benchmark fails.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a model that computes has one core, as a device is one

import numpy as np

from benchmarks.inferring import Cost, Ours, Theirs, print_row, timed, write_images
from benchmarks.measuring import Meter, own_database

LEAST_BUSY, LEAST_FASTER = 0.95, 2.0
SIZE = (240, 320, 3)
BATCH = 16
# Name, seconds per image, labels per image, how it spends them, images in relation to the rest.
CASES = (
    ("50 ms, computing", 0.05, 5, "computes", 0.25),
    ("50 ms, waiting (a device elsewhere)", 0.05, 5, "waits", 0.25),
    ("5 ms, launching small operations (as Python does on a GPU)", 0.005, 5, "launches", 1.0),
    ("2 ms, waiting", 0.002, 5, "waits", 1.0),
    ("0 ms, 50 labels: writing dominates", 0.0, 50, "waits", 1.0),
)
HEAD = (
    "model",
    "bare loop",
    "reading alone",
    "apply_model",
    "valflow",
    "with processes beside",
    "of the bound",
    "of apply_model",
    "CPU ms beside the model",
    "limit",
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", type=int, choices=range(len(CASES)), help="one of the rows")
    options = parser.parse_args()
    with own_database() as meter:
        paths = write_images(meter.folder / "images", options.images, SIZE)
        print(f"\n## Inference, {options.images} images of {SIZE[1]}x{SIZE[0]}\n")
        print(
            f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; images per second, best of {options.rounds}\n"
        )
        print_row(HEAD)
        print_row(tuple("---" for _ in HEAD))
        for number, case in enumerate(CASES):
            if options.case in (None, number):
                print_row(compare(case, paths, meter, options.rounds))


def compare(
    case: tuple[str, float, int, str, float], paths: list[str], meter: Meter, rounds: int
) -> tuple[str, ...]:
    """One row: all ways in turn, the best time of each."""
    from benchmarks.paced_model import PacedModel, find

    name, seconds, labels, spent, part = case
    paths = paths[: max(8, int(len(paths) * part))]
    kwargs: dict[str, Any] = {"seconds": seconds, "labels": labels, "way": spent}
    image = np.zeros(SIZE, np.uint8)
    model = {"kind": "python", "path": "benchmarks.paced_model:find", "kwargs": kwargs}
    theirs = Theirs(lambda: PacedModel(**kwargs), paths, meter, batch_size=BATCH)
    ours = Ours(model, paths, meter, BATCH, "thread")
    beside = Ours(model, paths, meter, BATCH, "process")

    def bare() -> None:
        for start in range(0, len(paths), BATCH):
            find([image] * len(paths[start : start + BATCH]), **kwargs)

    ways: dict[str, Callable[[], Cost]] = {
        "bare": lambda: timed(meter, bare),
        "read": lambda: timed(meter, lambda: read_alone(paths)),
        "theirs": theirs.run,
        "ours": ours.run,
        "beside": beside.run,
    }
    beside.run()  # its processes take seconds to start, once
    best: dict[str, Cost] = {}
    for _ in range(rounds):
        for way, measure in ways.items():
            cost = measure()
            best[way] = min(best.get(way, cost), cost)
        if not ours.found == beside.found == theirs.found:
            raise SystemExit(f"{name}: valflow and apply_model come to different labels")
    speed = {way: len(paths) / cost.wall for way, cost in best.items()}
    bound = min(speed["bare"], speed["read"])
    limit = f"{LEAST_BUSY:.0%} of the bound" if seconds else f"{LEAST_FASTER:.0f}x apply_model"
    return (
        name,
        *(f"{speed[way]:.1f}" for way in ("bare", "read", "theirs", "ours", "beside")),
        f"{speed['ours'] / bound:.0%}, {speed['beside'] / bound:.0%}",
        f"{speed['ours'] / speed['theirs']:.1f}x, {speed['beside'] / speed['theirs']:.1f}x",
        f"{(best['ours'].cpu - best['bare'].cpu) / len(paths) * 1e3:.1f}",
        limit,
    )


def read_alone(paths: list[str]) -> None:
    """Decoding alone, by as many threads as inference has."""
    from concurrent.futures import ThreadPoolExecutor

    from valflow.models.images import read_array
    from valflow.overlapping import READERS

    with ThreadPoolExecutor(READERS) as pool:
        for _ in pool.map(read_array, paths):
            pass


if __name__ == "__main__":
    main()
