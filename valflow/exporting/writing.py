"""The export stage: finalized labels as files that were read back and found equal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from valflow import collector
from valflow.choosing_types import type_of_field
from valflow.errors import ExportError
from valflow.exporting import by_fiftyone, coco, plain
from valflow.exporting.folders import check_replaceable, replaced
from valflow.exporting.formats import Format, format_named, refusal
from valflow.exporting.media import COPY, MEDIA, NONE
from valflow.exporting.selecting import Selection, select
from valflow.label_types import DETECTIONS, LabelType
from valflow.places import inside

RUN_SCOPE, FIELD_SCOPE = "run", "field"
SCOPES = (RUN_SCOPE, FIELD_SCOPE)


def export_labels(
    dataset: Any,
    label_field: str,
    format: str,  # noqa: A002 - what configurations call it
    directory: str | Path,
    run_key: str,
    scope: str = RUN_SCOPE,
    sample_ids: Sequence[Any] | None = None,
    classes: Sequence[str] | None = None,
    overwrite_own: bool = True,
    media: str = COPY,
    label_type: LabelType | None = None,
) -> dict[str, Any]:
    """Export labels to ``<directory>/<run_key>/<format>``, read the files back and compare.

    The files are written beside their place and moved there once they were found equal, so nobody ever sees
    half an export. Attributes and tags of the workflow and marks of evaluations are left out.

    Args:
        dataset: a FiftyOne dataset of images.
        label_field: field with the finalized labels.
        format: one of ``valflow.exporting.FORMATS``.
        directory: folder of all exports.
        run_key: the labeling run.
        scope: ``run`` for the labels of this run, on the samples that have any; ``field`` for everything in
            the label field, in ``<format>_field``.
        sample_ids: only these samples.
        classes: the class list, in this order; None takes the classes that occur, sorted.
        overwrite_own: whether an earlier export of the same run may be replaced.
        media: ``copy`` or ``symlink`` the images, or ``none``: labels alone.
        label_type: what the field holds; None looks.

    Returns:
        The entry of the run record: ``format, dir, scope, samples, labels, classes, media, files, verified``.

    Raises:
        ExportError: an argument cannot work, the folder belongs to something else, or what was read back
            differs from the dataset. Nothing was put in place then.
        OutsideFolder: a link, or the run's key, leads out of the directory.
    """
    form = format_named(format)
    label_type = label_type or type_of_field(dataset, label_field) or DETECTIONS
    _check_arguments(form, scope, media, label_type)
    name = form.name if scope == RUN_SCOPE else f"{form.name}_field"
    # Whether the last folder may be replaced is looked at by itself.
    folder = inside(Path(directory).expanduser().absolute(), run_key) / name
    check_replaceable(folder, run_key, overwrite_own)
    selection = select(
        dataset,
        label_field,
        label_type,
        run_key=run_key if scope == RUN_SCOPE else None,
        sample_ids=sample_ids,
        classes=classes,
        with_media=media != NONE,
    )
    entry = {
        "format": form.name,
        "dir": str(folder),
        "scope": scope,
        "samples": len(selection.documents),
        "labels": selection.label_count,
        "classes": selection.classes,
        "media": media,
    }
    made = {"run": run_key, "dataset": dataset.name, "made_at": datetime.now(UTC).isoformat()}
    with replaced(folder, entry | made) as partial:
        _write_and_check(selection, partial, folder, form, media)
        entry["files"] = sum(1 for path in partial.rglob("*") if not path.is_dir())
    return entry | {"verified": True}


def _check_arguments(form: Format, scope: str, media: str, label_type: LabelType) -> None:
    if scope not in SCOPES:
        raise ExportError(f"expected a scope among {', '.join(SCOPES)}, found {scope!r}")
    if media not in MEDIA:
        raise ExportError(f"expected media among {', '.join(MEDIA)}, found {media!r}")
    refused = refusal(form, label_type)
    if refused:
        raise ExportError(refused)
    if media == NONE and form.needs_media:
        raise ExportError(
            f"expected media copy or symlink for {form.name!r}, found 'none': it cannot be read without images"
        )


def _write_and_check(selection: Selection, partial: Path, final: Path, form: Format, media: str) -> None:
    if form.name == "coco" and coco.can_write(selection):
        with collector.paused():
            written = coco.write(selection, partial, media)
            coco.check(selection, written, partial, media)
        return
    if form.type_name is None:
        plain.write(selection, partial, form, media)
        plain.check(selection, partial, form, media)
        return
    labels = by_fiftyone.write(selection, partial, form, media)
    by_fiftyone.check(selection, labels, partial, form, media)
    if form.has_paths:
        by_fiftyone.settle_paths(partial, final)
