"""COCO without FiftyOne's exporter: the same files from raw documents, and the comparison with them."""

from __future__ import annotations

import itertools
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from valflow.errors import ExportError
from valflow.exporting.media import NONE, place_media, unique_names
from valflow.exporting.selecting import Selection
from valflow.label_types import LabelDict

LABELS_FILE, MEDIA_FOLDER = "labels.json", "data"

# Parts of a label that are not attributes, and attributes that FiftyOne's exporter leaves out.
_NOT_ATTRIBUTES = frozenset(
    ("_id", "_cls", "tags", "attributes", "label", "bounding_box", "mask", "mask_path", "confidence", "index")
)
_LEFT_OUT = frozenset(("iscrowd", "area", "visible"))


def can_write(selection: Selection) -> bool:
    """Whether there are only boxes; instance masks become polygons, which FiftyOne's exporter makes."""
    return not any(
        label.get("mask") or label.get("mask_path") for found in selection.labels for label in found
    )


def write(selection: Selection, folder: Path, media: str, dataset_facts: dict[str, Any]) -> None:
    """Write ``labels.json`` and the images as FiftyOne's COCO exporter does.

    Args:
        selection: what to write.
        folder: where; made when missing.
        media: copy, symlink, or none (then images are named by their absolute paths).
        dataset_facts: ``dataset.info``, of which COCO's ``info`` and ``licenses`` are taken.
    """
    folder.mkdir(parents=True)
    names = file_names(selection, media)
    annotations = list(_annotations(selection))
    content = {
        "info": _facts(dataset_facts),
        "licenses": dataset_facts.get("licenses", []),
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
        "annotations": annotations,
    }
    (folder / LABELS_FILE).write_bytes(orjson.dumps(content, default=str, option=orjson.OPT_NON_STR_KEYS))
    if media != NONE:
        place_media(selection.paths, names, folder / MEDIA_FOLDER, media)


def check(selection: Selection, folder: Path, media: str) -> None:
    """Read the files and compare them with what was to be written.

    Raises:
        ExportError: samples, labels, classes or boxes differ.
    """
    content = orjson.loads((folder / LABELS_FILE).read_bytes())
    classes = {entry["id"]: entry["name"] for entry in content["categories"]}
    _must_equal("classes", list(classes.values()), selection.classes)
    _must_equal("number of samples", len(content["images"]), len(selection.documents))
    _must_equal("number of labels", len(content["annotations"]), selection.label_count)
    names = [image["file_name"] for image in content["images"]]
    _must_equal("image files", names, file_names(selection, media))
    _must_equal("sizes", [(i["width"], i["height"]) for i in content["images"]], selection.sizes)
    if media != NONE:
        there = {entry.name for entry in os.scandir(folder / MEDIA_FOLDER)}
        _must_equal("images that are missing", sorted(set(names) - there), [])
    place = {image["id"]: i for i, image in enumerate(content["images"])}
    counts = [len(found) for found in selection.labels]
    _must_equal(
        "labels per image",
        np.bincount([place[a["image_id"]] for a in content["annotations"]], minlength=len(counts)).tolist(),
        counts,
    )
    labels = list(itertools.chain.from_iterable(selection.labels))
    _must_equal(
        "class of each label",
        [classes[a["category_id"]] for a in content["annotations"]],
        [label["label"] for label in labels],
    )
    scale = np.repeat(np.array(selection.sizes, dtype=np.float64).reshape(-1, 2), counts, axis=0)
    found = np.array([a["bbox"] for a in content["annotations"]], dtype=np.float64).reshape(-1, 4)
    wanted = np.array([label["bounding_box"] for label in labels], dtype=np.float64).reshape(-1, 4)
    if not np.allclose(found, wanted * np.hstack([scale, scale]), rtol=0, atol=1e-6):
        raise ExportError("the export differs from the dataset when it is read back: boxes are not the same")


def file_names(selection: Selection, media: str) -> list[str]:
    """What the images are called in ``labels.json``."""
    if media == NONE:
        return [os.path.abspath(path) for path in selection.paths]
    return unique_names(selection.paths)


def _annotations(selection: Selection) -> list[dict[str, Any]]:
    category = {name: i for i, name in enumerate(selection.classes, 1)}
    plain = _NOT_ATTRIBUTES | selection.hidden
    annotations: list[dict[str, Any]] = []
    for image_id, (labels, (width, height)) in enumerate(
        zip(selection.labels, selection.sizes, strict=True), 1
    ):
        for label in labels:
            x, y, w, h = label["bounding_box"]
            box = [x * width, y * height, w * width, h * height]
            entry = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": category[label["label"]],
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            if label.get("confidence") is not None:
                entry["score"] = label["confidence"]
            if label.get("attributes") or not plain.issuperset(label):
                _add_attributes(entry, label, plain)
            annotations.append(entry)
    return annotations


def _add_attributes(entry: dict[str, Any], label: LabelDict, plain: frozenset[str]) -> None:
    """Attributes of people and models, from the label itself and from FiftyOne's older ``attributes``."""
    old = {name: value.get("value") for name, value in (label.get("attributes") or {}).items()}
    attributes = old | {name: value for name, value in label.items() if name not in plain}
    entry["iscrowd"] = int(attributes.get("iscrowd") or 0)
    entry.update((name, value) for name, value in attributes.items() if name not in _LEFT_OUT)


def _facts(given: dict[str, Any]) -> dict[str, Any]:
    return {
        "year": given.get("year", ""),
        "version": given.get("version", ""),
        "contributor": given.get("contributor", ""),
        "url": given.get("url", "https://voxel51.com/fiftyone"),
        "date_created": given.get("date_created", datetime.now().replace(microsecond=0).isoformat()),
    }


def _must_equal(what: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        raise ExportError(
            f"the export differs from the dataset when it is read back: {what}: expected {_short(wanted)}, "
            f"found {_short(found)}; nothing was put in place"
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
