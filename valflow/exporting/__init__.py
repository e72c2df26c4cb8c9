"""Exports in FiftyOne's formats: written beside their place, read back, compared, then moved there."""

from valflow.exporting.formats import FORMATS, Format
from valflow.exporting.media import MEDIA
from valflow.exporting.writing import SCOPES, export_labels

__all__ = ["FORMATS", "MEDIA", "SCOPES", "Format", "export_labels"]
