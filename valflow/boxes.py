"""Overlap of boxes, vectorised: intersection over union within and across images.

A box is ``[x, y, width, height]``. Overlap is a ratio, so any unit will do that is the same for all boxes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Pairs compared at once: about 60 MB of temporary arrays, however many labels one image holds.
PAIRS_AT_ONCE = 500_000


def iou_matrix(a: ArrayLike, b: ArrayLike) -> Floats:
    """Intersection over union of every box of one set with every box of another.

    Args:
        a: (N, 4) boxes ``x, y, width, height``.
        b: (M, 4) boxes in the same unit.

    Returns:
        (N, M) ratios in [0, 1]; 0 where a box has no area.

    Raises:
        ValueError: an array is not of shape (…, 4).
    """
    first, second = _corners(a), _corners(b)
    return _iou(tuple(c[:, None] for c in first), tuple(c[None, :] for c in second))


def max_same_class_iou(groups: ArrayLike, classes: ArrayLike, boxes: ArrayLike) -> Floats:
    """Largest overlap of every label with another label of its class in its image.

    Args:
        groups: (N,) integers, equal for labels of one image.
        classes: (N,) integers, equal for labels of one class.
        boxes: (N, 4) boxes ``x, y, width, height``.

    Returns:
        (N,) ratios in [0, 1]; 0 where a label has no such neighbour.

    Raises:
        ValueError: the arrays disagree in length or shape.
    """
    largest = np.zeros(len(np.asarray(groups)))
    for first, second, overlap in _neighbours(groups, classes, boxes):
        np.maximum.at(largest, first, overlap)
        np.maximum.at(largest, second, overlap)
    return largest


def max_iou_with_stronger(
    groups: ArrayLike, classes: ArrayLike, boxes: ArrayLike, scores: ArrayLike
) -> Floats:
    """Largest overlap of every label with a *stronger* label of its class in its image.

    Of two labels on one object only the weaker gets the overlap, so that dropping it leaves the better one.
    A label without a score (NaN) is stronger than any with one, because people draw labels without scores;
    among equals the earlier one is stronger.

    Args:
        groups: (N,) integers, equal for labels of one image.
        classes: (N,) integers, equal for labels of one class.
        boxes: (N, 4) boxes ``x, y, width, height``.
        scores: (N,) confidences, NaN where there is none.

    Returns:
        (N,) ratios in [0, 1]; 0 where no stronger label touches it.

    Raises:
        ValueError: the arrays disagree in length or shape.
    """
    strength = np.asarray(scores, dtype=np.float64)
    largest = np.zeros(len(np.asarray(groups)))
    if strength.shape != largest.shape:
        raise ValueError(f"expected {len(largest)} scores, one per label, found shape {strength.shape}")
    strongest_first = np.argsort(-np.where(np.isnan(strength), np.inf, strength), kind="stable")
    rank = np.empty(len(strength), dtype=np.int64)
    rank[strongest_first] = np.arange(len(strength))
    for first, second, overlap in _neighbours(groups, classes, boxes):
        np.maximum.at(largest, np.where(rank[first] > rank[second], first, second), overlap)
    return largest


def _neighbours(
    groups: ArrayLike, classes: ArrayLike, boxes: ArrayLike
) -> Iterator[tuple[Ints, Ints, Floats]]:
    """Pairs of labels of one image and class whose boxes may touch, and their overlap, a block at a time."""
    image, label, box = np.asarray(groups), np.asarray(classes), np.asarray(boxes, dtype=np.float64)
    if image.ndim != 1 or label.shape != image.shape or box.shape != (len(image), 4):
        raise ValueError(
            "expected (N,) groups, (N,) classes and (N, 4) boxes, "
            f"found {image.shape}, {label.shape} and {box.shape}"
        )
    # A box of missing or absurd numbers overlaps nothing; the box check names it.
    keep = np.flatnonzero((np.abs(box) < 1e12).all(axis=1))
    order = keep[np.lexsort((box[keep, 0], label[keep], image[keep]))]
    if len(order) < 2:
        return
    corners = _corners(box[order])
    partners = _partners(image[order], label[order], corners[0], corners[2])
    # Cut between labels, never within one, so that a block is at most one label's partners too long.
    ends = np.cumsum(partners)
    cuts = np.searchsorted(ends, np.arange(PAIRS_AT_ONCE, ends[-1] + PAIRS_AT_ONCE, PAIRS_AT_ONCE)) + 1
    start = 0
    for stop in np.minimum(cuts, len(order)):
        counts = partners[start:stop]
        first = np.repeat(np.arange(start, stop), counts)
        within = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
        second = first + 1 + within
        if len(first):
            overlap = _iou(tuple(c[first] for c in corners), tuple(c[second] for c in corners))
            yield order[first], order[second], overlap
        start = int(stop)


def _partners(image: NDArray[Any], label: NDArray[Any], left: Floats, right: Floats) -> Ints:
    """How many labels after this one, sorted by image, class and left edge, begin left of its right edge."""
    new = np.r_[True, (image[1:] != image[:-1]) | (label[1:] != label[:-1])]
    segment = np.cumsum(new) - 1
    # One number orders by segment first and edge second: edges are squeezed into half a unit. The margin may
    # count a pair too much, never one too few.
    low = float(left.min())
    scale = 0.5 / max(float(right.max()) - low, 1e-12)
    begins = segment + (left - low) * scale
    reaches = segment + (right - low) * scale + 1e-6
    return np.searchsorted(begins, reaches, side="right") - np.arange(len(left)) - 1


def _corners(boxes: ArrayLike) -> tuple[Floats, Floats, Floats, Floats]:
    box = np.asarray(boxes, dtype=np.float64)
    if box.ndim != 2 or box.shape[1] != 4:
        raise ValueError(f"expected boxes of shape (N, 4), found {box.shape}")
    x, y, width, height = box.T
    return x, y, x + np.maximum(width, 0.0), y + np.maximum(height, 0.0)


def _iou(a: tuple[Floats, ...], b: tuple[Floats, ...]) -> Floats:
    width = np.minimum(a[2], b[2]) - np.maximum(a[0], b[0])
    height = np.minimum(a[3], b[3]) - np.maximum(a[1], b[1])
    shared = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
