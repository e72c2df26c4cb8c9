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
from valflow.label_types import WORKFLOW_ATTRIBUTES, WORKFLOW_TAGS, LabelDict, LabelType

_READ_BATCH = 10_000
# Samples that are decoded at a time; MongoDB's own batches of 16 MB become ten times that as objects.
_CURSOR_BATCH = 500
_SAMPLE_FIELDS = ("filepath", "metadata", "tags", "_media_type", "_rand", "created_at", "last_modified_at")
_SHOWN = 5


@dataclass(frozen=True)
class Selection:
    """The content of one export, in the order of the dataset; labels are read when they are needed.

    Attributes:
        dataset: a FiftyOne dataset of images.
        label_field: its label field.
        label_type: what that field holds.
        run_key: only labels of this run; None takes all.
        documents: raw sample documents (``filepath``, ``metadata``, ``tags``, ...) without labels.
        sizes: width and height of each image in pixels.
        label_count: number of labels.
        hidden: attributes of labels that belong to the workflow or to an evaluation.
        classes: the class list of the export, in order.
    """

    dataset: Any
    label_field: str
    label_type: LabelType
    run_key: str | None
    documents: list[dict[str, Any]]
    sizes: list[tuple[int, int]]
    label_count: int
    hidden: frozenset[str]
    classes: list[str]

    @property
    def paths(self) -> list[str]:
        """Path of each image."""
        return [document["filepath"] for document in self.documents]

    def labels(self) -> Iterator[tuple[int, list[LabelDict]]]:
        """The labels of each image as they are stored, with the image's position."""
        places = {document["_id"]: place for place, document in enumerate(self.documents)}
        path, collection = self.label_type.path(self.label_field), database.samples_of(self.dataset)
        ids = list(places)
        for start in range(0, len(ids), _READ_BATCH):
            # By id, because samples may come and go meanwhile.
            cursor = collection.find({"_id": {"$in": ids[start : start + _READ_BATCH]}}, {path: 1})
            for document in cursor.batch_size(_CURSOR_BATCH):
                found = self.label_type.labels_of(document, self.label_field)
                if self.run_key is not None:
                    found = [label for label in found if label.get("run") == self.run_key]
                yield places[document["_id"]], found

    def cleaned(self, label: LabelDict) -> LabelDict:
        """A label without what the workflow and evaluations wrote on it."""
        kept = {k: v for k, v in label.items() if k not in self.hidden}
        kept["tags"] = [tag for tag in label.get("tags") or [] if tag not in WORKFLOW_TAGS]
        return kept


def select(
    dataset: Any,
    label_field: str,
    label_type: LabelType,
    *,
    run_key: str | None,
    sample_ids: Sequence[Any] | None,
    classes: Sequence[str] | None,
    with_media: bool,
) -> Selection:
    """Find out what is to be exported.

    Args:
        dataset: a FiftyOne dataset of images.
        label_field: its label field.
        label_type: what that field holds.
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
    _check_field(dataset, label_field, label_type)
    query: dict[str, Any] = {label_field: {"$ne": None}}
    if run_key is not None:
        query = {f"{label_type.path(label_field)}.run": run_key}
    queries = [query]
    if sample_ids is not None:
        ids = [ObjectId(str(i)) for i in sample_ids]
        parts = (ids[start : start + _READ_BATCH] for start in range(0, len(ids), _READ_BATCH))
        queries = [query | {"_id": {"$in": part}} for part in parts]
    collection = database.samples_of(dataset)
    documents: list[dict[str, Any]] = []
    occurring: Counter[str | None] = Counter()
    for part in queries:
        documents += collection.find(part, dict.fromkeys(_SAMPLE_FIELDS, 1))
        occurring.update(_count_classes(collection, part, label_field, label_type, run_key))
    pinned = list(classes) if classes is not None else sorted(c for c in occurring if c is not None)
    _check_classes(occurring, pinned, label_field)
    if with_media:
        _check_media([document["filepath"] for document in documents])
    sizes = _sizes(documents)
    return Selection(
        dataset,
        label_field,
        label_type,
        run_key,
        documents,
        sizes,
        occurring.total(),
        _hidden(dataset),
        pinned,
    )


def _check_field(dataset: Any, label_field: str, label_type: LabelType) -> None:
    dataset.reload()
    wanted = label_type.fiftyone_class()
    schema = dataset.get_field_schema()
    if getattr(schema.get(label_field), "document_type", None) is not wanted:
        there = [n for n, f in schema.items() if getattr(f, "document_type", None) is wanted]
        what = "a field of another type" if label_field in schema else "no such field"
        raise ExportError(
            f"expected {label_type.field_class} in field {label_field!r} of {dataset.name!r}, found {what}; "
            f"its fields of that type: {', '.join(there) or 'none'}"
        )


def _count_classes(
    collection: Any, query: dict[str, Any], label_field: str, label_type: LabelType, run_key: str | None
) -> Counter[str | None]:
    path = label_type.path(label_field)
    of_run = [] if run_key is None else [{"$match": {f"{path}.run": run_key}}]
    groups = collection.aggregate(
        [
            {"$match": query},
            {"$project": {"_id": 0, f"{path}.label": 1, f"{path}.run": 1}},
            {"$unwind": f"${path}"},
            *of_run,
            {"$group": {"_id": f"${path}.label", "labels": {"$sum": 1}}},
        ]
    )
    return Counter({group["_id"]: group["labels"] for group in groups})


def _hidden(dataset: Any) -> frozenset[str]:
    marks = (f"{key}{suffix}" for key in dataset.list_evaluations() for suffix in ("", "_id", "_iou"))
    return frozenset((*WORKFLOW_ATTRIBUTES, *marks))


def _check_classes(occurring: Counter[str | None], classes: Sequence[str], label_field: str) -> None:
    known = frozenset(classes)
    strangers = {name: n for name, n in occurring.items() if name not in known}
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
