"""Exact bounds on the share of wrong labels, from a random draw of which k of n were judged wrong."""

from __future__ import annotations

import math
import operator


def upper_bound(wrong: int, judged: int, confidence: float = 0.95) -> float:
    """Largest share of wrong labels that k wrong of n still allow, one-sided.

    The exact bound of Clopper and Pearson (Biometrika 26, 1934): the share p at which k or fewer wrong
    labels have a probability of ``1 - confidence``, i.e. the ``confidence`` quantile of
    Beta(k + 1, n - k). For labels drawn without replacement from a finite set it errs on the safe side.
    It holds for one look at the finished draw, not for a look after every verdict.

    Args:
        wrong: labels judged wrong, 0 to ``judged``; what was drawn and not judged counts as wrong.
        judged: labels drawn at random and judged, 0 or more.
        confidence: probability with which the bound holds, between 0 and 1, both excluded.

    Returns:
        A share in [0, 1]; 1.0 if nothing was judged, or everything judged is wrong.

    Raises:
        ValueError: a count or the confidence is out of its range.
    """
    wrong, judged = _count("wrong", wrong), _count("judged", judged)
    if wrong > judged:
        raise ValueError(f"expected at most as many wrong labels as judged ({judged}), found wrong={wrong}")
    confidence = _open_share("confidence", confidence)
    if wrong == judged:
        return 1.0
    # Here and not above: scipy takes longer to import than the rest of the command line.
    from scipy.special import betaincinv

    return float(betaincinv(wrong + 1, judged - wrong, confidence))


def smallest_sample(max_error: float, confidence: float = 0.95) -> int:
    """Fewest labels to judge so that no wrong one among them proves a share of at most ``max_error``.

    ``ceil(log(1 - confidence) / log(1 - max_error))``: all n are right with a probability of at most
    ``(1 - max_error) ** n``. The same as ``upper_bound(0, n, confidence) <= max_error``, solved for n.

    Args:
        max_error: allowed share of wrong labels, between 0 and 1, both excluded.
        confidence: probability with which the bound holds, between 0 and 1, both excluded.

    Returns:
        A number of labels, 1 or more.

    Raises:
        ValueError: a share is out of its range.
    """
    max_error = _open_share("max_error", max_error)
    confidence = _open_share("confidence", confidence)
    exact = math.log(1.0 - confidence) / math.log1p(-max_error)
    # 2.0000000000000004 means 2: rounding of the logarithms must not cost a label.
    return max(1, math.ceil(exact * (1.0 - 1e-12)))


def _count(name: str, value: int) -> int:
    try:
        count = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = -1
    if count < 0:
        raise ValueError(f"expected a whole number of labels, 0 or more, for {name}; found {value!r}")
    return count


def _open_share(name: str, value: float) -> float:
    try:
        share = float(value)
    except (TypeError, ValueError):
        share = math.nan
    if not 0.0 < share < 1.0:
        raise ValueError(f"expected a share between 0 and 1, both excluded, for {name}; found {value!r}")
    return share
