"""Models that tests give to the pipeline by import path."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import fiftyone as fo
from fiftyone.core.models import Model


class Corner(Model):
    """Finds one thing in the corner of every image."""

    classes = ("cat", "dog")

    @property
    def media_type(self) -> str:
        return "image"

    @property
    def ragged_batches(self) -> bool:
        return True

    @property
    def transforms(self) -> None:
        return None

    @property
    def preprocess(self) -> bool:
        return False

    def predict(self, arg: Any) -> fo.Detections:
        return fo.Detections(
            detections=[fo.Detection(label="cat", bounding_box=[0.0, 0.0, 0.2, 0.2], confidence=0.9)]
        )


class Odd(Corner):
    """Does something odd on some images, told apart by the red of their first pixel; see ``tests.builders``.

    Args:
        on: red values of the images on which it is odd.
        how: ``raise``, ``type`` (Classification), ``none``, ``no_box``, ``no_class``, ``infinite``.
        short: whether a whole batch gives one result too few.
    """

    def __init__(self, on: tuple[int, ...] = (), how: str = "raise", short: bool = False) -> None:
        self.on, self.how, self.short = tuple(on), how, short
        self.seen: list[int] = []

    def predict_all(self, args: Any) -> list[Any]:
        found = [self.predict(arg) for arg in args]
        return found[:-1] if self.short else found

    def predict(self, arg: Any) -> Any:
        red = int(arg[0, 0, 0])
        self.seen.append(red)
        # What it finds says on which image, so that mixed-up results are noticed.
        box, label = [0.0, 0.0, 0.2, (red + 1) / 257], "cat" if red % 32 else "dog"
        if red in self.on:
            if self.how == "raise":
                raise RuntimeError(f"no idea at {red}")
            if self.how == "type":
                return fo.Classification(label="cat")
            if self.how == "none":
                return None
            if self.how == "no_box":
                return fo.Detections(detections=[fo.Detection(label="cat", confidence=0.9)])
            if self.how == "no_class":
                return fo.Detections(detections=[fo.Detection(bounding_box=box, confidence=0.9)])
            if self.how == "infinite":
                return fo.Detections(
                    detections=[fo.Detection(label="cat", bounding_box=box, confidence=float("inf"))]
                )
        return fo.Detections(detections=[fo.Detection(label=label, bounding_box=box, confidence=0.9)])


class Film(Corner):
    """A model of videos."""

    @property
    def media_type(self) -> str:
        return "video"


class Silent(Corner):
    """Says neither what it can find nor in what."""

    classes = ()

    @property
    def media_type(self) -> str:
        raise NotImplementedError("subclass must implement media_type")


class DiesOnce(Corner):
    """Takes its whole process with it, once, on the image whose first pixel has this red; see ``tests.pets``.

    Args:
        mark: a file that says that it has died.
        on: the red value.
    """

    def __init__(self, mark: str, on: int = 0) -> None:
        self.mark, self.on = Path(mark), on

    def predict(self, arg: Any) -> fo.Detections:
        if int(arg[0, 0, 0]) == self.on and not self.mark.exists():
            self.mark.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().predict(arg)
