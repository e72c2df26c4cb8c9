"""Files that stay in their folder, whatever names come from configurations, records and other people's links."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path

import psutil

from valflow.errors import OutsideFolder


def inside(base: Path, *names: str) -> Path:
    """A place below a folder that a person chose; the folders on the way must be real ones.

    Args:
        base: absolute; it may itself be a link, that is the choice of who named it.
        names: of the folders below it, one each.

    Raises:
        OutsideFolder: a name is none of a single folder, or a link leads elsewhere.
    """
    place = base
    for name in names:
        if name in ("", ".", "..") or any(c in name for c in ("/", "\\", "\0")):
            raise OutsideFolder(f"expected the name of one folder in {base}, found {name!r}")
        place = place / name
        if place.is_symlink():
            raise OutsideFolder(
                f"expected {place} to be a folder or free, found a link to {os.readlink(place)}; nothing was "
                "written. Take the link away"
            )
    return place


def write_inside(path: Path, content: bytes) -> None:
    """Replace a file at once, so that nobody sees half of it, and never through a link that stands in its place."""
    if path.parent.is_symlink():
        raise OutsideFolder(f"expected {path.parent} to be a folder, found a link; nothing was written to it")
    _clear_abandoned(path)
    partial = path.with_name(f"{_partial(path)}{os.getpid()}.{uuid.uuid4().hex[:8]}.part")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _partial(path: Path) -> str:
    """How the names of unfinished files of this machine begin; its process follows."""
    return f".{path.name}.{socket.gethostname()}."


def _clear_abandoned(path: Path) -> None:
    """Remove what processes of this machine began and did not live to finish."""
    start = _partial(path)
    for file in path.parent.iterdir():
        if file.name.startswith(start) and file.name.endswith(".part"):
            process = file.name.removeprefix(start).partition(".")[0]
            if process.isdecimal() and not psutil.pid_exists(int(process)):
                file.unlink(missing_ok=True)
