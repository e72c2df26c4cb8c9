"""Correcting by hand in the App: which form its annotation tab shows for labels under review.

FiftyOne keeps these forms (label schemas) on the dataset. Ours holds the class alone: a confidence is the
model's, and nobody's to edit. It is active only while somebody corrects or draws.
"""

from __future__ import annotations

from typing import Any

from valflow import ledger, runs
from valflow.label_types import review_type_of
from valflow.schema_changes import changing

_MOST_BUTTONS = 6


def open_form(record: runs.Record, dataset: Any) -> None:
    """Let people edit labels in the review field; harmless when repeated."""
    field = record["staging_field"]
    classes = {r["label"] for r in ledger.class_table(record["run"])}
    classes |= set(record["config"]["classes"] or ()) | set(dataset.default_classes or ())
    schema = {
        "type": review_type_of(record).form,
        "component": "dropdown" if len(classes) > _MOST_BUTTONS else "radio",
        "classes": sorted(classes),
        "attributes": [{"name": "tags", "type": "list<str>", "component": "text"}],
    }
    with changing(dataset):
        dataset.update_label_schema(field, schema)
        if field not in dataset.active_label_schemas:
            dataset.activate_label_schemas(field, prepend=True)


def close_form(record: runs.Record, dataset: Any) -> None:
    """Take the form away again; not there is fine."""
    with changing(dataset):
        if record["staging_field"] in dataset.active_label_schemas:
            dataset.deactivate_label_schemas(record["staging_field"])
