"""Models that tests give to the pipeline by import path."""

from __future__ import annotations

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
