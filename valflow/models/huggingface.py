"""Models of Hugging Face transformers, from the hub or a folder, through FiftyOne's integration."""

from __future__ import annotations

import os
from typing import Any

from valflow.config import HuggingFaceModelConfig
from valflow.errors import ConfigError
from valflow.models import torches
from valflow.models.extras import require


def open_source(config: HuggingFaceModelConfig) -> torches.WrappedSource:
    """Load a model, downloading it where it is neither a folder nor in the cache.

    Raises:
        ConfigError: something must be installed, or it does not load.
    """
    require("model.kind: huggingface", ("torch", "torchvision", "transformers"))
    device = torches.device_options(config.device, config.precision)
    if os.path.sep in config.id and os.path.isabs(config.id) and not os.path.isdir(config.id):
        raise ConfigError([f"model.id: there is no folder {config.id}"])
    try:
        model, version = _load(config, device)
    except Exception as error:
        raise ConfigError(
            [f"model.id: {config.id!r} cannot be loaded: {type(error).__name__}: {error}"]
        ) from error
    torches.check_images(model, f"model.id: {config.id!r}")
    identity = {
        "kind": "huggingface",
        "name": os.path.basename(config.id.rstrip(os.path.sep)) if os.path.isdir(config.id) else config.id,
        "version": version,
        "source": config.id,
        "kwargs": torches.parameters(config),
        "weights_digest": torches.weights_digest(model),
    }
    return torches.WrappedSource(model, identity, config.precision == "mixed")


def _load(config: HuggingFaceModelConfig, device: dict[str, Any]) -> tuple[Any, str | None]:
    """The wrapped model, and the commit that it is of."""
    import fiftyone.utils.transformers as fout
    import transformers

    about = transformers.AutoConfig.from_pretrained(config.id, revision=config.revision)
    if not about.architectures:
        raise ValueError("its config.json names no architecture")
    architecture = getattr(transformers, about.architectures[0])
    loaded = architecture.from_pretrained(config.id, revision=config.revision)
    kind = fout.get_model_type(loaded, task=config.task)
    wrapper, settings = fout.MODEL_TYPE_TO_MODEL_CLASS.get(kind), fout.MODEL_TYPE_TO_CONFIG_CLASS.get(kind)
    if wrapper is None or settings is None:
        raise ValueError(f"FiftyOne has no wrapper of {kind!r}; set model.task")
    model = wrapper(settings({"model": loaded, "name_or_path": config.id, **device, **config.params}))
    return model, config.revision or getattr(about, "_commit_hash", None)
