"""Images for models, from disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bson import ObjectId

from valflow import database, image_files

READ_AT_ONCE = 8


def fetch_images(dataset: Any, sample_ids: Sequence[ObjectId], read: Callable[[str], Any]) -> list[Any]:
    """What ``read`` makes of the files of samples, in order; an ``Exception`` for one that cannot be read."""
    return read_files(paths_of(dataset, sample_ids), read)


def paths_of(dataset: Any, sample_ids: Sequence[ObjectId]) -> list[str | None]:
    """The files of samples, in order; None for one that was deleted."""
    cursor = database.samples_of(dataset).find({"_id": {"$in": list(sample_ids)}}, {"filepath": 1})
    paths = {d["_id"]: d["filepath"] for d in cursor}
    return [paths.get(i) for i in sample_ids]


def read_files(paths: Sequence[str | None], read: Callable[[str], Any]) -> list[Any]:
    """What ``read`` makes of files, in order; an ``Exception`` for one that cannot be read."""
    return [_read(path, read) for path in paths]


def read_array(path: str) -> Any:
    """An image as (height, width, 3) uint8 RGB."""
    import fiftyone.utils.image as foui

    return foui.read(path)


def first_path(dataset: Any) -> str | None:
    """The file of the first sample."""
    first = database.samples_of(dataset).find_one({}, {"filepath": 1}, sort=[("_id", 1)])
    return None if first is None else first["filepath"]


def _read(path: str | None, read: Callable[[str], Any]) -> Any:
    if path is None:
        return LookupError("the sample was deleted")
    if problem := image_files.problem_of(path):
        return ValueError(problem)
    try:
        image = read(path)
    except Exception as error:  # noqa: BLE001 - decoders raise many types; recorded as the sample's failure
        return ValueError(f"not a readable image: {error}")
    return image if image is not None else ValueError("not a readable image")
