"""The picture of a comparison: who finds what, and how right each run is per class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from valflow.errors import ConfigError

_ALL, _SOME, _INK = "#2e7d4f", "#9ccfae", "#222222"
_RUNS = ("#3b6fb6", "#d98e2b", "#8e5bb5", "#c0392b", "#4aa3a2", "#7f7f7f")
_MOST_CLASSES = 20
_MARKS = "osD^vP"


def draw_comparison(compared: dict[str, Any], path: Path) -> Path:
    """Draw what ``comparing.compare`` found.

    Args:
        compared: the comparison.
        path: a file that matplotlib can write, such as a PNG.

    Raises:
        ConfigError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = compared["classes"][:_MOST_CLASSES][::-1]
    with_figures = compared["runs"][0]["figures"] is not None
    # Not pyplot: it would choose, and keep, the backend of the whole process.
    figure = Figure(figsize=(11 if with_figures else 7, 1.9 + 0.42 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    found = figure.add_subplot(1, 2 if with_figures else 1, 1)
    _objects(found, compared, rows)
    if with_figures:
        _precision_and_recall(figure.add_subplot(1, 2, 2), compared, rows)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:  # ValueError: no such format
        raise ConfigError([f"cannot write {path}: {error}; choose another --picture"]) from None
    return path


def _objects(axes: Any, compared: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    places = np.arange(len(rows))
    parts = [("found by all", _ALL, [r["by_all"] for r in rows])]
    if len(compared["runs"]) > 2:
        parts.append(("by some", _SOME, [r["by_some"] for r in rows]))
    for number, name in enumerate(_names(compared)):
        alone = [r["runs"][number]["alone"] for r in rows]
        parts.append((f"{name} alone", _RUNS[number % len(_RUNS)], alone))
    left = np.zeros(len(rows))
    for words, colour, values in parts:
        axes.barh(places, values, left=left, color=colour, height=0.62, label=words)
        left += values
    axes.set_yticks(places, [_short(r["label"]) for r in rows], parse_math=False)
    axes.set(
        xlabel=f"objects on {compared['samples']:,} samples", xlim=(0, max(left.max(initial=1), 1) * 1.02)
    )
    _legend(axes)


def _precision_and_recall(axes: Any, compared: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    places = np.arange(len(rows))
    step = 0.5 / max(len(compared["runs"]) - 1, 1)
    for number, name in enumerate(_names(compared)):
        shift = 0.25 - number * step if len(compared["runs"]) > 1 else 0.0
        figures = [r["runs"][number]["figures"] or {} for r in rows]
        precision = [np.nan if f.get("precision") is None else f["precision"] for f in figures]
        recall = [np.nan if f.get("recall") is None else f["recall"] for f in figures]
        colour = _RUNS[number % len(_RUNS)]
        axes.hlines(places + shift, recall, precision, color=colour, lw=1)
        axes.plot(precision, places + shift, _MARKS[number % len(_MARKS)], color=colour, ms=6, label=name)
        axes.plot(recall, places + shift, _MARKS[number % len(_MARKS)], color=colour, ms=6, mfc="white")
    axes.set_yticks(places, [""] * len(rows))
    axes.set(xlabel="precision (filled) and recall (open)", xlim=(-0.02, 1.02))
    axes.grid(axis="x", color="#e5e5e5")
    axes.set_axisbelow(True)
    _legend(axes)


def _legend(axes: Any) -> None:
    shown = axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    for text in shown.get_texts():
        text.set_parse_math(False)
        text.set_color(_INK)


def _names(compared: dict[str, Any]) -> list[str]:
    """The models; where two runs are of the same one, the runs."""
    models = [run["model"] for run in compared["runs"]]
    return [_short(str(r["model"] if models.count(r["model"]) == 1 else r["run"])) for r in compared["runs"]]


def _short(text: str) -> str:
    # Names are data: no line breaks, and a leading underscore would hide an entry of a legend.
    plain = " ".join(text.split()).lstrip("_") or "–"
    return plain if len(plain) <= 28 else f"{plain[:27]}…"
