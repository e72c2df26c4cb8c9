"""A safety copy comes back: what is missing returns, and what people added or changed since stays.

Only ``exactly`` puts label field and tags of the samples in the copy back to what they were. Every step is harmless
when repeated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bson import ObjectId

from valflow import database, runs, safety_copies
from valflow.errors import RollbackRefused
from valflow.label_types import label_type_of
from valflow.ledger import Expression
from valflow.states import State

BATCH = 1000
LATEST = "latest"
_NAMED = 20
# Which copies lead where: from before its labels came to before the run, from before they went to its labels.
_TAKES_OUT, _BRINGS_IN = ("finalize", "bring_back"), ("rollback",)


@dataclass(frozen=True)
class Difference:
    """How the label field and the tags differ from a safety copy, but for what the run itself takes out.

    Attributes:
        copy: its id.
        at: when it was made.
        missing: labels of the copy that are not there; they come back.
        missing_own: those of them that are the run's.
        changed: labels that are there, but not as they were; kept, unless ``exactly``.
        added: labels that were not there; kept, unless ``exactly``.
        changed_ids: some of them.
        added_ids: some of them.
        missing_tags: tags of samples that come back.
        added_tags: tags of samples that were put on since; kept, unless ``exactly``.
        deleted_samples: that are in the copy, and gone; they do not come back.
        digest: of the copy and of all these differences.
    """

    copy: str
    at: datetime
    missing: int
    missing_own: int
    changed: int
    added: int
    changed_ids: tuple[str, ...]
    added_ids: tuple[str, ...]
    missing_tags: int
    added_tags: int
    deleted_samples: int
    digest: str


def choose(record: runs.Record, wanted: str) -> safety_copies.Copy:
    """The copy that is meant: one of this run, that fits where it stands.

    Args:
        record: a run that is final, or was rolled back.
        wanted: id of a copy or its beginning; ``latest`` takes the last one that fits.

    Raises:
        RollbackRefused: there is none, or it was changed by hand.
    """
    why = _TAKES_OUT if record["state"] == State.FINALIZED.value else _BRINGS_IN
    own = safety_copies.of_run(record["run"])
    fitting = [c for c in own if c["why"] in why and c["token"] == record["frozen"]["token"]]
    found = [c for c in fitting if wanted == LATEST or c["_id"].startswith(wanted)]
    if not found:
        there = "; ".join(map(safety_copies.in_words, own)) or "it has none left"
        meant = "" if wanted == LATEST else f" that begins with {wanted!r}"
        raise RollbackRefused(
            f"run {record['run']} is {record['state']}, for which there is no safety copy from before its "
            f"{why[0]}{meant}: {there}. Without a copy, `valflow rollback` and --reopen work all the same"
        )
    copy = found[0]
    digest = safety_copies.digest_of(copy["_id"])
    if digest != copy["digest"]:
        raise RollbackRefused(
            f"safety copy {copy['_id']} is not what was copied: expected digest {copy['digest'][:12]}, found "
            f"{digest[:12]}; somebody changed {database.COPIED} by hand. Nothing was changed"
        )
    return copy


def compare(record: runs.Record, dataset: Any, copy: safety_copies.Copy) -> Difference:
    """Compare what is there with a copy; nothing is written."""
    sha = hashlib.sha256(copy["digest"].encode())
    counts = dict.fromkeys(("missing", "missing_own", "changed", "added", "missing_tags", "added_tags"), 0)
    named: dict[str, list[str]] = {"changed": [], "added": []}
    deleted = 0
    for sample in _differences(record, dataset, copy["_id"]):
        deleted += not sample["there"]
        sha.update(sample["sample"].binary + bytes([sample["there"]]))
        for name in counts:
            counts[name] += len(sample[name])
            if name in named:
                named[name] += map(str, sample[name][: _NAMED - len(named[name])])
            sha.update("|".join(sorted(map(str, sample[name]))).encode() + b";")
    return Difference(
        copy=copy["_id"],
        at=copy["at"],
        **counts,
        changed_ids=tuple(named["changed"]),
        added_ids=tuple(named["added"]),
        deleted_samples=deleted,
        digest=sha.hexdigest(),
    )


def _differences(record: runs.Record, dataset: Any, copy: str) -> Iterator[dict[str, Any]]:
    """Per sample of a copy where something differs: ids of labels, and tags, by how."""
    label_type = label_type_of(record)
    field = record["label_field"]
    mine = [
        {"$match": {"run": record["run"], "frozen.token": record["frozen"]["token"]}},
        {"$project": {"_id": 0, "ids": "$frozen.labels._id"}},
    ]
    own = {"$and": [{"$eq": ["$$d.run", record["run"]]}, {"$in": ["$$d._id", "$own"]}]}
    not_own = {"$filter": {"input": "$now", "as": "d", "cond": {"$not": [own]}}}
    compared = [*("label", *label_type.geometry), "tags"]
    was = {"$arrayElemAt": ["$before", {"$indexOfArray": ["$before_ids", "$$d._id"]}]}
    differs = [
        {
            "$ne": [
                {"$ifNull": [f"$$d.{a}", None]},
                {"$ifNull": [{"$getField": {"field": a, "input": was}}, None]},
            ]
        }
        for a in compared
    ]
    changed = {"$and": [{"$in": ["$$d._id", "$before_ids"]}, {"$or": differs}]}
    missing = {"$setDifference": ["$before_ids", "$now._id"]}
    tags_now, tags_then = {"$ifNull": ["$sample.tags", []]}, {"$ifNull": ["$tags", []]}
    yield from database.copied().aggregate(
        [
            {"$match": safety_copies.content(copy)},
            {"$sort": {"_id": 1}},
            {"$project": {"sample_id": "$_id.sample", "then": "$field", "tags": 1}},
            _lookup(dataset._sample_collection_name, "_id", [{"$project": {field: 1, "tags": 1}}], "sample"),
            _lookup(database.LEDGER, "sample_id", mine, "ledger"),
            {
                "$project": {
                    "_id": 0,
                    "sample_id": 1,
                    "there": {"$gt": [{"$size": "$sample"}, 0]},
                    "sample": {"$first": "$sample"},
                    "tags": 1,
                    "before": {"$ifNull": [label_type.labels_in("$then"), []]},
                    "own": {"$ifNull": [{"$first": "$ledger.ids"}, []]},
                }
            },
            {
                "$set": {
                    "now": {"$ifNull": [label_type.labels_in(f"$sample.{field}"), []]},
                    "before_ids": "$before._id",
                }
            },
            {
                "$project": {
                    "sample": "$sample_id",
                    "there": 1,
                    "missing": missing,
                    "missing_own": {"$setIntersection": [missing, "$own"]},
                    "changed": _ids({"$filter": {"input": "$now", "as": "d", "cond": changed}}),
                    "added": {"$setDifference": [_ids(not_own), "$before_ids"]},
                    "missing_tags": {"$setDifference": [tags_then, tags_now]},
                    "added_tags": {"$setDifference": [tags_now, tags_then]},
                }
            },
            # A sample that is gone has nothing that could come back.
            {
                "$set": {
                    k: {"$cond": ["$there", f"${k}", []]} for k in ("missing", "missing_own", "missing_tags")
                }
            },
        ],
        allowDiskUse=True,
        batchSize=BATCH,
    )


def _lookup(collection: str, key: str, pipeline: list[dict[str, Any]], name: str) -> dict[str, Any]:
    found = {"from": collection, "localField": "sample_id", "foreignField": key}
    return {"$lookup": {**found, "pipeline": pipeline, "as": name}}


def _ids(labels: Expression) -> Expression:
    return {"$map": {"input": labels, "as": "d", "in": "$$d._id"}}


def apply(record: runs.Record, dataset: Any, copy: str, *, exactly: bool) -> None:
    """Bring a copy back, batch by batch, on the server; the label field must be declared.

    Raises:
        StaleAttempt: another process has taken the run over.
    """
    samples = safety_copies.samples_of(copy)
    for start in range(0, len(samples), BATCH):
        part = samples[start : start + BATCH]
        runs.require(runs.fence_of(record), State.ROLLING_BACK)
        _apply_batch(record, dataset, copy, part[0], part[-1], exactly)


def _apply_batch(
    record: runs.Record, dataset: Any, copy: str, first: ObjectId, last: ObjectId, exactly: bool
) -> None:
    stage = _as_it_was(record) if exactly else _what_is_missing(record)
    wanted = safety_copies.content_between(copy, first, last)
    database.run_to_end(
        database.runs().aggregate(
            [
                *runs.while_held(runs.fence_of(record), State.ROLLING_BACK, wanted, database.COPIED),
                {"$project": {"_id": "$_id.sample", "field": 1, "tags": 1}},
                {
                    "$merge": {
                        "into": dataset._sample_collection_name,
                        "on": "_id",
                        "whenMatched": stage,
                        "whenNotMatched": "discard",
                    }
                },
            ]
        )
    )


def _as_it_was(record: runs.Record) -> list[dict[str, Any]]:
    had = {"$gt": ["$$new.field", None]}
    return [
        {
            "$set": {
                record["label_field"]: {"$cond": [had, "$$new.field", "$$REMOVE"]},
                "tags": {"$ifNull": ["$$new.tags", []]},
                "last_modified_at": "$$NOW",
            }
        }
    ]


def _what_is_missing(record: runs.Record) -> list[dict[str, Any]]:
    label_type, name = label_type_of(record), record["label_field"]
    then = {"$ifNull": [label_type.labels_in("$$new.field"), []]}
    absent: Expression = {"$not": [{"$in": ["$$d._id", {"$ifNull": [f"${label_type.path(name)}._id", []]}]}]}
    if label_type.is_single:
        absent = {"$not": [{"$gt": [f"${name}._id", None]}]}
    missing = {"$filter": {"input": then, "as": "d", "cond": absent}}
    tags = {"$ifNull": ["$tags", []]}
    without = {"$not": [{"$in": ["$$t", tags]}]}
    missing_tags = {"$filter": {"input": {"$ifNull": ["$$new.tags", []]}, "as": "t", "cond": without}}
    # Empty where it was empty: that says something of its own.
    is_gone = {"$and": [{"$not": [{"$gt": [f"${name}", None]}]}, {"$gt": ["$$new.field", None]}]}
    some = {"$gt": [{"$size": missing}, 0]}
    added = label_type.value_with(name, missing)
    value = {"$cond": [is_gone, "$$new.field", {"$cond": [some, added, f"${name}"]}]}
    concerned = {"$or": [is_gone, some, {"$gt": [{"$size": missing_tags}, 0]}]}
    return [
        {"$set": {"last_modified_at": {"$cond": [concerned, "$$NOW", "$last_modified_at"]}}},
        # In one stage: both look at what is there now.
        {"$set": {name: value, "tags": {"$concatArrays": [tags, missing_tags]}}},
    ]
