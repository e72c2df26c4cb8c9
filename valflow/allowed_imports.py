"""Which import paths of configurations and suites may be followed; importing a module runs its code."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase

from valflow.errors import ConfigError

ALLOWED = "VALFLOW_ALLOWED_MODELS"


def check_allowed(path: str) -> None:
    """Refuse a ``module:Class`` that is not allowed here; call it before the import.

    Where VALFLOW_ALLOWED_MODELS is not set, everything is allowed; set and empty, nothing is.

    Args:
        path: as a configuration or a suite names it.

    Raises:
        ConfigError: no pattern of the variable fits.
    """
    listed = os.environ.get(ALLOWED)
    if listed is None:
        return
    patterns = [pattern.strip() for pattern in listed.split(",") if pattern.strip()]
    if any(fnmatchcase(path, pattern) for pattern in patterns):
        return
    expected = f"one of {', '.join(patterns)}" if patterns else "none, as the variable is empty"
    raise ConfigError(
        [
            f"{path} may not be imported here: {ALLOWED} allows {expected}. Whoever runs the worker can add it "
            "(module:Class, * and ? stand for any letters, commas between patterns)"
        ]
    )
