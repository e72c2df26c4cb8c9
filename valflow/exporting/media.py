"""Image files of an export: their names, and how they get there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

COPY, SYMLINK, NONE = "copy", "symlink", "none"
MEDIA = (COPY, SYMLINK, NONE)


def unique_names(paths: Sequence[str], *, by_stem: bool = False) -> list[str]:
    """File names for images that come from several folders: the own name, else with ``-2``, ``-3``, ...

    These are the names that FiftyOne gives, except that a name that is itself taken is passed over;
    ``%`` becomes ``-`` as there.

    Args:
        paths: where the images are.
        by_stem: whether names must differ without their extensions, too.

    Returns:
        One name per path.
    """
    taken: set[str] = set()
    names = []
    for path in paths:
        stem, extension = os.path.splitext(os.path.basename(path))
        stem, extension = stem.replace("%", "-"), extension.partition("?")[0]
        name, count = stem + extension, 1
        while (os.path.splitext(name)[0] if by_stem else name) in taken:
            count += 1
            name = f"{stem}-{count}{extension}"
        taken.add(os.path.splitext(name)[0] if by_stem else name)
        names.append(name)
    return names


def place_media(paths: Sequence[str], names: Sequence[str], folder: Path, how: str) -> None:
    """Copy or link images into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, name in zip(paths, names, strict=True):
        target = os.path.join(folder, name)
        if how == SYMLINK:
            os.symlink(os.path.abspath(path), target)
        else:
            shutil.copyfile(path, target)
