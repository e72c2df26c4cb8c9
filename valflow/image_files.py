"""Whether a file is an image that can be read, found out from its first and last bytes."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

_TAIL = 64
_JPEG_END, _PNG_END = b"\xff\xd9", b"IEND"


def problem_of(path: str) -> str | None:
    """Why an image file cannot be used, or None.

    Nothing is decoded: half a millisecond at most, and a header that promises a gigantic image costs no memory.

    Args:
        path: the file.
    """
    if not os.path.isfile(path):
        return "no such file"
    try:
        size = os.path.getsize(path)
        if not size:
            return "an empty file"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # half as large as what Pillow refuses
            with Image.open(path) as image:
                kind = image.format
                width, height = image.size
    except Image.DecompressionBombError as error:
        return f"its header promises an image too large to be read: {error}"
    except UnidentifiedImageError:
        return None if _is_known_to_opencv(path) else "not a readable image: of no known format"
    except Exception as error:  # noqa: BLE001 - Pillow's readers of headers raise what they like
        return f"not a readable image: {type(error).__name__}: {error}"
    if not width or not height:
        return "not a readable image: it has no pixels"
    return "its end is missing" if _is_cut(path, kind, size) else None


def _is_known_to_opencv(path: str) -> bool:
    import cv2

    return bool(cv2.haveImageReader(path))


def _is_cut(path: str, kind: str | None, size: int) -> bool:
    """Whether the mark at the end of a JPEG or PNG is missing; readers of the first fill up with grey."""
    if kind not in ("JPEG", "MPO", "PNG"):
        return False
    mark = _PNG_END if kind == "PNG" else _JPEG_END
    with open(path, "rb") as file:
        file.seek(max(0, size - _TAIL))
        if mark in file.read():
            return False
    # Cameras append films and notes: then it is further in, but behind the thumbnail that the header may hold.
    content = Path(path).read_bytes()
    return content.find(mark, _begin_of_scan(content) if kind != "PNG" else 0) < 0


def _begin_of_scan(content: bytes) -> int:
    """Where the pixels of a JPEG begin, behind all segments of its header."""
    place = 2
    while place + 4 <= len(content) and content[place] == 0xFF:
        if content[place + 1] == 0xDA:
            return place
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return min(place, len(content))
