"""How many images a model gets at once: as configured, or as many as make it fastest; fewer when memory runs out."""

from __future__ import annotations

from typing import Literal

# A trial that doubles the batch must be so much faster per image to be worth the memory.
_WORTH = 1.05
_FIRST, _MOST = 4, 256
_TRIES = 2


class BatchSize:
    """The size of the next batch.

    Args:
        setting: a number, or ``auto``: doubled from 4 while it makes the model faster, up to 256.

    Attributes:
        size: of the next batch.
    """

    def __init__(self, setting: int | Literal["auto"]) -> None:
        self.size = _FIRST if setting == "auto" else setting
        self._trying = setting == "auto"
        self._best: tuple[float, int] | None = None
        self._rates: list[float] = []
        self._warm = False

    def took(self, images: int, seconds: float) -> None:
        """Tell how long a batch took; tails of fewer images say nothing."""
        if not self._trying or images != self.size:
            return
        if not self._warm:  # the first call of a model pays for its set-up
            self._warm = True
            return
        self._rates.append(images / max(seconds, 1e-9))
        if len(self._rates) < _TRIES:
            return
        rate, self._rates = max(self._rates), []
        if self._best is not None and rate < self._best[0] * _WORTH:
            self._trying, self.size = False, self._best[1]
            return
        self._best = (rate, self.size)
        self.size = min(2 * self.size, _MOST)
        self._trying = self.size > self._best[1]

    def too_many(self, images: int) -> None:
        """Tell that memory ran out; from now on at most half as many."""
        self.size = max(1, images // 2)
        self._trying = False
