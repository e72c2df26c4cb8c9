"""Views that the panel puts into the grid.

Never a view that hides labels of a sample (``filter_labels``): the App's annotation tab edits the wrong label on
one, and deletes the hidden ones. Patches are edited by label id, whole samples are whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from valflow.label_types import review_type_of
from valflow.reviewing import Page
from valflow.runs import Record


def patches(dataset: Any, record: Record, page: Page) -> Any:
    """One tile per label of the page, in its order."""
    field = record["staging_field"]
    if not page.label_ids:
        return dataset.select([])
    return (
        dataset.select(page.sample_ids)
        .select_fields([field])
        .select_labels(ids=page.label_ids, fields=field)
        .to_patches(field)
        .select(page.label_ids, ordered=True)
    )


def samples(dataset: Any, page: Page) -> Any:
    """The whole samples of the page."""
    return dataset.select(page.sample_ids, ordered=True)


def blind_patches(dataset: Any, record: Record, label_ids: Sequence[str], sample_ids: Sequence[str]) -> Any:
    """One tile per drawn label, in the order of the draw, without confidence and tags, which could bias the eye.

    A label of a whole image is its sample, on which other labels are not shown: nothing is edited on this view.
    """
    field, label_type = record["staging_field"], review_type_of(record)
    path = label_type.list_path(field)
    if not label_ids:
        return dataset.select([])
    if not label_type.has_boxes:
        return (
            dataset.select(list(sample_ids), ordered=True)
            .select_fields([field])
            .select_labels(ids=list(label_ids), fields=field)
            .set_field(f"{path}.confidence", None)
            .set_field(f"{path}.tags", [])
        )
    return (
        dataset.select(list(dict.fromkeys(sample_ids)))
        .select_fields([field])
        .select_labels(ids=list(label_ids), fields=field)
        .set_field(f"{path}.confidence", None)
        .set_field(f"{path}.tags", [])
        .to_patches(field)
        .select(list(label_ids), ordered=True)
    )


def final_field(dataset: Any, record: Record) -> Any:
    """The samples that hold labels in the final field."""
    return dataset.exists(record["label_field"])
