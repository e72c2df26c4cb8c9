"""The exports of a run: what its configuration asks for, once each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from valflow import database, runs
from valflow.config import ExportConfig, LabelingConfig
from valflow.label_types import label_type_of
from valflow.validation import allowed_classes


def missing_exports(record: runs.Record) -> list[ExportConfig]:
    """What the configuration asks for and the record does not have yet."""
    done = {e["dir"] for e in record["exports"]}
    configured = LabelingConfig.model_validate(record["config"]).export
    return [e for e in configured if _folder(e, record["run"]) not in done]


def with_exports(record: runs.Record, entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The exports of a record and new ones, which replace those that were in their folders."""
    replaced = {e["dir"] for e in entries}
    return [*(e for e in record["exports"] if e["dir"] not in replaced), *entries]


def export_run(record: runs.Record, wanted: Sequence[ExportConfig]) -> Iterator[dict[str, Any]]:
    """Export finalized labels.

    Args:
        record: a finalized run.
        wanted: exports to make.

    Yields:
        One entry for the run record per export, once it was read back and found equal.

    Raises:
        ExportError: an export differs from the dataset when it is read back.
    """
    from valflow.exporting import export_labels

    dataset = database.dataset_of(record)
    classes = _classes(record, dataset)
    for export in wanted:
        yield export_labels(
            dataset,
            record["label_field"],
            format=export.format,
            directory=export.dir,
            run_key=record["run"],
            scope=export.scope,
            classes=classes,
            media=export.media,
            label_type=label_type_of(record),
        )


def _folder(export: ExportConfig, run: str) -> str:
    """Where the files of an export are."""
    name = export.format if export.scope == "run" else f"{export.format}_field"
    return str(Path(export.dir).expanduser().absolute() / run / name)


def _classes(record: runs.Record, dataset: Any) -> list[str]:
    """Pinned class list: the allowed classes, and whatever else the field holds."""
    path = f"{label_type_of(record).path(record['label_field'])}.label"
    known = allowed_classes(record, dataset)
    return known + sorted(set(dataset.distinct(path)) - set(known))
