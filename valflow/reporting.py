"""Gathers what the report of a run shows, and writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from valflow import audits, checklist, completeness, database, ledger, runs
from valflow.errors import DatabaseError
from valflow.label_types import APPROVED, REJECTED, box_of
from valflow.report import Tile, write_report
from valflow.states import State
from valflow.validation import output_folder

TILES_DRAWN = 200


def write_run_report(record: runs.Record) -> dict[str, str]:
    """Write report and record of a run as it stands now.

    Returns:
        Artifacts by name, as paths.
    """
    return write_report(current_view(record), output_folder(record), _tiles(record))


def current_view(record: runs.Record) -> runs.Record:
    """The record with figures of this moment where the review has not frozen them yet."""
    if record["state"] != State.IN_REVIEW.value:
        return record
    table = ledger.class_table(record["run"], record["thresholds"])
    audit = audits.latest(record["run"])
    return {
        **record,
        "class_table": table,
        "counts": {**record["counts"], **ledger.label_counts(table)},
        "checklist": checklist.evidence(record, table),
        "audit": audits.summary(audit) if audit else None,
        "completeness": completeness.summary_of(record["run"]),
        "problem_tags": ledger.problem_tag_counts(record["run"]),
        "issues": checklist.issue_notes(record["run"]),
    }


def _tiles(record: runs.Record) -> dict[str, list[Tile]]:
    return {state: _random_tiles(record, state) for state in (APPROVED, REJECTED)}


def _random_tiles(record: runs.Record, state: str) -> list[Tile]:
    try:
        dataset = database.dataset_of(record)
    except DatabaseError:  # it was deleted; the report goes on without pictures
        return []
    documents = list(
        database.ledger().aggregate(
            [
                {"$match": {"run": record["run"], "labels.state": state}},
                {"$sample": {"size": TILES_DRAWN}},
                {
                    "$project": {
                        "sample_id": 1,
                        "labels._id": 1,
                        "labels.state": 1,
                        "predicted": 1,
                        "frozen.labels": 1,
                    }
                },
            ]
        )
    )
    samples = database.samples_of(dataset)
    cursor = samples.find({"_id": {"$in": [d["sample_id"] for d in documents]}}, {"filepath": 1})
    paths: dict[Any, str] = {d["_id"]: d["filepath"] for d in cursor}
    tiles = []
    for document in documents:
        final = {d["_id"]: d for d in (document.get("frozen") or {}).get("labels", [])}
        for entry, predicted in zip(document["labels"], document["predicted"], strict=True):
            if entry["state"] == state and document["sample_id"] in paths:
                tiles.append(_tile(paths[document["sample_id"]], final.get(entry["_id"], predicted)))
    return tiles


def _tile(filepath: str, label: dict[str, Any]) -> Tile:
    # Without a box the whole image is shown.
    return Tile(str(Path(filepath)), box_of(label), label.get("label") or "no class", label.get("confidence"))
