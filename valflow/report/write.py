"""The files of a report: HTML, Markdown, the record as JSON, and the pictures."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from valflow import __version__, trail
from valflow.places import inside, write_inside
from valflow.report.blocks import Chart, Columns
from valflow.report.charts import compose
from valflow.report.classes import picture_name
from valflow.report.content import report_of
from valflow.report.markdown import render_markdown
from valflow.report.page import render_report
from valflow.report.quality import error_tiles
from valflow.report.tiles import Tile, as_jpeg, choose, crops
from valflow.runs import as_json

SHOWN = 12
SIZE = 232
_COLOURS = {"approved": (72, 200, 164), "rejected": (240, 126, 98), "errors": (244, 188, 66)}
_ANY_COLOUR = (110, 168, 254)
_DISTRIBUTIONS = ("fiftyone", "prefect", "great-expectations", "numpy", "pandas")


def write_report(
    record: Mapping[str, Any], directory: Path, tiles: Mapping[str, Sequence[Tile]]
) -> dict[str, str]:
    """Write ``report.html``, ``report.md``, ``run.json`` and ``pictures/``; same names are overwritten.

    Args:
        record: the run record, as it is in the database or as JSON.
        directory: where to write; created if it is not there.
        tiles: labels to show, by group: ``approved`` and ``rejected`` are drawn at random (repeatable by the
            run's key), of others the first are taken. Without ``errors`` the evaluation's own list is used.

    Returns:
        Artifact names and the paths of the files.

    Raises:
        OSError: the directory cannot be written to.
        OutsideFolder: a link in it leads elsewhere.
    """
    directory = Path(directory)
    plain = {**with_versions(as_json(dict(record))), "trail": trail.head(record)}
    shown = _shown(plain, tiles)
    pictures = make_pictures(plain, shown)
    places = {
        "report": directory / "report.html",
        "report_markdown": directory / "report.md",
        "run_record": directory / "run.json",
    }
    readable = {**plain, "artifacts": _relative(plain.get("artifacts") or {}, directory)}
    for own in places:
        readable["artifacts"].pop(own, None)
    folder = inside(directory, "pictures")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in pictures.items():
        _write(folder / name, content)
    _write(places["run_record"], json.dumps(plain, indent=2, ensure_ascii=False, default=str) + "\n")
    _write(places["report"], render_report(readable, pictures, shown))
    _write(places["report_markdown"], render_markdown(readable, pictures, shown))
    return {name: str(path) for name, path in places.items()}


def make_pictures(record: Mapping[str, Any], tiles: Mapping[str, Sequence[Tile]]) -> dict[str, bytes | str]:
    """Charts as SVG text and one JPEG per tile, by file name."""
    pictures: dict[str, bytes | str] = {}
    for section in report_of(record).sections:
        for block in section.blocks:
            for inner in block.left if isinstance(block, Columns) else [block]:
                if isinstance(inner, Chart) and inner.panels:
                    legend = inner.legend.items if inner.legend else ()
                    pictures[f"{inner.name}.svg"] = compose(inner.panels, inner.columns, legend)
    for group, members in tiles.items():
        drawn = dict(crops(members, SIZE, _COLOURS.get(group, _ANY_COLOUR)))
        pictures |= {picture_name(group, i): as_jpeg(drawn[i]) for i in sorted(drawn)}
    return pictures


def with_versions(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the versions that are installed, unless it has its own."""
    if record.get("versions"):
        return record
    found = {"valflow": __version__, "python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {**record, "versions": found}


def _shown(record: Mapping[str, Any], tiles: Mapping[str, Sequence[Tile]]) -> dict[str, list[Tile]]:
    groups: dict[str, Sequence[Tile]] = dict(tiles)
    if "errors" not in groups and record.get("metrics"):
        groups["errors"] = error_tiles(record)
    return {
        group: choose(members, SHOWN, f"{record.get('run')}/{group}")
        if group in ("approved", "rejected")
        else list(members)[:SHOWN]
        for group, members in groups.items()
    }


def _relative(artifacts: Mapping[str, Any], directory: Path) -> dict[str, str]:
    """Paths as seen from the report, so that its links work wherever the folder is moved to."""
    found = {}
    for name, place in artifacts.items():
        is_path = isinstance(place, str) and os.path.isabs(place)
        found[str(name)] = os.path.relpath(place, directory.resolve()) if is_path else str(place)
    return found


def _write(path: Path, content: bytes | str) -> None:
    write_inside(path, content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
