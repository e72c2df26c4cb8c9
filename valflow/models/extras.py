"""Optional packages: imported when a configuration needs them, named with the command that installs them."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from valflow.errors import ConfigError

# The extras of pyproject.toml, the smallest first, and what each brings for the models here.
_EXTRAS = {
    "torch": ("torch", "torchvision"),
    "huggingface": ("torch", "torchvision", "transformers"),
    "ultralytics": ("torch", "torchvision", "ultralytics"),
}


def require(what: str, modules: Sequence[str]) -> None:
    """Check that modules can be imported, without importing them.

    Args:
        what: the part of the configuration that needs them, such as ``model.kind: huggingface``.
        modules: names of top-level modules.

    Raises:
        ConfigError: some are missing; it names the command that installs them.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError([f"{what} needs {', '.join(missing)}, not installed here; {_remedy(missing)}"])


def _remedy(missing: Sequence[str]) -> str:
    for extra, brings in _EXTRAS.items():
        if set(missing) <= set(brings):
            return f"install it with: pip install 'valflow[{extra}]'"
    return f"install it with: pip install {' '.join(missing)}"
