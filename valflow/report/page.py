"""A report as one HTML file that needs nothing else: no script, no font, no server."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from valflow.report import blocks, formats
from valflow.report.charts import style_sheet
from valflow.report.content import report_of
from valflow.report.tiles import Tile

Record = Mapping[str, Any]
Pictures = Mapping[str, bytes | str]


def render_report(
    record: Record, pictures: Pictures | None = None, tiles: Mapping[str, Sequence[Tile]] | None = None
) -> str:
    """Write the report of a run as self-contained HTML.

    Args:
        record: a run record at any state; any key may be missing.
        pictures: JPEG or PNG files as bytes, or SVG as text, by the file names of ``make_pictures``.
        tiles: the labels on the pictures, for the text under them.

    Returns:
        HTML text. All text from the record is escaped, and a policy inside the page forbids requests.
    """
    return _template().render(
        report=report_of(record, tiles),
        pictures={name: _embedded(content) for name, content in (pictures or {}).items()},
        style=Markup(style_sheet("palette.css", "charts.css", "page.css")),
    )


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["svg"] = Markup  # made by charts.py, which escapes
    environment.filters["address"] = formats.address
    environment.filters["inlines"] = blocks.inlines
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.finalize = _clean
    return environment.from_string(files("valflow.report").joinpath("page.html").read_text(encoding="utf-8"))


def _clean(value: Any) -> Any:
    return formats.clean(value) if type(value) is str else value


def _embedded(content: bytes | str) -> str:
    if isinstance(content, str):
        kind, content = "image/svg+xml", content.encode("utf-8", "replace")
    else:
        kind = "image/png" if content.startswith(b"\x89PNG") else "image/jpeg"
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
