"""What a model finds, by asking it once; and why some of it cannot be labelled with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from valflow import database
from valflow.masks import has_mask
from valflow.models.source import RawLabels, Source, class_of

_FIRST = 5

# FiftyOne's other labels, and why there is no review of them.
REASONS = {
    "Segmentation": "one mask of a whole image has no labels that could be approved one by one",
    "Heatmap": "a map has no labels that could be approved one by one",
    "Polyline": "lines have no box to compare with others",
    "Polylines": "lines have no box to compare with others",
    "Keypoint": "points have no box to compare with others",
    "Keypoints": "points have no box to compare with others",
    "dict": "it gives several fields at once; choose a model, or a parameter, that gives one",
    "ndarray": "it gives raw numbers; set output_processor_cls, which turns them into labels",
}


def probe(source: Source, dataset: Any) -> str | None:
    """Name of the class of the first prediction on the first images; None where there is none."""
    return next((found for p in _tried(source, dataset) if (found := class_of(p)) is not None), None)


def lacks_masks(source: Source, dataset: Any) -> bool:
    """Whether a model finds boxes on the first images, and none of them has a mask."""
    for prediction in _tried(source, dataset):
        if class_of(prediction) != "Detections":
            continue
        if isinstance(prediction, RawLabels):
            labels: Any = prediction.labels
        else:
            labels = [{"mask": d.mask, "mask_path": d.mask_path} for d in prediction.detections]
        if len(labels):
            return not any(has_mask(label) for label in labels)
    return False


def _tried(source: Source, dataset: Any) -> Iterator[Any]:
    first = database.samples_of(dataset).find({}, {"_id": 1}, sort=[("_id", 1)], limit=_FIRST)
    for document in first:
        [prediction] = source.predict(source.fetch(dataset, [document["_id"]]))
        yield prediction
