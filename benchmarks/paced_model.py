"""A model that takes a given time and finds a given number of boxes, to compare what is around it."""

from __future__ import annotations

import time
from typing import Any

import fiftyone as fo
import numpy as np
from fiftyone.core.models import Model

_MATRIX = np.random.default_rng(0).random((160, 160), np.float32)


class PacedModel(Model):
    """Takes ``seconds`` per image, and finds ``labels`` boxes.

    Args:
        seconds: per image.
        labels: per image.
        computing: whether it keeps a core busy with a fixed number of products, or waits.
    """

    classes = ("thing",)

    def __init__(self, seconds: float, labels: int, computing: bool) -> None:
        self._seconds, self._labels, self._computing = seconds, labels, computing
        self._products = _products_in(seconds) if computing else 0

    @property
    def media_type(self) -> str:
        """Pictures."""
        return "image"

    @property
    def ragged_batches(self) -> bool:
        """Pictures of different sizes may share a batch."""
        return False

    @property
    def transforms(self) -> None:
        """None: as they are."""
        return

    @property
    def preprocess(self) -> bool:
        """Nothing to do."""
        return False

    @preprocess.setter
    def preprocess(self, value: bool) -> None:
        pass

    def predict(self, arg: Any) -> fo.Detections:
        """Boxes in a row."""
        if self._computing:
            for _ in range(self._products):
                _MATRIX @ _MATRIX
        elif self._seconds:
            time.sleep(self._seconds)
        width = 1 / (self._labels + 1)
        return fo.Detections(
            detections=[
                fo.Detection(label="thing", bounding_box=[i * width, 0.1, width, 0.5], confidence=0.9)
                for i in range(self._labels)
            ]
        )

    def predict_all(self, args: Any) -> list[fo.Detections]:
        """One after the other."""
        return [self.predict(arg) for arg in args]


_known: dict[float, int] = {}


def _products_in(seconds: float) -> int:
    """The number of products that takes so long where nothing disturbs; found once, the same for all ways."""
    if seconds not in _known:
        each = min(_time_of(20) for _ in range(20)) / 20
        _known[seconds] = max(1, round(seconds / each))
    return _known[seconds]


def _time_of(products: int) -> float:
    begin = time.perf_counter()
    for _ in range(products):
        _MATRIX @ _MATRIX
    return time.perf_counter() - begin
