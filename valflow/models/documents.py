"""FiftyOne's labels as the documents that a database holds."""

from __future__ import annotations

from typing import Any

from valflow.label_types import LabelDict

_PLAIN = frozenset({str, int, float, bool})


def documents_in(labels: Any, list_name: str) -> list[LabelDict]:
    """The documents of several labels, such as those of a ``fiftyone.Detections``."""
    # To ask for the list itself lets MongoEngine look for references in it, which takes longer than all the rest.
    return [document_of(label) for label in labels._data[list_name]]


def document_of(label: Any) -> LabelDict:
    """What ``label.to_dict()`` gives, without its id and without what is None.

    FiftyOne walks over all declared fields of a label for that, which takes ten times as long as to copy what is set:
    for a detector of several hundred images per second that would be the bottleneck. Masks, and whatever else must be
    encoded, still go its way.
    """
    document: LabelDict = {}
    for key, value in label._data.items():
        kind = type(value)
        if kind in _PLAIN:
            document[key] = value
        elif isinstance(value, list) and _PLAIN.issuperset(
            map(type, plain := list.__getitem__(value, slice(None)))
        ):
            document[key] = plain  # past the walk of MongoEngine's own lists over their items
        elif isinstance(value, dict) and not value:
            document[key] = {}
        elif value is not None and key != "id":
            return {k: v for k, v in label.to_dict().items() if v is not None and k != "_id"}
    document.pop("id", None)
    return document
