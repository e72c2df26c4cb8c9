"""Where predictions come from: one module per kind of model, behind one seam.

``open_model(config)`` gives a :class:`~valflow.models.source.Source`; nothing else in valflow knows which kinds
there are.
"""

from __future__ import annotations

import functools
import importlib
import threading
from typing import Any

from valflow.config import ModelConfig
from valflow.model_config import MODEL_KINDS
from valflow.models.source import Source

__all__ = ["Source", "open_model"]

# The module of each kind; it is imported when a configuration names the kind. Each has a function ``open_source``.
_MODULES = {
    "python": "valflow.models.python",
    "field": "valflow.models.existing",
    "zoo": "valflow.models.zoo",
    "huggingface": "valflow.models.huggingface",
    "ultralytics": "valflow.models.yolo",
    "merge": "valflow.models.merge",
}

# Shards in several threads share a model: the second must not load another one meanwhile.
_opening = threading.RLock()


def open_model(config: ModelConfig) -> Source:
    """The source of predictions that a configuration names; a model is loaded once per process.

    Raises:
        ConfigError: it cannot be loaded, lacks something that must be installed, or is no model of images.
    """
    with _opening:
        return _open_cached(config.kind, config.model_dump_json())


@functools.lru_cache(maxsize=4)
def _open_cached(kind: str, config_json: str) -> Source:
    config: Any = MODEL_KINDS[kind].model_validate_json(config_json)
    source: Source = importlib.import_module(_MODULES[kind]).open_source(config)
    return source
