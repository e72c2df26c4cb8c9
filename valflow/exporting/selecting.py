"""What an export contains: which samples, which labels, and nothing of the workflow."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bson import ObjectId

from valflow import database
from valflow.errors import ExportError
from valflow.label_types import DETECTIONS, WORKFLOW_ATTRIBUTES, WORKFLOW_TAGS, LabelDict

_READ_BATCH = 10_000
_SHOWN = 5


@dataclass(frozen=True)
class Selection:
    """The content of one export, in the order of the dataset.

    Attributes:
        dataset_name: where it comes from.
        documents: raw sample documents (``filepath``, ``metadata``, ``tags``, ...), without labels.
        labels: the labels of each sample, as stored.
        sizes: width and height of each image in pixels.
        hidden: attributes of labels that belong to the workflow or to an evaluation.
        classes: the class list of the export, in order.
    """

    dataset_name: str
    documents: list[dict[str, Any]]
    labels: list[list[LabelDict]]
    sizes: list[tuple[int, int]]
    hidden: frozenset[str]
    classes: list[str]

    @property
    def paths(self) -> list[str]:
        """Path of each image."""
        return [document["filepath"] for document in self.documents]

    @property
    def label_count(self) -> int:
        """Number of labels."""
        return sum(map(len, self.labels))

    def cleaned(self, label: LabelDict) -> LabelDict:
        """A label without what the workflow and evaluations wrote on it."""
        kept = {k: v for k, v in label.items() if k not in self.hidden}
        kept["tags"] = [tag for tag in label.get("tags") or [] if tag not in WORKFLOW_TAGS]
        return kept


def select(
    dataset: Any,
    label_field: str,
    *,
    run_key: str | None,
    sample_ids: Sequence[Any] | None,
    classes: Sequence[str] | None,
    with_media: bool,
) -> Selection:
    """Read what is to be exported.

    Args:
        dataset: a FiftyOne dataset of images.
        label_field: field of Detections.
        run_key: only labels of this run, on the samples that have any; None takes every label, on every
            sample whose field is set.
        sample_ids: only these samples; None restricts nothing.
        classes: the class list; None takes the classes that occur, sorted.
        with_media: whether the image files must exist.

    Returns:
        The content. Sizes of images without metadata are read from their files.

    Raises:
        ExportError: the field is not there, a label's class is not in the list, or files cannot be read.
    """
    _check_field(dataset, label_field)
    documents: list[dict[str, Any]] = []
    labels: list[list[LabelDict]] = []
    for document in _documents(dataset, label_field, run_key, sample_ids):
        found = document.pop(label_field).get(DETECTIONS.list_name) or []
        labels.append(found if run_key is None else [d for d in found if d.get("run") == run_key])
        documents.append(document)
    occurring = Counter(d.get("label") for found in labels for d in found)
    pinned = list(classes) if classes is not None else sorted(c for c in occurring if c is not None)
    _check_classes(occurring, pinned, label_field)
    if with_media:
        _check_media([document["filepath"] for document in documents])
    return Selection(dataset.name, documents, labels, _sizes(documents), _hidden(dataset), pinned)


def _check_field(dataset: Any, label_field: str) -> None:
    dataset.reload()
    wanted = DETECTIONS.fiftyone_class()
    schema = dataset.get_field_schema()
    if getattr(schema.get(label_field), "document_type", None) is not wanted:
        there = [n for n, f in schema.items() if getattr(f, "document_type", None) is wanted]
        what = "a field of another type" if label_field in schema else "no such field"
        raise ExportError(
            f"expected {DETECTIONS.field_class} in field {label_field!r} of {dataset.name!r}, found {what}; "
            f"its fields of that type: {', '.join(there) or 'none'}"
        )


def _documents(
    dataset: Any, label_field: str, run_key: str | None, sample_ids: Sequence[Any] | None
) -> Iterator[dict[str, Any]]:
    query: dict[str, Any] = {label_field: {"$ne": None}}
    if run_key is not None:
        query = {f"{DETECTIONS.list_path(label_field)}.run": run_key}
    fields = ("filepath", "metadata", "tags", "_media_type", "_rand", "created_at", "last_modified_at")
    projection = dict.fromkeys((*fields, label_field), 1)
    collection = database.samples_of(dataset)
    if sample_ids is None:
        yield from collection.find(query, projection)
        return
    wanted = [ObjectId(str(i)) for i in sample_ids]
    for start in range(0, len(wanted), _READ_BATCH):
        part = {"_id": {"$in": wanted[start : start + _READ_BATCH]}}
        yield from collection.find(query | part, projection)


def _hidden(dataset: Any) -> frozenset[str]:
    marks = (f"{key}{suffix}" for key in dataset.list_evaluations() for suffix in ("", "_id", "_iou"))
    return frozenset((*WORKFLOW_ATTRIBUTES, *marks))


def _check_classes(occurring: Counter[str | None], classes: Sequence[str], label_field: str) -> None:
    strangers = {name: n for name, n in occurring.items() if name not in frozenset(classes)}
    if strangers:
        named = ", ".join(f"{name!r} ({n} labels)" for name, n in list(strangers.items())[:_SHOWN])
        raise ExportError(
            f"expected only the classes {', '.join(classes)} in {label_field!r}, found also {named}; "
            "add them to the class list, or correct the labels"
        )
    if len(set(classes)) != len(classes):
        raise ExportError(f"expected every class once, found the list {', '.join(classes)}")


def _check_media(paths: Sequence[str]) -> None:
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        raise ExportError(
            f"expected the image files of all {len(paths)} samples, found {len(missing)} missing: "
            f"{', '.join(missing[:_SHOWN])}; restore them, or export labels alone (media: none)"
        )


def _sizes(documents: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
    """Sizes from the metadata, else from the file; the metadata of documents is completed."""
    sizes: list[tuple[int, int]] = []
    unreadable = []
    for document in documents:
        metadata = document.get("metadata") or {}
        if not metadata.get("width") or not metadata.get("height"):
            try:
                metadata = document["metadata"] = _read_metadata(document["filepath"])
            except OSError:
                unreadable.append(document["filepath"])
                continue
        sizes.append((metadata["width"], metadata["height"]))
    if unreadable:
        raise ExportError(
            f"expected the size of every image, found {len(unreadable)} without metadata whose file cannot be "
            f"read: {', '.join(unreadable[:_SHOWN])}; see dataset.compute_metadata()"
        )
    return sizes


def _read_metadata(path: str) -> dict[str, Any]:
    import fiftyone as fo
    from PIL import UnidentifiedImageError

    try:
        found: dict[str, Any] = fo.ImageMetadata.build_for(path).to_dict()
    except (ValueError, UnidentifiedImageError) as error:
        raise OSError(path) from error
    if not found.get("width") or not found.get("height"):
        raise OSError(path)
    return found
