"""Batches of labels with known truth, on which ways to approve labels are compared.

Digits and the synthetic detector need numpy, scipy and scikit-learn; only the scenes need FiftyOne.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SYNTHETIC_CLASSES = ("car", "person", "bicycle", "bus", "tram")
SYNTHETIC_SHARES = (0.50, 0.25, 0.15, 0.07, 0.03)
# Log odds by which the confidence errs, per class: sure of itself about the rare ones.
_CLASS_SHIFT = np.array([0.8, 0.2, -0.6, -1.6, -2.5])
_SCENES = 700
_SCENE_VERSION = 1


@dataclass(frozen=True)
class Labels:
    """Predicted labels whose truth is known.

    Attributes:
        confidence: (N,) in [0, 1].
        classes: (N,) names as predicted.
        correct: (N,) bool.
        extras: further features, (N,) each.
    """

    confidence: Floats
    classes: NDArray[Any]
    correct: NDArray[np.bool_]
    extras: Mapping[str, Floats] = field(default_factory=dict)

    def take(self, rows: NDArray[Any]) -> Labels:
        """Some of them."""
        extras = {name: values[rows] for name, values in self.extras.items()}
        return Labels(self.confidence[rows], self.classes[rows], self.correct[rows], extras)


@dataclass(frozen=True)
class World:
    """A batch to approve and what is known from earlier ones.

    Attributes:
        batch: the labels.
        history: judged labels of earlier batches, None at a cold start.
    """

    batch: Labels
    history: Labels | None = None


def synthetic(
    rng: Generator, labels: int = 10_000, shift: float = 0.0, images: float = 0.0, runs: int = 1
) -> Labels:
    """Labels of a detector with five classes, precision .758.

    A share of correct labels of 95, 98, 99 % is reached by the most confident 72, 52, 33 % of the labels.

    Args:
        rng: all chance comes from here.
        labels: how many.
        shift: of the log odds of being correct: drift.
        images: standard deviation of the log odds from image to image, ten labels each: clustered errors.
        runs: equal parts, each with a shift of its own with standard deviation 0.5 if more than one.
    """
    code = rng.choice(len(SYNTHETIC_SHARES), p=SYNTHETIC_SHARES, size=labels)
    object_like = rng.random(labels) < 0.7275
    odds = np.where(
        object_like, 3.857 + 1.523 * rng.standard_normal(labels), -1.587 + rng.standard_normal(labels)
    )
    moved = odds + _CLASS_SHIFT[code] + shift
    if images:
        effect = np.repeat(rng.standard_normal(-(-labels // 10)) * images, 10)[:labels]
        # Marginally the same chance as before: a normal effect flattens the curve by this factor.
        moved = moved * np.sqrt(1 + 0.346 * images**2) + effect
    if runs > 1:
        moved = moved + np.repeat(rng.standard_normal(runs) * 0.5, -(-labels // runs))[:labels]
    correct = rng.random(labels) < 1 / (1 + np.exp(-moved))
    return Labels(1 / (1 + np.exp(-odds)), np.array(SYNTHETIC_CLASSES)[code], correct)


@functools.cache
def _digit_images() -> tuple[Floats, NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.data / 16.0, bunch.target


def _classifier(name: str) -> tuple[Any, int]:
    """A classifier and the number of images from which it learns."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC
    from sklearn.tree import DecisionTreeClassifier

    if name == "logistic":
        return LogisticRegression(C=10.0, max_iter=300), 200
    if name == "svc":
        return SVC(C=10.0, probability=True, random_state=0), 200
    if name == "weak":
        return LogisticRegression(C=0.05, max_iter=300), 80
    return DecisionTreeClassifier(max_depth=6, random_state=0), 150


def digits(rng: Generator, name: str) -> tuple[Labels, NDArray[np.int64]]:
    """What a classifier fitted on a few digits says about all others, in random order."""
    from sklearn.neighbors import NearestNeighbors

    from valflow.certify.features import entropies

    images, target = _digit_images()
    model, size = _classifier(name)
    order = rng.permutation(len(target))
    known, rest = order[:size], order[size:]
    model.fit(images[known], target[known])
    p = model.predict_proba(images[rest])
    predicted = np.asarray(model.classes_)[p.argmax(axis=1)]
    ranked = -np.sort(-p, axis=1)
    distance, near = NearestNeighbors(n_neighbors=5).fit(images[known]).kneighbors(images[rest])
    agree = target[known][near] == predicted[:, None]
    extras = {
        "second": ranked[:, 1],
        "third": ranked[:, 2],
        "entropy": entropies(p),
        "neighbours": agree.mean(axis=1),
        "nearest": agree[:, 0].astype(float),
        "distance": distance.mean(axis=1),
    }
    labels = Labels(ranked[:, 0].clip(0, 1), predicted.astype(str), predicted == target[rest], extras)
    return labels, rest


@functools.cache
def scenes() -> tuple[Labels, NDArray[np.int64]]:
    """The demo's own detector on its scenes: labels, and the scene of each; computed once and kept in a file."""
    path = Path(tempfile.gettempdir()) / f"valflow-bench-scenes-{_SCENES}-{_SCENE_VERSION}.npz"
    if not path.exists():
        columns = _detect_scenes()
        partial = path.with_suffix(".part.npz")
        np.savez(partial, allow_pickle=False, **columns)
        partial.replace(path)
    with np.load(path) as stored:
        extras = {n: stored[n] for n in ("area", "aspect", "overlap")}
        return Labels(stored["confidence"], stored["classes"], stored["correct"], extras), stored["scene"]


def _detect_scenes() -> dict[str, NDArray[Any]]:
    from examples.digits.handwriting import CLASSES, split_handwriting
    from examples.digits.model import DigitDetector
    from examples.digits.scenes import compose_scene
    from valflow.certify.features import box_shapes, neighbour_overlaps
    from valflow.evaluation.labels import LabelTable
    from valflow.evaluation.matching import match

    detector = DigitDetector(floor=0.15)
    _, handwriting = split_handwriting()
    found: list[tuple[Any, ...]] = []
    true: list[tuple[Any, ...]] = []
    for scene in range(_SCENES):
        picture, truth, _ = compose_scene(handwriting, np.random.default_rng([1234, scene]))
        height, width = picture.shape[:2]
        for box, label, confidence in zip(*detector.detect(picture), strict=True):
            relative = (box / (width, height, width, height)).tolist()
            found.append((scene, CLASSES[int(label)], relative, float(confidence)))
        true += [(scene, d.label, list(d.box), float("nan")) for d in truth]

    def table(rows: list[tuple[Any, ...]]) -> LabelTable:
        sample, names, boxes, confidence = zip(*rows, strict=True)
        return LabelTable(
            classes=CLASSES,
            class_id=np.array([CLASSES.index(n) for n in names]),
            ids=np.arange(len(rows)),
            sample=np.array(sample),
            confidence=np.array(confidence, float),
            boxes=np.array(boxes, float),
            crowd=np.zeros(len(rows), bool),
            run=np.full(len(rows), None),
        )

    predictions = table(found)
    boxes, scene_of = np.array([r[2] for r in found]), np.array([r[0] for r in found])
    area, aspect = box_shapes(boxes)
    return {
        "scene": scene_of,
        "classes": np.array([r[1] for r in found]),
        "confidence": np.array([r[3] for r in found]),
        "correct": match(predictions, table(true)).truth >= 0,
        "area": area,
        "aspect": aspect,
        "overlap": neighbour_overlaps(scene_of, boxes),
    }


def _digits_world(rng: Generator, name: str, verdicts: int = 0) -> World:
    labels, _ = digits(rng, name)
    if not verdicts:
        return World(labels)
    rows = np.arange(len(labels.correct))
    return World(labels.take(rows[verdicts:]), labels.take(rows[:verdicts]))


def _synthetic_world(
    rng: Generator, verdicts: int = 600, before: Mapping[str, Any] | None = None, **now: Any
) -> World:
    batch = synthetic(rng, **now)
    return World(batch, synthetic(rng, verdicts, **(before or {})) if verdicts else None)


def _scenes_world(rng: Generator, verdicts: int = 0) -> World:
    """Half of the scenes at random; the verdicts are about labels of the other half."""
    labels, scene = scenes()
    chosen = rng.permutation(_SCENES) < _SCENES // 2
    now, before = np.flatnonzero(chosen[scene]), np.flatnonzero(~chosen[scene])
    history = labels.take(rng.choice(before, verdicts, replace=False)) if verdicts else None
    return World(labels.take(now), history)


# Name, how to make one, allowed shares of wrong labels with the labels to draw for each.
WORLDS: dict[str, tuple[Callable[[Generator], World], tuple[tuple[float, int], ...]]] = {
    "digits, logistic": (lambda r: _digits_world(r, "logistic"), ((0.05, 400),)),
    "digits, SVC": (lambda r: _digits_world(r, "svc"), ((0.05, 400),)),
    "digits, weak logistic": (lambda r: _digits_world(r, "weak"), ((0.05, 400),)),
    "digits, tree": (lambda r: _digits_world(r, "tree"), ((0.05, 400),)),
    "digits, tree, 600 verdicts": (lambda r: _digits_world(r, "tree", 600), ((0.05, 200),)),
    "synthetic, cold": (lambda r: _synthetic_world(r, 0), ((0.05, 200), (0.05, 400))),
    "synthetic": (_synthetic_world, ((0.05, 200), (0.05, 400), (0.02, 800), (0.01, 1600))),
    "synthetic, drift": (lambda r: _synthetic_world(r, shift=-1.0), ((0.05, 400), (0.02, 800))),
    "synthetic, clusters": (
        lambda r: _synthetic_world(r, images=1.5, before={"images": 1.5}),
        ((0.05, 400), (0.02, 800)),
    ),
    "synthetic, lot of 30 runs": (
        lambda r: _synthetic_world(r, labels=3000, images=1.0, runs=30, before={"images": 1.0}),
        ((0.05, 200),),
    ),
    "scenes, cold": (lambda r: _scenes_world(r), ((0.05, 200),)),
    "scenes, 600 verdicts": (lambda r: _scenes_world(r, 600), ((0.05, 200),)),
}
NEEDS_FIFTYONE = ("scenes, cold", "scenes, 600 verdicts")
