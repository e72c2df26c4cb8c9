"""Figures as SVG text, made by pure functions; colours come from the style sheet around them.

Every panel has a size of its own and is readable at that size: a page lets panels flow, a file composes
them into a grid.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from markupsafe import escape

from valflow.report import formats

PANEL_WIDTH, PANEL_HEIGHT = 244, 148
BARS_WIDTH, BAR_STEP = 640, 26


@dataclass(frozen=True)
class Curve:
    """Precision over recall, (N,) each, shares in [0, 1]."""

    colour: str
    recall: Sequence[float]
    precision: Sequence[float]


@dataclass(frozen=True)
class OperatingPoint:
    """A set of labels as one point of precision and recall, both in [0, 1]."""

    name: str
    recall: float
    precision: float
    colour: str


@dataclass(frozen=True)
class TestedRegion:
    """A region of the best labels of a group, and what the draw says about it; all are shares in [0, 1]."""

    share: float
    estimate: float
    bound: float
    passed: bool


@cache
def style_sheet(*names: str) -> str:
    """The text of the named style sheets of this package."""
    return "\n".join(files("valflow.report").joinpath(n).read_text(encoding="utf-8") for n in names)


def compose(panels: Sequence[str], columns: int = 1, legend: Sequence[tuple[str, str]] = ()) -> str:
    """One SVG file of panels of equal size, with the colours' meaning and its style sheet, light and dark.

    Args:
        panels: SVG texts of this module.
        columns: panels per row.
        legend: (colour, words) below the panels.

    Raises:
        ValueError: there is no panel.
    """
    if not panels:
        raise ValueError("expected at least one panel to compose, found none")
    gap = 18
    columns = min(columns, len(panels))
    width, height = _size(panels[0])
    total_width = columns * (width + gap) + gap
    bottom = math.ceil(len(panels) / columns) * (height + gap) + gap
    placed = []
    for i, panel in enumerate(panels):
        x, y = gap + i % columns * (width + gap), gap + i // columns * (height + gap)
        placed.append(panel.replace("<svg ", f'<svg x="{x}" y="{y}" ', 1))
    # Room by letters is rough, but there are only a few words.
    start = gap
    for colour, words in legend:
        placed.append(f'<rect class="{colour}" x="{start}" y="{bottom - 2}" width="10" height="10" rx="2"/>')
        placed.append(_text("", start + 16, bottom + 7, words))
        start += 40 + 6 * len(words)
    total_height = bottom + 22 if legend else bottom
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total_width} {total_height}" '
        f'width="{total_width}" height="{total_height}" class="chart">'
        f"<style>{style_sheet('palette.css', 'charts.css')}</style>"
        f'<rect class="paper" width="100%" height="100%"/>{"".join(placed)}</svg>'
    )


def confidence_histogram(
    label: str,
    histogram: Sequence[int],
    threshold: float | None,
    total: int,
    without_confidence: int = 0,
) -> str:
    """One class: how confident the model was, and where its threshold stands.

    Args:
        label: class name.
        histogram: labels per bin; equal bins over [0, 1].
        threshold: labels at or above it count as approved without a person; None: there is none.
        total: labels of the class.
        without_confidence: labels that have no confidence and so are in no bin.
    """
    left, right, top, bottom = 2, PANEL_WIDTH - 2, 44, PANEL_HEIGHT - 18
    counts = [max(0, formats.whole(n)) for n in histogram] or [0]
    peak = max(counts)
    step = (right - left) / len(counts)
    bars = []
    for i, n in enumerate(counts):
        if n:
            height = max(1.0, (bottom - top) * n / peak)
            bars += _split_bar(
                left + i * step + 0.75, step - 1.5, bottom - height, height, left, right, threshold
            )
    marks = [_line("axis", left, bottom, right, bottom)]
    for share in (0.0, 0.5, 1.0):
        anchor = {0.0: "", 0.5: "middle", 1.0: "end"}[share]
        marks.append(_text(anchor, left + share * (right - left), bottom + 13, f"{share:.1f}"))
    if threshold is not None:
        x = left + min(max(threshold, 0.0), 1.0) * (right - left)
        leaning = "end" if threshold > 0.5 else ""
        marks.append(_line("threshold", x, top - 10, x, bottom))
        marks.append(
            _text(f"at {leaning}", x + (-4 if leaning else 4), top - 3, formats.threshold(threshold))
        )
    words = formats.counted(total, "label")
    if without_confidence:
        missing = f"{formats.count(without_confidence)} without confidence"
        on_left = threshold is None or threshold > 0.5
        marks.append(_text("" if on_left else "end", left if on_left else right, top - 3, missing))
        words += f", {missing}"
    described = f"Confidence of {label}: {words}" + (
        f", threshold {formats.threshold(threshold)}" if threshold is not None else ""
    )
    title = _text("name", left, 15, _shortened(label, 22)) + _text("end", right, 15, formats.count(total))
    return _svg(PANEL_WIDTH, PANEL_HEIGHT, described, title + "".join(bars) + "".join(marks))


def decision_bars(
    rows: Sequence[tuple[str, Sequence[tuple[str, int]]]], described: str = "Decisions per class"
) -> str:
    """One bar per class, its parts coloured by decision, its length the number of labels.

    Args:
        rows: (class name, [(colour: approved, rejected or undecided; labels), ...]).
        described: what the bars show, for those who cannot see them.
    """
    left, right = 150, BARS_WIDTH - 52
    peak = max((sum(n for _, n in parts) for _, parts in rows), default=0) or 1
    drawn = []
    for i, (label, parts) in enumerate(rows):
        y, x = i * BAR_STEP + 4, float(left)
        drawn.append(_text("value end", left - 10, y + 13, _shortened(label, 20)))
        for colour, n in parts:
            width = (right - left) * n / peak
            drawn.append(f'<rect class="{colour}" x="{x:.2f}" y="{y}" width="{width:.2f}" height="17"/>')
            x += width
        drawn.append(_text("", x + 6, y + 13, formats.count(sum(n for _, n in parts))))
    described = f"{described}: " + "; ".join(
        f"{label} {formats.count(sum(n for _, n in parts))}" for label, parts in rows
    )
    return _svg(BARS_WIDTH, max(1, len(rows)) * BAR_STEP + 4, described, "".join(drawn))


def risk_over_coverage(
    name: str, tests: Sequence[TestedRegion], promise: float, certified: float, labels: int
) -> str:
    """One group: share of wrong labels over the share of its labels that would skip the review.

    Args:
        name: of the group.
        tests: regions, in the order in which they were tested.
        promise: allowed share of wrong labels, in (0, 1).
        certified: share of the group that was certified, in [0, 1].
        labels: of the group.
    """
    width, height = 312, 208
    left, right, top, bottom = 40, width - 10, 40, height - 34
    # Whole multiples of the promise, so that its line is one of the ticks.
    highest = min(max([0.0, *(t.bound for t in tests)]), 1.0)
    step = max(1, math.ceil(highest / promise / 4)) if promise > 0 else 1
    ticks = max(2, math.ceil(highest / promise / step + 1e-9)) if promise > 0 else 2
    limit = promise * step * ticks or 1.0

    def at(share: float, wrong: float) -> tuple[float, float]:
        y = bottom - min(max(wrong, 0.0), limit) / limit * (bottom - top)
        return left + min(max(share, 0.0), 1.0) * (right - left), y

    drawn = []
    if certified > 0:
        wide = at(certified, 0)[0] - left
        drawn.append(
            f'<rect class="region" x="{left}" y="{top}" width="{wide:.1f}" height="{bottom - top}"/>'
        )
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, _ = at(share, 0)
        anchor = {0.0: "", 1.0: "end"}.get(share, "middle")
        drawn.append(_text(anchor, x, bottom + 13, f"{share:.0%}".replace("%", " %")))
    for number in range(ticks + 1):
        _, y = at(0, number * limit / ticks)
        drawn.append(_line("grid", left, y, right, y))
        drawn.append(_text("end", left - 5, y + 3.5, f"{100 * number * limit / ticks:.3g} %"))
    _, y = at(0, promise)
    drawn.append(_line("threshold", left, y, right, y))
    drawn.append(_text("at", left + 4, y - 4, f"promise {formats.level(promise)}"))
    for t in tests:
        colour = "approved" if t.passed else "rejected"
        x, low = at(t.share, t.estimate)
        _, high = at(t.share, t.bound)
        drawn.append(
            _line(f"whisker {colour}", x, low, x, high) + _line(f"whisker {colour}", x - 4, high, x + 4, high)
        )
        drawn.append(f'<circle class="dot {colour}" cx="{x:.1f}" cy="{low:.1f}" r="4"/>')
    drawn.append(_line("axis", left, bottom, right, bottom))
    title = _text("name", 2, 15, _shortened(name, 24)) + _text("end", right, 15, formats.count(labels))
    axes = _text("", 2, 31, "wrong") + _text(
        "end", right, height - 6, "share of the group's labels, best first"
    )
    outcome = f"certified up to {formats.percent(certified)}" if certified > 0 else "nothing certified"
    told = "; ".join(
        f"{formats.percent(t.share)} of the labels: {formats.percent(t.estimate)} wrong in the draw, "
        f"at most {formats.percent_at_most(t.bound)}"
        for t in tests
    )
    described = f"{name}: {outcome}, promise {formats.level(promise)}. {told}"
    return _svg(width, height, described, title + axes + "".join(drawn))


def precision_recall(curves: Sequence[Curve], points: Sequence[OperatingPoint] = ()) -> str:
    """Precision over recall, with whole sets of labels as points on the plane."""
    width, height = 440, 330
    left, right, top, bottom = 34, width - 14, 26, height - 36

    def at(r: float, p: float) -> tuple[float, float]:
        return left + min(max(r, 0), 1) * (right - left), bottom - min(max(p, 0), 1) * (bottom - top)

    drawn = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = at(share, share)
        drawn.append(_line("grid", left, y, right, y) + _line("grid", x, top, x, bottom))
        drawn.append(_text("end", left - 6, y + 3.5, f"{share:.2g}"))
        drawn.append(_text("middle", x, bottom + 14, f"{share:.2g}"))
    drawn.append(_line("axis", left, bottom, right, bottom) + _line("axis", left, top, left, bottom))
    drawn.append(_text("end", right, height - 6, "recall") + _text("", 2, 11, "precision"))
    for curve in curves:
        pairs = zip(curve.recall, curve.precision, strict=True)
        path = [at(r, p) for r, p in pairs if math.isfinite(r) and math.isfinite(p)]
        if path:
            steps = "L".join(f"{x:.1f},{y:.1f}" for x, y in path)
            drawn.append(f'<path class="curve {curve.colour}" d="M{steps}"/>')
    for point in points:
        x, y = at(point.recall, point.precision)
        drawn.append(f'<circle class="dot {point.colour}" cx="{x:.1f}" cy="{y:.1f}" r="6"/>')
    named = "; ".join(
        f"{p.name}: precision {formats.decimal(p.precision)}, recall {formats.decimal(p.recall)}"
        for p in points
    )
    return _svg(width, height, f"Precision over recall. {named}".strip(), "".join(drawn))


def _split_bar(
    x: float, width: float, y: float, height: float, left: float, right: float, threshold: float | None
) -> list[str]:
    # A threshold inside a bin colours the bin up to there.
    edge = x + width if threshold is None else left + threshold * (right - left)
    edge = min(max(edge, x), x + width)
    pieces = [("undecided", x, edge - x), ("approved", edge, x + width - edge)]
    return [
        f'<rect class="{c}" x="{start:.2f}" y="{y:.2f}" width="{w:.2f}" height="{height:.2f}"/>'
        for c, start, w in pieces
        if w > 0.8
    ]


def _svg(width: float, height: float, described: str, content: str) -> str:
    described = str(escape(formats.clean(described)))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{described}">'
        f"<title>{described}</title>{content}</svg>"
    )


def _size(svg: str) -> tuple[int, int]:
    _, _, width, height = svg.split('viewBox="', 1)[1].split('"', 1)[0].split()
    return int(float(width)), int(float(height))


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(kind: str, x: float, y: float, words: str) -> str:
    return f'<text class="{kind.strip()}" x="{x:.1f}" y="{y:.1f}">{escape(formats.clean(words))}</text>'


def _shortened(words: str, places: int) -> str:
    """As much of a name as fits; East Asian letters take two places."""
    words = " ".join(words.split())
    widths = [2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in words]
    if sum(widths) <= places:
        return words
    kept = 0
    used = 1
    while used + widths[kept] <= places:
        used += widths[kept]
        kept += 1
    return words[:kept] + "…"
