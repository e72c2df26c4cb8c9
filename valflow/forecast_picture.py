"""The picture of a plan: how many looks a certificate costs, by batch size and by how good the model is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from valflow import forecasting
from valflow.errors import ConfigError

_RISK, _SAFE, _INK, _FAINT = "#c0392b", "#2e7d4f", "#222222", "#8a8a8a"
_MULTIPLES = np.linspace(0.02, 0.98, 25)


def draw_forecast(plan: dict[str, Any], path: Path) -> Path:
    """Draw a plan with ``approval.mode: certified``.

    Args:
        plan: of ``forecasting.make_forecast``.
        path: a file that matplotlib can write, such as a PNG.

    Raises:
        ConfigError: the file cannot be written, or there is nothing to draw.
    """
    if plan["mode"] != "certified":
        raise ConfigError([f"--picture shows what certificates cost; approval.mode is {plan['mode']}"])
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not pyplot: it would choose, and keep, the backend of the whole process.
    figure = Figure(figsize=(10, 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
    totals = sorted({row["total"] for row in plan["rows"]})
    _curves(left, plan, totals)
    _bars(right, plan)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:  # ValueError: no such format
        raise ConfigError([f"cannot write {path}: {error}; choose another --picture"]) from None
    return path


def _curves(axes: Any, plan: dict[str, Any], totals: list[int]) -> None:
    allowed = 100 * plan["promise"]["max_error"]
    styles = dict(zip(totals, (":", "-", "--"), strict=False))
    for total in totals:
        rows = forecasting.rows_for(plan, _MULTIPLES.tolist(), [total])
        looks = [1000 * r.looks / r.total for r in rows]
        main = total == plan["labels"]
        color, width = (_SAFE, 2.2) if main else (_INK, 1.3)
        axes.plot(
            _MULTIPLES * allowed, looks, styles[total], color=color, lw=width, label=f"{total:,} labels"
        )
    axes.axhline(1000, color=_RISK, lw=1)
    axes.text(0.01 * allowed, 985, "review everything", color=_RISK, va="top", fontsize=9)
    if plan["error"] is not None and plan["error"] < plan["promise"]["max_error"]:
        axes.axvline(100 * plan["error"], color=_FAINT, lw=1, ls="--")
        axes.text(100 * plan["error"], 20, " judged before", color=_FAINT, fontsize=9)
    axes.set(
        xlim=(0, allowed),
        ylim=(0, 1080),
        xlabel=f"wrong among the proposed labels, % (the promise allows {allowed:.3g})",
        ylabel="looks per 1,000 labels",
    )
    axes.legend(frameon=False, fontsize=9, loc="lower right")


def _bars(axes: Any, plan: dict[str, Any]) -> None:
    rows = [r for r in plan["rows"] if r["total"] == plan["labels"]]
    places = np.arange(len(rows))[::-1]
    queue = [r["looks"] - (r["audit"] or 0) for r in rows]
    axes.barh(places, [r["looks"] for r in rows], color=_FAINT, height=0.55)
    axes.barh(places, [r["audit"] or 0 for r in rows], color=_SAFE, height=0.55)
    for place, row, rest in zip(places, rows, queue, strict=True):
        words = f"audit {row['audit']}, then {rest:,.0f}" if row["audit"] else "review everything"
        axes.text(0, place + 0.34, words, fontsize=9, color=_SAFE if row["audit"] else _RISK, va="bottom")
    axes.set_yticks(places, [f"{100 * r['expected_error']:.3g} % wrong" for r in rows])
    axes.set(xlabel=f"looks in a batch of {plan['labels']:,} labels", ylim=(-0.6, len(rows) - 0.2))
