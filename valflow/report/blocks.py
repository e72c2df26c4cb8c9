"""What a report consists of, free of HTML and Markdown.

The record becomes blocks once (``content``); ``page`` and ``markdown`` only write blocks down. So both
reports hold the same facts, and text is escaped in one place per format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Tone = Literal["good", "bad", "waiting", "neutral"]


@dataclass(frozen=True)
class Code:
    """Text in a monospaced font: names of fields, commands."""

    text: str


@dataclass(frozen=True)
class Strong:
    """Emphasised text."""

    text: str


@dataclass(frozen=True)
class Link:
    """Text that leads somewhere; addresses that could run a script are written as plain text."""

    text: str
    address: str


Inline = str | Code | Strong | Link
Text = Inline | Sequence[Inline]


def inlines(text: Text) -> tuple[Inline, ...]:
    """The pieces of a text, whichever way it was given."""
    return (text,) if isinstance(text, str | Code | Strong | Link) else tuple(text)


@dataclass(frozen=True)
class Paragraph:
    """One paragraph; ``tone`` other than neutral makes a notice of it."""

    text: Text
    tone: Tone = "neutral"


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    text: str


@dataclass(frozen=True)
class Quote:
    """Words that a person wrote."""

    text: str
    source: str


@dataclass(frozen=True)
class Facts:
    """Terms and what they are; ``wide`` gives long answers more room."""

    items: Sequence[tuple[str, Text]]
    wide: bool = False


@dataclass(frozen=True)
class Bar:
    """Parts of a bar, each (name of its colour, length); lengths in units of ``full``."""

    parts: Sequence[tuple[str, float]]
    full: float


Cell = Text | Bar


@dataclass(frozen=True)
class Column:
    """Heading of a table column and how its cells are set; bars exist only where they can be drawn."""

    title: str
    kind: Literal["text", "number", "bar"] = "text"


@dataclass(frozen=True)
class Table:
    """Rows of cells; those behind the first ``shown`` are folded away."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    shown: int = 40


@dataclass(frozen=True)
class Legend:
    """The colours of a chart or a bar column and what they mean."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Chart:
    """Panels of one figure: SVG texts, flowing in a page, composed in ``columns`` as one file."""

    name: str
    title: str
    panels: Sequence[str]
    columns: int = 1
    note: str = ""
    legend: Legend | None = None
    only_as_file: bool = False


@dataclass(frozen=True)
class Thumbnail:
    """One picture of a gallery by its file name, with the text under it."""

    picture: str
    label: str
    confidence: str
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side."""

    title: str
    note: str
    thumbnails: Sequence[Thumbnail]


@dataclass(frozen=True)
class Check:
    """A claim and the evidence for it; one that was not required may be open."""

    ok: bool
    claim: str
    evidence: Text
    required: bool = True


@dataclass(frozen=True)
class Checks:
    """Claims, ticked off or not."""

    items: Sequence[Check]


@dataclass(frozen=True)
class Listing:
    """Lines of code or configuration."""

    text: str
    language: str


@dataclass(frozen=True)
class Columns:
    """Two groups of blocks, side by side where the page is wide enough."""

    left: Sequence[Block]
    right: Sequence[Block]


Block = Paragraph | Heading | Quote | Facts | Table | Legend | Chart | Gallery | Checks | Listing | Columns


@dataclass(frozen=True)
class Section:
    """A part of the report with an anchor."""

    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Headline:
    """One of the figures on top."""

    figure: str
    name: str
    note: str = ""
    tone: Tone = "neutral"


Progress = Literal["done", "now", "failed", "skipped", "ahead"]


@dataclass(frozen=True)
class Step:
    """A stage of the pipeline, how far it came, its figure and its time."""

    stage: str
    progress: Progress
    figure: str = ""
    note: str = ""
    time: str = ""


@dataclass(frozen=True)
class Report:
    """A whole report."""

    title: str
    status: str
    tone: Tone
    subtitle: Text
    summary: Sequence[Paragraph]
    headlines: Sequence[Headline]
    steps: Sequence[Step]
    sections: Sequence[Section]
    footer: Text
