"""Which type of label a run makes: known from its configuration and the dataset, before anything is written."""

from __future__ import annotations

from typing import Any

from valflow.config import FieldModelConfig, LabelingConfig
from valflow.label_types import BY_FIELD_CLASS, BY_NAME, DETECTIONS, LabelType


def field_kind(dataset: Any, name: str) -> str | None:
    """Name of the FiftyOne class of a label field; None where the field is missing or holds something else."""
    field = dataset.get_field(name)
    document_type = getattr(field, "document_type", None)
    return None if document_type is None else document_type.__name__


def chosen_type(config: LabelingConfig, dataset: Any) -> LabelType:
    """The type of a run's labels.

    ``label_type: auto`` is the type of the predictions where they lie in a field, else that of a label field that
    goes on, else boxes. Instances are Detections, too: they must be asked for.
    """
    if config.label_type != "auto":
        return BY_NAME[config.label_type]
    if isinstance(config.model, FieldModelConfig):
        return type_of_field(dataset, config.model.field) or DETECTIONS
    return type_of_field(dataset, config.label_field) or DETECTIONS


def type_of_field(dataset: Any, name: str) -> LabelType | None:
    """The type of the labels in a field: what valflow noted as it made the field, else what its class means."""
    noted = noted_type(dataset, name)
    return noted or BY_FIELD_CLASS.get(field_kind(dataset, name) or "")


def noted_type(dataset: Any, name: str) -> LabelType | None:
    """What valflow noted about a label field that it has filled."""
    field = dataset.get_field(name)
    info = (getattr(field, "info", None) or {}).get("valflow") or {}
    return BY_NAME.get(info.get("label_type", ""))
