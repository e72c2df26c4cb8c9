"""The model that the measured runs name; ``stand_in`` takes its place, so it is never asked."""

from __future__ import annotations

from typing import Any, ClassVar

from fiftyone.core.models import Model

from benchmarks.scenes import CLASSES


class SilentModel(Model):
    """Knows its classes, and nothing else."""

    media_type = "image"
    classes: ClassVar[tuple[str, ...]] = CLASSES

    def predict(self, arg: Any) -> Any:
        """Never asked."""
        raise NotImplementedError
