"""Commands about several runs at once: compare, merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from valflow.cli.result import Result, text_table
from valflow.errors import ConfigError


def compare(options: Any) -> Result:
    """`valflow compare`: runs of one dataset side by side."""
    from valflow.ensemble.comparing import compare as compare_runs

    _check_iou(options.iou)
    compared = compare_runs(
        options.runs, which=options.labels, iou=options.iou, ground_truth=options.ground_truth
    )
    text = in_words(compared)
    if options.picture is not None:
        from valflow.ensemble.picture import draw_comparison

        path = draw_comparison(compared, Path(options.picture))
        compared["picture"] = str(path.resolve())
        text += f"\n\npicture: {path}"
    return Result(text, compared)


def merge(options: Any) -> Result:
    """`valflow merge`: a run whose predictions are what other runs found."""
    from valflow.cli.lifecycle import start
    from valflow.ensemble.merging import merge_config

    _check_iou(options.iou)
    config = merge_config(
        options.runs,
        options.into,
        strategy=options.strategy,
        which=options.labels,
        iou=options.iou,
        least_votes=options.votes,
        ground_truth=options.ground_truth,
        overrides=options.set,
    )
    return start(config, options, "the merge")


def _check_iou(iou: float) -> None:
    if not 0 < iou <= 1:
        raise ConfigError([f"--iou: expected more than 0 and at most 1, found {iou}"])


def in_words(compared: dict[str, Any]) -> str:
    """A comparison for a terminal."""
    with_figures = compared["runs"][0]["figures"] is not None
    left_out = (
        f" ({compared['left_out']} that not all have seen are left out)" if compared["left_out"] else ""
    )
    against = f"; figures against {compared['ground_truth']}" if with_figures else ""
    head = (
        f"{compared['dataset']}: {len(compared['runs'])} runs on {compared['samples']} samples{left_out}, "
        f"{compared['which']} labels; the same object from IoU {compared['iou']:g}{against}"
    )
    runs = [
        {
            "": _letter(number),
            "run": run["run"],
            "model": run["model"] or "–",
            "labels": run["labels"],
            "alone": run["alone"],
            **(_figures(run["figures"]) if with_figures else {}),
            "looks": run["looks"],
            "review": _time(run["review"]["active_seconds"] if run["looks"] else None),
        }
        for number, run in enumerate(compared["runs"])
    ]
    classes = [_class_row(row, len(runs), with_figures) for row in compared["classes"]]
    keys = [run["run"] for run in compared["runs"]]
    pairs = [
        {
            "pair": " ".join(_letter(keys.index(key)) for key in pair["runs"]),
            "same": pair["same"],
            "other class": pair["other_class"],
            "agreement": _share(pair["agreement"]),
        }
        for pair in compared["pairs"]
    ]
    return "\n\n".join(
        [head, text_table(runs), text_table(pairs), *([text_table(classes)] if classes else [])]
    )


def _class_row(row: dict[str, Any], runs: int, with_figures: bool) -> dict[str, Any]:
    cells: dict[str, Any] = {"class": row["label"], "by all": row["by_all"]}
    if runs > 2:
        cells["by some"] = row["by_some"]
    for number, run in enumerate(row["runs"]):
        letter = _letter(number)
        cells[f"{letter} alone"] = run["alone"]
        if with_figures:
            figures = run["figures"] or {}
            cells[f"{letter} precision"] = _share(figures.get("precision"))
            cells[f"{letter} recall"] = _share(figures.get("recall"))
    return cells


def _letter(number: int) -> str:
    """A, B, … Z, then A2, B2, …"""
    again = number // 26
    return chr(ord("A") + number % 26) + (str(again + 1) if again else "")


def _figures(figures: dict[str, Any]) -> dict[str, str]:
    return {name: _share(figures[name]) for name in ("precision", "recall", "f1")}


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
