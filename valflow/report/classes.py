"""Labels by class: confidence, thresholds, decisions, and pictures of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from valflow.report import charts, formats
from valflow.report.blocks import (
    Bar,
    Block,
    Cell,
    Chart,
    Column,
    Gallery,
    Heading,
    Legend,
    Paragraph,
    Section,
    Table,
    Thumbnail,
)
from valflow.report.tiles import Tile

Record = Mapping[str, Any]

# More small multiples than this are a wallpaper, not a figure.
LARGEST = 12
_DECISIONS = ("approved", "rejected", "undecided")
_DECIDED = Legend((("approved", "approved"), ("rejected", "rejected"), ("undecided", "undecided")))
_GALLERIES = {
    "approved": ("Approved, drawn at random", "No approved labels to show."),
    "rejected": ("Rejected, drawn at random", "No rejected labels to show."),
    "errors": ("Worst errors", "No errors to show."),
}


def class_section(record: Record) -> Section:
    """Thresholds, a histogram per class and the class table."""
    rows = sorted(
        (r for r in record.get("class_table") or [] if isinstance(r, Mapping)),
        key=lambda r: (-formats.whole(r.get("total")), str(r.get("label"))),
    )
    if not rows:
        none = Paragraph("No labels: the model predicted nothing, or has not run yet.")
        return Section("classes", "Classes and thresholds", [none])
    blocks: list[Block] = [Paragraph(_thresholds(record)), confidence_chart(rows)]
    blocks += [Heading("Decisions by class"), decision_chart(rows), _DECIDED, _class_table(rows)]
    return Section("classes", "Classes and thresholds", blocks)


def confidence_chart(rows: Sequence[Mapping[str, Any]]) -> Chart:
    """The histograms of the largest classes."""
    shown = rows[:LARGEST]
    panels = [
        charts.confidence_histogram(
            str(r.get("label")),
            r.get("histogram") or [],
            formats.number(r.get("threshold")),
            formats.whole(r.get("total")),
            formats.whole(r.get("without_confidence")),
        )
        for r in shown
    ]
    note = "Labels over the model's confidence; every class has its own height, the number is its labels."
    if len(rows) > len(shown):
        note += f" The {len(shown)} largest of {formats.count(len(rows))} classes; the table has all."
    colours = [("undecided", "below the threshold")]
    if any(formats.number(r.get("threshold")) is not None for r in shown):
        colours.insert(0, ("approved", "at or above the threshold of the class"))
    else:
        colours = [("undecided", "labels")]
    return Chart("confidence", "Confidence by class", panels, 4, note, Legend(tuple(colours)))


def decision_chart(rows: Sequence[Mapping[str, Any]]) -> Chart:
    """The decisions on the largest classes as bars, for where a table cannot draw them."""
    shown = rows[:LARGEST]
    bars = charts.decision_bars(
        [(str(r.get("label")), [(d, formats.whole(r.get(d))) for d in _DECISIONS]) for r in shown]
    )
    note = ""
    if len(rows) > len(shown):
        note = f"The {len(shown)} largest of {formats.count(len(rows))} classes."
    return Chart("decisions", "Decisions by class", [bars], 1, note, _DECIDED, only_as_file=True)


def galleries_of(tiles: Mapping[str, Sequence[Tile]]) -> list[Gallery]:
    """One gallery per group of tiles; the pictures are named by group and position."""
    found = []
    for group, members in tiles.items():
        title, nothing = _GALLERIES.get(group, (group.replace("_", " ").capitalize(), "Nothing to show."))
        thumbnails = [
            Thumbnail(
                picture_name(group, i),
                tile.label,
                "" if tile.confidence is None else formats.decimal(tile.confidence),
                tile.caption,
            )
            for i, tile in enumerate(members)
        ]
        found.append(Gallery(title, "" if members else nothing, thumbnails))
    return found


def picture_name(group: str, position: int) -> str:
    """File name of a thumbnail: ``approved-01.jpg``."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in group)
    return f"{plain or 'group'}-{position + 1:02d}.jpg"


def _thresholds(record: Record) -> str:
    chosen = record.get("thresholds") or {}
    default = formats.number(chosen.get("default"))
    if record.get("certificate"):
        return (
            "There is no threshold: the certificate decides which labels may skip the review; what it proves stands "
            "above. Labels without a confidence and labels that failed a check always wait for a person."
        )
    own = {str(c): formats.number(t) for c, t in (chosen.get("per_class") or {}).items()}
    special = [f"“{c}” at {formats.threshold(t)}" for c, t in own.items() if t is not None]
    if default is None and not special:
        return "There was no threshold: every label waited for a person."
    words = f"A label at or above {formats.threshold(default)} was approved without a person"
    if special:
        named = formats.joined(special[:LARGEST])
        more = len(special) - LARGEST
        words += f"; with thresholds of their own: {named}" + (f" and {more} more" if more > 0 else "")
    return words + ". Labels without a confidence and labels that failed a check always waited for a person."


def _class_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    peak = max(formats.whole(r.get("total")) for r in rows) or 1
    columns = [Column("class"), Column("labels", "number"), Column("decisions", "bar")]
    columns += [Column(d, "number") for d in _DECISIONS]
    # Columns of zeros say nothing.
    extra = [
        (title, key)
        for title, key in (("failed a check", "invalid"), ("no confidence", "without_confidence"))
        if any(formats.whole(r.get(key)) for r in rows)
    ]
    columns += [Column(title, "number") for title, _ in extra]
    columns += [Column("mean confidence", "number"), Column("threshold", "number")]
    cells: list[list[Cell]] = []
    for r in rows:
        bar = Bar([(d, formats.whole(r.get(d))) for d in _DECISIONS], peak)
        line: list[Cell] = [str(r.get("label")), formats.count(r.get("total", 0)), bar]
        line += [formats.count(r.get(d, 0)) for d in _DECISIONS]
        line += [formats.count(r.get(key, 0)) for _, key in extra]
        line += [formats.decimal(r.get("mean_confidence")), formats.threshold(r.get("threshold"))]
        cells.append(line)
    return Table(columns, cells)
