"""What a rollback would do: the labels of a run that are in its label field, and what became of them since."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from valflow import bringing_back, database, ledger, runs, safety_copies
from valflow.label_types import label_type_of
from valflow.ledger import Expression
from valflow.states import Event, State

BATCH = 1000


@dataclass(frozen=True)
class Preview:
    """What a rollback would do now.

    Attributes:
        run: its key.
        labels: that would leave the label field.
        samples: they lie on.
        edited: ids of the run's labels that a person has changed since; kept, unless asked otherwise.
        gone: labels of a final run that are in the label field no more, by whatever hand.
        to_review: how many labels would come back into review, by state; None without ``reopen``.
        copy: how what is there differs from the safety copy that would come back; None without one.
        digest: of the occasion, of the labels of the run that are there, and of which of them were edited.
    """

    run: str
    label_field: str
    labels: int
    samples: int
    edited: tuple[str, ...]
    gone: int
    to_review: dict[str, int] | None
    copy: bringing_back.Difference | None
    digest: str


def describe(
    record: runs.Record,
    dataset: Any,
    including_edited: bool,
    reopen: bool,
    copy: safety_copies.Copy | None,
) -> Preview:
    """Describe what a rollback would do; nothing is written.

    Args:
        record: the run.
        dataset: its dataset.
        including_edited: whether edited labels would go, too.
        reopen: whether it would come back into review.
        copy: the safety copy that would come back.
    """
    sha, labels, samples, gone = hashlib.sha256(_occasion(record)), 0, 0, 0
    edited: list[str] = []
    for sample in _differences(record, dataset):
        kept = set() if including_edited else set(sample["edited"])
        leaving = [i for i in sample["there"] if i not in kept]
        edited += map(str, sample["edited"])
        gone += sample["frozen"] - len(sample["there"])
        labels += len(leaving)
        samples += bool(leaving)
        # What is there, not what is done about it: the options are the person's own words.
        for ids in ((sample["_id"],), sorted(sample["there"]), sorted(sample["edited"])):
            sha.update(b"".join(i.binary for i in ids) + b"|")
    difference = None if copy is None else bringing_back.compare(record, dataset, copy)
    if difference is not None:
        sha.update(difference.digest.encode())
    states = ledger.label_counts(ledger.class_table(record["run"])) if reopen else None
    return Preview(
        record["run"],
        record["label_field"],
        labels,
        samples,
        tuple(edited),
        gone if record["state"] == State.FINALIZED.value else 0,
        None if states is None else {k: states[k] for k in ("approved", "rejected", "undecided")},
        difference,
        sha.hexdigest(),
    )


def _occasion(record: runs.Record) -> bytes:
    """Every rollback of a run is another one, whatever labels are there."""
    before = sum(entry["event"] == Event.BEGIN_ROLLBACK.value for entry in record["history"])
    return f"{record['run']}|{record['frozen']['token']}|{before}|".encode()


def _differences(record: runs.Record, dataset: Any) -> Iterator[dict[str, Any]]:
    """Per sample of the run, in order: its labels that are there, the edited ones, and how many were finalized."""
    labels = label_type_of(record).first_labels_in("$sample", record["label_field"])
    own: Expression = {"$and": [{"$eq": ["$$d.run", record["run"]]}, {"$in": ["$$d._id", "$ids"]}]}
    there = {"$filter": {"input": {"$ifNull": [labels, []]}, "as": "d", "cond": own}}
    changed = {"$filter": {"input": "$own", "as": "d", "cond": is_edited(record, "$labels", "$ids")}}
    yield from database.ledger().aggregate(
        [
            {"$match": finalized_in(record)},
            {"$sort": {"sample_id": 1}},
            with_sample(dataset),
            {"$set": {"labels": "$frozen.labels", "ids": "$frozen.labels._id"}},
            {"$set": {"own": there}},
            {
                "$project": {
                    "_id": "$sample_id",
                    "there": "$own._id",
                    "edited": {"$map": {"input": changed, "as": "d", "in": "$$d._id"}},
                    "frozen": {"$size": "$labels"},
                }
            },
        ],
        allowDiskUse=True,
        batchSize=BATCH,
    )


def is_edited(record: runs.Record, labels: str, ids: str) -> Expression:
    """Whether ``$$d`` differs from the label of its id as it was finalized."""
    was = {"$arrayElemAt": [labels, {"$indexOfArray": [ids, "$$d._id"]}]}
    compared = ("label", *label_type_of(record).geometry)
    differs = [
        {
            "$ne": [
                {"$ifNull": [f"$$d.{a}", None]},
                {"$ifNull": [{"$getField": {"field": a, "input": was}}, None]},
            ]
        }
        for a in compared
    ]
    return {"$or": differs}


def finalized_in(record: runs.Record) -> dict[str, Any]:
    """The ledger documents with labels that the run has finalized."""
    token = record["frozen"]["token"]
    return {"run": record["run"], "frozen.token": token, "frozen.labels.0": {"$exists": True}}


def with_sample(dataset: Any) -> Expression:
    return {
        "$lookup": {
            "from": dataset._sample_collection_name,
            "localField": "sample_id",
            "foreignField": "_id",
            "as": "sample",
        }
    }


def marks_of_evaluation(record: runs.Record) -> tuple[str, ...]:
    evaluation = record["config"].get("evaluation")
    key = evaluation["eval_key"] if evaluation else None
    return () if key is None else (key, f"{key}_id", f"{key}_iou")
