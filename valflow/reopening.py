"""Back into review: a run that was taken back, with every label as it stood before the decision.

The ledger knows the state of every label, and the content: frozen where it was approved, as a person left it where
it was not, as predicted else. Every step is harmless when repeated.
"""

from __future__ import annotations

from typing import Any

from bson import ObjectId

from valflow import database, ledger, mirroring, promotion, runs
from valflow.errors import RollbackRefused
from valflow.inference import declare_field
from valflow.label_types import (
    APPROVED,
    INVALID,
    REJECTED,
    WORKFLOW_ATTRIBUTES,
    WORKFLOW_TAGS,
    review_type_of,
)
from valflow.ledger import Expression
from valflow.schema_changes import changing
from valflow.states import Event, State

BATCH = 1000


def check(record: runs.Record, dataset: Any) -> None:
    """Refuse where the labels of a run cannot come back, because something else took their place.

    Raises:
        RollbackRefused: the message names what is in the way.
    """
    other = runs.find_open(record["dataset_id"], record["label_field"])
    if other is not None and other["run"] != record["run"]:
        raise RollbackRefused(
            f"run {other['run']} into {record['dataset']}.{record['label_field']} is open ({other['state']}); "
            f"finish or discard it first, then run {record['run']} can come back"
        )
    check_field(record, dataset)
    _check_nobody_labelled_since(record, dataset)


def check_field(record: runs.Record, dataset: Any) -> None:
    """Refuse where the label field is another one by now.

    Raises:
        RollbackRefused: somebody made a field of that name.
    """
    dataset.reload()
    name = record["label_field"]
    is_others = dataset.has_field(name) and promotion.field_identity(dataset, name) is None
    if is_others and not record["config"]["append"]:
        raise RollbackRefused(
            f"the field {name!r} on {record['dataset']} is another one by now, which valflow did not make; "
            f"rename it first, then the labels of run {record['run']} can come back"
        )


def _check_nobody_labelled_since(record: runs.Record, dataset: Any) -> None:
    """No sample is labelled twice, unless the configuration asks for it."""
    if record["config"]["target"]["only"] == "all":
        return
    own = ledger.seen_samples([record["run"]])
    for key in promotion.finalized_runs_into(dataset, record["label_field"]):
        other = runs.load(key)
        is_later = other["created_at"] > record["created_at"] and other["config"]["target"]["only"] != "all"
        shared = len(own & ledger.seen_samples([key])) if is_later else 0
        if shared:
            raise RollbackRefused(
                f"run {key} has labelled {shared} of the samples of run {record['run']} since; both would label them "
                f"twice. Roll that one back first (`valflow rollback {key}`)"
            )


def bring_back(record: runs.Record, dataset: Any) -> runs.Record:
    """Restore the review field of a run that is REOPENING, and open its review in a new round.

    Raises:
        StaleAttempt: another process has taken the run over.
    """
    staging = record["staging_field"]
    runs.require(runs.fence_of(record), State.REOPENING)
    dataset.reload()
    with changing(dataset):
        declare_field(dataset, staging, review_type_of(record))
    _clear_strangers(record, dataset)
    query = {"run": record["run"], "labels.0": {"$exists": True}}
    cursor = database.ledger().find(query, {"_id": 0, "sample_id": 1}).sort("sample_id", 1)
    samples: list[ObjectId] = [d["sample_id"] for d in cursor]
    for start in range(0, len(samples), BATCH):
        part = samples[start : start + BATCH]
        runs.require(runs.fence_of(record), State.REOPENING)
        _restore_batch(record, dataset, part[0], part[-1])
    # Which samples have the label field may be another matter the next time.
    database.ledger().update_many({"run": record["run"]}, {"$unset": {"had_field": ""}})
    mirroring.mirror_tags(record, dataset)
    dataset.sync_last_modified_at()
    return _open_review(record)


def _clear_strangers(record: runs.Record, dataset: Any) -> None:
    """What a run that died left in the review field of samples that this run does not know is not ours to review."""
    fence, staging = runs.fence_of(record), record["staging_field"]
    held = {"run": fence.run, "attempt": fence.attempt, "state": State.REOPENING.value}
    mine = {"run": record["run"], "labels.0": {"$exists": True}}
    database.run_to_end(
        database.samples_of(dataset).aggregate(
            [
                {"$match": {staging: {"$exists": True}}},
                {"$project": {"_id": 1}},
                {
                    "$lookup": {
                        "from": database.LEDGER,
                        "localField": "_id",
                        "foreignField": "sample_id",
                        "pipeline": [{"$match": mine}, {"$project": {"_id": 1}}],
                        "as": "known",
                    }
                },
                {"$match": {"known": []}},
                {
                    "$lookup": {
                        "from": database.RUNS,
                        "pipeline": [{"$match": held}, {"$project": {"_id": 1}}],
                        "as": "held",
                    }
                },
                {"$match": {"held.0": {"$exists": True}}},
                {"$project": {"_id": 1}},
                {
                    "$merge": {
                        "into": dataset._sample_collection_name,
                        "on": "_id",
                        "whenMatched": [{"$unset": staging}, {"$set": {"last_modified_at": "$$NOW"}}],
                        "whenNotMatched": "discard",
                    }
                },
            ]
        )
    )


def _restore_batch(record: runs.Record, dataset: Any, first: ObjectId, last: ObjectId) -> None:
    label_type, staging = review_type_of(record), record["staging_field"]
    wanted = {
        "run": record["run"],
        "labels.0": {"$exists": True},
        "sample_id": {"$gte": first, "$lte": last},
    }
    value = {"_cls": {"$literal": label_type.field_class}, str(label_type.list_name): "$$new.restored"}
    database.run_to_end(
        database.runs().aggregate(
            [
                *runs.while_held(runs.fence_of(record), State.REOPENING, wanted),
                {"$set": {"known": _known_content(record)}},
                {"$set": {"ids": "$known._id"}},
                {"$project": {"_id": "$sample_id", "restored": _restored()}},
                {
                    "$merge": {
                        "into": dataset._sample_collection_name,
                        "on": "_id",
                        "whenMatched": [{"$set": {staging: value, "last_modified_at": "$$NOW"}}],
                        "whenNotMatched": "discard",
                    }
                },
            ]
        )
    )


def _known_content(record: runs.Record) -> Expression:
    """Contents of the labels of one ledger document; of a label that is there twice, the first counts."""
    token = (record.get("frozen") or {}).get("token")
    sources = []
    for name, parts in (("edited_since", ("labels",)), ("frozen", ("labels", "left_open"))):
        is_current = {"$eq": [f"${name}.token", {"$literal": token}]}
        for part in parts:
            sources.append({"$cond": [is_current, {"$ifNull": [f"${name}.{part}", []]}, []]})
    return {"$concatArrays": [*sources, {"$ifNull": ["$predicted", []]}]}


def _restored() -> Expression:
    """Every label of a ledger document, with the tags that its state gives it."""
    given = {
        APPROVED: {"$eq": ["$$l.state", APPROVED]},
        REJECTED: {"$eq": ["$$l.state", REJECTED]},
        INVALID: {"$ne": ["$$l.invalid", []]},
    }
    mirrored = [{"$cond": [condition, [tag], []]} for tag, condition in given.items()]
    carried = {
        "$filter": {
            "input": {"$ifNull": ["$$was.tags", []]},
            "as": "t",
            "cond": {"$not": [{"$in": ["$$t", list(WORKFLOW_TAGS)]}]},
        }
    }
    put_on = {"$ifNull": ["$$l.tags.tag", []]}
    tags = {"$concatArrays": ["$$carried", {"$setDifference": [put_on, "$$carried"]}, *mirrored]}
    bare: Expression | str = "$$was"
    for attribute in WORKFLOW_ATTRIBUTES:
        bare = {"$unsetField": {"field": attribute, "input": bare}}
    label = {
        "$let": {
            "vars": {"was": {"$arrayElemAt": ["$known", {"$indexOfArray": ["$ids", "$$l._id"]}]}},
            "in": {"$let": {"vars": {"carried": carried}, "in": {"$mergeObjects": [bare, {"tags": tags}]}}},
        }
    }
    return {"$map": {"input": "$labels", "as": "l", "in": label}}


def _open_review(record: runs.Record) -> runs.Record:
    table = ledger.class_table(record["run"], record["thresholds"])
    of_the_end = ("finalized", "discarded", "edited")
    counts = {k: v for k, v in record["counts"].items() if k not in of_the_end}
    rollback = record["rollback"]
    return runs.transition(
        record,
        Event.REOPEN,
        actor=rollback["reviewer"],
        note=rollback["note"] or "taken back into review",
        figures=ledger.label_counts(table),
        changes={
            "round": record["round"] + 1,
            "decision": None,
            "frozen": None,
            "verification": None,
            "validation": None,
            "metrics": None,
            "exports": [],
            "completed_at": None,
            "suspended_in": None,
            "was_suspended": bool(record.get("suspended_in") or record.get("was_suspended")),
            "edits_read_at": None,
            "heartbeat_at": None,
            "class_table": table,
            "counts": {**counts, **ledger.label_counts(table)},
            "review": {"opened_at": database.now()},
        },
    )
