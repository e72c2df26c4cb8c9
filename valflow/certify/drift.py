"""Alarms that the verdicts of the past no longer describe the labels of today.

An alarm drops the history from the scores and marks the run. The certificate needs none: it rests on the
audit of the run itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

# Below this a test of the scores says nothing.
LEAST_SCORES = 20


@dataclass(frozen=True)
class Drift:
    """One comparison with the past.

    Attributes:
        name: of the class, or ``audit`` for the errors.
        statistic: largest distance of the two distributions in [0, 1], or the observed share of wrong labels.
        p_value: in [0, 1], corrected for the number of classes (Holm).
        suspected: ``p_value`` is below the level.
    """

    name: str
    statistic: float
    p_value: float
    suspected: bool


def compare_scores(
    scores: Mapping[str, ArrayLike], stored: Mapping[str, ArrayLike], level: float = 0.01
) -> tuple[Drift, ...]:
    """Two-sample Kolmogorov-Smirnov test of the scores of every class against those of earlier runs.

    Args:
        scores: (n,) per class, of this run.
        stored: (m,) per class, of earlier runs; classes with fewer than 20 scores on a side are left out.
        level: chance of any false alarm, in (0, 1), kept over all classes by Holm's correction.

    Returns:
        One comparison per class, the most suspicious first.
    """
    from scipy.stats import ks_2samp

    _check_level(level)
    found: list[tuple[float, float, str]] = []
    for name in sorted(scores.keys() & stored.keys()):
        now, then = (np.asarray(v, float) for v in (scores[name], stored[name]))
        now, then = now[~np.isnan(now)], then[~np.isnan(then)]
        if min(len(now), len(then)) >= LEAST_SCORES:
            test = ks_2samp(now, then, method="auto" if max(len(now), len(then)) <= 10_000 else "asymp")
            found.append((float(test.pvalue), float(test.statistic), name))
    corrected = 0.0
    result = []
    for rank, (p, statistic, name) in enumerate(sorted(found)):
        corrected = max(corrected, min(1.0, p * (len(found) - rank)))
        result.append(Drift(name, statistic, corrected, corrected < level))
    return tuple(result)


def compare_errors(wrong: int, audited: int, predicted_error: float, level: float = 0.05) -> Drift:
    """Were more audited labels wrong than the scores predicted? The exact binomial test.

    Args:
        wrong: labels judged wrong, 0 to ``audited``.
        audited: labels drawn at random and judged, 0 or more.
        predicted_error: mean predicted chance of being wrong of the audited labels, in [0, 1].
        level: below which drift is suspected, in (0, 1).

    Raises:
        ValueError: a number is out of its range.
    """
    from scipy.stats import binomtest

    _check_level(level)
    if not 0 <= wrong <= audited:
        raise ValueError(f"expected 0 to {audited} wrong labels, found {wrong}")
    if not 0 <= predicted_error <= 1:
        raise ValueError(f"expected a predicted error from 0 to 1, found {predicted_error!r}")
    if not audited:
        return Drift("audit", float("nan"), 1.0, False)
    p = float(binomtest(wrong, audited, predicted_error, alternative="greater").pvalue)
    return Drift("audit", wrong / audited, p, p < level)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, both excluded, found {level!r}")
