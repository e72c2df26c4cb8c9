"""Sheets with handwritten digits and clutter, and the FiftyOne dataset that holds them.

``python -m examples.digits.scenes digits --scenes 400 --folder scenes`` builds the dataset of the demo. Scene
``i`` of a seed is always the same picture, whatever else is made with it.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from examples.digits import painting
from examples.digits.handwriting import CLASSES, Handwriting, split_handwriting
from valflow.errors import ConfigError, ValflowError

FIELD = "ground_truth"
FEWEST, MOST = 3, 12  # digits per scene
_PAINTERS = 2

Pixels = tuple[int, int, int, int]


@dataclass(frozen=True)
class Digit:
    """A digit in a scene: its class and its box, x, y, width and height relative to the scene in [0, 1]."""

    label: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Scene:
    """A scene on disk; ``index`` and ``seed`` say which one, ``surface`` what it is written on."""

    filepath: Path
    seed: int
    index: int
    surface: str
    digits: tuple[Digit, ...]


def make_scenes(folder: Path, scenes: int = 400, seed: int = 51, first: int = 0) -> list[Scene]:
    """Write scenes of 320x240 pixels as PNG; only the evaluation half of the digits appears in them.

    Args:
        folder: created where missing; a file of the same seed and index is overwritten by its equal.
        scenes: how many.
        seed: equal seeds give equal bytes.
        first: index of the first scene, to go on where an earlier call ended.
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    _, evaluation = split_handwriting()

    def make(index: int) -> Scene:
        picture, digits, surface = compose_scene(evaluation, np.random.default_rng([seed, index]))
        path = folder / f"scene_{seed}_{index:05d}.png"
        # Light compression: noise does not shrink, and the demo waits for it.
        if not cv2.imwrite(str(path), picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1]):
            raise OSError(f"{path} could not be written; is the disk full?")
        return Scene(path, seed, index, surface, tuple(digits))

    with ThreadPoolExecutor(_PAINTERS) as painters:
        return list(painters.map(make, range(first, first + scenes)))


def compose_scene(handwriting: Handwriting, rng: Generator) -> tuple[NDArray[np.uint8], list[Digit], str]:
    """Paint one scene.

    Args:
        handwriting: the digits to write with.
        rng: all chance comes from here.

    Returns:
        The ``(240, 320, 3)`` uint8 RGB picture, its digits and the name of its surface.
    """
    surface = painting.choose_surface(rng)
    canvas = painting.paint_surface(surface, rng)
    pen = painting.choose_ink(surface, rng)
    taken: list[Pixels] = []
    labels: list[str] = []
    for center, height in _lay_out(rng):
        which = int(rng.integers(len(handwriting.labels)))
        ink = painting.write_digit(handwriting.images[which], center, height, rng)
        box = ink.bounds()
        if box is None or _touches_edge(box) or not _fits(box, taken, _allowed_overlap(rng)):
            continue
        _apply(canvas, ink, surface, pen, rng)
        taken.append(box)
        labels.append(str(handwriting.labels[which]))
        if len(taken) == MOST:
            break
    _add_clutter(canvas, surface, pen, taken, rng)
    digits = [Digit(label, _relative(box)) for label, box in zip(labels, taken, strict=True)]
    if len(digits) < FEWEST:  # a crowded sheet refused too many: turn to the next one
        return compose_scene(handwriting, rng)
    return painting.finish(canvas, surface, rng), digits, surface.name


def _lay_out(rng: Generator) -> list[tuple[tuple[float, float], float]]:
    """Centers and heights, more than will fit: numbers in rows on some sheets, digits anywhere on others."""
    if rng.random() < 0.4:
        return _rows(rng)
    wanted = int(rng.integers(FEWEST, MOST + 1))
    heights = np.exp(rng.uniform(np.log(20), np.log(68), wanted))
    centers = rng.uniform((18, 18), (painting.WIDTH - 18, painting.HEIGHT - 18), (wanted, 2))
    return [((float(x), float(y)), float(h)) for (x, y), h in zip(centers, heights, strict=True)]


def _rows(rng: Generator) -> list[tuple[tuple[float, float], float]]:
    places: list[tuple[tuple[float, float], float]] = []
    y = float(rng.uniform(28, 60))
    while y < painting.HEIGHT - 24:
        height = float(rng.uniform(24, 44))
        x = float(rng.uniform(24, 190))
        for _ in range(int(rng.integers(1, 6))):
            places.append(((x, y + float(rng.normal(0, 1.5))), height * float(rng.uniform(0.92, 1.08))))
            x += height * float(rng.uniform(0.62, 1.0))
        y += height * float(rng.uniform(1.25, 2.4))
    return places


def _allowed_overlap(rng: Generator) -> float:
    return 0.35 if rng.random() < 0.3 else 0.08


def _opacity(rng: Generator) -> float:
    return float(rng.uniform(0.1, 0.35) if rng.random() < 0.2 else rng.uniform(0.55, 0.96))


def _apply(
    canvas: painting.Canvas, ink: painting.Ink, surface: painting.Surface, pen: painting.Color, rng: Generator
) -> None:
    color = pen if rng.random() < 0.7 else painting.choose_ink(surface, rng)
    painting.apply_ink(canvas, ink.chalky(rng) if surface.chalk else ink, color, _opacity(rng))


def _add_clutter(
    canvas: painting.Canvas,
    surface: painting.Surface,
    pen: painting.Color,
    taken: Sequence[Pixels],
    rng: Generator,
) -> None:
    for _ in range(int(rng.integers(3, 10))):
        center = float(rng.uniform(8, painting.WIDTH - 8)), float(rng.uniform(8, painting.HEIGHT - 8))
        ink = painting.draw_mark(center, float(np.exp(rng.uniform(np.log(16), np.log(60)))), rng)
        box = None if ink is None else ink.bounds()
        if ink is None or box is None or not _fits(box, taken, 0.25 if rng.random() < 0.15 else 0.02):
            continue
        _apply(canvas, ink, surface, pen, rng)


def _touches_edge(box: Pixels) -> bool:
    x, y, w, h = box
    return x < 2 or y < 2 or x + w > painting.WIDTH - 2 or y + h > painting.HEIGHT - 2


def _fits(box: Pixels, taken: Sequence[Pixels], allowed: float) -> bool:
    """Whether the box covers at most the allowed share of every other box, and they of it."""
    x, y, w, h = box
    for x2, y2, w2, h2 in taken:
        common = max(min(x + w, x2 + w2) - max(x, x2), 0) * max(min(y + h, y2 + h2) - max(y, y2), 0)
        if common > allowed * min(w * h, w2 * h2):
            return False
    return True


def _relative(box: Pixels) -> tuple[float, float, float, float]:
    x, y, w, h = box
    return x / painting.WIDTH, y / painting.HEIGHT, w / painting.WIDTH, h / painting.HEIGHT


def build_dataset(name: str, folder: Path, scenes: int = 400, seed: int = 51, overwrite: bool = False) -> Any:
    """A persistent FiftyOne dataset of new scenes, with their digits in ``ground_truth``.

    Args:
        name: of the dataset.
        folder: for the PNG files.
        scenes: how many, 1 or more.
        seed: equal seeds give equal scenes.
        overwrite: replace a dataset of this name, with all that was labelled in it.

    Returns:
        The ``fiftyone.Dataset``.

    Raises:
        ConfigError: a dataset of this name exists and ``overwrite`` is off, or no scenes are asked for.
    """
    import fiftyone as fo

    problems = []
    if scenes < 1:
        problems.append(f"scenes: expected 1 or more, found {scenes}")
    if fo.dataset_exists(name) and not overwrite:
        problems.append(
            f"dataset {name!r} exists already; choose another name, or pass overwrite to replace it"
        )
    if problems:
        raise ConfigError(problems)
    dataset = fo.Dataset(name, persistent=True, overwrite=overwrite)
    dataset.add_sample_field(FIELD, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    dataset.default_classes = list(CLASSES)
    dataset.info = {"source": "examples.digits: UCI handwritten digits on synthetic sheets", "seed": seed}
    dataset.save()
    add_scenes(dataset, folder, scenes, seed)
    return dataset


def add_scenes(dataset: Any, folder: Path, scenes: int, seed: int = 51) -> list[str]:
    """Grow a dataset by scenes that it does not have yet.

    Args:
        dataset: from ``build_dataset``.
        folder: for the PNG files; may be the one of before.
        scenes: how many.
        seed: numbering goes on after the last scene of this seed in the dataset, so names never collide.

    Returns:
        The ids of the new samples.
    """
    import fiftyone as fo

    pattern = re.compile(rf"scene_{seed}_(\d+)\.png$")
    known = [int(m[1]) for path in dataset.values("filepath") if (m := pattern.search(path))]
    samples = []
    for scene in make_scenes(folder, scenes, seed, first=max(known, default=-1) + 1):
        detections = [fo.Detection(label=d.label, bounding_box=list(d.box)) for d in scene.digits]
        sample = fo.Sample(
            filepath=str(scene.filepath),
            metadata=fo.ImageMetadata(
                width=painting.WIDTH,
                height=painting.HEIGHT,
                num_channels=3,
                mime_type="image/png",
                size_bytes=scene.filepath.stat().st_size,
            ),
            surface=scene.surface,
        )
        sample[FIELD] = fo.Detections(detections=detections)
        samples.append(sample)
    return [str(i) for i in dataset.add_samples(samples, progress=False)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        "examples.digits.scenes", description="Build the digits dataset of the demo."
    )
    parser.add_argument("name", metavar="NAME", help="name of the FiftyOne dataset")
    parser.add_argument("--scenes", type=int, default=400, help="how many scenes (%(default)s)")
    parser.add_argument(
        "--folder", type=Path, default=Path("scenes"), help="where the PNG files go (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=51, help="which scenes (%(default)s)")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--overwrite", action="store_true", help="replace a dataset of this name")
    choice.add_argument("--add", action="store_true", help="add new scenes to a dataset of this name")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.add:
            dataset = _load(chosen.name)
            add_scenes(dataset, chosen.folder, chosen.scenes, chosen.seed)
        else:
            dataset = build_dataset(chosen.name, chosen.folder, chosen.scenes, chosen.seed, chosen.overwrite)
    except ValflowError as error:
        print(error, file=sys.stderr)
        return 2
    digits = dataset.count(f"{FIELD}.detections")
    print(f"{dataset.name}: {dataset.count()} scenes with {digits} digits, in {chosen.folder.absolute()}")
    return 0


def _load(name: str) -> Any:
    import fiftyone as fo

    if not fo.dataset_exists(name):
        listed = ", ".join(fo.list_datasets()) or "none"
        raise ConfigError([f"there is no dataset {name!r} to add to (there are: {listed})"])
    return fo.load_dataset(name)


if __name__ == "__main__":
    sys.exit(main())
