"""COCO without FiftyOne's exporter: the same files from raw documents, and the comparison with them."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from valflow import database, masks
from valflow.errors import ExportError
from valflow.exporting.media import NONE, place_media, unique_names
from valflow.exporting.selecting import Selection
from valflow.label_types import LabelDict

LABELS_FILE, MEDIA_FOLDER = "labels.json", "data"

# Parts of a label that are not attributes, and attributes that FiftyOne's exporter leaves out.
_NOT_ATTRIBUTES = frozenset(
    ("_id", "_cls", "tags", "attributes", "label", "bounding_box", "mask", "mask_path", "confidence", "index")
)
_PART = 2_000  # annotations that are written at a time
_LEFT_OUT = frozenset(("iscrowd", "area", "visible"))


@dataclass
class Written:
    """What the annotations were made from, to compare the file with.

    Attributes:
        image: position of each label's image.
        category: position of each label's class in the class list.
        boxes: relative ``x, y, w, h`` of each label, one after the other.
        masks: run lengths of each label's mask; empty where there are only boxes.
    """

    image: array[int] = field(default_factory=lambda: array("q"))
    category: array[int] = field(default_factory=lambda: array("q"))
    boxes: array[float] = field(default_factory=lambda: array("d"))
    masks: list[str] = field(default_factory=list)


def can_write(selection: Selection) -> bool:
    """Whether there are only boxes, or only instances; masks beside boxes are left to FiftyOne's exporter."""
    if selection.label_type.needs_masks:
        return True
    has_mask = {"$or": [{"mask": {"$ne": None}}, {"mask_path": {"$ne": None}}]}
    query = {selection.label_type.list_path(selection.label_field): {"$elemMatch": has_mask}}
    return database.samples_of(selection.dataset).find_one(query, {"_id": 1}) is None


def write(selection: Selection, folder: Path, media: str) -> Written:
    """Write ``labels.json`` and the images as FiftyOne's COCO exporter does.

    Labels are read and written a few at a time, so the memory does not grow with their number.

    Args:
        selection: what to write.
        folder: where; made when missing.
        media: copy, symlink, or none (then images are named by their absolute paths).

    Returns:
        What was written, for :func:`check`.
    """
    folder.mkdir(parents=True)
    names = file_names(selection, media)
    facts = dict(selection.dataset.info)
    head = {
        "info": _info(facts),
        "licenses": facts.get("licenses", []),
        "categories": [
            {"id": i, "name": name, "supercategory": None} for i, name in enumerate(selection.classes, 1)
        ],
        "images": [
            {
                "id": i,
                "file_name": name,
                "height": height,
                "width": width,
                "license": None,
                "coco_url": None,
            }
            for i, (name, (width, height)) in enumerate(zip(names, selection.sizes, strict=True), 1)
        ],
    }
    written = Written()
    with (folder / LABELS_FILE).open("wb") as file:
        file.write(_json(head)[:-1] + b',"annotations":[')
        for number, part in enumerate(_annotations(selection, written)):
            file.write((b"," if number else b"") + _json(part)[1:-1])
        file.write(b"]}")
    if media != NONE:
        place_media(selection.paths, names, folder / MEDIA_FOLDER, media)
    return written


def check(selection: Selection, written: Written, folder: Path, media: str) -> None:
    """Read the files and compare them with what was to be written.

    Raises:
        ExportError: samples, labels, classes or boxes differ.
    """
    content = orjson.loads((folder / LABELS_FILE).read_bytes())
    images, annotations = content["images"], content["annotations"]
    classes = {entry["id"]: entry["name"] for entry in content["categories"]}
    _must_equal("classes", list(classes.values()), selection.classes)
    _must_equal("number of samples", len(images), len(selection.documents))
    _must_equal("number of labels", len(annotations), selection.label_count)
    names = [image["file_name"] for image in images]
    _must_equal("image files", names, file_names(selection, media))
    _must_equal("sizes", [(i["width"], i["height"]) for i in images], selection.sizes)
    if media != NONE:
        there = {entry.name for entry in os.scandir(folder / MEDIA_FOLDER)}
        _must_equal("images that are missing", sorted(set(names) - there), [])
    place = {image["id"]: i for i, image in enumerate(images)}
    _must_equal("image of each label", [place[a["image_id"]] for a in annotations], written.image.tolist())
    place_of = {name: i for i, name in enumerate(selection.classes)}
    category = {number: place_of[name] for number, name in classes.items()}
    _must_equal(
        "class of each label", [category[a["category_id"]] for a in annotations], written.category.tolist()
    )
    scale = np.array(selection.sizes, dtype=np.float64).reshape(-1, 2)[
        np.array(written.image, dtype=np.int64)
    ]
    found = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)
    wanted = np.array(written.boxes).reshape(-1, 4) * np.hstack([scale, scale])
    if not np.allclose(found, wanted, rtol=0, atol=1e-6):
        raise ExportError("the export differs from the dataset when it is read back: boxes are not the same")
    found_masks = [a["segmentation"]["counts"] for a in annotations if "segmentation" in a]
    _must_equal("masks", found_masks, written.masks)


def file_names(selection: Selection, media: str) -> list[str]:
    """What the images are called in ``labels.json``."""
    if media == NONE:
        return [os.path.abspath(path) for path in selection.paths]
    return unique_names(selection.paths)


def _annotations(selection: Selection, written: Written) -> Iterator[list[dict[str, Any]]]:
    """COCO's annotations, a few thousand at a time; ``written`` grows with them."""
    category = {name: i for i, name in enumerate(selection.classes)}
    plain = _NOT_ATTRIBUTES | selection.hidden
    part: list[dict[str, Any]] = []
    for place, labels in selection.labels():
        width, height = selection.sizes[place]
        for label in labels:
            x, y, w, h = label["bounding_box"]
            code = category[label["label"]]
            written.image.append(place)
            written.category.append(code)
            written.boxes.extend((x, y, w, h))
            box = (x * width, y * height, w * width, h * height)
            entry = {
                "id": len(written.image),
                "image_id": place + 1,
                "category_id": code + 1,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            if selection.label_type.needs_masks:
                entry["segmentation"] = masks.as_rle(label, width, height)
                written.masks.append(entry["segmentation"]["counts"])
            confidence = label.get("confidence")
            if confidence is not None:
                entry["score"] = confidence
            if label.get("attributes") or not plain.issuperset(label):
                _add_attributes(entry, label, plain)
            part.append(entry)
        if len(part) >= _PART:
            yield part
            part = []
    if part:
        yield part


def _add_attributes(entry: dict[str, Any], label: LabelDict, plain: frozenset[str]) -> None:
    """Attributes of people and models, from the label itself and from FiftyOne's older ``attributes``."""
    old = {name: value.get("value") for name, value in (label.get("attributes") or {}).items()}
    attributes = old | {name: value for name, value in label.items() if name not in plain}
    entry["iscrowd"] = int(attributes.get("iscrowd") or 0)
    entry.update((name, value) for name, value in attributes.items() if name not in _LEFT_OUT)


def _info(given: dict[str, Any]) -> dict[str, Any]:
    return {
        "year": given.get("year", ""),
        "version": given.get("version", ""),
        "contributor": given.get("contributor", ""),
        "url": given.get("url", "https://voxel51.com/fiftyone"),
        "date_created": given.get("date_created", datetime.now().replace(microsecond=0).isoformat()),
    }


def _json(content: Any) -> bytes:
    return orjson.dumps(content, default=str)


def _must_equal(what: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        raise ExportError(
            f"the export differs from the dataset when it is read back: {what}: expected {_short(wanted)}, "
            f"found {_short(found)}; nothing was put in place"
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
