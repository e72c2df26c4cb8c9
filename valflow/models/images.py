"""Images for models: read by several threads, because decoders release the interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bson import ObjectId

from valflow import database, image_files

_READERS = 4


def read_images(dataset: Any, sample_ids: Sequence[ObjectId]) -> list[Any]:
    """The images of samples as (height, width, 3) uint8 RGB, in order; an ``Exception`` for one that cannot be read."""
    cursor = database.samples_of(dataset).find({"_id": {"$in": list(sample_ids)}}, {"filepath": 1})
    paths = {d["_id"]: d["filepath"] for d in cursor}
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(lambda i: read_image(paths.get(i)), sample_ids))


def read_image(path: str | None) -> Any:
    """An image, or the exception that says why there is none."""
    import fiftyone.utils.image as foui

    if path is None:
        return LookupError("the sample was deleted")
    if problem := image_files.problem_of(path):
        return ValueError(problem)
    try:
        image = foui.read(path)
    except Exception as error:  # noqa: BLE001 - decoders raise many types; recorded as the sample's failure
        return ValueError(f"not a readable image: {error}")
    return image if image is not None else ValueError("not a readable image")
