"""The contact sheet of an audit: the drawn labels as numbered pictures, without what could bias the eye."""

from __future__ import annotations

from pathlib import Path

from valflow import audits, runs
from valflow.certify import VERDICTS
from valflow.report import Tile, draw_contact_sheet
from valflow.validation import output_folder


def draw_sheet(record: runs.Record, audit: audits.Audit, path: Path | None = None) -> Path:
    """Draw the sheet; by default beside the run's report.

    Returns:
        The file (the first one, where there are several pages).
    """
    tiles = []
    for item in audits.items_with_labels(record, audit):
        x, y, w, h = item["label"]["bounding_box"]
        tiles.append(Tile(item["filepath"], (x, y, w, h), item["label"]["label"]))
    if path is None:
        path = output_folder(record) / f"audit-{audit['drawn_at']:%Y%m%d-%H%M%S}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    title = f"{record['name']}: {len(tiles)} {audits.population_in_words(audit)}, drawn at random"
    question = f"Is the class right, and does the box fit? Verdicts: {', '.join(VERDICTS)}"
    return draw_contact_sheet(tiles, path, title, note=question)
