"""Where to draw the audit and where to begin the walk: chosen for the largest expected share without a look.

The choice rests on the scores, on how many verdicts stand behind them, and on simulated audits. It is made
before the first verdict, so that a bad choice costs approvals, never the promise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from valflow.certify.certificate import Promise, allowed_wrong
from valflow.certify.regions import Regions
from valflow.certify.walk import Start

_WORLDS = 256
_BINS = 48
_DRAWS = 7  # regions that are tried as the one to draw from
_SIZES = (1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0, 16.0, 22.0, 32.0)


@dataclass(frozen=True)
class Design:
    """What is fixed before the draw.

    Attributes:
        drawn_from: index of the region from which the audit is drawn; what lies below is reviewed anyway.
        audit: n, labels to draw, 1 or more.
        starts: of the walk.
        expected: expected number of labels approved without a look, 0 or more.
    """

    drawn_from: int
    audit: int
    starts: tuple[Start, ...]
    expected: float


def choose_design(
    regions: Regions,
    promise: Promise,
    *,
    audit: int | None = None,
    history: int = 0,
    risk: float | None = None,
) -> Design | None:
    """The design with the largest expected number of labels approved without a look.

    What the scores predict is taken as a centre, not as the truth: 256 worlds differ from it by a shift of the
    log odds with variance ``0.15^2 + 1 / (1 + 0.6 * history * max_error)`` and by a slope; the more verdicts,
    the closer. In each an audit is simulated.

    Args:
        regions: of the group.
        promise: what is to be proven.
        audit: labels to draw; None chooses the number, too, since a look in the audit is worth it only if it
            saves more looks in the queue.
        history: verdicts of random audits on which the qualities rest, 0 at a cold start.
        risk: of the group, by default the promise's.

    Returns:
        The design, or None where no audit is expected to save a look: review the whole group.

    Raises:
        ValueError: ``audit`` is below 1.
    """
    if audit is not None and audit < 1:
        raise ValueError(f"expected an audit of 1 label or more, found {audit}")
    if not len(regions.sizes):
        return None
    risk = promise.risk if risk is None else risk
    shares = _wrong_in_bands(regions, promise, history)
    rng = np.random.default_rng(0)  # a design is repeatable
    best: Design | None = None
    for size in _audit_sizes(promise, risk, int(regions.sizes[-1])) if audit is None else (audit,):
        found = _best_start(regions.sizes, shares, size, promise, risk, rng)
        if found is not None and (best is None or found.expected > best.expected):
            best = found
    return best


def _audit_sizes(promise: Promise, risk: float, total: int) -> Sequence[int]:
    smallest = np.log(risk) / np.log1p(-promise.tested_error)
    return [n for n in np.ceil(smallest * np.array(_SIZES)).astype(int).tolist() if n < total] or [total]


def _wrong_in_bands(regions: Regions, promise: Promise, history: int) -> NDArray[np.float64]:
    """(W, L) wrong labels in each region but not in the one before, in each world."""
    spread = 0.15**2 + 1.0 / (1.0 + 0.6 * history * promise.tested_error)
    tilt = 0.01 + 0.36 / (1.0 + history / 25.0)
    rng = np.random.default_rng(1)
    shift = rng.standard_normal(_WORLDS) * spread**0.5
    slope = np.exp(rng.standard_normal(_WORLDS) * tilt**0.5)
    # A region's labels are summed up by a few, evenly spread over it.
    last = np.concatenate([[0], regions.sizes])
    per_band = max(4, _BINS // len(regions.sizes))
    within = (np.arange(per_band) + 0.5) / per_band
    places = (last[:-1, None] + within * np.diff(last)[:, None]).astype(np.int64)
    error = np.clip(regions.error[places], 1e-4, 1 - 1e-4)  # (L, B)
    log_odds = np.log(error) - np.log1p(-error)
    # The slope turns about the middle of what matters, so that it does not shift everything.
    pivot = np.log(promise.tested_error) - np.log1p(-promise.tested_error)
    moved = pivot + slope[:, None, None] * (log_odds - pivot) + shift[:, None, None]
    result: NDArray[np.float64] = (1.0 / (1.0 + np.exp(-moved))).mean(axis=2) * np.diff(last)
    return result


def _best_start(
    sizes: NDArray[np.int64],
    wrong: NDArray[np.float64],
    audit: int,
    promise: Promise,
    risk: float,
    rng: np.random.Generator,
) -> Design | None:
    """Simulate one audit per world for each region to draw from, and all single starts on it."""
    count = len(sizes)
    tried = np.unique(np.linspace(0, count - 1, min(_DRAWS, count)).round().astype(int))
    audits = np.minimum(audit, sizes[tried])
    rate = audits / sizes[tried]  # (D,)
    seen = np.minimum(np.floor(rate[:, None] * sizes), sizes).astype(np.int64)  # (D, L)
    allowed = allowed_wrong(sizes[None], seen, promise, risk, exact=False)
    best: Design | None = None
    for row, last in enumerate(tried.tolist()):
        passed = rng.poisson(wrong[:, : last + 1] * rate[row]).cumsum(axis=1) <= allowed[row, : last + 1]
        unseen = (sizes - seen[row])[: last + 1].astype(float)
        gain = np.zeros(len(wrong))  # of a chain that begins at the region, from the widest inward
        expected = np.zeros(last + 1)
        for start in range(last, -1, -1):
            gain = np.where(passed[:, start], np.maximum(gain, unseen[start]), 0.0)
            expected[start] = gain.mean()
        start = int(expected.argmax())
        if expected[start] > (best.expected if best else 0.0):
            best = Design(last, int(audits[row]), (Start(start, 1.0),), float(expected[start]))
    return best
