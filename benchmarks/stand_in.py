"""In place of a model: what it would find lies ready in a collection, and to fetch it counts apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bson import ObjectId

from valflow import database
from valflow.label_types import LabelDict

OUTPUT = "bench_model_output"


def keep_output(dataset: Any, field: str) -> None:
    """Move the labels of a field to where :func:`fetch` finds them, and the field out of the dataset."""
    keep = {"$project": {"labels": f"${field}.detections"}}
    database.run_to_end(database.samples_of(dataset).aggregate([keep, {"$merge": {"into": OUTPUT}}]))
    dataset.delete_sample_field(field)


def fetch(sample_ids: Sequence[ObjectId]) -> list[list[LabelDict]]:
    """What the model found on these samples."""
    cursor = database.connection()[OUTPUT].find({"_id": {"$in": list(sample_ids)}})
    found = {document["_id"]: document["labels"] for document in cursor}
    return [found[i] for i in sample_ids]


class StandIn:
    """Takes the place of a ``valflow.models.Source``."""

    read_at_once = 256

    def fetch(self, _dataset: Any, sample_ids: Sequence[ObjectId]) -> list[list[LabelDict]]:
        """What the model found."""
        return fetch(sample_ids)

    def predict(self, inputs: Sequence[Any]) -> list[Any]:
        """The same."""
        return list(inputs)


_STAND_IN = StandIn()


def open_model(_config: Any) -> StandIn:
    """Takes the place of ``valflow.models.open_model`` in inference."""
    return _STAND_IN
