"""Ground truth as a reviewer: verdicts on drawn labels by the evaluation's own matching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from valflow import database
from valflow.certify import CORRECT
from valflow.evaluation.labels import LabelTable, table_of
from valflow.evaluation.matching import match, overlap
from valflow.label_types import label_type_of

# Below this overlap with every true object, a label shows none of them.
_TOUCHES = 0.1


def verdicts_by_truth(
    record: Mapping[str, Any], items: Sequence[Mapping[str, Any]], field: str
) -> dict[int, str]:
    """Verdicts by number on those of the drawn labels whose samples have ground truth.

    All predictions of an image compete for its true objects, as in an evaluation: a second box on an object that is
    taken is a duplicate.

    Args:
        record: the run.
        items: of an audit.
        field: of true labels; a sample where it is empty has no objects, one where it is missing is left to people.
    """
    label_type = label_type_of(dict(record))
    samples = list({i["sample_id"] for i in items})
    cursor = database.samples_of(database.dataset_of(dict(record))).find(
        {"_id": {"$in": samples}}, {field: 1}
    )
    truth = {d["_id"]: label_type.labels_of(d, field) for d in cursor if d.get(field) is not None}
    place = {sample: number for number, sample in enumerate(truth)}
    query = {"run": record["run"], "sample_id": {"$in": list(truth)}}
    ledger = database.ledger().find(query, {"sample_id": 1, "predicted": 1})
    predictions = table_of(((place[d["sample_id"]], p) for d in ledger for p in d["predicted"]), label_type)
    objects = table_of(
        ((place[sample], label) for sample, labels in truth.items() for label in labels), label_type
    )
    iou = (record["config"].get("evaluation") or {}).get("iou", 0.5)
    matched = match(predictions, objects, iou).truth
    row = {label: number for number, label in enumerate(predictions.ids.tolist())}
    return {
        i["number"]: CORRECT
        if matched[row[i["label_id"]]] >= 0
        else _fault(predictions, row[i["label_id"]], objects, iou)
        for i in items
        if i["sample_id"] in place
    }


def _fault(predictions: LabelTable, row: int, objects: LabelTable, iou: float) -> str:
    """What is wrong with a prediction that matched nothing."""
    near = np.flatnonzero(objects.sample == predictions.sample[row])
    ious = overlap(np.repeat(predictions.boxes[row : row + 1], len(near), axis=0), objects.boxes[near])
    if not len(near) or ious.max() < _TOUCHES:
        return "not_an_object"
    best = int(near[ious.argmax()])
    same_class = objects.label[best] == predictions.label[row]
    if ious.max() < iou:
        return "bad_box"
    return "duplicate" if same_class else "wrong_class"
