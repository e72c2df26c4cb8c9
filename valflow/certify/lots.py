"""Small runs wait together: consecutive runs with the same fingerprint are one finite batch, drawn once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

Reason = Literal["full", "waited", "drift", "fingerprint"]


@dataclass(frozen=True)
class LotPolicy:
    """When a lot closes.

    Attributes:
        min_labels: labels with which it is large enough, 1 or more.
        max_wait: longest time that a label may wait, above zero.
    """

    min_labels: int = 2000
    max_wait: timedelta = timedelta(days=7)

    def __post_init__(self) -> None:
        if isinstance(self.min_labels, bool) or not isinstance(self.min_labels, int) or self.min_labels < 1:
            raise ValueError(f"expected min_labels to be 1 or more, found {self.min_labels!r}")
        if self.max_wait <= timedelta(0):
            raise ValueError(f"expected max_wait to be longer than nothing, found {self.max_wait}")


@dataclass(frozen=True)
class Arrival:
    """The labels of one run that wait in a lot.

    Attributes:
        run: its key.
        fingerprint: of the model and everything else that gives a score its meaning.
        labels: number of them, 0 or more.
        since: when they began to wait, with a time zone.
    """

    run: str
    fingerprint: str
    labels: int
    since: datetime


@dataclass(frozen=True)
class Lot:
    """Runs that are certified together.

    Attributes:
        arrivals: in the order in which they came; all of one fingerprint.
        closed: why it is closed, None while it waits for more.
        due: when it closes at the latest.
    """

    arrivals: tuple[Arrival, ...]
    closed: Reason | None
    due: datetime

    @property
    def labels(self) -> int:
        """Labels of all its runs."""
        return sum(a.labels for a in self.arrivals)


def form_lots(
    arrivals: Sequence[Arrival],
    policy: LotPolicy,
    now: datetime,
    breaks: Sequence[str] = (),
) -> tuple[Lot, ...]:
    """Put waiting runs into lots.

    A lot takes runs in order of time until it is full. It closes when it is full, when its oldest label has
    waited for ``max_wait``, when a later run has another fingerprint, and before a run of ``breaks``. What a
    closed lot cannot certify is reviewed; it never waits for another lot. Verdicts play no part.

    Args:
        arrivals: everything that waits, in any order.
        policy: when a lot closes.
        now: the time, with a time zone.
        breaks: runs with which the scores are suspected to have changed.

    Raises:
        ValueError: a run waits twice, or has a negative number of labels.
    """
    ordered = sorted(arrivals, key=lambda a: (a.since, a.run))
    repeated = {a.run for a in ordered if [b.run for b in ordered].count(a.run) > 1}
    if repeated:
        raise ValueError(f"expected every run once, found {', '.join(sorted(repeated))} again")
    if any(a.labels < 0 for a in ordered):
        raise ValueError("expected 0 or more labels per run, found a negative number")
    lots: list[list[Arrival]] = []
    reasons: list[Reason | None] = []
    for arrival in ordered:
        if lots and reasons[-1] is None:
            if arrival.fingerprint != lots[-1][-1].fingerprint:
                reasons[-1] = "fingerprint"
            elif arrival.run in breaks:
                reasons[-1] = "drift"
            elif arrival.since - lots[-1][0].since >= policy.max_wait:
                reasons[-1] = "waited"
        if not lots or reasons[-1] is not None:
            lots.append([])
            reasons.append(None)
        lots[-1].append(arrival)
        if sum(a.labels for a in lots[-1]) >= policy.min_labels:
            reasons[-1] = "full"
    if lots and reasons[-1] is None and now - lots[-1][0].since >= policy.max_wait:
        reasons[-1] = "waited"
    return tuple(Lot(tuple(a), r, a[0].since + policy.max_wait) for a, r in zip(lots, reasons, strict=True))


def expected_wait(labels_per_run: float, time_between: timedelta, policy: LotPolicy) -> timedelta:
    """How long a lot stays open when runs come regularly.

    Args:
        labels_per_run: average, above 0.
        time_between: from run to run.
        policy: when a lot closes.

    Returns:
        Time from the first run to the closing, at most ``max_wait``.
    """
    if not labels_per_run > 0:
        raise ValueError(f"expected more than 0 labels per run, found {labels_per_run!r}")
    runs = math.ceil(policy.min_labels / labels_per_run)
    return min(policy.max_wait, (runs - 1) * time_between)
