"""Models of ultralytics, from a file of weights, through FiftyOne's integration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from valflow.config import UltralyticsModelConfig
from valflow.errors import ConfigError
from valflow.models import torches
from valflow.models.extras import require


def open_source(config: UltralyticsModelConfig) -> torches.WrappedSource:
    """Load a model; a name without a folder is downloaded by ultralytics where it knows it.

    Raises:
        ConfigError: something must be installed, or it does not load.
    """
    require("model.kind: ultralytics", ("torch", "torchvision", "ultralytics"))
    device = torches.device_options(config.device, config.precision)
    if os.path.isabs(config.weights) and not os.path.isfile(config.weights):
        raise ConfigError([f"model.weights: there is no file {config.weights}"])
    try:
        model, version = _load(config, device)
    except Exception as error:
        raise ConfigError(
            [f"model.weights: {config.weights!r} cannot be loaded: {type(error).__name__}: {error}"]
        ) from error
    identity = {
        "kind": "ultralytics",
        "name": Path(config.weights).stem,
        "version": version,
        "source": config.weights,
        "kwargs": torches.parameters(config),
        "weights_digest": torches.weights_digest(model),
    }
    return torches.WrappedSource(model, identity, config.precision == "mixed")


def _load(config: UltralyticsModelConfig, device: dict[str, Any]) -> tuple[Any, str | None]:
    import fiftyone.utils.ultralytics as fouu
    import ultralytics

    found = ultralytics.YOLO(config.weights)
    wrappers = {
        "detect": (
            fouu.FiftyOneYOLOModelConfig,
            fouu.FiftyOneYOLOModel,
            fouu.UltralyticsDetectionOutputProcessor,
        ),
        "segment": (
            fouu.FiftyOneYOLOModelConfig,
            fouu.FiftyOneYOLOModel,
            fouu.UltralyticsSegmentationOutputProcessor,
        ),
        "classify": (
            fouu.FiftyOneYOLOClassificationModelConfig,
            fouu.FiftyOneYOLOClassificationModel,
            fouu.UltralyticsClassificationOutputProcessor,
        ),
        "pose": (fouu.FiftyOneYOLOModelConfig, fouu.FiftyOneYOLOModel, fouu.UltralyticsPoseOutputProcessor),
        "obb": (fouu.FiftyOneYOLOModelConfig, fouu.FiftyOneYOLOModel, fouu.UltralyticsOBBOutputProcessor),
    }
    if found.task not in wrappers:
        raise ValueError(f"FiftyOne has no wrapper of the task {found.task!r}")
    settings, wrapper, processor = wrappers[found.task]
    options = {"model": found, "output_processor_cls": processor, "model_path": found.model_name}
    model = wrapper(settings({**options, **device, **config.params}))
    return model, (found.ckpt or {}).get("version") if isinstance(found.ckpt, dict) else None
