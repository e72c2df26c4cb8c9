"""Before a run: how many labels will a person have to judge?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from valflow.certify.bounds import upper_bound
from valflow.certify.certificate import Promise, allowed_wrong

# Sizes that are tried are this close to each other above 1,000 labels.
_STEP = 1.005


@dataclass(frozen=True)
class Forecast:
    """What certifying a region will take.

    Attributes:
        total: labels in the batch.
        region: labels that the scores propose, 0 to ``total``.
        expected_error: true share of wrong labels among these, in [0, 1).
        audit: labels to judge in the audit; None where reviewing the region is no more work.
        allowed: wrong labels that the audit may contain.
        power: probability that the audit certifies, in [0, 1].
        looks: expected number of labels judged in the audit and in the queue, 0 to ``total``.
    """

    total: int
    region: int
    expected_error: float
    audit: int | None
    allowed: int
    power: float
    looks: float


def sample_for_errors(errors: int, promise: Promise) -> int:
    """Fewest labels with which a large batch is certified despite some wrong ones: ``binom.cdf(c, n, eps) <= delta``.

    Args:
        errors: c, wrong labels in the draw, 0 or more.
        promise: to be proven.

    Returns:
        n, found by bisection.
    """
    from scipy.special import bdtr

    if errors < 0:
        raise ValueError(f"expected 0 or more wrong labels, found {errors}")
    low, high = errors + 1, errors + 1
    while bdtr(errors, high, promise.tested_error) > promise.risk * (1 + 1e-9):
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        passes = bdtr(errors, middle, promise.tested_error) <= promise.risk * (1 + 1e-9)
        low, high = (low, middle) if passes else (middle + 1, high)
    return low


def audit_size(
    region: int, expected_error: float, promise: Promise, power: float = 0.8
) -> tuple[int, int, float] | None:
    """Fewest labels to draw from a region so that it is certified with a given probability.

    Args:
        region: labels in it, 1 or more.
        expected_error: true share of wrong labels, in [0, 1).
        promise: to be proven.
        power: wanted probability of a certificate, in (0, 1).

    Returns:
        Labels to draw, wrong ones that are allowed among them, and the power reached; None where only a
        review of the whole region would do.
    """
    from valflow.certify.certificate import hypergeometric_cdf

    if region < 1 or not 0 <= expected_error < 1 or not 0 < power < 1:
        raise ValueError(
            "expected a region of 1 label or more, an error in [0, 1) and a power in (0, 1), found "
            f"{region}, {expected_error}, {power}"
        )
    sizes = _sizes(region)
    wrong = round(expected_error * region)
    for part in np.array_split(sizes, max(1, len(sizes) // 400)):
        allowed = allowed_wrong(region, part, promise, exact=False)
        reached = np.where(allowed >= 0, hypergeometric_cdf(np.maximum(allowed, 0), region, wrong, part), 0.0)
        good = np.flatnonzero(reached >= power)
        for i in good.tolist():
            exact = int(allowed_wrong(region, int(part[i]), promise))
            chance = float(hypergeometric_cdf(exact, region, wrong, int(part[i]))) if exact >= 0 else 0.0
            if chance >= power:
                return int(part[i]), exact, chance
    return None


def forecast(
    total: int, share: float, expected_error: float, promise: Promise, power: float = 0.8
) -> Forecast:
    """Expected looks for a batch, when the scores propose a share of it.

    Args:
        total: labels in the batch, 1 or more.
        share: of these that the scores propose, in (0, 1].
        expected_error: true share of wrong labels among those, in [0, 1).
        promise: to be proven.
        power: wanted probability of a certificate, in (0, 1).
    """
    region = max(1, round(share * total))
    found = audit_size(region, expected_error, promise, power)
    if found is None:
        return Forecast(total, region, expected_error, None, 0, 0.0, float(total))
    audit, allowed, reached = found
    return Forecast(
        total, region, expected_error, audit, allowed, reached, total - reached * (region - audit)
    )


def forecast_table(
    totals: Sequence[int], shares: Sequence[float], errors: Sequence[float], promise: Promise
) -> list[Forecast]:
    """A forecast for every combination; errors are multiples of the allowed one."""
    return [forecast(n, s, e * promise.max_error, promise) for n in totals for s in shares for e in errors]


def incomplete_images(incomplete: int, images: int, confidence: float = 0.90) -> float:
    """Upper bound on the share of images with a missed object, from images drawn at random.

    Args:
        incomplete: images of the draw on which something was missing.
        images: drawn and looked at.
        confidence: of the bound, in (0, 1).

    Returns:
        A share in [0, 1]: 0 of 30, 60, 100, 200 images are 7.4, 3.8, 2.3, 1.1 % at 90 %.
    """
    return upper_bound(incomplete, images, confidence)


def _sizes(region: int) -> np.ndarray:
    """Every size up to 1,000, then steps of half a per cent."""
    steps = np.ceil(1000 * _STEP ** np.arange(max(0.0, np.log(max(region, 1) / 1000) / np.log(_STEP)) + 1))
    return np.unique(
        np.concatenate([np.arange(1, min(region, 1000)), steps[steps < region]]).astype(np.int64)
    )
