"""Crops of labels, cut from their image files.

A picture that cannot be read becomes a grey tile that says why: one broken file must not cost a report.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from valflow.report.fonts import font_for

GREY = (124, 132, 143)
BACKDROP = (228, 231, 236)


@dataclass(frozen=True)
class Tile:
    """One label to show.

    Attributes:
        filepath: image file.
        box: x, y, width, height relative to the image in [0, 1]; None for a label of the whole image.
        label: class name.
        confidence: in [0, 1]; None if the model gave none.
        caption: anything else worth saying about this label.
        outlines: instead of one label, a whole image with these boxes; None for a label.
    """

    filepath: str
    box: tuple[float, float, float, float] | None
    label: str
    confidence: float | None = None
    caption: str = ""
    outlines: tuple[tuple[float, float, float, float], ...] | None = None


def choose(tiles: Sequence[Tile], amount: int, seed: str | int) -> list[Tile]:
    """A random choice of at most ``amount`` tiles, the same for the same seed."""
    if len(tiles) <= amount:
        return list(tiles)
    return random.Random(seed).sample(list(tiles), amount)


def crops(
    tiles: Sequence[Tile], size: int, colour: tuple[int, int, int], context: float = 1.7
) -> Iterator[tuple[int, Image.Image]]:
    """Cut one square picture per tile, in the order of the files, so that each file is read once.

    Args:
        tiles: what to cut out.
        size: edge of a picture in pixels.
        colour: of the outline of the box, RGB.
        context: edge of the cut, as a multiple of the longer side of the box; 1 or more.

    Yields:
        (position in ``tiles``, RGB picture of ``size`` x ``size`` pixels).
    """
    path, image, problem = None, None, ""
    for i in sorted(range(len(tiles)), key=lambda i: str(tiles[i].filepath)):
        tile = tiles[i]
        if tile.filepath != path:
            path = tile.filepath
            image, problem = _read(path)
        if image is None:
            yield i, _grey_tile(size, problem)
        elif tile.outlines is not None:
            yield i, _whole(image, tile.outlines, size, colour)
        else:
            yield i, _cut(image, tile.box, size, colour, context)


def as_jpeg(picture: Image.Image, quality: int = 84) -> bytes:
    """The picture as the bytes of a JPEG file."""
    target = io.BytesIO()
    picture.save(target, "JPEG", quality=quality, optimize=True)
    return target.getvalue()


def _read(path: str) -> tuple[Image.Image | None, str]:
    if not Path(path).is_file():
        return None, "file is missing"
    try:
        with Image.open(path) as image:
            image.load()
            return _as_rgb(ImageOps.exif_transpose(image)), ""
    except Exception as error:  # noqa: BLE001 - decoders of broken files raise anything; the tile says what
        return None, f"cannot be read: {type(error).__name__}"


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # 16 bits and more: Pillow's own conversion would cut everything above 255 to white.
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        low, high = values.min(), values.max()
        scaled = (values - low) * (255.0 / (high - low) if high > low else 0.0)
        image = Image.fromarray(scaled.astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        opaque = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(opaque, image.convert("RGBA"))
    return image.convert("RGB")


def _cut(
    image: Image.Image,
    box: Sequence[float] | None,
    size: int,
    colour: tuple[int, int, int],
    context: float,
) -> Image.Image:
    corners = _corners(box, *image.size)
    if corners is None:
        return _fitted(image, (0, 0, *image.size), size)[0]
    left, top, right, bottom = corners
    edge = max(right - left, bottom - top, 8.0) * context
    window = (*_span((left + right) / 2, edge, image.width), *_span((top + bottom) / 2, edge, image.height))
    picture, scale, offset = _fitted(image, (window[0], window[2], window[1], window[3]), size)
    x0, y0 = ((left - window[0]) * scale + offset[0], (top - window[2]) * scale + offset[1])
    x1, y1 = ((right - window[0]) * scale + offset[0], (bottom - window[2]) * scale + offset[1])
    _outline(ImageDraw.Draw(picture), (x0, y0, x1, y1), size, colour)
    return picture


def _whole(
    image: Image.Image,
    boxes: Sequence[Sequence[float]],
    size: int,
    colour: tuple[int, int, int],
) -> Image.Image:
    """All of the image, with every box that lies in it."""
    picture, scale, offset = _fitted(image, (0, 0, *image.size), size)
    draw = ImageDraw.Draw(picture)
    for corners in (_corners(box, *image.size) for box in boxes):
        if corners is not None:
            x0, y0, x1, y1 = (v * scale + offset[i % 2] for i, v in enumerate(corners))
            _outline(draw, (x0, y0, x1, y1), size, colour)
    return picture


def _outline(
    draw: ImageDraw.ImageDraw,
    corners: tuple[float, float, float, float],
    size: int,
    colour: tuple[int, int, int],
) -> None:
    x0, y0, x1, y1 = (min(max(v, 1.0), size - 2.0) for v in corners)
    # Dark under bright: visible on every picture.
    draw.rectangle([x0 - 1, y0 - 1, x1 + 1, y1 + 1], outline=(12, 16, 22))
    draw.rectangle([x0, y0, x1, y1], outline=colour, width=2)


def _corners(
    box: Sequence[float] | None, width: int, height: int
) -> tuple[float, float, float, float] | None:
    """Corners in pixels of the part of the box that lies inside the image; None where there is none."""
    if box is None or len(box) != 4 or not all(math.isfinite(v) for v in box):
        return None
    x, y, w, h = box
    left, right = (min(max(v, 0.0), 1.0) * width for v in (x, x + w))
    top, bottom = (min(max(v, 0.0), 1.0) * height for v in (y, y + h))
    return (left, top, right, bottom) if right > left and bottom > top else None


def _span(centre: float, edge: float, limit: int) -> tuple[float, float]:
    """``edge`` pixels around the centre, moved inside [0, limit], or all of it where that is less."""
    edge = min(edge, float(limit))
    start = min(max(centre - edge / 2, 0.0), limit - edge)
    return start, start + edge


def _fitted(
    image: Image.Image, window: tuple[float, float, float, float], size: int
) -> tuple[Image.Image, float, tuple[int, int]]:
    """The window scaled into a square: (picture, pixels per pixel, where it starts)."""
    width, height = window[2] - window[0], window[3] - window[1]
    scale = size / max(width, height)
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    part = image.resize(shape, Image.Resampling.BICUBIC, box=window)
    offset = ((size - shape[0]) // 2, (size - shape[1]) // 2)
    picture = Image.new("RGB", (size, size), BACKDROP)
    picture.paste(part, offset)
    return picture, scale, offset


def _grey_tile(size: int, words: str) -> Image.Image:
    picture = Image.new("RGB", (size, size), GREY)
    draw = ImageDraw.Draw(picture)
    with suppress(OSError):  # a broken font costs the text, not the tile
        font = font_for(words, max(10, size // 12))
        lines = words.replace(": ", ":\n")
        draw.multiline_text((size / 2, size / 2), lines, (255, 255, 255), font, anchor="mm", align="center")
    return picture
