"""Safety copies: what stood in the label field, and the tags of the samples, before a run changed them.

One small record per copy, and one document per sample with its raw label field: no copy is too large for a document.
A copy is complete before the first label is written or removed, and no repetition changes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Literal

from bson import MaxKey, MinKey, ObjectId

from valflow import database, runs
from valflow.config import SafetyCopies, duration
from valflow.states import State

Why = Literal["finalize", "rollback", "bring_back"]
Copy = dict[str, Any]

BATCH = 1000


def make(
    record: runs.Record, dataset: Any, copy: str, why: Why, by: str, samples: Sequence[ObjectId]
) -> Copy | None:
    """Copy label field and tags of samples, server-side, unless that was done before.

    Args:
        record: the run that is about to change them.
        dataset: its dataset.
        copy: id of the copy, known to the run's record before.
        why: what is about to be done.
        by: who asked for it.
        samples: ids of the samples concerned.

    Returns:
        The record of the copy; None where the configuration asks for none.
    """
    if _settings(record).keep == 0:
        return None
    begun = {
        "run": record["run"],
        "dataset": record["dataset"],
        "dataset_id": record["dataset_id"],
        "label_field": record["label_field"],
        "label_type": record["label_type"],
        "token": record["frozen"]["token"],
        "why": why,
        "by": by,
        "at": database.now(),
        "expires_at": database.now() + duration(_settings(record).max_age),
        "complete": False,
        "going": False,
    }
    database.copies().update_one({"_id": copy}, {"$setOnInsert": begun}, upsert=True)
    if (found := find(copy)) is not None and found["complete"]:
        return found
    for start in range(0, len(samples), BATCH):
        _copy_batch(dataset, record["label_field"], copy, samples[start : start + BATCH])
    counted = _count(record, copy)
    database.copies().update_one({"_id": copy, "complete": False}, {"$set": {**counted, "complete": True}})
    return find(copy)


def find(copy: str) -> Copy | None:
    """The record of a copy; None where there is none any more."""
    return database.copies().find_one({"_id": copy, "going": False})


def of_run(run: str) -> list[Copy]:
    """The complete copies that a run has left, latest first."""
    query = {"run": run, "complete": True, "going": False}
    return list(database.copies().find(query).sort([("at", -1), ("_id", -1)]))


def content(copy: str) -> dict[str, Any]:
    """Query for the documents of a copy."""
    return {"_id": {"$gte": _id(copy, MinKey()), "$lte": _id(copy, MaxKey())}}


def content_between(copy: str, first: ObjectId, last: ObjectId) -> dict[str, Any]:
    """Query for the documents of a copy, of samples in a range of ids."""
    return {"_id": {"$gte": _id(copy, first), "$lte": _id(copy, last)}}


def samples_of(copy: str) -> list[ObjectId]:
    """Ids of the samples in a copy, in order."""
    return [d["_id"]["sample"] for d in database.copied().find(content(copy), {"_id": 1}).sort("_id", 1)]


def digest_of(copy: str) -> str:
    """SHA-256 over what a copy holds, as raw BSON in order of sample ids."""
    sha = hashlib.sha256()
    for batch in _raw(copy):
        sha.update(batch)
    return sha.hexdigest()


def prune(record: runs.Record) -> int:
    """Let go of copies that are too many for their label field, or too old; returns how many went.

    Harmless when repeated: a copy whose content went in part is finished the next time.
    """
    field = {"dataset_id": record["dataset_id"], "label_field": record["label_field"]}
    latest = database.copies().find({**field, "complete": True, "going": False}, {"_id": 1})
    beyond = [c["_id"] for c in latest.sort([("at", -1), ("_id", -1)]).skip(_settings(record).keep)]
    # One that broke off and that its run has forgotten is none.
    began = [
        c["_id"]
        for c in database.copies().find({**field, "complete": False}, {"run": 1})
        if not _is_wanted(c["run"], c["_id"])
    ]
    in_use = database.runs().distinct("rollback.from_copy", {"state": State.ROLLING_BACK.value})
    too_many_or_old = [{"_id": {"$in": [*beyond, *began]}}, {"expires_at": {"$lt": database.now()}}]
    gone = {"$or": too_many_or_old, "_id": {"$nin": in_use}}
    database.copies().update_many(gone, {"$set": {"going": True}})
    going = [c["_id"] for c in database.copies().find({"going": True}, {"_id": 1})]
    for copy in going:
        database.copied().delete_many(content(copy))
        database.copies().delete_one({"_id": copy})
    return len(going)


def in_words(copy: Copy) -> str:
    """A copy in one line."""
    before = {"finalize": "finalization", "rollback": "rollback", "bring_back": "bringing back"}[copy["why"]]
    return (
        f"{copy['_id']}: before the {before} by {copy['by']} at {_moment(copy['at'])}, {copy['samples']} samples with "
        f"{copy['labels']} labels ({copy['bytes'] / 1e6:.1f} MB), digest {copy['digest'][:12]}"
    )


def as_document(copy: Copy) -> dict[str, Any]:
    """A copy for programs."""
    kept = (
        "run",
        "dataset",
        "label_field",
        "why",
        "by",
        "at",
        "expires_at",
        "samples",
        "labels",
        "bytes",
        "digest",
    )
    return runs.as_json({"copy": copy["_id"], **{k: copy[k] for k in kept}})


def _moment(time: datetime) -> str:
    return f"{runs.aware(time):%Y-%m-%d %H:%M:%S} UTC"


def _settings(record: runs.Record) -> SafetyCopies:
    return SafetyCopies.model_validate(record["config"].get("safety_copies") or {})


def _is_wanted(run: str, copy: str) -> bool:
    return database.runs().count_documents({"run": run, "copy": copy}, limit=1) > 0


def _id(copy: str, sample: Any) -> dict[str, Any]:
    return {"copy": copy, "sample": sample}


def _copy_batch(dataset: Any, label_field: str, copy: str, samples: Sequence[ObjectId]) -> None:
    """What is there already stays: it is from before."""
    database.run_to_end(
        database.samples_of(dataset).aggregate(
            [
                {"$match": {"_id": {"$in": list(samples)}}},
                {
                    "$project": {
                        "_id": {"copy": {"$literal": copy}, "sample": "$_id"},
                        "field": f"${label_field}",
                        "tags": 1,
                    }
                },
                {
                    "$merge": {
                        "into": database.COPIED,
                        "on": "_id",
                        "whenMatched": "keepExisting",
                        "whenNotMatched": "insert",
                    }
                },
            ]
        )
    )


def _raw(copy: str) -> Iterator[bytes]:
    held = {"_id": "$_id.sample", "field": 1, "tags": 1}
    pipeline: list[dict[str, Any]] = [{"$match": content(copy)}, {"$sort": {"_id": 1}}, {"$project": held}]
    yield from database.copied().aggregate_raw_batches(pipeline)


def _count(record: runs.Record, copy: str) -> dict[str, Any]:
    from valflow.label_types import label_type_of

    sha, size = hashlib.sha256(), 0
    for batch in _raw(copy):
        sha.update(batch)
        size += len(batch)
    labels = {"$sum": {"$size": {"$ifNull": [label_type_of(record).labels_in("$field"), []]}}}
    groups = database.copied().aggregate(
        [{"$match": content(copy)}, {"$group": {"_id": None, "labels": labels, "samples": {"$sum": 1}}}]
    )
    found = next(iter(groups), {"labels": 0, "samples": 0})
    return {
        "samples": found["samples"],
        "labels": found["labels"],
        "bytes": size,
        "digest": sha.hexdigest(),
    }
