"""What models and fields give, made fit to be stored: whatever is odd about it is mended and counted, never passed.

A value that means nothing (a confidence of 1.7, a box of three numbers, a class of spaces) becomes "unknown", and a
label with an unknown value waits for a person. Nobody guesses what was meant.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import bson
import numpy as np
from bson import ObjectId
from bson.errors import InvalidDocument, InvalidStringData

from valflow.class_names import MOST_CHARACTERS, is_class_name, look_alikes, shortened
from valflow.label_types import LabelDict, LabelType
from valflow.markup import clean

# MongoDB's documents end at 16 MiB, those inside of a pipeline too. The ledger keeps the labels of an image as they
# were predicted and decided, beside each its state and past actions; freezing joins it with the whole sample.
DOCUMENT_BYTES = 16 * 1024 * 1024
_BESIDE_EACH_LABEL = 1_000
_RESERVE = 256 * 1024
_SMALL_SAMPLE = 1024 * 1024

# What is counted, and what it means.
WORDS = {
    "no_label": "{} that are no labels were left out",
    "below_floor": "{} below min_confidence were left out",
    "other_class": "{} of classes that `classes` does not name were left out",
    "confidence": "{} with a confidence that is no number from 0 to 1 (taken as unknown, a person decides)",
    "box": "{} with a box that is not four numbers (taken as unknown, a person decides)",
    "class": (
        "{} with a class that is no readable name of at most "
        f"{MOST_CHARACTERS} characters (taken as unknown, a person decides)"
    ),
    "tags": "{} with tags that are no list of texts (those were left out)",
}


def take_in(predictions: Iterable[Any], label_type: LabelType) -> tuple[list[LabelDict], Counter[str]]:
    """Labels of one sample with every unusable value taken off, and how many had which.

    Args:
        predictions: raw labels, or what stands in their place.
        label_type: says whether they have boxes.

    Returns:
        The labels in their order, and counts by the keys of ``WORDS``.
    """
    noted: Counter[str] = Counter()
    has_boxes = "bounding_box" in label_type.geometry
    labels = []
    for given in predictions:
        if not isinstance(given, Mapping):
            noted["no_label"] += 1
            continue
        label = {"_cls": label_type.label_class, **given}
        name, confidence = label.get("label"), label.get("confidence")
        if name is not None and not is_class_name(name):
            label["label"] = None
            noted["class"] += 1
        if confidence is not None and (usable := _share(confidence)) is not confidence:
            label["confidence"] = usable
            noted["confidence"] += usable is None
        if has_boxes and label.get("bounding_box") is not None:
            label["bounding_box"] = box = _box(label["bounding_box"])
            noted["box"] += box is None
        if label.get("tags"):
            tags = label["tags"] if isinstance(label["tags"], list | tuple) else []
            texts = [t for t in tags if isinstance(t, str)]
            noted["tags"] += texts != label["tags"]
            label["tags"] = texts
        labels.append(label)
    return labels, +noted


def _share(value: Any) -> float | None:
    """A confidence as a float; None where it is none."""
    if type(value) is not float:
        if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
            return None
        value = float(value)
    return value if 0.0 <= value <= 1.0 else None


def _box(value: Any) -> list[float] | None:
    """Four finite numbers, or None."""
    corners = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(corners, list | tuple) or len(corners) != 4:
        return None
    numbers = []
    for number in corners:
        if isinstance(number, bool) or not isinstance(number, int | float | np.number):
            return None
        if not math.isfinite(number):
            return None
        numbers.append(float(number))
    return numbers


def left_out(given: Sequence[LabelDict], kept: Sequence[LabelDict], floor: float) -> Counter[str]:
    """How many labels did not become candidates, and why."""
    weak = sum(1 for d in given if (c := d.get("confidence")) is not None and c < floor)
    return +Counter(below_floor=weak, other_class=len(given) - len(kept) - weak)


def large_samples(samples: Any, sample_ids: Sequence[ObjectId]) -> dict[ObjectId, int]:
    """Sizes in bytes of those sample documents that leave little room for labels."""
    size = {"$bsonSize": "$$ROOT"}
    query = {"_id": {"$in": list(sample_ids)}, "$expr": {"$gt": [size, _SMALL_SAMPLE]}}
    return {d["_id"]: d["n"] for d in samples.aggregate([{"$match": query}, {"$project": {"n": size}}])}


def why_not_storable(labels: Sequence[LabelDict], sample_bytes: int = 0) -> str | None:
    """Why the database cannot hold the labels of a sample, now and until they are final; None where it can.

    Args:
        labels: all labels of one sample.
        sample_bytes: size of the sample's document without them; 0 for a small one.
    """
    try:
        size = len(bson.encode({"labels": labels}))
    except (InvalidDocument, InvalidStringData, OverflowError, UnicodeError, RecursionError) as error:
        return f"a label cannot be stored: {type(error).__name__}: {clean(error)[:200]}"
    beside = _BESIDE_EACH_LABEL * len(labels) + _RESERVE
    if max(sample_bytes, _SMALL_SAMPLE) + 2 * size + beside <= DOCUMENT_BYTES:
        return None
    return (
        f"its {len(labels)} labels take {size / 1e6:.1f} MB, its document {sample_bytes / 1e6:.1f} MB; a document of "
        "MongoDB ends at 16.8 MB, and labels are kept twice. Keep "
        "masks and other large values in files (mask_path; of instances, mask_dir does so)"
    )


def in_words(noted: Mapping[str, int], classes: Iterable[str] = ()) -> list[str]:
    """What was odd about the predictions of a run, one sentence each; empty where all was well.

    Args:
        noted: counts as of ``take_in``.
        classes: names of the classes, of which some may look like others.
    """
    told = [
        words.format("1 label" if noted[key] == 1 else f"{noted[key]:,} labels")
        for key, words in WORDS.items()
        if noted.get(key)
    ]
    alike = look_alikes(classes)
    if alike:
        shown = "; ".join(" and ".join(shortened(ascii(name), 40) for name in names) for names in alike[:5])
        more = f"; and {len(alike) - 5} more" if len(alike) > 5 else ""
        told.append(f"classes differ only in case, spaces or Unicode form: {shown}{more}")
    return told


def sentences_of(record: Mapping[str, Any]) -> list[str]:
    """``in_words`` of a run record; one of a run from before there were counts says nothing of them."""
    classes = [str(row.get("label")) for row in record.get("class_table") or []]
    return in_words(record.get("intake") or {}, classes)
