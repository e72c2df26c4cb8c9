"""Labels as broken models and careless imports make them: what each must come to, in one table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import fiftyone as fo
import numpy as np
from bson import ObjectId

from tests.models import Corner

BOX = [0.55, 0.1, 0.3, 0.5]
LONG = "long " * 2000  # 10,000 characters
NFC, NFD = "café", "cafe\u0301"

# What becomes of a label: approved by its threshold; waits for a person; waits, marked with a reason; is counted as
# left out; or its whole sample is counted as failed.
APPROVED, REVIEW, INVALID, LEFT_OUT, FAILED = "approved", "review", "invalid", "left out", "failed"


@dataclass(frozen=True)
class Odd:
    """One bad label, beside a good one on the same image.

    Attributes:
        label: what differs from a good label; something that is no mapping stands in its place.
        field: what becomes of it where it comes from a field.
        model: the same where a model returns it; None where it is the same.
        why: part of the reason that people are given.
    """

    label: Any
    field: str
    model: str | None = None
    why: str = ""

    def outcome(self, kind: str) -> str:
        return self.model if kind == "python" and self.model is not None else self.field


def _confidence(value: Any, *outcome: str, why: str = "confidence") -> Odd:
    return Odd({"confidence": value}, *outcome, why=why)


def _box(value: Any, *outcome: str, why: str = "box") -> Odd:
    return Odd({"bounding_box": value}, *outcome, why=why)


def _class(value: Any, *outcome: str, why: str = "") -> Odd:
    return Odd({"label": value}, *outcome, why=why)


ODD = {
    "good": Odd({}, APPROVED),
    "confidence none": _confidence(None, REVIEW, why=""),
    "confidence nan": _confidence(math.nan, REVIEW),
    "confidence infinite": _confidence(math.inf, REVIEW),
    "confidence minus infinite": _confidence(-math.inf, REVIEW),
    "confidence negative": _confidence(-0.5, REVIEW),
    "confidence over 1": _confidence(1.7, REVIEW),
    "confidence in percent": _confidence(95.0, REVIEW),
    "confidence text": _confidence("high", REVIEW, FAILED),
    "confidence text of a number": _confidence("0.9", REVIEW, APPROVED),
    "confidence true": _confidence(True, REVIEW, APPROVED),
    "confidence list": _confidence([0.9], REVIEW, FAILED),
    "confidence huge integer": _confidence(2**62, REVIEW),
    "confidence below the floor": _confidence(0.05, LEFT_OUT, why="min_confidence"),
    "box outside": _box([1.2, 0.1, 0.2, 0.2], INVALID),
    "box partly outside": _box([0.8, 0.1, 0.3, 0.2], INVALID),
    "box left of the image": _box([-0.1, 0.1, 0.3, 0.2], INVALID),
    "box of no width": _box([0.6, 0.1, 0.0, 0.2], INVALID),
    "box of no height": _box([0.6, 0.1, 0.2, 0.0], INVALID),
    "box of negative size": _box([0.6, 0.5, -0.2, -0.2], INVALID),
    "box nan": _box([0.6, math.nan, 0.2, 0.2], INVALID),
    "box all nan": _box([math.nan] * 4, INVALID),
    "box infinite": _box([0.6, 0.1, math.inf, 0.2], INVALID),
    "box with none": _box([0.6, None, 0.2, 0.2], INVALID, FAILED),
    "box of three": _box([0.6, 0.1, 0.2], INVALID),
    "box of five": _box([0.6, 0.1, 0.2, 0.2, 0.2], INVALID),
    "box empty": _box([], INVALID),
    "box none": _box(None, INVALID),
    "box text": _box("left", INVALID, FAILED),
    "box of text": _box(["0.6", "0.1", "0.2", "0.2"], INVALID, APPROVED),
    "box a number": _box(0.5, INVALID, FAILED),
    "box in pixels": _box([40, 10, 20, 20], INVALID),
    "class none": _class(None, INVALID, why="class"),
    "class empty": _class("", INVALID, why="class"),
    "class spaces": _class("  \t ", INVALID, why="class"),
    "class with a nul": _class("cat\x00", INVALID, why="class"),
    "class with an escape": _class("\x1b[31mcat", INVALID, why="class"),
    "class with a newline": _class("cat\ndog", INVALID, why="class"),
    "class a lone surrogate": Odd({"label": "\ud800"}, INVALID, why="class"),
    "class very long": _class(LONG, INVALID, why="class"),
    "class a number": _class(7, INVALID, FAILED, why="class"),
    "class with a dollar": _class("$cash", APPROVED),
    "class an operator": _class("$set", APPROVED),
    "class with dots": _class("a.b.c", APPROVED),
    "class with a slash": _class("cat/dog", APPROVED),
    "class right to left": _class("קטע", APPROVED),
    "class combining": _class(NFD, APPROVED),
    "class composed": _class(NFC, APPROVED),
    "class emoji": _class("🐈‍⬛", APPROVED),
    "class in capitals": _class("CAT", APPROVED),
    "class with quotes": _class("\"cat\" & 'dog' <b>", APPROVED),
    "tags text": Odd({"tags": "mine"}, APPROVED, FAILED),
    "tags none": Odd({"tags": None}, APPROVED),
    "tags with none": Odd({"tags": [None, "mine"]}, APPROVED, FAILED),
    "id missing": Odd({"_id": None}, APPROVED),
    "id text": Odd({"_id": "me"}, APPROVED),
    "id shared by all": Odd({"_id": ObjectId("5" * 24)}, APPROVED),
}
# Only a field can hold these.
OF_FIELD = {
    "none for a label": Odd(None, LEFT_OUT, why="no label"),
    "text for a label": Odd("cat", LEFT_OUT, why="no label"),
}
# Only a model can return these.
OF_MODEL = {
    "confidence of numpy": _confidence(np.float32(0.9), APPROVED, why=""),
    "confidence of numpy nan": _confidence(np.float32("nan"), REVIEW),
    "box of numpy": _box(np.array([0.6, 0.1, 0.2, 0.2], np.float32), APPROVED, why=""),
    "attribute of an unknown kind": Odd({"mood": object()}, FAILED, why="stored"),
    "attribute of numpy": Odd({"speed": np.float32(3.0)}, APPROVED),
}


def cases(kind: str) -> dict[str, Odd]:
    return {**ODD, **(OF_MODEL if kind == "python" else OF_FIELD)}


def colour(number: int) -> tuple[int, int, int]:
    """The colour of a case's image, by which the model knows it again."""
    return number, 90, 120


def raw_label(odd: Odd) -> Any:
    """A label as careless code writes it into the database."""
    if not isinstance(odd.label, dict):
        return odd.label
    label = {"_id": ObjectId(), "_cls": "Detection", "label": "cat", "bounding_box": BOX, "confidence": 0.9}
    label = {**label, "tags": [], "attributes": {}, **odd.label}
    if label["_id"] is None:
        del label["_id"]
    if label["label"] == "\ud800":
        label["label"] = None
    return label


class Careless(Corner):
    """Returns the odd label of an image's case, beside a good one."""

    classes = ()

    def predict(self, arg: Any) -> Any:
        odd = list(cases("python").values())[int(arg[0, 0, 0])]
        good = fo.Detection(label="dog", bounding_box=[0.05, 0.1, 0.3, 0.5], confidence=0.95)
        values = {"label": "cat", "bounding_box": BOX, "confidence": 0.9, **odd.label}
        values.pop("_id", None)
        return fo.Detections(detections=[good, fo.Detection(**values)])
