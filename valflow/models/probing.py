"""What a model finds, by asking it once; and why some of it cannot be labelled with."""

from __future__ import annotations

from typing import Any

from valflow import database
from valflow.models.source import Source, class_of

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
    first = database.samples_of(dataset).find({}, {"_id": 1}, sort=[("_id", 1)], limit=_FIRST)
    for document in first:
        [prediction] = source.predict(source.fetch(dataset, [document["_id"]]))
        if (found := class_of(prediction)) is not None:
            return found
    return None
