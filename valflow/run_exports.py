"""The exports of a run: what its configuration asks for, once each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from valflow import runs
from valflow.config import ExportConfig, LabelingConfig
from valflow.validation import allowed_classes


def missing_exports(record: runs.Record) -> list[ExportConfig]:
    """What the configuration asks for and the record does not have yet."""
    done = {(e["format"], e["scope"]) for e in record["exports"]}
    configured = LabelingConfig.model_validate(record["config"]).export
    return [e for e in configured if (e.format, e.scope) not in done]


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
    import fiftyone as fo

    from valflow.exporting import export_labels

    dataset = fo.load_dataset(record["dataset"])
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
        )


def _classes(record: runs.Record, dataset: Any) -> list[str]:
    """Pinned class list: the allowed classes, and whatever else the field holds."""
    from valflow.label_types import label_type_of

    path = f"{label_type_of(record).list_path(record['label_field'])}.label"
    known = allowed_classes(record, dataset)
    return known + sorted(set(dataset.distinct(path)) - set(known))
