"""Small runs wait together, so that there are enough labels to prove anything: one finite batch, drawn for once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

Reason = Literal["full", "waited"]

# No scheduler is quite on time.
_LATENESS = 1.05


@dataclass(frozen=True)
class LotPolicy:
    """When a lot closes. Verdicts play no part, or the draw would depend on them.

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


def closes(labels: int, arrivals: list[datetime], now: datetime, policy: LotPolicy) -> Reason | None:
    """Whether a lot closes now, and why; None while it waits for more.

    It closes when it is large enough, and at the last chance before its oldest labels have waited too long: the next
    arrival is expected as long after the last one as that came after the one before, and a little later.

    Args:
        labels: in the lot, 0 or more.
        arrivals: when labels came, in order, 1 or more times, with time zones.
        now: the time, with a time zone.
        policy: when a lot closes.

    Raises:
        ValueError: the number of labels is negative, or nothing ever came.
    """
    if labels < 0 or not arrivals:
        raise ValueError(f"expected 0 or more labels and an arrival, found {labels} and {len(arrivals)}")
    if labels >= policy.min_labels:
        return "full"
    # Never below zero, should a clock have been set back in between.
    interval = max(arrivals[-1] - arrivals[-2], timedelta(0)) if len(arrivals) > 1 else timedelta(0)
    return "waited" if now + _LATENESS * interval >= arrivals[0] + policy.max_wait else None


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
