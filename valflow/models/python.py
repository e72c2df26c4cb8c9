"""Models of one's own, by import path."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from bson import ObjectId

from valflow.allowed_imports import check_allowed
from valflow.config import PythonModelConfig
from valflow.errors import ConfigError
from valflow.models import images


@dataclass(frozen=True)
class PythonSource:
    """A ``fiftyone.core.models.Model``.

    Attributes:
        config: where it came from.
        model: the model.
    """

    config: PythonModelConfig
    model: Any

    def describe(self) -> dict[str, Any]:
        """Name, import path and arguments; version and digest of the weights where the model has them."""
        return {
            "kind": "python",
            "name": str(getattr(self.model, "name", None) or self.config.path.partition(":")[2]),
            "path": self.config.path,
            "kwargs": self.config.kwargs,
            "version": getattr(self.model, "version", None),
            "weights_digest": getattr(self.model, "weights_digest", None),
        }

    def classes(self, dataset: Any) -> list[str]:
        """Classes that the model names."""
        return [str(c) for c in getattr(self.model, "classes", None) or []]

    def fetch(self, dataset: Any, sample_ids: Sequence[ObjectId]) -> list[Any]:
        """The images."""
        return images.read_images(dataset, sample_ids)

    def predict(self, inputs: Sequence[Any]) -> list[Any]:
        """What the model finds."""
        readable = [i for i, image in enumerate(inputs) if not isinstance(image, Exception)]
        predictions = list(inputs)
        with self.model:
            found = predict_each(self.model, [inputs[i] for i in readable])
        for index, prediction in zip(readable, found, strict=True):
            predictions[index] = prediction
        return predictions


def open_python(config: PythonModelConfig) -> PythonSource:
    """Import and instantiate a model.

    Raises:
        ConfigError: it may not be imported here, does not import, or is no ``fiftyone.core.models.Model`` of images.
    """
    check_allowed(config.path)
    from fiftyone.core.models import Model

    module_name, _, class_name = config.path.partition(":")
    try:
        model = getattr(importlib.import_module(module_name), class_name)(**config.kwargs)
    except Exception as error:
        raise ConfigError(
            [f"model.path: {config.path} cannot be loaded: {type(error).__name__}: {error}"]
        ) from error
    if not isinstance(model, Model):
        raise ConfigError(
            [f"model.path: expected a fiftyone.core.models.Model, {config.path} is {type(model).__name__}"]
        )
    with suppress(NotImplementedError):  # a model need not say
        if model.media_type != "image":
            raise ConfigError(
                [f"model.path: expected a model of images, {config.path} is one of {model.media_type!r}"]
            )
    return PythonSource(config, model)


def predict_each(model: Any, inputs: list[Any]) -> list[Any]:
    """Predictions of a batch; where it fails as a whole, each input is asked by itself, to blame the right one."""
    if not inputs:
        return []
    try:
        found = list(model.predict_all(inputs))
    except Exception:  # noqa: BLE001 - the single calls below say what is wrong
        found = []
    return found if len(found) == len(inputs) else [_predict_one(model, one) for one in inputs]


def _predict_one(model: Any, image: Any) -> Any:
    try:
        return model.predict(image)
    except Exception as error:  # noqa: BLE001 - recorded as this sample's failure; too many stop the run
        return RuntimeError(f"the model failed: {type(error).__name__}: {error}")
