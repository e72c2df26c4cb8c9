"""Fonts for pictures: one that has the letters of a text, from what the machine offers."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Names that Pillow finds in the font folders of Linux, macOS and Windows: Latin first, then East Asian.
_NAMES = (
    "Inter-Regular.otf",
    "LiberationSans-Regular.ttf",
    "DejaVuSans.ttf",
    "Arial.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "msyh.ttc",
    "Arial Unicode.ttf",
)


def font_for(words: str, size: int) -> Font:
    """The first font that has every letter of the text, else the one that draws most languages.

    Raises:
        OSError: not even Pillow's own font can be used.
    """
    fonts = _fonts(size)
    return next((font for font in fonts if _has_all(font, words)), fonts[0])


@lru_cache(maxsize=16)
def _fonts(size: int) -> tuple[Font, ...]:
    found: list[Font] = []
    for name in (*_NAMES, *_of_matplotlib()):
        try:
            found.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return (*found, ImageFont.load_default(size))


def _of_matplotlib() -> list[str]:
    # FiftyOne brings matplotlib, which brings DejaVu Sans; nothing is imported to find it.
    spec = find_spec("matplotlib")
    folders = (spec.submodule_search_locations or []) if spec else []
    return [str(Path(f) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf") for f in folders]


def _has_all(font: Font, words: str) -> bool:
    if not isinstance(font, ImageFont.FreeTypeFont):
        return words.isascii()
    absent = _shape(font, "\uffff")
    return all(c.isspace() or _shape(font, c) != absent for c in set(words))


@lru_cache(maxsize=4096)
def _shape(font: ImageFont.FreeTypeFont, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)
