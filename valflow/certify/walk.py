"""From region to region, each tested with the same audit, until a test fails.

Testing many regions and keeping the best would certify falsely far more often than promised. Three rules keep
it exact: within a chain every region is tested at the whole risk of the chain and the first failure ends it
(fixed sequence); several chains share the risk; a chain that was passed to its end hands its risk to the next
(the fallback procedure of Wiens and Dmitrienko, J. Biopharm. Stat. 15, 2005). The order, the starts and the
shares are fixed before the first verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from valflow.certify.certificate import Promise, p_values

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Start:
    """Where a chain begins.

    Attributes:
        region: index of its first region, 0 or more.
        share: of the risk, in (0, 1]; those of all chains add up to at most 1.
    """

    region: int
    share: float


# Of a grid with predicted errors LEVELS the regions 0.2 and 0.5, each at half of the risk.
TWO_CHAINS = (Start(3, 0.5), Start(6, 0.5))


@dataclass(frozen=True)
class RegionTest:
    """One test of the walk.

    Attributes:
        region: index of the region.
        total: labels in it.
        audited: of these drawn and judged.
        wrong: of these judged wrong.
        p_value: in [0, 1].
        risk: at which it was tested, in (0, 1).
        passed: ``p_value <= risk``.
    """

    region: int
    total: int
    audited: int
    wrong: int
    p_value: float
    risk: float
    passed: bool


@dataclass(frozen=True)
class Walk:
    """All tests that were made, in order, and the widest region that passed.

    Attributes:
        tests: in the order in which they were made.
        certified: the test of the certified region, None where nothing passed.
    """

    tests: tuple[RegionTest, ...]
    certified: RegionTest | None


def walk_regions(
    sizes: Sequence[int] | np.ndarray,
    audited: Sequence[int] | np.ndarray,
    wrong: Sequence[int] | np.ndarray,
    promise: Promise,
    starts: Sequence[Start],
    risk: float | None = None,
) -> Walk:
    """Test the regions in the fixed order.

    The chain of a start ends before the next start; what lies beyond belongs to that one.

    Args:
        sizes: (L,) labels in each region, rising; regions are nested.
        audited: (L,) labels of the audit in each; uniform without replacement given their number.
        wrong: (L,) of these judged wrong.
        promise: what is tested.
        starts: in rising order of their regions, with shares that add up to at most 1.
        risk: allowed probability of a false certificate over all tests, by default the promise's.

    Raises:
        ValueError: the starts are not in order, lie outside, or share more than the risk.
    """
    check_starts(starts, len(sizes))
    risk = promise.risk if risk is None else risk
    p = p_values(sizes, audited, wrong, promise)
    tests: list[RegionTest] = []
    handed_on = 0.0
    for number, start in enumerate(starts):
        stop = starts[number + 1].region if number + 1 < len(starts) else len(sizes)
        level = risk * (start.share + handed_on)
        for region in range(start.region, stop):
            passed = bool(p[region] <= level * (1 + _ROUNDING))
            total, drawn, bad = (int(v[region]) for v in (sizes, audited, wrong))
            tests.append(RegionTest(region, total, drawn, bad, float(p[region]), level, passed))
            if not passed:
                break
        handed_on = handed_on + start.share if all(t.passed for t in tests[-(stop - start.region) :]) else 0.0
    passes = [t for t in tests if t.passed]
    return Walk(tuple(tests), max(passes, key=lambda t: t.region, default=None))


def check_starts(starts: Sequence[Start], regions: int) -> None:
    """Refuse starts that would break the promise or test nothing.

    Raises:
        ValueError: see :func:`walk_regions`.
    """
    places = [s.region for s in starts]
    if places != sorted(set(places)) or not all(0 <= p < regions for p in places):
        raise ValueError(f"expected starts in rising order among {regions} regions, found {places}")
    shares = [s.share for s in starts]
    if any(not 0 < s <= 1 for s in shares) or sum(shares) > 1 + _ROUNDING:
        raise ValueError(f"expected shares of the risk above 0 that add up to at most 1, found {shares}")
