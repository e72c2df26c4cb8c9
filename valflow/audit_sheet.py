"""The contact sheets of audits: what was drawn as numbered pictures, without what could bias the eye."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from valflow import audits, completeness, runs
from valflow.certify import VERDICTS
from valflow.places import inside
from valflow.report import Tile, draw_contact_sheet
from valflow.validation import output_folder

# Edge of a whole image in pixels: small objects must be seen.
_IMAGE = 460


def draw_sheet(record: runs.Record, audit: audits.Audit, path: Path | None = None) -> Path:
    """Draw the sheet; by default beside the run's report.

    Returns:
        The file (the first one, where there are several pages).
    """
    tiles = []
    for item in audits.items_with_labels(record, audit):
        x, y, w, h = item["label"]["bounding_box"]
        tiles.append(Tile(item["filepath"], (x, y, w, h), item["label"]["label"]))
    path = _place(record, audit, path, "audit")
    title = f"{record['name']}: {len(tiles)} {audits.population_in_words(audit)}, drawn at random"
    question = f"Is the class right, and does the box fit? Verdicts: {', '.join(VERDICTS)}"
    return draw_contact_sheet(tiles, path, title, note=question)


def draw_image_sheet(record: runs.Record, audit: audits.Audit, path: Path | None = None) -> Path:
    """Draw the sheet of whole images that are searched for missing objects; by default beside the run's report.

    Returns:
        The file (the first one, where there are several pages).
    """
    tiles = [
        Tile(item["filepath"], None, _boxes_in_words(item["labels"]), outlines=_boxes(item["labels"]))
        for item in completeness.images(record, audit)
    ]
    path = _place(record, audit, path, "completeness")
    title = f"{record['name']}: {len(tiles)} of {audit['population']} images, drawn at random"
    question = f"Is any object missing? Verdicts: {', '.join(completeness.VERDICTS)}"
    return draw_contact_sheet(tiles, path, title, columns=4, note=question, crop=_IMAGE)


def _place(record: runs.Record, audit: audits.Audit, path: Path | None, name: str) -> Path:
    if path is None:
        path = inside(output_folder(record), f"{name}-{audit['drawn_at']:%Y%m%d-%H%M%S}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _boxes(labels: list[dict[str, Any]]) -> tuple[tuple[float, float, float, float], ...]:
    boxes = [label.get("bounding_box") for label in labels]
    return tuple((b[0], b[1], b[2], b[3]) for b in boxes if b and len(b) == 4)


def _boxes_in_words(labels: list[dict[str, Any]]) -> str:
    return f"{len(labels)} label{'' if len(labels) == 1 else 's'}"
