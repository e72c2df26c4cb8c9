"""The report of a run: HTML, Markdown and pictures, from its record alone; and the sheet of an audit."""

from valflow.report.contact_sheet import draw_contact_sheet, sheet_paths
from valflow.report.markdown import render_markdown
from valflow.report.page import render_report
from valflow.report.quality import error_tiles
from valflow.report.tiles import Tile
from valflow.report.write import write_report

__all__ = [
    "Tile",
    "draw_contact_sheet",
    "error_tiles",
    "render_markdown",
    "render_report",
    "sheet_paths",
    "write_report",
]
