"""Where predictions come from: one module per kind of model, behind one seam.

``open_model(config)`` gives a :class:`~valflow.models.source.Source`; nothing else in valflow knows which kinds
there are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from valflow.config import FieldModelConfig, MergeModelConfig, ModelConfig, PythonModelConfig
from valflow.models import existing, merge, python
from valflow.models.source import Source

__all__ = ["Source", "open_model"]


def open_model(config: ModelConfig) -> Source:
    """The source of predictions that a configuration names; a model is loaded once per process.

    Raises:
        ConfigError: it cannot be loaded, or is no model of images.
    """
    return _open_cached(config.model_dump_json(), type(config))


@functools.lru_cache(maxsize=4)
def _open_cached(config_json: str, config_type: Any) -> Source:
    config = config_type.model_validate_json(config_json)
    openers: dict[Any, Callable[[Any], Source]] = {
        FieldModelConfig: existing.open_field,
        MergeModelConfig: merge.open_merge,
        PythonModelConfig: python.open_python,
    }
    return openers[config_type](config)
