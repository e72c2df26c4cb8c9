"""A report as Markdown, for places that show no HTML file; the same facts from the same blocks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from valflow.markup import fence_around, markdown_code, markdown_escaped
from valflow.report import formats
from valflow.report.blocks import (
    Bar,
    Block,
    Chart,
    Checks,
    Code,
    Columns,
    Facts,
    Gallery,
    Heading,
    Inline,
    Legend,
    Link,
    Listing,
    Paragraph,
    Quote,
    Report,
    Strong,
    Table,
    Text,
    inlines,
)
from valflow.report.content import report_of
from valflow.report.tiles import Tile

Record = Mapping[str, Any]

_PER_ROW = 6


def render_markdown(
    record: Record,
    pictures: Collection[str] = (),
    tiles: Mapping[str, Sequence[Tile]] | None = None,
    folder: str = "pictures",
) -> str:
    """Write the report of a run as Markdown (CommonMark with GitHub's tables and task lists).

    Args:
        record: a run record at any state; any key may be missing.
        pictures: names of the picture files that exist; others are not shown.
        tiles: the labels on the pictures, for the text under them.
        folder: where the pictures lie, relative to the Markdown file.
    """
    report = report_of(record, tiles)
    places = {name: f"{folder}/{name}" for name in pictures}
    lines = _top(report)
    for section in report.sections:
        lines += [f"## {markdown_escaped(section.title)}", ""]
        for block in section.blocks:
            lines += _block(block, places)
    lines += ["---", "", _inline(report.footer), ""]
    return "\n".join(lines)


def _top(report: Report) -> list[str]:
    lines = [
        f"# {markdown_escaped(report.title)}",
        "",
        f"**{markdown_escaped(report.status)}** · {_inline(report.subtitle)}",
        "",
    ]
    for paragraph in report.summary:
        lines += _block(paragraph, {})
    if report.headlines:
        rows = [
            [h.name for h in report.headlines],
            [f"**{markdown_escaped(h.figure)}**" for h in report.headlines],
        ]
        rows.append([markdown_escaped(h.note) for h in report.headlines])
        lines += _grid([markdown_escaped(c) for c in rows[0]], rows[1:])
    steps = [[s.stage, s.progress, ", ".join(filter(None, (s.figure, s.note))), s.time] for s in report.steps]
    titles = ["stage", "progress", "figure", "time"]
    return lines + _grid(titles, [[markdown_escaped(c) for c in row] for row in steps], right=(3,))


def _block(block: Block, places: Mapping[str, str]) -> list[str]:
    match block:
        case Paragraph():
            return [_inline(block.text), ""]
        case Heading():
            return [f"### {markdown_escaped(block.text)}", ""]
        case Quote():
            said = "\\\n> ".join(markdown_escaped(line) for line in block.text.splitlines())
            return [f"> {said}", ">", f"> – {markdown_escaped(block.source)}", ""]
        case Facts():
            return [*(f"- {markdown_escaped(term)}: {_inline(text)}" for term, text in block.items), ""]
        case Table():
            return _table(block)
        case Legend():
            return []  # colours exist in pictures only, which carry their own
        case Chart():
            return _chart(block, places)
        case Gallery():
            return _gallery(block, places)
        case Checks():
            return [
                f"- [{'x' if c.ok else ' '}] {markdown_escaped(c.claim)}"
                + (" (required)" if c.required and not c.ok else "")
                + (f": {_inline(c.evidence)}" if c.evidence else "")
                for c in block.items
            ] + [""]
        case Listing():
            fence = fence_around(block.text, 3)
            return [f"{fence}{block.language}", formats.clean(block.text), fence, ""]
        case Columns():
            return [line for inner in (*block.left, *block.right) for line in _block(inner, places)]


def _table(block: Table) -> list[str]:
    kept = [i for i, column in enumerate(block.columns) if column.kind != "bar"]
    right = tuple(place for place, i in enumerate(kept) if block.columns[i].kind == "number")
    rows = [[_cell(row[i]) for i in kept] for row in block.rows[: block.shown]]
    lines = _grid([markdown_escaped(block.columns[i].title) for i in kept], rows, right)
    more = len(block.rows) - block.shown
    return [*lines, f"… and {more:,} more rows, in report.html and run.json.", ""] if more > 0 else lines


def _grid(titles: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    rule = ["---:" if i in right else "---" for i in range(len(titles))]
    return [*(f"| {' | '.join(cells)} |" for cells in (titles, rule, *rows)), ""]


def _chart(block: Chart, places: Mapping[str, str]) -> list[str]:
    place = places.get(f"{block.name}.svg")
    if place is None:
        return []
    # A chart that exists only as a file stands under a heading of its own.
    title = [] if block.only_as_file else [f"**{markdown_escaped(block.title)}**", ""]
    note = [markdown_escaped(block.note), ""] if block.note else []
    return [*title, *note, f"![{markdown_escaped(block.title)}]({place})", ""]


def _gallery(block: Gallery, places: Mapping[str, str]) -> list[str]:
    lines = [f"### {markdown_escaped(block.title)}", ""]
    lines += [markdown_escaped(block.note), ""] if block.note else []
    shown = [t for t in block.thumbnails if t.picture in places]
    for start in range(0, len(shown), _PER_ROW):
        row = shown[start : start + _PER_ROW]
        words = [
            " · ".join(markdown_escaped(w) for w in (t.label, t.confidence, t.caption) if w) for t in row
        ]
        lines += _grid([f"![{markdown_escaped(t.label)}]({places[t.picture]})" for t in row], [words])
    return lines


def _cell(cell: Text | Bar) -> str:
    return "" if isinstance(cell, Bar) else _inline(cell)


def _inline(text: Text) -> str:
    return "".join(_piece(piece) for piece in inlines(text))


def _piece(piece: Inline) -> str:
    match piece:
        case Code():
            return markdown_code(piece.text)
        case Strong():
            return f"**{markdown_escaped(piece.text)}**"
        case Link():
            address = formats.address(piece.address)
            return f"[{markdown_escaped(piece.text)}](<{address}>)" if address else markdown_code(piece.text)
        case _:
            return markdown_escaped(piece)
