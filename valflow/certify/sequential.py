"""An audit that may stop after any verdict: a test by betting, for draws without replacement.

Looking at an ordinary test after every verdict certifies falsely sooner or later. The capital of a gambler
who bets that labels are right cannot grow tenfold with a probability above 1/10 if too many are wrong (Ville's
inequality), however often one looks (Waudby-Smith and Ramdas, NeurIPS 2020, for sampling without replacement).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from valflow.certify.certificate import Promise, check_risk

STAKES = (0.1, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Stop:
    """Where a sequential audit ended.

    Attributes:
        judged: verdicts that were used, 0 or more.
        wrong: of these wrong.
        certified: the labels that are left may skip the review.
        capital: at that moment, above 0; ``1 / risk`` certifies.
    """

    judged: int
    wrong: int
    certified: bool
    capital: float


def capital(wrong: ArrayLike, total: int, promise: Promise) -> NDArray[np.float64]:
    """Capital after every verdict against the nearest broken promise about the labels that are left.

    After n verdicts with k wrong labels the promise is broken if K >= ``k + floor(eps * (N - n)) + 1`` of the N
    labels are wrong. With that K the i-th label was wrong with probability
    ``m_i = (K - k_{i-1}) / (N - i + 1)``, and ``mean_j prod_i (1 - l_j * (bad_i - m_i))`` is a martingale; a
    larger K gives more.

    Args:
        wrong: (n,) bool, verdicts in the random order of the draw.
        total: N, labels in the batch, n or more.
        promise: to be proven.

    Returns:
        (n,) values of 0 or more, infinite where the promise can no longer be broken.

    Raises:
        ValueError: there are more verdicts than labels.
    """
    bad = np.asarray(wrong, float)
    n = len(bad)
    if n > total:
        raise ValueError(f"expected at most {total} verdicts, found {n}")
    seen = np.concatenate([[0.0], np.cumsum(bad)])
    stakes = np.array(STAKES) / (1.0 - promise.tested_error)
    left = total - np.arange(n)  # before each verdict
    result = np.empty(n)
    for i in range(1, n + 1):
        broken = seen[i] + np.floor(promise.tested_error * (total - i) + 1e-9) + 1
        if broken - seen[i] > total - i:
            result[i - 1] = np.inf
            continue
        chance = (broken - seen[:i]) / left[:i]
        # A stake may not lose more than everything.
        most = 1.0 / np.maximum(1.0 - chance, 1e-12)
        stake = np.minimum(stakes[:, None], most)
        with np.errstate(divide="ignore"):
            logs = np.log1p(-np.clip(stake * (bad[:i] - chance), None, 1.0)).sum(axis=1)
        result[i - 1] = np.exp(logs).mean()
    return result


def audit_sequentially(wrong: ArrayLike, total: int, promise: Promise, risk: float | None = None) -> Stop:
    """Stop at the first verdict that certifies what is left of one region, fixed beforehand.

    Args:
        wrong: (n,) bool, verdicts in the random order of the draw, as far as they go.
        total: N, labels in the region.
        promise: to be proven.
        risk: by default the promise's.
    """
    level = check_risk(promise.risk if risk is None else risk)
    bad = np.asarray(wrong, bool)
    path = capital(bad, total, promise)
    passed = np.flatnonzero(path >= 1.0 / level)
    end = int(passed[0]) + 1 if len(passed) else len(bad)
    reached = float(path[end - 1]) if end else 1.0
    return Stop(end, int(bad[:end].sum()), bool(len(passed)), reached)
