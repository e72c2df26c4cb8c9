"""The 1,797 handwritten digits of scikit-learn, in two halves that share no image.

The detector learns from one half, the scenes of the demo are written with the other. The halves depend on
neither's seed: no choice of seeds can show the detector a digit that it has learned.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CLASSES = tuple("0123456789")
SPLIT_SEED = 1797


@dataclass(frozen=True)
class Handwriting:
    """One half of the digits.

    Attributes:
        images: ``(N, 8, 8)`` float32, ink in [0, 1].
        labels: ``(N,)`` int, the digit.
        indices: ``(N,)`` int, place of each image in scikit-learn's set.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]


@functools.cache
def split_handwriting() -> tuple[Handwriting, Handwriting]:
    """The training half and the evaluation half, each with half of the images of every digit."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images / 16.0).astype(np.float32)
    labels = bunch.target.astype(np.int64)
    rng = np.random.default_rng(SPLIT_SEED)
    order = rng.permutation(len(labels))
    rank = np.empty(len(labels), np.int64)
    for digit in range(10):
        of_digit = order[labels[order] == digit]
        rank[of_digit] = np.arange(len(of_digit))
    return _half(images, labels, rank % 2 == 0), _half(images, labels, rank % 2 == 1)


def _half(images: NDArray[np.float32], labels: NDArray[np.int64], chosen: NDArray[np.bool_]) -> Handwriting:
    return Handwriting(images[chosen], labels[chosen], np.flatnonzero(chosen))
