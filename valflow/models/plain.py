"""What a plain function of images may return, as labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

_BOX_SIDES = 4


def label_of(prediction: Any) -> Any:
    """The label that a function means by its prediction of one image.

    - a list of ``{"label", "bounding_box", "confidence"}``: detections; the box is ``[x, y, width, height]``,
      relative to the image, 0 to 1. More keys are kept as attributes;
    - ``{"label", "confidence"}``: one classification;
    - a FiftyOne label, or None: as it is.

    Raises:
        TypeError, ValueError: it is none of these; the message says what was expected and found.
    """
    import fiftyone as fo

    if prediction is None or isinstance(prediction, fo.Label):
        return prediction
    if isinstance(prediction, Mapping):
        return fo.Classification(**_checked(prediction, ()))
    if not isinstance(prediction, Sequence) or isinstance(prediction, str | bytes):
        raise TypeError(
            "expected a list of {'label', 'bounding_box', 'confidence'}, one such dict without a box, a FiftyOne "
            f"label or None for each image, found {type(prediction).__name__}"
        )
    if prediction and all(isinstance(one, Mapping) and "bounding_box" not in one for one in prediction):
        return fo.Classifications(classifications=[fo.Classification(**_checked(p, ())) for p in prediction])
    return fo.Detections(detections=[fo.Detection(**_checked(p, ("bounding_box",))) for p in prediction])


def _checked(one: Any, more: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(one, Mapping):
        raise TypeError(
            f"expected a dict with label{', bounding_box' * bool(more)}, found {type(one).__name__}"
        )
    missing = [key for key in ("label", *more) if key not in one]
    if missing:
        raise ValueError(
            f"expected the keys label{', bounding_box' * bool(more)}, {missing} not in {dict(one)}"
        )
    checked = {str(key): _number(value) for key, value in one.items()}
    if more:
        box = [_number(side) for side in one["bounding_box"]]
        if len(box) != _BOX_SIDES or not all(isinstance(side, Real) for side in box):
            raise ValueError(f"bounding_box: expected [x, y, width, height], found {one['bounding_box']!r}")
        checked["bounding_box"] = box
    return checked


def _number(value: Any) -> Any:
    """Numbers of NumPy and torch as Python's own, which is what a database takes."""
    return value.item() if getattr(value, "shape", None) == () else value
