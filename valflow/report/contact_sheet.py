"""The contact sheet of an audit: numbered crops on one picture, for a person to judge.

The audit is blind: class and box are shown, never the confidence or anything else the run thinks of a label.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from valflow.report.fonts import Font, font_for
from valflow.report.formats import clean
from valflow.report.tiles import Tile, crops

PER_PAGE = 120
_SOFTWARE = "valflow contact sheet"
_CROP, _CAPTION, _GAP, _MARGIN, _TITLE = 208, 36, 20, 32, 92
_INK, _SOFT, _PAPER, _LINE = (26, 34, 48), (90, 102, 119), (255, 255, 255), (225, 229, 234)
_OUTLINE = (255, 196, 61)


def draw_contact_sheet(
    tiles: Sequence[Tile], path: Path, title: str, columns: int = 8, note: str = "", crop: int = _CROP
) -> Path:
    """Draw the tiles in their order, numbered from 1.

    Args:
        tiles: the labels to judge.
        path: PNG file to write; more than 120 tiles make several, ``NAME-1.png``, ``NAME-2.png``, ….
        title: printed on every page.
        columns: tiles per row.
        note: what to do, printed under the title.
        crop: edge of a picture in pixels.

    Returns:
        The path of the first page; ``sheet_paths`` names all of them.

    Raises:
        ValueError: there are no tiles, or ``columns`` is not positive.
        OSError: the file cannot be written.
    """
    if not tiles or columns < 1:
        raise ValueError(f"expected at least one tile and one column, found {len(tiles)} and {columns}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pages = sheet_paths(path, len(tiles))
    for old in (path, *path.parent.glob(f"{path.stem}-[0-9]*{path.suffix}")):
        # A page of an earlier, longer draw would be judged by mistake; other pictures are not ours.
        if old not in pages and _is_ours(old):
            old.unlink()
    for i, page in enumerate(pages):
        part = tiles[i * PER_PAGE : (i + 1) * PER_PAGE]
        where = f"page {i + 1} of {len(pages)}" if len(pages) > 1 else ""
        _page(part, i * PER_PAGE + 1, (title, note, where), min(columns, len(tiles)), crop).save(
            page, "PNG", pnginfo=_signature(), compress_level=4
        )
    return pages[0]


def sheet_paths(path: Path, amount: int) -> list[Path]:
    """Files that a sheet of ``amount`` tiles consists of."""
    path = Path(path)
    count = math.ceil(amount / PER_PAGE)
    if count <= 1:
        return [path]
    return [path.with_name(f"{path.stem}-{n}{path.suffix}") for n in range(1, count + 1)]


def _signature() -> PngInfo:
    signature = PngInfo()
    signature.add_text("Software", _SOFTWARE)
    return signature


def _is_ours(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.info.get("Software") == _SOFTWARE
    except OSError:
        return False


def _page(
    tiles: Sequence[Tile], first: int, words: tuple[str, str, str], columns: int, crop: int
) -> Image.Image:
    title, note, where = words
    step_x, step_y = crop + _GAP, crop + _CAPTION + _GAP
    width = max(2 * _MARGIN + columns * step_x - _GAP, 560)
    height = _TITLE + math.ceil(len(tiles) / columns) * step_y + _MARGIN - _GAP // 2
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, (_MARGIN, 34), title, 28, _INK, width - 2 * _MARGIN - (130 if where else 0))
    _write(draw, (_MARGIN, 66), note, 18, _SOFT, width - 2 * _MARGIN)
    if where:
        draw.text((width - _MARGIN, 34), where, _SOFT, font_for(where, 18), anchor="rm")
    draw.line([(_MARGIN, _TITLE - 14), (width - _MARGIN, _TITLE - 14)], _LINE, 1)
    for i, picture in crops(tiles, crop, _OUTLINE, context=2.0):
        x, y = _MARGIN + i % columns * step_x, _TITLE + i // columns * step_y
        sheet.paste(picture, (x, y))
        draw.rectangle([x, y, x + crop - 1, y + crop - 1], outline=_LINE)
        room = _chip(draw, (x, y + crop + 6), str(first + i))
        _write(draw, (x + room + 10, y + crop + 19), tiles[i].label, 22, _INK, crop - room - 12)
    return sheet


def _chip(draw: ImageDraw.ImageDraw, place: tuple[int, int], number: str) -> int:
    """The number in a box of its own, so that nobody takes it for a class; returns the width."""
    font = font_for(number, 18)
    width = max(round(draw.textlength(number, font)) + 14, 30)
    x, y = place
    draw.rounded_rectangle([x, y, x + width, y + 26], 5, fill=_INK)
    draw.text((x + width / 2, y + 13), number, _PAPER, font, anchor="mm")
    return width


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    words: str,
    size: int,
    colour: tuple[int, int, int],
    room: float,
) -> None:
    words = " ".join(clean(words).split())
    for smaller in (size, round(size * 0.75)):
        font = font_for(words, smaller)
        if draw.textlength(words, font) <= room:
            break
    draw.text(place, _fitting(draw, words, font, room), colour, font, anchor="lm")


def _fitting(draw: ImageDraw.ImageDraw, words: str, font: Font, room: float) -> str:
    """As much of the text as has room, cut at the end."""
    if draw.textlength(words, font) <= room:
        return words
    # Names differ at their ends as often as at their starts, so keep some of both.
    for kept in range(len(words) - 1, 1, -1):
        short = words[: math.ceil(kept * 0.6)] + "…" + words[len(words) - kept + math.ceil(kept * 0.6) :]
        if draw.textlength(short, font) <= room:
            return short
    return "…"
