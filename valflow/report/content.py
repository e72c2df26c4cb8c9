"""From a run record to the blocks of its report. Sections without content are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from valflow import trail
from valflow.report import formats
from valflow.report.blocks import Block, Code, Inline, Report, Section
from valflow.report.certificate import proven_section
from valflow.report.classes import class_section, galleries_of
from valflow.report.outcome import failed_section, files_section, odd_section, verification_section
from valflow.report.quality import evaluation_section, validation_section
from valflow.report.review import review_section
from valflow.report.steps import steps_of
from valflow.report.summary import headlines_of, status_of, subtitle_of, summary_of
from valflow.report.tiles import Tile
from valflow.report.trace import history_section, settings_section

Record = Mapping[str, Any]


def report_of(record: Record, tiles: Mapping[str, Sequence[Tile]] | None = None) -> Report:
    """Everything that a report says, in its order.

    Args:
        record: a run record at any state, as it is in the database or as JSON; any key may be missing.
        tiles: labels to show as pictures, by group: ``approved``, ``rejected``, ``errors``, or names of
            one's own.
    """
    status, tone = status_of(record)
    sections = [
        proven_section(record),
        class_section(record),
        _pictures(tiles or {}),
        review_section(record),
        validation_section(record),
        evaluation_section(record),
        verification_section(record),
        files_section(record),
        odd_section(record),
        failed_section(record),
        history_section(record),
        settings_section(record),
    ]
    return Report(
        title=str(record.get("name") or record.get("run") or "Labeling run"),
        status=status,
        tone=tone,
        subtitle=subtitle_of(record),
        summary=summary_of(record),
        headlines=headlines_of(record),
        steps=steps_of(record),
        sections=[s for s in sections if s is not None],
        footer=_footer(record),
    )


def _pictures(tiles: Mapping[str, Sequence[Tile]]) -> Section | None:
    blocks: list[Block] = list(galleries_of(tiles))
    return Section("pictures", "Pictures", blocks) if blocks else None


def _footer(record: Record) -> Sequence[Inline]:
    pieces: list[Inline] = ["Report of run ", Code(str(record.get("run", formats.NOTHING)))]
    if record.get("updated_at"):
        pieces.append(f", as of {formats.when(record['updated_at'])}")
    version = (record.get("versions") or {}).get("valflow")
    pieces.append(f" · valflow {version}" if version else " · valflow")
    pieces += [" · the same figures as JSON in ", Code("run.json")]
    if not record.get("history"):
        return pieces
    return [*pieces, f" · audit trail of {len(record['history'])} entries, head ", Code(trail.head(record))]
