"""The contact sheets of audits: what was drawn as numbered pictures, without what could bias the eye."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from valflow import audits, completeness, runs
from valflow.audits import verdicts_of
from valflow.label_types import box_of, label_type_of
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
        tiles.append(Tile(item["filepath"], box_of(item["label"]), item["label"]["label"]))
    path = _place(record, audit, path, "audit")
    title = f"{record['name']}: {len(tiles)} {audits.population_in_words(audit)}, drawn at random"
    fits = ", and does the box fit" if label_type_of(record).has_boxes else ""
    question = f"Is the class right{fits}? Verdicts: {', '.join(verdicts_of(record))}"
    return draw_contact_sheet(tiles, path, title, note=question)


def draw_image_sheet(record: runs.Record, audit: audits.Audit, path: Path | None = None) -> Path:
    """Draw the sheet of whole images that are searched for missing objects; by default beside the run's report.

    Returns:
        The file (the first one, where there are several pages).
    """
    has_boxes = label_type_of(record).has_boxes
    words = _boxes_in_words if has_boxes else _classes_in_words
    tiles = [
        Tile(item["filepath"], None, words(item["labels"]), outlines=_boxes(item["labels"]))
        for item in completeness.images(record, audit)
    ]
    path = _place(record, audit, path, "completeness")
    title = f"{record['name']}: {len(tiles)} of {audit['population']} images, drawn at random"
    missing = "object" if has_boxes else "label"
    question = f"Is any {missing} missing? Verdicts: {', '.join(completeness.VERDICTS)}"
    return draw_contact_sheet(tiles, path, title, columns=4, note=question, crop=_IMAGE)


def _place(record: runs.Record, audit: audits.Audit, path: Path | None, name: str) -> Path:
    if path is None:
        path = inside(output_folder(record), f"{name}-{audit['drawn_at']:%Y%m%d-%H%M%S}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _boxes(labels: list[dict[str, Any]]) -> tuple[tuple[float, float, float, float], ...]:
    boxes = map(box_of, labels)
    return tuple(box for box in boxes if box is not None)


def _classes_in_words(labels: list[dict[str, Any]]) -> str:
    return ", ".join(str(label.get("label")) for label in labels) or "no label"


def _boxes_in_words(labels: list[dict[str, Any]]) -> str:
    return f"{len(labels)} label{'' if len(labels) == 1 else 's'}"
