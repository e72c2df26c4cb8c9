"""Predictions that the dataset already holds: read, never changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bson import ObjectId

from valflow import class_names, collector, database
from valflow.choosing_types import type_of_field
from valflow.config import FieldModelConfig
from valflow.label_types import DETECTIONS


@dataclass(eq=False)
class FieldSource:
    """The labels of a field.

    Attributes:
        field: its name.
        read_at_once: see ``Source``; labels are small.
    """

    field: str
    read_at_once: int = 256

    def describe(self) -> dict[str, Any]:
        """The field."""
        return {"kind": "field", "name": self.field, "field": self.field}

    def classes(self, dataset: Any) -> list[str]:
        """Classes that the field holds."""
        label_type = type_of_field(dataset, self.field)
        if label_type is None:
            return []
        return class_names.names_in(dataset, f"{label_type.path(self.field)}.label")

    def label_class(self, dataset: Any) -> str | None:
        """The class of the field."""
        document_type = getattr(dataset.get_field(self.field), "document_type", None)
        return None if document_type is None else str(document_type.__name__)

    @collector.paused()
    def fetch(self, dataset: Any, sample_ids: Sequence[ObjectId]) -> list[Any]:
        """The raw labels of each sample."""
        label_type = type_of_field(dataset, self.field) or DETECTIONS
        path = label_type.path(self.field)
        cursor = database.samples_of(dataset).find({"_id": {"$in": list(sample_ids)}}, {path: 1})
        found = {d["_id"]: label_type.labels_of(d, self.field) for d in cursor}
        return [found.get(i, LookupError("the sample was deleted")) for i in sample_ids]

    def predict(self, inputs: Sequence[Any]) -> list[Any]:
        """The labels as they are."""
        return list(inputs)


def open_source(config: FieldModelConfig) -> FieldSource:
    """The source that a configuration names."""
    return FieldSource(config.field)
