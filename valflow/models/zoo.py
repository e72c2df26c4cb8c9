"""Models of the FiftyOne Model Zoo, its remote sources and manifests of one's own."""

from __future__ import annotations

import difflib
import re
from typing import Any

from valflow.config import ZooModelConfig
from valflow.errors import ConfigError
from valflow.models import torches
from valflow.models.extras import require


def open_source(config: ZooModelConfig) -> torches.WrappedSource:
    """Load a zoo model, downloading its weights where they are not here yet.

    Raises:
        ConfigError: there is none of that name, something must be installed, or it does not load.
    """
    import fiftyone.zoo as foz

    try:
        entry = foz.get_zoo_model(config.name)
    except ValueError:
        raise ConfigError([_unknown(config.name, foz.list_zoo_models())]) from None
    packages = _packages(entry)
    require(f"model.name: the zoo model {config.name!r}", packages)
    options: dict[str, Any] = dict(config.params)
    if "torch" in packages:
        options = {**torches.device_options(config.device, config.precision), **options}
    try:
        model = foz.load_zoo_model(config.name, ensure_requirements=False, cache=False, **options)
    except Exception as error:
        raise ConfigError(
            [f"model.name: the zoo model {config.name!r} cannot be loaded: {type(error).__name__}: {error}"]
        ) from error
    torches.check_images(model, f"model.name: {config.name!r}")
    identity = {
        "kind": "zoo",
        "name": config.name,
        "version": entry.version,
        "source": entry.source,
        "kwargs": torches.parameters(config),
        "weights_digest": torches.weights_digest(model) if "torch" in packages else None,
    }
    return torches.WrappedSource(model, identity, config.precision == "mixed")


def _packages(entry: Any) -> list[str]:
    """Modules of the packages that a zoo model asks for; other requirements are FiftyOne's to check."""
    asked = getattr(entry.requirements, "packages", None) or []
    names = [re.split(r"[^\w.-]", text.strip(), maxsplit=1)[0] for text in asked]
    return [_MODULES_OF.get(name.lower(), name.replace("-", "_")) for name in names]


# Packages whose module has another name.
_MODULES_OF = {
    "opencv-python": "cv2",
    "opencv-python-headless": "cv2",
    "segment-anything": "segment_anything",
    "open-clip-torch": "open_clip",
    "pillow": "PIL",
    "scikit-learn": "sklearn",
}


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = (
        f"did you mean {' or '.join(repr(c) for c in close)}?"
        if close
        else "`fiftyone zoo models list` lists them"
    )
    return f"model.name: the zoo has no model {name!r}; {hint}"
