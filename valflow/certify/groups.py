"""Which labels share a promise: a class of its own where it is large enough, the rest together or to review."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Scope = Literal["auto", "per_class", "pooled", "all_classes"]
POOLED = "other classes"
EVERYTHING = "all classes"


@dataclass(frozen=True)
class Group:
    """Labels under one promise.

    Attributes:
        name: of its class, or of the pool.
        classes: in it, sorted.
        positions: (G,) of its labels, rising.
        certified: False where it is too small, so that all of it goes to review.
        risk_share: of the promise's risk, in (0, 1].
    """

    name: str
    classes: tuple[str, ...]
    positions: NDArray[np.int64]
    certified: bool
    risk_share: float = 1.0


def group_labels(classes: ArrayLike, scope: Scope = "auto", min_group: int = 460) -> tuple[Group, ...]:
    """Divide the labels into groups.

    ``per_class`` makes a promise for each class with ``min_group`` labels and reviews the others; ``auto``
    pools the others instead, if together they are that many; ``pooled`` makes one promise for everything,
    behind which a rare class can hide; ``all_classes`` is ``per_class`` with promises that hold for all
    classes at once, each at an equal part of the risk.

    Args:
        classes: (N,) names (or numbers).
        scope: see above.
        min_group: fewest labels of a certified group, 1 or more; below three audits a review of everything
            is cheaper.

    Returns:
        Groups that hold every label once, certified ones first, by name.

    Raises:
        ValueError: the scope is unknown or ``min_group`` below 1.
    """
    if scope not in get_args(Scope):
        raise ValueError(f"expected a scope of {', '.join(get_args(Scope))}, found {scope!r}")
    if isinstance(min_group, bool) or not isinstance(min_group, int | np.integer) or min_group < 1:
        raise ValueError(f"expected min_group to be a number of labels, 1 or more, found {min_group!r}")
    names, code = np.unique(np.asarray(classes), return_inverse=True)
    order = np.argsort(code, kind="stable")
    counts = np.bincount(code, minlength=len(names))
    members = np.split(order, np.cumsum(counts)[:-1]) if len(names) else []
    everything = np.arange(len(code))
    if scope == "pooled":
        whole = Group(EVERYTHING, tuple(map(str, names)), everything, len(code) >= min_group)
        return (whole,) if len(code) else ()
    large = counts >= min_group
    share = 1.0 / max(1, int(large.sum())) if scope == "all_classes" else 1.0
    groups = [Group(str(names[i]), (str(names[i]),), members[i], True, share) for i in np.flatnonzero(large)]
    rest = np.sort(order[~large[code[order]]])
    if len(rest):
        small = tuple(str(n) for n in names[~large])
        name = POOLED if groups else EVERYTHING
        groups.append(Group(name, small, rest, scope == "auto" and len(rest) >= min_group))
    return tuple(groups)
