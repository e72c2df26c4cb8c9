"""Rollback: the labels of a finalized run leave the label field, and nothing else does.

Every step is harmless when repeated. A run that is ROLLING_BACK is finished by rolling it back again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bson import ObjectId

from valflow import actions, database, references, runs
from valflow.decisions import SHORTEST_DIGEST
from valflow.errors import RollbackRefused, RunBusy
from valflow.evaluation.storing import remove_evaluation
from valflow.label_types import label_type_of
from valflow.ledger import Expression
from valflow.promotion import field_identity
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
        gone: labels of the run that are in the label field no more, by whatever hand.
        digest: of exactly these labels.
    """

    run: str
    label_field: str
    labels: int
    samples: int
    edited: tuple[str, ...]
    gone: int
    digest: str


def preview(run: str, *, including_edited: bool = False) -> Preview:
    """Describe a rollback; nothing is written.

    Raises:
        RollbackRefused: the run is not finalized.
    """
    record = runs.load(run)
    _require(record, State.FINALIZED)
    return _describe(record, database.dataset_of(record), including_edited)


def roll_back(
    run: str,
    reviewer: str,
    *,
    digest: str | None = None,
    including_edited: bool = False,
    note: str | None = None,
) -> runs.Record:
    """Take the labels of a run out of its label field, whatever happened since.

    Labels of people and of other runs stay, and so do labels of the run that somebody edited since. The field goes
    with its last label where valflow made it; so do evaluation and custom run of this run. The ledger keeps everything.

    Args:
        run: key of a finalized run, or of one whose rollback was broken off.
        reviewer: who takes it back.
        digest: what the person saw in the preview; None accepts what is there.
        including_edited: also labels that were edited since.
        note: why.

    Raises:
        RollbackRefused: the run is not finalized, or differs from what the person saw.
        SelectionError: the name is the machine's.
    """
    actions.check_person(reviewer)
    if not reviewer.strip():
        raise RollbackRefused("a rollback needs the name of who does it: --reviewer NAME or VALFLOW_REVIEWER")
    record = runs.load(run)
    if record["state"] != State.ROLLING_BACK.value:
        _require(record, State.FINALIZED)
        _require_free(record)
        found = _describe(record, database.dataset_of(record), including_edited)
        _check_digest(found, digest)
        runs.transition(
            record,
            Event.BEGIN_ROLLBACK,
            actor=reviewer,
            note=note,
            figures={"labels": found.labels, "samples": found.samples, "edited": len(found.edited)},
            changes={
                "rollback": {
                    "reviewer": reviewer.strip(),
                    "note": note,
                    "digest": found.digest,
                    "including_edited": including_edited,
                    "announced": found.labels,
                    "time": database.now(),
                }
            },
        )
    return go_on(record["run"])


def go_on(run: str) -> runs.Record:
    """Finish a rollback that was begun; harmless when repeated.

    Raises:
        RunBusy: a living process is at it.
        RollbackRefused: none was begun.
    """
    with runs.holding(run) as record:
        if record["state"] != State.ROLLING_BACK.value:
            raise RollbackRefused(f"run {run} is {record['state']}; no rollback of it was broken off")
        dataset = database.dataset_of(record)
        _remove_labels(record, dataset)
        runs.require(runs.fence_of(record), State.ROLLING_BACK)
        _remove_traces(record, dataset)
        left = _count(record, dataset)
        return runs.transition(
            record,
            Event.ROLL_BACK,
            actor=record["rollback"]["reviewer"],
            figures={"left": left},
            changes={"rollback.left": left},
        )


def _require_free(record: runs.Record) -> None:
    """Refuse while the run is still evaluated, exported or reported."""
    if runs.is_alive(record):
        raise RunBusy(
            f"run {record['run']} is final, but process {record['process']} still evaluates or exports it; "
            "roll it back when that is done",
            record["run"],
        )


def _require(record: runs.Record, state: State) -> None:
    if record["state"] != state.value:
        raise RollbackRefused(
            f"run {record['run']} is {record['state']}; only a run that is {state.value} can be rolled back"
            + ("; discard it instead" if record["open"] else "")
        )


def _check_digest(found: Preview, digest: str | None) -> None:
    if digest is None:
        return
    if len(digest.strip()) < SHORTEST_DIGEST:
        raise RollbackRefused(
            f"expected at least {SHORTEST_DIGEST} characters of the digest, found {digest!r}"
        )
    if not found.digest.startswith(digest.strip()):
        raise RollbackRefused(
            f"the labels of run {found.run} have changed since you saw them: you confirmed {digest[:12]}, it is "
            f"{found.digest[:12]} now ({found.labels} labels); look again and confirm what is there"
        )


def _describe(record: runs.Record, dataset: Any, including_edited: bool) -> Preview:
    sha, labels, samples, gone = hashlib.sha256(), 0, 0, 0
    edited: list[str] = []
    for sample in _differences(record, dataset):
        kept = set() if including_edited else set(sample["edited"])
        leaving = [i for i in sample["there"] if i not in kept]
        edited += map(str, sample["edited"])
        gone += sample["frozen"] - len(sample["there"])
        labels += len(leaving)
        samples += bool(leaving)
        sha.update(b"".join(i.binary for i in (sample["_id"], *sorted(leaving))))
    return Preview(
        record["run"], record["label_field"], labels, samples, tuple(edited), gone, sha.hexdigest()
    )


def _differences(record: runs.Record, dataset: Any) -> Iterator[dict[str, Any]]:
    """Per sample of the run, in order: its labels that are there, the edited ones, and how many were finalized."""
    path = label_type_of(record).list_path(record["label_field"])
    own: Expression = {"$and": [{"$eq": ["$$d.run", record["run"]]}, {"$in": ["$$d._id", "$ids"]}]}
    there = {"$filter": {"input": {"$ifNull": [{"$first": f"$sample.{path}"}, []]}, "as": "d", "cond": own}}
    changed = {"$filter": {"input": "$own", "as": "d", "cond": _is_edited(record, "$labels", "$ids")}}
    yield from database.ledger().aggregate(
        [
            {"$match": _finalized(record)},
            {"$sort": {"sample_id": 1}},
            {
                "$lookup": {
                    "from": dataset._sample_collection_name,
                    "localField": "sample_id",
                    "foreignField": "_id",
                    "as": "sample",
                }
            },
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


def _is_edited(record: runs.Record, labels: str, ids: str) -> Expression:
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


def _finalized(record: runs.Record) -> dict[str, Any]:
    """The ledger documents with labels that the run has finalized."""
    token = record["frozen"]["token"]
    return {"run": record["run"], "frozen.token": token, "frozen.labels.0": {"$exists": True}}


def _remove_labels(record: runs.Record, dataset: Any) -> None:
    """Batch by batch, on the server; a sample that had no such field before gets rid of it with its last label."""
    cursor = database.ledger().find(_finalized(record), {"_id": 0, "sample_id": 1}).sort("sample_id", 1)
    samples: list[ObjectId] = [d["sample_id"] for d in cursor]
    for start in range(0, len(samples), BATCH):
        part = samples[start : start + BATCH]
        runs.require(runs.fence_of(record), State.ROLLING_BACK)
        _remove_batch(record, dataset, part[0], part[-1])


def _remove_batch(record: runs.Record, dataset: Any, first: ObjectId, last: ObjectId) -> None:
    label_type, name = label_type_of(record), record["label_field"]
    path = f"${label_type.list_path(name)}"
    own = [{"$eq": ["$$d.run", record["run"]]}, {"$in": ["$$d._id", "$$new.labels._id"]}]
    if not record["rollback"]["including_edited"]:
        own.append({"$not": [_is_edited(record, "$$new.labels", "$$new.labels._id")]})
    kept = {"$filter": {"input": {"$ifNull": [path, []]}, "as": "d", "cond": {"$not": [{"$and": own}]}}}
    bare = {"$and": [{"$eq": [{"$size": kept}, 0]}, {"$not": ["$$new.had_field"]}]}
    value = {"$cond": [bare, "$$REMOVE", {"$mergeObjects": [f"${name}", {label_type.list_name: kept}]}]}
    # A sample on which nothing is left to remove is not touched.
    concerned = {"$gt": [{"$size": {"$ifNull": [path, []]}}, {"$size": kept}]}
    wanted = {**_finalized(record), "sample_id": {"$gte": first, "$lte": last}}
    database.run_to_end(
        database.runs().aggregate(
            [
                *runs.while_held(runs.fence_of(record), State.ROLLING_BACK, wanted),
                {"$project": {"_id": "$sample_id", "labels": "$frozen.labels", "had_field": "$had_field"}},
                {
                    "$merge": {
                        "into": dataset._sample_collection_name,
                        "on": "_id",
                        "whenMatched": [
                            {
                                "$set": {
                                    "last_modified_at": {"$cond": [concerned, "$$NOW", "$last_modified_at"]}
                                }
                            },
                            {"$set": {name: {"$cond": [concerned, value, f"${name}"]}}},
                        ],
                        "whenNotMatched": "discard",
                    }
                },
            ]
        )
    )


def _remove_traces(record: runs.Record, dataset: Any) -> None:
    """Custom run and evaluation of the run, and the field where valflow made it and nothing is left in it."""
    dataset.reload()
    name = record["label_field"]
    references.adopt(dataset, "runs", record["run"])
    if record["run"] in dataset.list_runs():
        dataset.delete_run(record["run"])
    evaluation = record["config"].get("evaluation")
    if evaluation is not None:
        remove_evaluation(dataset, evaluation["eval_key"], record["run"])
    identity = field_identity(dataset, name)
    made_by_us = (
        identity is not None and identity["created"] and identity["field_id"] == record.get("field_id")
    )
    in_use = {f"{name}._cls": {"$type": "string"}}
    if made_by_us and not database.samples_of(dataset).count_documents(in_use, limit=1):
        dataset.delete_sample_field(name)
    dataset.reload()
    dataset.sync_last_modified_at()


def _count(record: runs.Record, dataset: Any) -> int:
    """Labels of the run that stay in the label field: those edited since."""
    path = label_type_of(record).list_path(record["label_field"])
    query = {f"{path}.run": record["run"]}
    own = {"$filter": {"input": f"${path}", "as": "d", "cond": {"$eq": ["$$d.run", record["run"]]}}}
    total = {"$group": {"_id": None, "n": {"$sum": {"$size": own}}}}
    return sum(d["n"] for d in database.samples_of(dataset).aggregate([{"$match": query}, total]))
