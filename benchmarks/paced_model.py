"""A model that takes a given time and finds a given number of boxes, to compare what is around it."""

from __future__ import annotations

import time
from typing import Any

import fiftyone as fo
import numpy as np
from fiftyone.core.models import Model

_MATRIX = np.random.default_rng(0).random((160, 160), np.float32)
_ROW = np.random.default_rng(0).random(1000, np.float32)


def find(
    images: list[Any], seconds: float = 0.0, labels: int = 5, way: str = "waits"
) -> list[list[dict[str, Any]]]:
    """A plain function of images: boxes in a row on each, one image after the other.

    Args:
        images: which are not looked at.
        seconds: per image.
        labels: per image.
        way: in which it spends them: ``computes`` large products, ``launches`` many small operations, between
            each of which it gives the interpreter's lock away, or ``waits``.
    """
    width = 1 / (labels + 1)
    found = []
    for _ in images:
        if way == "waits":
            time.sleep(seconds)
        else:
            _WORK[way](_rounds_in(seconds, way))
        found.append(
            [
                {"label": "thing", "bounding_box": [i * width, 0.1, width, 0.5], "confidence": 0.9}
                for i in range(labels)
            ]
        )
    return found


class PacedModel(Model):
    """The same function as ``apply_model`` needs it."""

    classes = ("thing",)

    def __init__(self, **arguments: Any) -> None:
        self._arguments = arguments

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
        """One image."""
        return self.predict_all([arg])[0]

    def predict_all(self, args: Any) -> list[fo.Detections]:
        """What the function finds, as FiftyOne's labels."""
        return [
            fo.Detections(detections=[fo.Detection(**one) for one in boxes])
            for boxes in find(list(args), **self._arguments)
        ]


def _compute(rounds: int) -> None:
    for _ in range(rounds):
        _MATRIX @ _MATRIX


def _launch(rounds: int) -> None:
    found = _ROW
    for _ in range(rounds):
        found = found * _ROW


_WORK = {"computes": _compute, "launches": _launch}
_known: dict[tuple[float, str], int] = {}


def _rounds_in(seconds: float, way: str) -> int:
    """The rounds that take so long where nothing disturbs; found once, the same for all that are compared."""
    if (seconds, way) not in _known:
        each = min(_time_of(way) for _ in range(20)) / 20
        _known[seconds, way] = max(1, round(seconds / each))
    return _known[seconds, way]


def _time_of(way: str) -> float:
    begin = time.perf_counter()
    _WORK[way](20)
    return time.perf_counter() - begin
