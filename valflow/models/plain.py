"""What a plain function of images may return, as labels."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from valflow.label_types import LabelDict
from valflow.models.documents import document_of
from valflow.models.source import RawLabels

_BOX_SIDES = 4


def labels_of(prediction: Any) -> Any:
    """The labels that a function means by its prediction of one image.

    - a list of ``{"label", "bounding_box", "confidence"}``: detections; the box is ``[x, y, width, height]``,
      relative to the image, 0 to 1. More keys are kept as attributes;
    - ``{"label", "confidence"}``: one classification; a list of them: several;
    - a FiftyOne label, None, or an empty list: as it is.

    What the database can hold as it stands is not made a FiftyOne label first, which costs 30 times as much.

    Raises:
        TypeError, ValueError: it is none of these; the message says what was expected and found.
    """
    import fiftyone as fo

    if prediction is None or isinstance(prediction, fo.Label):
        return prediction
    if isinstance(prediction, Mapping):
        return RawLabels("Classification", [_whole(prediction)])
    if not isinstance(prediction, Sequence) or isinstance(prediction, str | bytes):
        raise TypeError(
            "expected a list of {'label', 'bounding_box', 'confidence'}, one such dict without a box, a FiftyOne "
            f"label or None for each image, found {type(prediction).__name__}"
        )
    if not prediction:
        return []  # nothing was found: that is no type of label
    if all(isinstance(one, Mapping) and "bounding_box" not in one for one in prediction):
        return RawLabels("Classifications", [_whole(one) for one in prediction])
    return RawLabels("Detections", [_boxed(one) for one in prediction])


def _whole(one: Any) -> LabelDict:
    return _stored("Classification", _checked(one, ("label",)), {})


def _boxed(one: Any) -> LabelDict:
    checked = _checked(one, ("label", "bounding_box"))
    given = checked.pop("bounding_box")
    box = given.tolist() if hasattr(given, "tolist") else [_number(side) for side in given]
    if len(box) != _BOX_SIDES or not all(isinstance(side, Real) for side in box):
        raise ValueError(f"bounding_box: expected [x, y, width, height], found {given!r}")
    return _stored("Detection", checked, {"bounding_box": [float(side) for side in box]})


def _checked(one: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(one, Mapping):
        raise TypeError(f"expected a dict with {', '.join(keys)}, found {type(one).__name__}")
    missing = [key for key in keys if key not in one]
    if missing:
        raise ValueError(f"expected the keys {', '.join(keys)}, {missing} not in {dict(one)}")
    return dict(one)


def _stored(label_class: str, values: dict[str, Any], box: dict[str, list[float]]) -> LabelDict:
    """The document that FiftyOne makes of a label, without its id."""
    stored: LabelDict = {"_cls": label_class, "tags": []}
    if box:
        stored["attributes"] = {}
    for key, given in values.items():
        value = given if type(given) in _PLAIN else _number(given)
        value = float(value) if key == "confidence" and type(value) is int else value
        kind: Any = type(value)
        if not _is_plain(label_class, key, kind):
            return _converted(label_class, {**values, **box})
        if value is not None:
            stored[key] = value
    stored.update(box)
    return stored


_PLAIN = frozenset({str, int, float, bool, type(None)})


@functools.lru_cache(maxsize=4096)
def _is_plain(label_class: str, key: Any, kind: Any) -> bool:
    """Whether FiftyOne stores an attribute of that name and type just as it is."""
    import fiftyone as fo

    if kind is type(None):
        return isinstance(key, str)
    if key == "label":
        return kind is str
    if key == "confidence":
        return kind is float
    is_name = isinstance(key, str) and key.isidentifier() and not key.startswith("_")
    return is_name and kind in _PLAIN and not hasattr(getattr(fo, label_class), key)


def _converted(label_class: str, values: dict[str, Any]) -> LabelDict:
    """By FiftyOne itself: masks, lists, tags, and what it refuses."""
    import fiftyone as fo

    return document_of(
        getattr(fo, label_class)(**{str(key): _number(value) for key, value in values.items()})
    )


def _number(value: Any) -> Any:
    """Numbers of NumPy and torch as Python's own, which is what a database takes."""
    return value.item() if getattr(value, "shape", None) == () else value
