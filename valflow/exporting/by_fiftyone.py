"""Exports through FiftyOne's own exporters, from a temporary dataset that holds nothing of the workflow."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from valflow import database, masks
from valflow.errors import ExportError
from valflow.exporting.formats import Format
from valflow.exporting.media import COPY, NONE, SYMLINK, unique_names
from valflow.exporting.selecting import Selection
from valflow.label_types import WORKFLOW_TAGS, LabelDict, LabelType

_WRITE_BATCH = 1_000
_SHOWN = 3
_TEXT_FILES = (".xml", ".yaml")


def write(selection: Selection, folder: Path, form: Format, media: str) -> list[list[LabelDict]]:
    """Export with FiftyOne's exporter of the format.

    Returns:
        The labels of each image, for :func:`check`.

    Raises:
        ExportError: the exporter gave up.
    """
    arguments: dict[str, Any] = {}
    if form.name != "fiftyone":
        arguments["label_field"] = selection.label_field
        if form.knows_classes:
            arguments["classes"] = selection.classes
    if form.name == "coco" and media == NONE:
        arguments["abs_paths"] = True
    labels: list[list[LabelDict]] = [[] for _ in selection.documents]
    for place, found in selection.labels():
        labels[place] = found
    if form.cannot_hold:
        _check_xml(selection, labels, form)
    with _temporary_dataset() as dataset, _quiet():
        _fill(dataset, selection, labels)
        try:
            dataset.export(
                export_dir=str(folder),
                dataset_type=form.fiftyone_type(),
                export_media={COPY: True, SYMLINK: "symlink", NONE: False}[media],
                progress=False,
                **arguments,
            )
        except Exception as error:  # FiftyOne's exporters raise whatever their libraries do
            raise ExportError(f"FiftyOne's exporter of {form.name!r} gave up: {error}") from error
    if form.name == "fiftyone":
        _name_after(selection.dataset.name, folder / "metadata.json")
    return labels


def check(
    selection: Selection, written: list[list[LabelDict]], folder: Path, form: Format, media: str
) -> None:
    """Read the export with FiftyOne's importer of the format and compare.

    Raises:
        ExportError: samples, labels, classes or boxes differ, or the files cannot be read.
    """
    if not selection.documents:  # importers stumble over nothing
        return
    if sum(map(len, written)) != selection.label_count:
        raise _difference(f"labels: expected {selection.label_count}, found {sum(map(len, written))}")
    found, classes = _read(selection, folder, form, media)
    if form.knows_classes and classes != selection.classes:
        raise _difference(f"classes: expected {', '.join(selection.classes)}, found {', '.join(classes)}")
    if media == NONE:
        names = [os.path.abspath(path) for path in selection.paths]
    else:
        names = unique_names(selection.paths, by_stem=form.one_name_per_stem)
        found = {os.path.basename(path): labels for path, labels in found.items()}
    if set(found) != set(names):
        raise _difference(f"samples: {_keys_that_differ(set(names), set(found))}")
    for image, labels, size in zip(names, written, selection.sizes, strict=True):
        _compare(image, found[image], labels, size, form, selection.label_type)


def _check_xml(selection: Selection, labels: list[list[LabelDict]], form: Format) -> None:
    """FiftyOne puts names into XML as they are; better to say so than to leave a file that nobody can read."""
    names = {str(label["label"]) for found in labels for label in found}
    names |= {os.path.basename(path) for path in selection.paths}
    broken = sorted(name for name in names if set(form.cannot_hold) & set(name))
    if broken:
        without = " ".join(map(repr, form.cannot_hold))
        raise ExportError(
            f"expected names without {without} for {form.name!r}, because FiftyOne's exporter writes them into XML as "
            f"they are; found {', '.join(map(repr, broken[:_SHOWN]))}. Rename them, or export to coco or fiftyone"
        )


def settle_paths(folder: Path, final: Path) -> None:
    """Some formats name the folder that they are in: let them name the one where they will be."""
    before, after = str(folder).encode(), str(final).encode()
    for path in folder.rglob("*"):
        if path.suffix in _TEXT_FILES and path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            if before in content:
                path.write_bytes(content.replace(before, after))


def _name_after(dataset: str, metadata: Path) -> None:
    """The exported dataset is called as the one it comes from, not as the temporary one."""
    import fiftyone.core.utils as fou

    content = orjson.loads(metadata.read_bytes())
    content |= {"name": dataset, "slug": fou.to_slug(dataset)}
    metadata.write_bytes(orjson.dumps(content))


def _read(
    selection: Selection, folder: Path, form: Format, media: str
) -> tuple[dict[str, list[LabelDict]], list[str]]:
    """The labels by image path, and the class list, as FiftyOne's importer understands them."""
    import fiftyone as fo

    label_field, label_type = selection.label_field, selection.label_type
    arguments = form.import_arguments(label_field)
    if form.name == "coco" and media == NONE:
        arguments["data_path"] = str(folder)  # insists on a folder, though it needs none
    with _temporary_dataset(create=False) as name, _quiet():
        try:
            dataset = fo.Dataset.from_dir(
                dataset_dir=str(folder),
                dataset_type=form.fiftyone_type(),
                name=name,
                progress=False,
                **arguments,
            )
        except Exception as error:  # FiftyOne's importers raise whatever their libraries do
            raise ExportError(f"the export in {form.name!r} cannot be read back: {error}") from error
        documents = database.samples_of(dataset).find({}, {"filepath": 1, label_field: 1})
        found = {d["filepath"]: label_type.labels_of(d, label_field) for d in documents}
        return found, list(dataset.default_classes or dataset.classes.get(label_field) or [])


@contextmanager
def _temporary_dataset(*, create: bool = True) -> Iterator[Any]:
    """A dataset (or only a free name for one) that is deleted afterwards, whatever happens."""
    import fiftyone as fo

    name = f"valflow_export_{uuid.uuid4().hex}"
    try:
        yield fo.Dataset(name) if create else name
    finally:
        if fo.dataset_exists(name):
            fo.delete_dataset(name)


@contextmanager
def _quiet() -> Iterator[None]:
    """FiftyOne's exporters print to the log what is known already."""
    logger = logging.getLogger("fiftyone")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _fill(dataset: Any, selection: Selection, labels: list[list[LabelDict]]) -> None:
    import fiftyone as fo

    label_field = selection.label_field
    dataset.media_type = "image"
    dataset.add_sample_field("metadata", fo.EmbeddedDocumentField, embedded_doc_type=fo.ImageMetadata)
    dataset.add_sample_field(
        label_field, fo.EmbeddedDocumentField, embedded_doc_type=selection.label_type.fiftyone_class()
    )
    dataset.info = dict(selection.dataset.info)
    dataset.classes = {label_field: selection.classes}
    dataset.save()
    documents = [
        document
        | {
            "_dataset_id": dataset._doc.id,
            "tags": [tag for tag in document.get("tags") or [] if tag not in WORKFLOW_TAGS],
            label_field: selection.label_type.field_value([selection.cleaned(label) for label in found]),
        }
        for document, found in zip(selection.documents, labels, strict=True)
    ]
    collection = database.samples_of(dataset)
    for start in range(0, len(documents), _WRITE_BATCH):
        collection.insert_many(documents[start : start + _WRITE_BATCH])
    dataset.reload()


def _compare(
    image: str,
    found: list[LabelDict],
    wanted: list[LabelDict],
    size: tuple[int, int],
    form: Format,
    label_type: LabelType,
) -> None:
    if [label["label"] for label in found] != [label["label"] for label in wanted]:
        raise _difference(
            f"labels of {image}: expected {_listed(wanted)}, found {_listed(found)}",
        )
    if not wanted or not label_type.has_boxes:
        return
    if label_type.needs_masks:
        differing = [i for i, pair in enumerate(zip(found, wanted, strict=True)) if not _same_masks(*pair)]
        if differing:
            raise _difference(f"masks: label {differing[0]} of {image} has another one")
    moved = np.abs(_edges(found) - _edges(wanted))
    allowed = form.relative + form.pixels / np.array([*size, *size], dtype=np.float64)
    if (moved > allowed).any():
        worst = int((moved / allowed).max(axis=1).argmax())
        raise _difference(
            f"boxes: label {worst} ({wanted[worst]['label']!r}) of {image} is at {found[worst]['bounding_box']}, "
            f"expected {wanted[worst]['bounding_box']}"
        )


def _same_masks(found: LabelDict, wanted: LabelDict) -> bool:
    first, second = masks.read_mask(found), masks.read_mask(wanted)
    return (first is None and second is None) or (
        first is not None and second is not None and np.array_equal(first, second)
    )


def _edges(labels: list[LabelDict]) -> np.ndarray:
    """(N, 4) left, top, right, bottom."""
    boxes = np.array([label["bounding_box"] for label in labels], dtype=np.float64)
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])


def _keys_that_differ(wanted: set[str], found: set[str]) -> str:
    lacking, more = sorted(wanted - found)[:_SHOWN], sorted(found - wanted)[:_SHOWN]
    return f"expected {len(wanted)}, found {len(found)}; missing {lacking}, not expected {more}"


def _listed(labels: list[LabelDict]) -> str:
    return f"{len(labels)} ({', '.join(str(label['label']) for label in labels[:_SHOWN])}, ...)"


def _difference(what: str) -> ExportError:
    return ExportError(
        f"the export differs from the dataset when it is read back, so it was not put in place: {what}"
    )
