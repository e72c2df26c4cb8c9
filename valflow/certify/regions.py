"""Nested sets of the best labels, from the scores alone: what an audit may certify.

Every region is a prefix of the labels in order of falling quality and ends where a group of equal qualities
ends, so that it can be told from outside which labels belong to it. Verdicts play no part here: regions that
moved with the verdicts would make the certificate worthless.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Predicted error of the regions, as multiples of the allowed one.
LEVELS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# Shares of the labels, where no verdicts of the past say what a score is worth.
FRACTIONS = tuple(i / 20 for i in range(2, 21))


@dataclass(frozen=True)
class Regions:
    """Nested regions of one group of labels.

    Attributes:
        order: (E,) positions of the labels that have a quality, best first; equal ones in order of position.
        error: (E,) predicted chance of being wrong of each, in that order, rising, in [0, 1].
        sizes: (L,) labels in each region, strictly rising, 1 to E; empty where nothing is good enough.
    """

    order: NDArray[np.int64]
    error: NDArray[np.float64]
    sizes: NDArray[np.int64]

    @property
    def predicted(self) -> NDArray[np.float64]:
        """(L,) predicted share of wrong labels in each region, in [0, 1]."""
        return np.cumsum(self.error)[self.sizes - 1] / self.sizes

    def members(self, region: int) -> NDArray[np.int64]:
        """Positions of the labels in a region, best first."""
        return self.order[: self.sizes[region]]


def check_quality(quality: ArrayLike, name: str = "quality") -> NDArray[np.float64]:
    """Qualities as floats; None becomes NaN, which is never approved without a look.

    Raises:
        ValueError: a value is below 0, above 1 or no number.
    """
    try:
        array = np.asarray(quality, float)
    except (TypeError, ValueError):
        raise ValueError(f"expected numbers from 0 to 1 for {name}, found {quality!r:.80}") from None
    if array.ndim != 1:
        raise ValueError(f"expected one {name} per label, (N,), found the shape {array.shape}")
    outside = np.flatnonzero(~np.isnan(array) & ~((array >= 0) & (array <= 1)))
    if len(outside):
        raise ValueError(
            f"expected {name} from 0 to 1, found {array[outside[0]]:g} at label {outside[0]} "
            f"({len(outside)} such labels); pass logits through a sigmoid or softmax first"
        )
    return array


def nest(
    quality: ArrayLike,
    max_error: float,
    levels: Sequence[float] = LEVELS,
    fractions: Sequence[float] = (),
) -> Regions:
    """Order the labels and cut the regions.

    Region ``l`` is the largest whole-tie prefix whose predicted error, the mean of ``1 - quality``, is at most
    ``l * max_error``. The prefixes of ``fractions`` of the labels come in addition, whatever is predicted.

    Args:
        quality: (N,) chance of being correct in [0, 1]; labels with NaN or None are in no region.
        max_error: allowed share of wrong labels, in (0, 1).
        levels: predicted error of the regions as multiples of ``max_error``.
        fractions: sizes of further regions, as shares of the labels with a quality, in (0, 1].

    Raises:
        ValueError: a quality is out of its range.
    """
    values = check_quality(quality)
    eligible = np.flatnonzero(~np.isnan(values))
    order = eligible[np.argsort(-values[eligible], kind="stable")]
    error = 1.0 - values[order]
    if not len(order):
        return Regions(order, error, np.zeros(0, np.int64))
    ends = np.flatnonzero(np.diff(values[order], append=np.nan) != 0) + 1
    predicted = np.cumsum(error)[ends - 1] / ends
    # Rounding of the sums must not cost the labels that meet a level exactly.
    cuts = np.searchsorted(predicted, np.asarray(levels) * max_error * (1 + 1e-9), side="right")
    wanted = np.ceil(np.asarray(fractions, float) * len(order) - 1e-9)
    places = np.minimum(np.searchsorted(ends, wanted), len(ends) - 1)
    sizes = np.concatenate([ends[cuts[cuts > 0] - 1], ends[places]])
    return Regions(order, error, np.unique(sizes).astype(np.int64))
