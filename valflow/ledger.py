"""The ledger: one document per run and sample, the only truth about the state of every label.

Label tags in the dataset mirror it for people to see; they are never read back as a decision, because
they do not survive a stale screen of the App.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from bson import ObjectId
from pymongo import InsertOne, UpdateOne
from pymongo.errors import BulkWriteError

from valflow import database
from valflow.label_types import APPROVED, INVALID, REJECTED, label_type_of

Expression = dict[str, Any]

UNDECIDED = "undecided"
PENDING, LABELLED, EMPTY, FAILED = "pending", "labelled", "empty", "failed"
HISTOGRAM_BINS = 20
POLICY_ACTION = 1
_WRITE_BATCH = 1000


def open_targets(run: str, sample_ids: Sequence[ObjectId], shard_size: int) -> int:
    """Write down which samples the run will see, split into shards; returns the number of shards."""
    ledger = database.ledger()
    for start in range(0, len(sample_ids), _WRITE_BATCH):
        documents = [
            InsertOne({"run": run, "sample_id": sample_id, "shard": index // shard_size, "status": PENDING})
            for index, sample_id in enumerate(sample_ids[start : start + _WRITE_BATCH], start)
        ]
        try:
            ledger.bulk_write(documents, ordered=False)
        except BulkWriteError as error:
            if any(
                e["code"] != 11000 for e in error.details["writeErrors"]
            ):  # 11000: already there, idempotent
                raise
    return -(-len(sample_ids) // shard_size)


def forget_targets(run: str) -> None:
    """Drop targets that were written down only in part; nothing was predicted for them yet."""
    database.ledger().delete_many({"run": run, "status": PENDING})


def pending(run: str, shard: int) -> list[ObjectId]:
    """Samples of a shard that were not looked at yet."""
    cursor = database.ledger().find(
        {"run": run, "shard": shard, "status": PENDING}, {"sample_id": 1, "_id": 0}
    )
    return [d["sample_id"] for d in cursor.sort("sample_id", 1)]


def account(run: str, outcomes: Iterable[tuple[ObjectId, str, str | None]]) -> None:
    """Record what became of samples: ``(sample_id, status, reason)``."""
    updates = [
        UpdateOne({"run": run, "sample_id": sample_id}, {"$set": {"status": status, "reason": reason}})
        for sample_id, status, reason in outcomes
    ]
    if updates:
        database.ledger().bulk_write(updates, ordered=False)


def status_counts(run: str) -> dict[str, int]:
    """Number of samples by status."""
    groups = database.ledger().aggregate(
        [{"$match": {"run": run}}, {"$group": {"_id": "$status", "n": {"$sum": 1}}}]
    )
    return {g["_id"]: g["n"] for g in groups}


def failed_samples(run: str, limit: int = 1000) -> list[dict[str, Any]]:
    """Samples that could not be labelled, with the reason."""
    cursor = database.ledger().find({"run": run, "status": FAILED}, {"_id": 0, "sample_id": 1, "reason": 1})
    return list(cursor.sort("sample_id", 1).limit(limit))


def enter_predictions(record: dict[str, Any], dataset: Any) -> None:
    """Copy all predictions from the staging field into the ledger, undecided. Server-side, idempotent."""
    path = label_type_of(record).list_path(record["staging_field"])
    entry = {
        "_id": "$$d._id",
        "label": "$$d.label",
        "confidence": "$$d.confidence",
        "state": UNDECIDED,
        "action": 0,
        "prev": [],
        "invalid": [],
        "tags": [],
    }
    database.run_to_end(
        database.samples_of(dataset).aggregate(
            [
                {"$match": {f"{path}.0": {"$exists": True}}},
                {
                    "$project": {
                        "_id": 0,
                        "run": {"$literal": record["run"]},
                        "sample_id": "$_id",
                        "labels": {"$map": {"input": f"${path}", "as": "d", "in": entry}},
                        "predicted": f"${path}",
                    }
                },
                {
                    "$merge": {
                        "into": database.LEDGER,
                        "on": ["run", "sample_id"],
                        "whenMatched": "merge",
                        "whenNotMatched": "discard",
                    }
                },
            ]
        )
    )


def approve_by_threshold(run: str, default: float, per_class: dict[str, float]) -> int:
    """The policy's action: approve undecided, valid labels at or above the threshold of their class.

    One update for all classes; a long ``$switch`` would be three times slower at 1,203 classes.

    Returns:
        The number of labels approved.
    """
    position = {"$indexOfArray": [{"$literal": list(per_class)}, "$$l.label"]}
    threshold: Any = default
    if per_class:
        threshold = {
            "$let": {
                "vars": {"i": position},
                "in": {
                    "$cond": [
                        {"$lt": ["$$i", 0]},
                        default,
                        {"$arrayElemAt": [{"$literal": list(per_class.values())}, "$$i"]},
                    ]
                },
            }
        }
    # A missing or NaN confidence is smaller than every number, so it never passes.
    passes = {
        "$and": [
            {"$eq": ["$$l.state", UNDECIDED]},
            {"$eq": ["$$l.action", 0]},
            {"$eq": ["$$l.invalid", []]},
            {"$gte": ["$$l.confidence", threshold]},
        ]
    }
    least = min([default, *per_class.values()])
    database.ledger().update_many(
        {"run": run, "labels": {"$elemMatch": {"action": 0, "confidence": {"$gte": least}}}},
        [map_labels(passes, state_change(APPROVED, POLICY_ACTION)), {"$set": {"dirty": True}}],
    )
    return count_labels(run, {"action": POLICY_ACTION})


def map_labels(condition: Expression, change: Expression) -> Expression:
    """A pipeline stage that merges ``change`` into every label entry (``$$l``) for which ``condition`` holds."""
    changed = {"$cond": [condition, {"$mergeObjects": ["$$l", change]}, "$$l"]}
    return {"$set": {"labels": {"$map": {"input": "$labels", "as": "l", "in": changed}}}}


def state_change(state: str, action: int) -> Expression:
    """The entry's new state, with the old one put on top of its stack for undo."""
    previous = {"state": "$$l.state", "action": "$$l.action"}
    return {"state": state, "action": action, "prev": {"$concatArrays": [[previous], "$$l.prev"]}}


def state_restored() -> Expression:
    """The entry's state before its last action."""
    last = {"$first": "$$l.prev"}
    rest = {"$slice": ["$$l.prev", 1, {"$max": [1, {"$size": "$$l.prev"}]}]}
    return {
        "state": {"$getField": {"field": "state", "input": last}},
        "action": {"$getField": {"field": "action", "input": last}},
        "prev": {"$cond": [{"$gt": [{"$size": "$$l.prev"}, 1]}, rest, []]},
    }


def mark_invalid(run: str, reasons: dict[ObjectId, dict[ObjectId, list[str]]]) -> None:
    """Write why labels fail a check, ``{sample_id: {label_id: reasons}}``; an empty list takes the mark away."""
    updates = []
    for sample_id, labels in reasons.items():
        ids = list(labels)
        why = {"$arrayElemAt": [{"$literal": list(labels.values())}, {"$indexOfArray": [ids, "$$l._id"]}]}
        stage = map_labels({"$in": ["$$l._id", ids]}, {"invalid": why})
        updates.append(UpdateOne({"run": run, "sample_id": sample_id}, [stage, {"$set": {"dirty": True}}]))
    for start in range(0, len(updates), _WRITE_BATCH):
        database.ledger().bulk_write(updates[start : start + _WRITE_BATCH], ordered=False)


def mirror_tags(record: dict[str, Any], dataset: Any) -> None:
    """Bring the label tags that people see in line with the ledger, for documents changed since the last mirror.

    Labels that the ledger does not know keep their tags. Server-side; harmless when repeated.
    """
    label_type = label_type_of(record)
    field, path = record["staging_field"], label_type.list_path(record["staging_field"])
    entry = {"$arrayElemAt": ["$$new.labels", "$$i"]}
    wanted = {
        "$concatArrays": [
            {"$cond": [{"$in": ["$$e.state", [APPROVED, REJECTED]]}, ["$$e.state"], []]},
            {"$cond": [{"$ne": ["$$e.invalid", []]}, [INVALID], []]},
        ]
    }
    kept = {
        "$filter": {
            "input": {"$ifNull": ["$$d.tags", []]},
            "as": "t",
            "cond": {"$not": [{"$in": ["$$t", [APPROVED, REJECTED, INVALID]]}]},
        }
    }
    tagged = {
        "$let": {
            "vars": {"i": {"$indexOfArray": ["$$new.labels._id", "$$d._id"]}},
            "in": {
                "$cond": [
                    {"$lt": ["$$i", 0]},
                    "$$d",
                    {
                        "$let": {
                            "vars": {"e": entry},
                            "in": {"$mergeObjects": ["$$d", {"tags": {"$concatArrays": [kept, wanted]}}]},
                        }
                    },
                ]
            },
        }
    }
    changed = {"$map": {"input": f"${path}", "as": "d", "in": tagged}}
    database.run_to_end(
        database.ledger().aggregate(
            [
                {"$match": {"run": record["run"], "dirty": True}},
                {
                    "$project": {
                        "_id": "$sample_id",
                        "labels._id": 1,
                        "labels.state": 1,
                        "labels.invalid": 1,
                    }
                },
                {
                    "$merge": {
                        "into": dataset._sample_collection_name,
                        "on": "_id",
                        "whenMatched": [
                            {
                                "$set": {
                                    field: {
                                        "$cond": [
                                            {"$isArray": f"${path}"},
                                            {"$mergeObjects": [f"${field}", {label_type.list_name: changed}]},
                                            f"${field}",
                                        ]
                                    },
                                    "last_modified_at": "$$NOW",
                                }
                            }
                        ],
                        "whenNotMatched": "discard",
                    }
                },
            ]
        )
    )
    database.ledger().update_many({"run": record["run"], "dirty": True}, {"$unset": {"dirty": ""}})
    dataset.reload()


def count_labels(run: str, match: dict[str, Any]) -> int:
    """Number of ledger entries that match, e.g. ``{"action": 3}``."""
    expression = {"$and": [{"$eq": [f"$$l.{k}", v]} for k, v in match.items()]}
    query = {"run": run, "labels": {"$elemMatch": match}}
    return count_where(query, expression)


def count_where(query: dict[str, Any], condition: Expression) -> int:
    """Number of entries (``$$l``) for which ``condition`` holds, in the documents that match ``query``."""
    size = {"$size": {"$filter": {"input": "$labels", "as": "l", "cond": condition}}}
    groups = list(
        database.ledger().aggregate([{"$match": query}, {"$group": {"_id": None, "n": {"$sum": size}}}])
    )
    return groups[0]["n"] if groups else 0


def class_table(run: str, thresholds: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Per class: counts by state, mean confidence, and a histogram of 20 bins over [0, 1].

    One aggregation on the server. Labels without confidence are counted apart.
    """
    bin_index = {
        "$min": [HISTOGRAM_BINS - 1, {"$max": [0, {"$floor": {"$multiply": ["$l.c", HISTOGRAM_BINS]}}]}]
    }
    groups = database.ledger().aggregate(
        [
            {"$match": {"run": run, "labels.0": {"$exists": True}}},
            {
                "$project": {
                    "_id": 0,
                    "l": {
                        "$map": {
                            "input": "$labels",
                            "as": "e",
                            "in": {
                                "l": "$$e.label",
                                "s": "$$e.state",
                                "c": "$$e.confidence",
                                "v": {"$ne": ["$$e.invalid", []]},
                            },
                        }
                    },
                }
            },
            {"$unwind": "$l"},
            {
                "$group": {
                    "_id": {"l": "$l.l", "s": "$l.s", "v": "$l.v", "b": bin_index},
                    "n": {"$sum": 1},
                    "sum": {"$sum": "$l.c"},
                }
            },
        ],
        allowDiskUse=True,
    )
    rows: dict[str, dict[str, Any]] = {}
    thresholds = thresholds or {}
    for group in groups:
        key, n = group["_id"], group["n"]
        label = key.get("l")
        row = rows.setdefault(
            str(label),
            {
                "label": str(label),
                "total": 0,
                APPROVED: 0,
                REJECTED: 0,
                UNDECIDED: 0,
                INVALID: 0,
                "without_confidence": 0,
                "mean_confidence": 0.0,
                "histogram": [0] * HISTOGRAM_BINS,
                "threshold": thresholds.get("per_class", {}).get(label, thresholds.get("default")),
            },
        )
        row["total"] += n
        row[key["s"]] += n
        row[INVALID] += n if key["v"] else 0
        if key.get("b") is None:
            row["without_confidence"] += n
        else:
            row["histogram"][int(key["b"])] += n
            row["mean_confidence"] += group["sum"]
    for row in rows.values():
        scored = row["total"] - row["without_confidence"]
        row["mean_confidence"] = row["mean_confidence"] / scored if scored else None
    return sorted(rows.values(), key=lambda r: (-r["total"], r["label"]))


def labels_by_action(run: str) -> dict[tuple[str, int], int]:
    """How many labels owe their state to an action, by ``(state, action)``; tags under ``("tag", action)``."""
    states = database.ledger().aggregate(
        [
            {"$match": {"run": run, "labels.action": {"$gt": POLICY_ACTION}}},
            {"$project": {"l.state": "$labels.state", "l.action": "$labels.action"}},
            {"$project": {"pairs": {"$zip": {"inputs": ["$l.state", "$l.action"]}}}},
            {"$unwind": "$pairs"},
            {"$group": {"_id": "$pairs", "n": {"$sum": 1}}},
        ]
    )
    counts = {(g["_id"][0], g["_id"][1]): g["n"] for g in states}
    tags = database.ledger().aggregate(
        [
            {"$match": {"run": run, "labels.tags.0": {"$exists": True}}},
            {"$unwind": "$labels"},
            {"$unwind": "$labels.tags"},
            {"$group": {"_id": "$labels.tags.action", "n": {"$sum": 1}}},
        ]
    )
    return {**counts, **{("tag", g["_id"]): g["n"] for g in tags}}


def problem_tag_counts(run: str) -> dict[str, int]:
    """Number of labels by problem tag."""
    groups = database.ledger().aggregate(
        [
            {"$match": {"run": run, "labels.tags.0": {"$exists": True}}},
            {"$unwind": "$labels"},
            {"$unwind": "$labels.tags"},
            {"$group": {"_id": "$labels.tags.tag", "n": {"$sum": 1}}},
            {"$sort": {"n": -1, "_id": 1}},
        ]
    )
    return {g["_id"]: g["n"] for g in groups}


def label_counts(table: list[dict[str, Any]]) -> dict[str, int]:
    """Totals over a class table."""
    return {
        "predicted": sum(r["total"] for r in table),
        **{state: sum(r[state] for r in table) for state in (APPROVED, REJECTED, UNDECIDED, INVALID)},
    }


def approved_ids(run: str) -> Iterator[tuple[ObjectId, ObjectId]]:
    """``(label_id, sample_id)`` of every approved label, in a fixed order."""
    ids = {
        "$map": {
            "input": {"$filter": {"input": "$labels", "as": "l", "cond": {"$eq": ["$$l.state", APPROVED]}}},
            "as": "l",
            "in": "$$l._id",
        }
    }
    for document in database.ledger().aggregate(
        [
            {"$match": {"run": run, "labels.state": APPROVED}},
            {"$sort": {"sample_id": 1}},
            {"$project": {"_id": 0, "sample_id": 1, "ids": ids}},
        ],
        allowDiskUse=True,
    ):
        for label in document["ids"]:
            yield label, document["sample_id"]


def find_label(label: ObjectId) -> dict[str, Any] | None:
    """The ledger document that holds a label, of the latest run that knows it."""
    return database.ledger().find_one(
        {"$or": [{"labels._id": label}, {"frozen.labels._id": label}]}, sort=[("_id", -1)]
    )


def seen_samples(runs: Sequence[str]) -> set[ObjectId]:
    """Samples that any of the runs has looked at."""
    if not runs:
        return set()
    cursor = database.ledger().find({"run": {"$in": list(runs)}}, {"_id": 0, "sample_id": 1})
    return {d["sample_id"] for d in cursor}


def confidence_array(values: Sequence[float | None]) -> np.ndarray:
    """Confidences as float64, NaN where there is none."""
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)
