"""The certificate: a random draw from a finite batch bounds the wrong labels among those nobody looked at.

Of N candidate labels n are drawn uniformly at random without replacement and judged; the k wrong ones are
rejected. If more than ``max_error`` of the other N - n were wrong, then at least
``K0 = k + floor(max_error * (N - n)) + 1`` of the N were, and so few in the draw had a probability of at most
``P(X <= k)`` with X hypergeometric (N, K0, n). Nothing is assumed about the model, the scores, the images or
how errors cluster: the only chance is that of the draw.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Counts = NDArray[np.int64]
Shares = NDArray[np.float64]

# Terms of a sum that are evaluated at a time: bounds the memory at some tens of MB.
_BLOCK = 1_000_000
# 0.1 and 1 - 0.9 mean the same; a p-value that equals the allowed risk passes.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Promise:
    """What is promised about the labels that nobody looked at.

    Attributes:
        max_error: allowed share of wrong labels among them, between 0 and 1, both excluded.
        confidence: probability with which the promise holds, between 0 and 1, both excluded.
        miss_rate: share of the wrong labels that the reviewer overlooks, in [0, 1); tests then use
            ``max_error * (1 - miss_rate)``.
    """

    max_error: float = 0.05
    confidence: float = 0.90
    miss_rate: float = 0.0

    def __post_init__(self) -> None:
        for name in ("max_error", "confidence"):
            if not _is_number(getattr(self, name)) or not 0.0 < getattr(self, name) < 1.0:
                raise ValueError(
                    f"expected {name} between 0 and 1, both excluded, found {getattr(self, name)!r}; "
                    + ("'no wrong label at all' needs a look at every label, " if name == "max_error" else "")
                    + "0.05 and 0.9 are usual for max_error and confidence"
                )
        if not _is_number(self.miss_rate) or not 0.0 <= self.miss_rate < 1.0:
            raise ValueError(f"expected miss_rate from 0 to below 1, found {self.miss_rate!r}")

    @property
    def risk(self) -> float:
        """Allowed probability that the promise fails, in (0, 1)."""
        return 1.0 - self.confidence

    @property
    def tested_error(self) -> float:
        """Share of labels *judged* wrong that the tests use, in (0, 1)."""
        return self.max_error * (1.0 - self.miss_rate)


@dataclass(frozen=True)
class Certificate:
    """What a complete draw proves about the rest of its batch.

    Attributes:
        total: N, labels in the batch, 1 or more.
        audited: n, drawn at random and judged, 0 to N.
        wrong: k, judged wrong, 0 to n.
        promise: what was tested.
        risk: allowed probability of a false certificate in this test, in (0, 1).
        p_value: largest probability of so few wrong labels if the promise were broken, in [0, 1].
        holds: the rest may skip the review: ``p_value <= risk``.
        estimate: k / n, NaN where nothing was judged.
        most_wrong: upper bound on the wrong labels among the N - n others, at confidence ``1 - risk``.
    """

    total: int
    audited: int
    wrong: int
    promise: Promise
    risk: float
    p_value: float
    holds: bool
    estimate: float
    most_wrong: int

    @property
    def rest(self) -> int:
        """Labels that nobody looked at."""
        return self.total - self.audited

    @property
    def bound(self) -> float:
        """Upper bound on the share of wrong labels among those nobody looked at, in [0, 1]."""
        return self.most_wrong / self.rest if self.rest else 0.0


def p_values(total: ArrayLike, audited: ArrayLike, wrong: ArrayLike, promise: Promise) -> Shares:
    """How likely so few wrong labels are at most, if the promise about the rest were broken.

    ``hypergeom.cdf(k, N, K0, n)`` with ``K0 = k + floor(eps * (N - n)) + 1``; 0 where K0 > N, because the
    promise then cannot be broken.

    Args:
        total: N, labels in each batch, broadcast with the others.
        audited: n, drawn uniformly without replacement from each.
        wrong: k, of these judged wrong (or not judged).
        promise: what is tested.

    Returns:
        p-values in [0, 1].

    Raises:
        ValueError: not ``0 <= wrong <= audited <= total``.
    """
    n_total, n_audited, n_wrong = _counts(total, audited, wrong)
    most = n_wrong + _allowed_in_rest(n_total, n_audited, promise) + 1
    result = np.zeros(n_total.shape)
    open_ = most <= n_total
    result[open_] = hypergeometric_cdf(n_wrong[open_], n_total[open_], most[open_], n_audited[open_])
    return result


def certify_rest(
    total: int, audited: int, wrong: int, promise: Promise, risk: float | None = None
) -> Certificate:
    """The certificate of one batch.

    Args:
        total: N, labels in the batch.
        audited: n, drawn uniformly without replacement.
        wrong: k, of these judged wrong; what was drawn and not judged counts as wrong.
        promise: what is to be proven.
        risk: of this test, where the promise's own is shared among several; in (0, 1).

    Raises:
        ValueError: the counts contradict each other, the batch is empty, or the risk is out of its range.
    """
    total, audited, wrong = (
        _count(name, v) for name, v in (("total", total), ("audited", audited), ("wrong", wrong))
    )
    if total < 1:
        raise ValueError(
            "expected a batch of 1 label or more, found an empty one; there is nothing to certify"
        )
    risk = check_risk(promise.risk if risk is None else risk)
    p = float(p_values(total, audited, wrong, promise))
    return Certificate(
        total=total,
        audited=audited,
        wrong=wrong,
        promise=promise,
        risk=risk,
        p_value=p,
        holds=p <= risk * (1 + _ROUNDING),
        estimate=wrong / audited if audited else float("nan"),
        most_wrong=_true_count(most_wrong_in_rest(total, audited, wrong, risk), total - audited, promise),
    )


def most_wrong_in_rest(total: int, audited: int, wrong: int, risk: float) -> int:
    """Upper bound on the labels that a reviewer would call wrong among the N - n that nobody looked at.

    The largest K - k for which ``hypergeom.cdf(k, N, K, n) > risk``: the exact one-sided bound (Wright, Exact
    confidence bounds when sampling from small finite universes, 1991), found by dividing the range.

    Returns:
        A number of labels, 0 to ``total - audited``.
    """
    low, high = wrong, total - audited + wrong  # the truth may be `low`; is `high` still credible?
    while low < high:
        # Many candidates at a time: one call for 32 costs little more than one for one.
        tried = np.unique(np.linspace(low + 1, high, 32).astype(np.int64))
        p = hypergeometric_cdf(wrong, total, tried, audited)
        credible = int((p > risk * (1 + _ROUNDING)).sum())  # p falls with the number of wrong labels
        high = int(tried[credible]) - 1 if credible < len(tried) else high
        low = int(tried[credible - 1]) if credible else low
    return low - wrong


def allowed_wrong(
    total: ArrayLike,
    audited: ArrayLike,
    promise: Promise,
    risk: ArrayLike | None = None,
    exact: bool = True,
) -> Counts:
    """Most wrong labels in a draw with which the rest is still certified; -1 where none at all suffices not.

    The p-value rises with k, so a bisection finds it; with the approximation first, then exactly where the
    two differ by a label or more.

    Args:
        total: N, labels in each batch, broadcast with the others.
        audited: n, drawn from each.
        promise: what is tested.
        risk: of each test, in (0, 1); by default the promise's.
        exact: False stops at the approximation (Wise, Biometrika 41, 1954), off by a label now and then and
            much faster: for planning, not for certifying.

    Raises:
        ValueError: more drawn than there are, or a risk out of its range.
    """
    from scipy.special import bdtr

    levels = np.asarray(promise.risk if risk is None else risk, float)
    if np.any(~((levels > 0) & (levels < 1))):
        raise ValueError(f"expected risks between 0 and 1, both excluded, found {np.min(levels)!r}")
    n_total, n_audited, levels = np.broadcast_arrays(*_counts(total, audited, 0)[:2], levels)
    least = _allowed_in_rest(n_total, n_audited, promise) + 1

    def nearly_passes(k: Counts) -> NDArray[np.bool_]:
        # X is as likely with the roles of the drawn and the wrong exchanged; the fewer, the better it fits.
        few, many = np.minimum(k + least, n_audited), np.maximum(k + least, n_audited)
        share = (many - k / 2) / (n_total - (few - 1) / 2)
        p = np.where(least + k > n_total, 0.0, bdtr(np.maximum(k, 0), few, np.clip(share, 0, 1)))
        return np.asarray(p <= levels * (1 + _ROUNDING))

    found = _last_passing(nearly_passes, np.full(n_total.shape, -1, np.int64), n_audited)
    if not exact:
        return found

    def passes(k: Counts) -> NDArray[np.bool_]:
        return p_values(n_total, n_audited, np.maximum(k, 0), promise) <= levels * (1 + _ROUNDING)

    # Widen until both ends are on their side of the edge; nearly always once.
    width = 1
    while True:
        low, high = np.maximum(found - width, -1), np.minimum(found + width, n_audited)
        wrong_low = (low >= 0) & ~passes(low)
        wrong_high = (high < n_audited) & passes(high)
        if not np.any(wrong_low | wrong_high):
            return _last_passing(passes, low, high)
        width *= 4


def _last_passing(passes: Callable[[Counts], NDArray[np.bool_]], low: Counts, high: Counts) -> Counts:
    """Bisection: ``low`` is known to pass, or is -1; nothing above ``high`` does."""
    while np.any(low < high):
        middle = (low + high + 1) // 2
        passed = passes(middle)
        low, high = np.where(passed, middle, low), np.where(passed, high, middle - 1)
    return low


def hypergeometric_cdf(
    wrong: ArrayLike, total: ArrayLike, wrong_in_total: ArrayLike, drawn: ArrayLike
) -> Shares:
    """P(X <= k) for X wrong labels among n drawn without replacement from N that hold K wrong ones.

    The sum of k + 1 terms, each from log-gamma functions; equal to ``scipy.stats.hypergeom.cdf`` to about
    nine digits, and many times faster on arrays.

    Args:
        wrong: k, broadcast with the others.
        total: N.
        wrong_in_total: K, 0 to N.
        drawn: n, 0 to N.
    """
    from scipy.special import gammaln

    k, n_all, n_wrong, n = (
        np.asarray(v, np.int64).ravel() for v in np.broadcast_arrays(wrong, total, wrong_in_total, drawn)
    )
    shape = np.broadcast_shapes(*(np.shape(v) for v in (wrong, total, wrong_in_total, drawn)))
    result = np.empty(len(k))
    order = np.argsort(k, kind="stable")  # neighbours sum about as many terms
    start = 0
    while start < len(order):
        rows = order[start : start + max(1, _BLOCK // (int(k[order[start]]) + 64))]
        rows = rows[k[rows] <= 2 * k[rows[0]] + 64]
        terms = np.arange(int(k[rows[-1]]) + 1)[None]
        a, b, c = n_wrong[rows, None], (n_all - n_wrong)[rows, None], n[rows, None]
        possible = (terms <= k[rows, None]) & (terms <= a) & (terms <= c) & (c - terms <= b)
        j = np.where(possible, terms, np.maximum(0, c - b))
        log_p = gammaln(a + 1) - gammaln(j + 1) - gammaln(a - j + 1)
        log_p += gammaln(b + 1) - gammaln(c - j + 1) - gammaln(b - c + j + 1)
        whole = (n_all[rows, None], c)
        log_p -= gammaln(whole[0] + 1) - gammaln(whole[1] + 1) - gammaln(whole[0] - whole[1] + 1)
        result[rows] = np.where(possible, np.exp(log_p), 0.0).sum(axis=1)
        start += len(rows)
    return np.minimum(result, 1.0).reshape(shape)


def check_risk(risk: float) -> float:
    """The same number, if it is a probability between 0 and 1, both excluded.

    Raises:
        ValueError: it is not.
    """
    if not _is_number(risk) or not 0.0 < risk < 1.0:
        raise ValueError(f"expected a risk between 0 and 1, both excluded, found {risk!r}")
    return float(risk)


def _allowed_in_rest(total: Counts, audited: Counts, promise: Promise) -> Counts:
    return np.floor(promise.tested_error * (total - audited) + 1e-9).astype(np.int64)


def _true_count(seen: int, rest: int, promise: Promise) -> int:
    """A reviewer who overlooks some wrong labels would have found ``seen`` of them in the rest."""
    return min(rest, int(np.floor(seen / (1.0 - promise.miss_rate) + 1e-9)))


def _counts(total: ArrayLike, audited: ArrayLike, wrong: ArrayLike) -> tuple[Counts, Counts, Counts]:
    arrays = []
    for name, value in (("total", total), ("audited", audited), ("wrong", wrong)):
        array = np.asarray(value)
        if array.dtype.kind not in "iu":
            raise ValueError(f"expected whole numbers for {name}, found {array.dtype} {value!r}")
        arrays.append(array.astype(np.int64))
    n_total, n_audited, n_wrong = np.broadcast_arrays(*arrays)
    if np.any(n_audited > n_total):
        raise ValueError(
            f"expected an audit of at most the {int(n_total.max(initial=0))} labels there are, found "
            f"{int(n_audited.max(initial=0))}; draw fewer, or review all of them"
        )
    if np.any((n_wrong < 0) | (n_wrong > n_audited)):
        raise ValueError(f"expected 0 to {int(n_audited.max(initial=0))} wrong labels, found {wrong!r}")
    return n_total, n_audited, n_wrong


def _count(name: str, value: int) -> int:
    try:
        count = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = -1
    if count < 0:
        raise ValueError(f"expected a whole number of labels, 0 or more, for {name}; found {value!r}")
    return count


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
