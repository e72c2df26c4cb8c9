"""Inference of a real detector on a GPU: its bare loop on images in memory, FiftyOne's ``apply_model``, and valflow.

Run as ``python -m benchmarks.bench_gpu [--images 1500]`` where torch sees a GPU. All three use one FiftyOne model, that
of the zoo for torchvision's detectors. The bare loop gives it whole batches that were decoded, transformed and stacked
before, so it neither reads nor writes. Wall time, the ways take turns, best of the rounds. In full precision the labels
of valflow and ``apply_model`` are compared.

With ``--device cpu`` a stand-in takes the detectors' place: on one core it launches as many small operations for each
image as Python does for a detector on a GPU, and gives the interpreter's lock away at each. That is what makes a
detector on a GPU slow beside others; what it does not show is the way of the images to the GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
from collections.abc import Callable
from typing import Any

from benchmarks.inferring import Cost, Found, Ours, Theirs, print_row, timed, write_images
from benchmarks.measuring import Meter, own_database
from benchmarks.torch_detector import STAND_IN, write_manifest

LEAST_BUSY = 0.95
SIZE = (480, 640, 3)
STAND_IN_SIZE = (240, 320, 3)
BATCHES_IN_MEMORY = 8
# Detector of torchvision, boxes per image, shorter side, precision.
CASES: tuple[tuple[str, int, int, str], ...] = (
    ("fasterrcnn_resnet50_fpn", 5, 480, "full"),
    ("fasterrcnn_resnet50_fpn", 5, 480, "mixed"),
    ("fasterrcnn_mobilenet_v3_large_fpn", 5, 480, "full"),
    ("fasterrcnn_mobilenet_v3_large_fpn", 20, 480, "mixed"),
)
STAND_IN_CASES: tuple[tuple[str, int, int, str], ...] = ((STAND_IN, 5, 700, "full"),)
HEAD = (
    "model",
    "boxes",
    "precision",
    "bare loop",
    "apply_model",
    "valflow, threads beside",
    "processes beside",
    "these, batch_size auto",
    "of the bare loop",
    "of apply_model",
    "CPU ms beside the model",
    "limit",
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--workers", type=int, default=None, help="of apply_model")
    options = parser.parse_args()
    with own_database() as meter:
        import fiftyone as fo
        import torch

        if options.device == "cpu":
            name, cases, size = "a stand-in for a GPU", STAND_IN_CASES, STAND_IN_SIZE
            torch.set_num_threads(1)
        else:
            name, cases, size = torch.cuda.get_device_name(options.device), CASES, SIZE
        paths = write_images(meter.folder / "images", options.images, size)
        print(f"\n## Inference on {name}, {options.images} images of {size[1]}x{size[0]}\n")
        print(
            f"torch {torch.__version__}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, batches of "
            f"{options.batch_size}; images per second, best of {options.rounds}\n"
        )
        print_row(HEAD)
        print_row(tuple("---" for _ in HEAD))
        for case in cases:
            fo.config.model_zoo_manifest_paths = [str(write_manifest(meter.folder, *case[:3]))]
            print_row(compare(case, paths, meter, options))


def compare(
    case: tuple[str, int, int, str], paths: list[str], meter: Meter, options: argparse.Namespace
) -> tuple[str, ...]:
    """One row: all ways in turn, the best time of each."""
    import fiftyone.zoo as foz

    name, labels, _, precision = case
    entry = f"bench-{name}-torch"
    device = options.device
    at_once = options.batch_size
    model = foz.load_zoo_model(entry, ensure_requirements=False, cache=False, device=device)
    settings = {"kind": "zoo", "name": entry, "device": device, "precision": precision}
    threads = Ours(settings, paths, meter, at_once, "thread")
    ours = Ours(settings, paths, meter, at_once, "process")
    by_itself = Ours(settings, paths, meter, "auto", "process")
    theirs = Theirs(lambda: model, paths, meter, at_once, {"num_workers": options.workers})
    batches = in_memory(model, paths, at_once)
    ways: dict[str, Callable[[], Cost]] = {
        "bare": lambda: timed(
            meter, lambda: bare_loop(model, batches, len(paths), at_once, precision, device)
        ),
        "threads": threads.run,
        "ours": ours.run,
        "auto": by_itself.run,
        "theirs": lambda: in_precision(precision, device, theirs.run),
    }
    best: dict[str, Cost] = {}
    bare_loop(model, batches, 2 * at_once, at_once, precision, device)  # the first calls choose algorithms
    ours.run()  # its processes take seconds to start, once
    for _ in range(options.rounds):
        for way, measure in ways.items():
            gc.collect()
            cost = measure()
            best[way] = min(best.get(way, cost), cost)
    if precision == "full":
        check(entry, ours.found, theirs.found)
    speed = {way: len(paths) / cost.wall for way, cost in best.items()}
    return (
        name,
        str(labels),
        precision,
        *(f"{speed[way]:.0f}" for way in ("bare", "theirs", "threads", "ours", "auto")),
        f"{speed['threads'] / speed['bare']:.0%}, {speed['ours'] / speed['bare']:.0%}",
        f"{speed['ours'] / speed['theirs']:.1f}x",
        f"{(best['ours'].cpu - best['bare'].cpu) / len(paths) * 1e3:.1f}",
        f"{LEAST_BUSY:.0%} of the bare loop",
    )


def in_memory(model: Any, paths: list[str], at_once: int) -> list[Any]:
    """Some batches as the model takes them, read and stacked."""
    import torch

    get_item = model.build_get_item()
    chosen = paths[: BATCHES_IN_MEMORY * at_once]
    images = [get_item({"filepath": path}) for path in chosen]
    return [torch.stack(images[i : i + at_once]) for i in range(0, len(images), at_once)]


def bare_loop(model: Any, batches: list[Any], images: int, at_once: int, precision: str, device: str) -> None:
    """FiftyOne's model alone, on images in memory."""
    whole = [batch for batch in batches if len(batch) == at_once] or batches
    model.preprocess = False
    done = number = 0
    with model, autocast(precision, device):
        while done < images:
            batch = whole[number % len(whole)][: images - done]
            model.predict_all(batch)
            done, number = done + len(batch), number + 1
    model.preprocess = True


def in_precision(precision: str, device: str, work: Callable[[], Cost]) -> Cost:
    """As somebody would have to do it around ``apply_model``."""
    with autocast(precision, device):
        return work()


def autocast(precision: str, device: str) -> Any:
    """Half precision where it is safe."""
    if precision == "full":
        return contextlib.nullcontext()
    import torch

    return torch.autocast(device.partition(":")[0], dtype=torch.float16)


def check(name: str, ours: Found, theirs: Found) -> None:
    """Fail where the two do not find the same, but for the last digits that a GPU gives anew each time."""
    wanted = {path: _rounded(labels) for path, labels in theirs.items()}
    found = {path: _rounded(labels) for path, labels in ours.items()}
    total = sum(map(len, wanted.values()))
    missing = sum(len(labels - found.get(path, set())) for path, labels in wanted.items())
    if not total or sum(map(len, found.values())) != total or missing > total / 100:
        raise SystemExit(f"{name}: valflow and apply_model differ in {missing} of {total} labels")


def _rounded(labels: list[tuple[str, tuple[float, ...], float]]) -> set[tuple[Any, ...]]:
    return {(name, *(round(side, 2) for side in box)) for name, box, _ in labels}


if __name__ == "__main__":
    main()
