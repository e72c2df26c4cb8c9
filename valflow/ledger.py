"""The ledger: one document per run and sample, the only truth about the state of every label.

Label tags in the dataset mirror it for people to see; they are never read back as a decision, because
they do not survive a stale screen of the App.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from bson import ObjectId
from pymongo.errors import BulkWriteError

from valflow import database
from valflow.label_types import APPROVED, INVALID, REJECTED, LabelDict

Expression = dict[str, Any]

UNDECIDED = "undecided"
PENDING, LABELLED, EMPTY, FAILED = "pending", "labelled", "empty", "failed"
# Not a target of the run, but a person drew labels on it.
DRAWN = "drawn"
HISTOGRAM_BINS = 20
POLICY_ACTION = 1
# An entry that nobody has decided.
FRESH: Mapping[str, Any] = {"state": UNDECIDED, "action": 0, "prev": [], "invalid": []}
_DUPLICATE = 11000


def open_targets(run: str, sample_ids: Sequence[ObjectId], shard_size: int, first: int = 0) -> int:
    """Write down which samples the run will see, split into shards from number ``first``; returns how many."""
    parts = [list(sample_ids[i : i + shard_size]) for i in range(0, len(sample_ids), shard_size)]
    for shard, ids in enumerate(parts, first):
        # Already there: idempotent.
        database.targets().update_one(
            {"run": run, "shard": shard}, {"$setOnInsert": {"sample_ids": ids}}, upsert=True
        )
    return len(parts)


def forget_targets(run: str) -> None:
    """Drop targets that were written down only in part; nothing was predicted for them yet."""
    database.targets().delete_many({"run": run})


def shards(run: str) -> Iterator[dict[str, Any]]:
    """The targets of a run: documents with ``shard`` and ``sample_ids``, in order."""
    yield from database.targets().find({"run": run}).sort("shard", 1)


def pending(run: str, shard: int) -> list[ObjectId]:
    """Samples of a shard that were not looked at yet."""
    targets = database.targets().find_one({"run": run, "shard": shard}) or {"sample_ids": []}
    query = {"run": run, "sample_id": {"$in": targets["sample_ids"]}}
    done = {d["sample_id"] for d in database.ledger().find(query, {"_id": 0, "sample_id": 1})}
    return [i for i in targets["sample_ids"] if i not in done]


def account(
    run: str,
    outcomes: Iterable[tuple[ObjectId, str, str | None]],
    predictions: Mapping[ObjectId, Sequence[LabelDict]] | None = None,
    noted: Mapping[ObjectId, Mapping[str, int]] | None = None,
) -> None:
    """Record what became of samples, with their labels, undecided.

    The first account of a sample stands: an overlapping repetition changes nothing.

    Args:
        run: key of the run.
        outcomes: ``(sample_id, status, reason)``.
        predictions: the labels that were staged, by sample.
        noted: what was odd about the labels of a sample, counted by the keys of ``intake.WORDS``.
    """
    documents = [
        {"run": run, "sample_id": sample_id, "status": status, "reason": reason}
        | _entered((predictions or {}).get(sample_id, ()))
        | ({"noted": dict(odd)} if (odd := (noted or {}).get(sample_id)) else {})
        for sample_id, status, reason in outcomes
    ]
    if not documents:
        return
    try:
        database.ledger().insert_many(documents, ordered=False)
    except BulkWriteError as error:
        if any(e["code"] != _DUPLICATE for e in error.details["writeErrors"]):
            raise


def _entered(predictions: Sequence[LabelDict]) -> dict[str, Any]:
    """Labels as the ledger holds them before anybody decided."""
    if not predictions:
        return {}
    labels = [
        {"_id": d["_id"], "label": d.get("label"), "confidence": d.get("confidence"), **FRESH, "tags": []}
        for d in predictions
    ]
    return {"labels": labels, "predicted": predictions}


def status_counts(run: str) -> dict[str, int]:
    """Number of samples by status; those that nobody has looked at yet are ``pending``."""
    groups = database.ledger().aggregate(
        [{"$match": {"run": run}}, {"$group": {"_id": "$status", "n": {"$sum": 1}}}]
    )
    counts = {g["_id"]: g["n"] for g in groups}
    seen = sum(n for status, n in counts.items() if status != DRAWN)
    waiting = sum(len(shard["sample_ids"]) for shard in shards(run)) - seen
    return {**counts, PENDING: waiting} if waiting > 0 else counts


def noted_counts(run: str) -> dict[str, int]:
    """What was odd about the predictions of a run, by the keys of ``intake.WORDS``."""
    groups = database.ledger().aggregate(
        [
            {"$match": {"run": run, "noted": {"$exists": True}}},
            {"$project": {"_id": 0, "n": {"$objectToArray": "$noted"}}},
            {"$unwind": "$n"},
            {"$group": {"_id": "$n.k", "n": {"$sum": "$n.v"}}},
        ]
    )
    return {g["_id"]: g["n"] for g in groups}


def failed_samples(run: str, limit: int = 1000) -> list[dict[str, Any]]:
    """Samples that could not be labelled, with the reason."""
    cursor = database.ledger().find({"run": run, "status": FAILED}, {"_id": 0, "sample_id": 1, "reason": 1})
    return list(cursor.sort("sample_id", 1).limit(limit))


def total(run: str) -> int:
    """Number of labels of a run."""
    return count_where({"run": run, "labels.0": {"$exists": True}}, True)


def count_labels(run: str, match: dict[str, Any]) -> int:
    """Number of ledger entries that match, e.g. ``{"action": 3}``."""
    expression = {"$and": [{"$eq": [f"$$l.{k}", v]} for k, v in match.items()]}
    query = {"run": run, "labels": {"$elemMatch": match}}
    return count_where(query, expression)


def count_where(query: dict[str, Any], condition: Expression | bool) -> int:
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
    scaled = {"$floor": {"$multiply": ["$labels.confidence", HISTOGRAM_BINS]}}
    # $min and $max skip what is missing: without the condition it would land in the first bin.
    bin_index = {
        "$cond": [
            {"$gt": ["$labels.confidence", None]},
            {"$min": [HISTOGRAM_BINS - 1, {"$max": [0, scaled]}]},
            None,
        ]
    }
    failing = {"$ne": ["$labels.invalid", []]}
    groups = database.ledger().aggregate(
        [
            {"$match": {"run": run, "labels.0": {"$exists": True}}},
            {"$unwind": "$labels"},
            {
                "$group": {
                    "_id": {"l": "$labels.label", "s": "$labels.state", "v": failing, "b": bin_index},
                    "n": {"$sum": 1},
                    "sum": {"$sum": "$labels.confidence"},
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
    """How many labels owe their state to a person's action, by ``(state, action)``; tags under ``("tag", action)``."""
    changed = {"$filter": {"input": "$labels", "as": "l", "cond": {"$gt": ["$$l.action", POLICY_ACTION]}}}
    pairs = {"$map": {"input": changed, "as": "l", "in": ["$$l.state", "$$l.action"]}}
    states = database.ledger().aggregate(
        [
            {"$match": {"run": run, "labels.action": {"$gt": POLICY_ACTION}}},
            {"$project": {"pairs": pairs}},
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


def problem_tag_counts(run: str, state: str | None = None) -> dict[str, int]:
    """Number of labels by problem tag, of all labels or of those in a state."""
    in_state: list[dict[str, Any]] = [] if state is None else [{"$match": {"labels.state": state}}]
    groups = database.ledger().aggregate(
        [
            {"$match": {"run": run, "labels.tags.0": {"$exists": True}}},
            {"$unwind": "$labels"},
            *in_state,
            {"$unwind": "$labels.tags"},
            {"$group": {"_id": "$labels.tags.tag", "n": {"$sum": 1}}},
            {"$sort": {"n": -1, "_id": 1}},
        ]
    )
    return {g["_id"]: g["n"] for g in groups}


def sample_tags(run: str) -> list[str]:
    """Tags that the review put on samples of a run."""
    return sorted(database.ledger().distinct("sample_tags.tag", {"run": run}))


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
    """Samples that any of the runs had to look at."""
    shards = database.targets().find({"run": {"$in": list(runs)}}, {"_id": 0, "sample_ids": 1})
    return {sample_id for shard in shards for sample_id in shard["sample_ids"]}


def confidence_array(values: Sequence[float | None]) -> np.ndarray:
    """Confidences as float64, NaN where there is none."""
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)
