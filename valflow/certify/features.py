"""Features beside the confidence that tell right labels from wrong ones, where predictions have them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def margins(probabilities: ArrayLike) -> tuple[Floats, Floats]:
    """Second-best probability, and the distance of the best from it.

    Args:
        probabilities: (N, K) of all K >= 2 classes, in [0, 1].

    Returns:
        Two arrays (N,), in [0, 1].
    """
    best = np.partition(np.asarray(probabilities, float), -2, axis=1)[:, -2:]
    return best[:, 0], best[:, 1] - best[:, 0]


def entropies(probabilities: ArrayLike) -> Floats:
    """Entropy of the predicted distribution, (N, K) -> (N,), in nats, 0 to log K."""
    p = np.clip(np.asarray(probabilities, float), 1e-12, 1.0)
    return np.asarray(-(p * np.log(p)).sum(axis=1))


def box_shapes(boxes: ArrayLike) -> tuple[Floats, Floats]:
    """Logarithms of the area and of the aspect ratio (width / height) of boxes x, y, w, h, (N, 4)."""
    sides = np.maximum(np.asarray(boxes, float)[:, 2:], 1e-9)
    logs = np.log(sides)
    return logs.sum(axis=1), logs[:, 0] - logs[:, 1]


def neighbour_overlaps(images: ArrayLike, boxes: ArrayLike) -> Floats:
    """Largest overlap of each box with another one of its image.

    Args:
        images: (N,) which image each label is on.
        boxes: (N, 4) x, y, w, h.

    Returns:
        (N,) intersection over union in [0, 1]; 0 for the only box of an image.
    """
    array, corners = np.asarray(images), np.asarray(boxes, float)
    result = np.zeros(len(array))
    for rows in _by_image(array):
        ious = _overlaps(corners[rows], corners[rows])
        np.fill_diagonal(ious, 0.0)
        result[rows] = ious.max(axis=1)
    return result


def second_opinions(
    images: ArrayLike,
    boxes: ArrayLike,
    classes: ArrayLike,
    other_images: ArrayLike,
    other_boxes: ArrayLike,
    other_classes: ArrayLike,
    other_confidence: ArrayLike,
) -> tuple[Floats, Floats]:
    """How far the predictions of another field agree.

    Args:
        images: (N,) which image each label is on, in the same terms as ``other_images``.
        boxes: (N, 4) x, y, w, h.
        classes: (N,).
        other_images: (M,) of the other field.
        other_boxes: (M, 4).
        other_classes: (M,).
        other_confidence: (M,) in [0, 1].

    Returns:
        Two arrays (N,) in [0, 1]: the largest overlap with a label of the same class on the same image times
        that label's confidence, and the same for labels of any other class.
    """
    array, corners, names = np.asarray(images), np.asarray(boxes, float), np.asarray(classes)
    others = np.asarray(other_boxes, float).reshape(-1, 4)
    other_names, weight = np.asarray(other_classes), np.asarray(other_confidence, float)
    places = {np.asarray(other_images)[rows[0]]: rows for rows in _by_image(np.asarray(other_images))}
    agree, disagree = np.zeros(len(array)), np.zeros(len(array))
    for rows in _by_image(array):
        found = places.get(array[rows[0]])
        if found is None:
            continue
        weighted = _overlaps(corners[rows], others[found]) * weight[found]
        same = names[rows, None] == other_names[None, found]
        agree[rows] = np.where(same, weighted, 0.0).max(axis=1)
        disagree[rows] = np.where(same, 0.0, weighted).max(axis=1)
    return agree, disagree


def _by_image(images: NDArray[np.generic]) -> list[NDArray[np.int64]]:
    order = np.argsort(images, kind="stable")
    return np.split(order, np.flatnonzero(images[order][1:] != images[order][:-1]) + 1) if len(order) else []


def _overlaps(a: Floats, b: Floats) -> Floats:
    """Intersection over union of all pairs, (n, 4), (m, 4) -> (n, m)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum((a[:, :2] + a[:, 2:])[:, None], (b[:, :2] + b[:, 2:])[None])
    shared = np.clip(high - low, 0.0, None).prod(axis=2)
    union = a[:, 2:].prod(axis=1)[:, None] + b[:, 2:].prod(axis=1)[None] - shared
    return np.asarray(shared / np.maximum(union, 1e-12))
