"""For programs that start a database of their own: a folder that goes again, and nothing of the user's settings."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def own_folder(prefix: str, *, in_memory: bool = True, keep: bool = False) -> Iterator[Path]:
    """A folder that goes again; the settings of FiftyOne, Prefect and valflow are forgotten.

    Args:
        prefix: of its name.
        in_memory: where the machine has room for it there.
        keep: leave it, and say where it is.
    """
    for name in list(os.environ):
        if name.startswith(("FIFTYONE_", "PREFECT_", "VALFLOW_")):
            del os.environ[name]
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=memory if in_memory and memory.is_dir() else None))
    try:
        yield folder
    finally:
        if keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def settings(folder: Path) -> dict[str, str]:
    """What must be set before FiftyOne and Prefect are imported, so that they write below ``folder`` alone."""
    return {
        "DO_NOT_TRACK": "1",
        "FIFTYONE_CONFIG_PATH": str(folder / "fiftyone" / "config.json"),
        "FIFTYONE_DATABASE_NAME": "chaos",
        "FIFTYONE_DEFAULT_DATASET_DIR": str(folder / "fiftyone" / "datasets"),
        "FIFTYONE_DO_NOT_TRACK": "true",
        "FIFTYONE_SHOW_PROGRESS_BARS": "false",
        "MPLBACKEND": "Agg",
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "VALFLOW_HOME": str(folder / "home"),
    }
