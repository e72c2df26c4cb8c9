"""Models of one's own, by import path: FiftyOne models, and plain functions of images."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from bson import ObjectId

from valflow.allowed_imports import check_allowed
from valflow.config import PythonModelConfig
from valflow.errors import ConfigError
from valflow.models import images
from valflow.models.calling import predict_readable
from valflow.models.plain import labels_of
from valflow.models.probing import probe
from valflow.models.source import device_type_of

_WANTED = "a fiftyone.core.models.Model, or a function of a list of images"


@dataclass(eq=False)
class PythonSource:
    """A ``fiftyone.core.models.Model``, or a function.

    Attributes:
        config: where it came from.
        model: the model, or the function.
        predict_batch: a list of images to as many predictions.
        read_at_once: see ``Source``.
        read: see ``FileSource``.
        device_type: see ``FileSource``.
    """

    config: PythonModelConfig
    model: Any
    predict_batch: Callable[[list[Any]], Sequence[Any]]
    read_at_once: int = images.READ_AT_ONCE
    read: Callable[[str], Any] = images.read_array
    device_type: str | None = field(init=False)

    def __post_init__(self) -> None:
        self.device_type = device_type_of(self.model)

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

    def label_class(self, dataset: Any) -> str | None:
        """What it says of itself in an attribute ``label_class``, or what it finds on the first images."""
        said = getattr(self.model, "label_class", None)
        return said if isinstance(said, str) else probe(self, dataset)

    def fetch(self, dataset: Any, sample_ids: Sequence[ObjectId]) -> list[Any]:
        """The images."""
        return images.fetch_images(dataset, sample_ids, self.read)

    def predict(self, inputs: Sequence[Any]) -> list[Any]:
        """What the model finds."""
        return predict_readable(self.predict_batch, inputs)


def open_source(config: PythonModelConfig) -> PythonSource:
    """Import a model, and instantiate it where it is a class.

    Raises:
        ConfigError: it may not be imported here, does not import, or is neither a model of images nor a function.
    """
    check_allowed(config.path)
    from fiftyone.core.models import Model

    try:
        model = _made(_imported(config.path), config.kwargs)
    except Exception as error:
        raise ConfigError(
            [f"model.path: {config.path} cannot be loaded: {type(error).__name__}: {error}"]
        ) from error
    if isinstance(model, Model):
        with suppress(NotImplementedError):  # a model need not say
            if model.media_type != "image":
                raise ConfigError(
                    [f"model.path: expected a model of images, {config.path} is one of {model.media_type!r}"]
                )
        return PythonSource(config, model, functools.partial(_ask_model, model))
    if not callable(model):
        raise ConfigError([f"model.path: expected {_WANTED}, {config.path} is {type(model).__name__}"])
    return PythonSource(config, model, functools.partial(_ask_function, model, _arguments(model, config)))


def _imported(path: str) -> Any:
    module_name, _, name = path.partition(":")
    return getattr(importlib.import_module(module_name), name)


def _made(found: Any, kwargs: dict[str, Any]) -> Any:
    return found(**kwargs) if inspect.isclass(found) else found


def _arguments(model: Any, config: PythonModelConfig) -> dict[str, Any]:
    """Arguments of each call; an instance of a class has had its own."""
    if not inspect.isroutine(model):
        return {}
    try:
        inspect.signature(model).bind([], **config.kwargs)
    except TypeError as error:
        raise ConfigError([f"model.kwargs: {config.path} does not take them: {error}"]) from error
    return config.kwargs


def _ask_model(model: Any, inputs: list[Any]) -> Sequence[Any]:
    with model:
        # A batch of one goes the way that models must have; predict_all is an option.
        return [model.predict(inputs[0])] if len(inputs) == 1 else model.predict_all(inputs)


def _ask_function(function: Any, kwargs: dict[str, Any], inputs: list[Any]) -> Sequence[Any]:
    return [labels_of(found) for found in function(inputs, **kwargs)]
