"""Folders that appear whole or not at all, and are replaced only when they are ours."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from valflow.errors import ExportError

MARKER = ".valflow_export.json"


def check_replaceable(folder: Path, run_key: str, overwrite_own: bool) -> None:
    """Make sure that an export may be put here.

    Raises:
        ExportError: something is there that is not an export of this run, or must not be replaced.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_dir() and not folder.is_symlink():
        marker = folder / MARKER
        if not marker.exists() and not any(folder.iterdir()):
            return
        if _is_of(marker, run_key):
            if overwrite_own:
                return
            raise ExportError(f"expected no export at {folder}, found an earlier one of run {run_key!r}")
    raise ExportError(
        f"expected {folder} to be free or an earlier export of run {run_key!r}, found something else; "
        "nothing was written. Move it away, or choose another export.dir"
    )


@contextmanager
def replaced(folder: Path, marker: dict[str, Any]) -> Iterator[Path]:
    """A folder to write into, which takes the place of ``folder`` when everything went well.

    It is a sibling of ``folder``, so that taking the place is a rename. After an error nothing is left of it.

    Args:
        folder: where the result will be; checked by :func:`check_replaceable`.
        marker: what to write down about it; read at the end.

    Yields:
        The folder to write into; it does not exist yet.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    token = uuid.uuid4().hex[:8]
    partial = folder.with_name(f".{folder.name}.{token}.partial")
    old = folder.with_name(f".{folder.name}.{token}.old")
    try:
        yield partial
        (partial / MARKER).write_bytes(orjson.dumps(marker, option=orjson.OPT_INDENT_2))
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """What a process that was killed left here."""
    for kind in ("partial", "old"):
        for leftover in folder.parent.glob(f".{folder.name}.????????.{kind}"):
            shutil.rmtree(leftover, ignore_errors=True)


def _is_of(marker: Path, run_key: str) -> bool:
    try:
        return bool(orjson.loads(marker.read_bytes()).get("run") == run_key)
    except (OSError, orjson.JSONDecodeError, AttributeError):
        return False
