"""Gathers what the report of a run shows, and writes it."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from valflow import checklist, database, ledger, runs
from valflow.label_types import APPROVED, REJECTED
from valflow.report import Tile, write_report
from valflow.validation import output_folder

TILES_DRAWN = 200
_PACKAGES = ("valflow", "prefect", "fiftyone", "great-expectations", "numpy", "pandas")


def write_run_report(record: runs.Record) -> dict[str, str]:
    """Write report and record of a run as it stands now.

    Returns:
        Artifacts by name, as paths.
    """
    return write_report(runs.as_json(current_view(record)), output_folder(record), _tiles(record))


def current_view(record: runs.Record) -> runs.Record:
    """The record with figures of this moment where the review has not frozen them yet."""
    view = {**record, "versions": {"python": platform.python_version(), **_versions()}}
    if record.get("thresholds") and record["decision"] is None and record["state"] == "IN_REVIEW":
        table = ledger.class_table(record["run"], record["thresholds"])
        view["class_table"] = table
        view["counts"] = {**record["counts"], **ledger.label_counts(table)}
        view["checklist"] = checklist.evidence(record, table)
        view["problem_tags"] = ledger.problem_tag_counts(record["run"])
        view["issues"] = checklist.issue_notes(record["run"])
    return view


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # run from a clone that is not installed
            continue
    return found


def _tiles(record: runs.Record) -> dict[str, list[Tile]]:
    return {state: _random_tiles(record, state) for state in (APPROVED, REJECTED)}


def _random_tiles(record: runs.Record, state: str) -> list[Tile]:
    import fiftyone as fo

    if not fo.dataset_exists(record["dataset"]):
        return []
    documents = list(
        database.ledger().aggregate(
            [
                {"$match": {"run": record["run"], "labels.state": state}},
                {"$sample": {"size": TILES_DRAWN}},
                {"$project": {"sample_id": 1, "labels._id": 1, "labels.state": 1, "predicted": 1, "frozen.labels": 1}},
            ]
        )
    )
    samples = database.samples_of(fo.load_dataset(record["dataset"]))
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
    x, y, w, h = label["bounding_box"]
    return Tile(str(Path(filepath)), (x, y, w, h), label["label"], label.get("confidence"))
