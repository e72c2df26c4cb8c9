"""The frozen approval set: what a decision covers, copied out of everybody's reach.

State from the ledger, content from the review field, joined by label id. Validation reads this copy, and
finalization promotes from it; whatever anybody edits afterwards cannot enter.
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

from bson import ObjectId

from valflow import actions, collector, database, label_states, ledger, mirroring, runs
from valflow.errors import DecisionRefused, LabelsVanished
from valflow.label_types import APPROVED, REJECTED, WORKFLOW_TAGS, label_type_of, review_type_of


@collector.paused()
def freeze_labels(record: runs.Record, dataset: Any, token: str, reviewer: str) -> None:
    """Copy the approval set as it is now into the ledger, under ``token``.

    Raises:
        LabelsVanished: labels are gone from the review field without a recorded rejection.
    """
    admit_samples(record, dataset)
    _copy_decided_labels(record, dataset, token)
    drawn_on = _samples_with_drawn_labels(record, token)
    if drawn_on:
        adopt_drawn_labels(record, dataset, reviewer, drawn_on)
        # Should the run stay in review, its people see that the label is approved.
        mirroring.mark(record["run"], drawn_on, record["action_seq"])
        mirroring.mirror_soon(record, dataset)
        _copy_decided_labels(record, dataset, token, drawn_on)
    _check_nothing_vanished(record, token)


def check_room(record: runs.Record, dataset: Any, token: str) -> None:
    """Where a sample can hold one label only, there must be one to promote, and none in its place.

    Raises:
        DecisionRefused: a sample has several approved labels, or holds a final one already.
    """
    label_type, field = label_type_of(record), record["label_field"]
    if not label_type.is_single:
        return
    frozen = {"run": record["run"], "frozen.token": token}
    several = database.ledger().find({**frozen, "frozen.labels.1": {"$exists": True}}, {"sample_id": 1})
    crowded = [d["sample_id"] for d in several]
    filled = {d["_id"] for d in database.samples_of(dataset).find(label_type.holds_any(field), {"_id": 1})}
    one = database.ledger().find({**frozen, "frozen.labels.0": {"$exists": True}}, {"sample_id": 1})
    taken = [d["sample_id"] for d in one if d["sample_id"] in filled] if filled else []
    for sample_ids, what, remedy in (
        (crowded, "have several approved labels", "reject all but one of each"),
        (taken, f"hold a label in {field!r} already", f"reject theirs, or take the old one out of {field!r}"),
    ):
        if sample_ids:
            named = ", ".join(map(str, sample_ids[:5])) + (" …" if len(sample_ids) > 5 else "")
            raise DecisionRefused(
                f"{field!r} takes one label of a sample, but {len(sample_ids)} samples {what}: {named}; {remedy}"
            )


def digest_of(record: runs.Record, token: str, documents: Any = None) -> tuple[str, int, int]:
    """``(digest, labels, samples)`` of a frozen approval set.

    SHA-256 over run and round, the digest of the certificate, where the run has one, and the raw BSON of the labels in
    order of sample ids: who confirms a set confirms what was proven about it, and confirms it once. The same labels in
    the next round of the review are another matter.

    Args:
        record: the run.
        token: of the freeze.
        documents: the collection; None takes the ledger of this process's database.
    """
    run, documents = record["run"], database.ledger() if documents is None else documents
    sha = hashlib.sha256(_occasion(record, token))
    sha.update(((record.get("certificate") or {}).get("digest") or "").encode())
    frozen = {"$match": {"run": run, "frozen.token": token, "frozen.labels.0": {"$exists": True}}}
    count = {"$size": "$frozen.labels"}
    content = {"_id": 0, "n": count, "sample_id": 1, "labels": "$frozen.labels"}
    # Documents follow one another whatever the batches are; to look into them would cost four times as much.
    for batch in documents.aggregate_raw_batches(
        [frozen, {"$sort": {"sample_id": 1}}, {"$project": content}], allowDiskUse=True
    ):
        sha.update(batch)
    total = {"$group": {"_id": None, "labels": {"$sum": count}, "samples": {"$sum": 1}}}
    for counted in documents.aggregate([frozen, total]):
        return sha.hexdigest(), counted["labels"], counted["samples"]
    return sha.hexdigest(), 0, 0


def _occasion(record: runs.Record, token: str) -> bytes:
    """What a digest is bound to beside the labels; nothing where the set was decided before digests knew rounds."""
    frozen = record.get("frozen") or {}
    number = frozen.get("round") if frozen.get("token") == token else record["round"]
    return b"" if number is None else f"{record['run']}|{number}|".encode()


def frozen_counts(run: str, token: str, attribute: str) -> dict[str, int]:
    """Number of frozen labels by the value of an attribute, most first."""
    groups = database.ledger().aggregate(
        [
            {"$match": {"run": run, "frozen.token": token, "frozen.labels.0": {"$exists": True}}},
            {"$project": {"v": f"$frozen.labels.{attribute}"}},
            {"$unwind": "$v"},
            {"$group": {"_id": "$v", "n": {"$sum": 1}}},
            {"$sort": {"n": -1, "_id": 1}},
        ]
    )
    return {str(g["_id"]): g["n"] for g in groups}


def admit_samples(record: runs.Record, dataset: Any) -> None:
    """Samples that the run did not look at, but on which a person drew labels, get a place in the ledger."""
    strange = samples_drawn_on_elsewhere(record, dataset)
    ledger.account(record["run"], [(i, ledger.DRAWN, None) for i in strange])


def samples_drawn_on_elsewhere(
    record: runs.Record, dataset: Any, only: dict[str, Any] | None = None
) -> list[ObjectId]:
    """Samples with labels in the review field that the ledger of the run does not know.

    Args:
        record: the run.
        dataset: its dataset.
        only: looks at samples that match this query.
    """
    path = review_type_of(record).list_path(record["staging_field"])
    query = {f"{path}.0": {"$exists": True}, **(only or {})}
    staged = [d["_id"] for d in database.samples_of(dataset).find(query, {"_id": 1})]
    accounted = {"run": record["run"]} | ({"sample_id": {"$in": staged}} if only else {})
    known = {d["sample_id"] for d in database.ledger().find(accounted, {"_id": 0, "sample_id": 1})}
    return [i for i in staged if i not in known]


def _samples_with_drawn_labels(record: runs.Record, token: str) -> list[ObjectId]:
    query = {"run": record["run"], "frozen.token": token, "frozen.unknown.0": {"$exists": True}}
    return [d["sample_id"] for d in database.ledger().find(query, {"_id": 0, "sample_id": 1})]


def adopt_drawn_labels(record: runs.Record, dataset: Any, reviewer: str, sample_ids: list[ObjectId]) -> None:
    """Labels that a person drew in the review field enter the ledger, approved by whoever confirms them."""
    path = review_type_of(record).list_path(record["staging_field"])
    seq = record["action_seq"]
    known = {"$ifNull": ["$labels._id", []]}
    drawn = {"$filter": {"input": "$$new.staged", "as": "d", "cond": {"$not": [{"$in": ["$$d._id", known]}]}}}
    entry = {
        "_id": "$$d._id",
        "label": "$$d.label",
        "confidence": {"$ifNull": ["$$d.confidence", None]},
        "state": APPROVED,
        "action": seq,
        "prev": [],
        "invalid": [],
        "tags": [],
        "drawn_by": {"$literal": reviewer},
    }
    entries = {"$map": {"input": drawn, "as": "d", "in": entry}}
    database.run_to_end(
        database.samples_of(dataset).aggregate(
            [
                {"$match": {"_id": {"$in": sample_ids}}},
                {
                    "$project": {
                        "_id": 0,
                        "run": {"$literal": record["run"]},
                        "sample_id": "$_id",
                        "staged": f"${path}",
                    }
                },
                {
                    "$merge": {
                        "into": database.LEDGER,
                        "on": ["run", "sample_id"],
                        "whenMatched": [
                            {
                                "$set": {
                                    "labels": {"$concatArrays": [{"$ifNull": ["$labels", []]}, entries]},
                                    "predicted": {"$concatArrays": [{"$ifNull": ["$predicted", []]}, drawn]},
                                }
                            }
                        ],
                        "whenNotMatched": "discard",
                    }
                },
            ]
        )
    )
    adopted = ledger.count_labels(record["run"], {"action": seq})
    if adopted:
        actions.record_action(record, "draw", reviewer, {"labels": adopted})


def _copy_decided_labels(
    record: runs.Record, dataset: Any, token: str, sample_ids: list[ObjectId] | None = None
) -> None:
    """Copy every approved label, as it stands in the review field, into the ledger. Server-side.

    State from the ledger, content from the field, joined by label id. Actions are held off meanwhile, so what is
    computed from the ledger may be written back to it; in one pipeline that costs half of an update per sample.
    """
    path = review_type_of(record).list_path(record["staging_field"])
    stages = [
        {
            "$lookup": {
                "from": dataset._sample_collection_name,
                "localField": "sample_id",
                "foreignField": "_id",
                "as": "sample",
            }
        },
        {"$project": {"labels": 1, "predicted": 1, "staged": {"$first": f"$sample.{path}"}}},
        {"$match": {"staged": {"$type": "array"}}},
        {"$set": {"ids": {"$ifNull": ["$labels._id", []]}}},
        {"$project": {"frozen": _frozen(record, token)}},
        {
            "$merge": {
                "into": database.LEDGER,
                "on": "_id",
                "whenMatched": "merge",
                "whenNotMatched": "discard",
            }
        },
    ]

    def copy(part: dict[str, Any]) -> None:
        match = {"$match": {"run": record["run"], **part}}
        database.run_to_end(database.ledger().aggregate([match, *stages]))

    parts = label_states.halves(record["run"]) if sample_ids is None else [{"sample_id": {"$in": sample_ids}}]
    database.side_by_side(*(partial(copy, part) for part in parts))


def _frozen(record: runs.Record, token: str) -> ledger.Expression:
    """What is kept of one sample, from its ``labels`` with their ``ids``, ``predicted`` and ``staged`` labels."""
    place = {"$indexOfArray": ["$ids", "$$d._id"]}
    # Place -1, of a label that the ledger does not know, would mean the last one.
    is_known = {"$in": ["$$d._id", "$ids"]}
    entry = {"$arrayElemAt": ["$labels", place]}
    is_approved = {"$eq": [{"$getField": {"field": "state", "input": entry}}, APPROVED]}
    approved = {"$filter": {"input": "$staged", "as": "d", "cond": {"$and": [is_known, is_approved]}}}
    # What else a person has changed would be lost with the review field.
    left_open = {"$and": [is_known, {"$not": [is_approved]}, _is_worked_on(place)]}
    kept = {
        "$filter": {
            "input": {"$ifNull": ["$labels", []]},
            "as": "l",
            "cond": {"$ne": ["$$l.state", REJECTED]},
        }
    }
    return {
        "token": {"$literal": token},
        "labels": {"$map": {"input": approved, "as": "d", "in": _final_label(record, place)}},
        "left_open": {"$filter": {"input": "$staged", "as": "d", "cond": left_open}},
        "vanished": {
            "$setDifference": [{"$map": {"input": kept, "as": "l", "in": "$$l._id"}}, "$staged._id"]
        },
        "unknown": {"$setDifference": ["$staged._id", "$ids"]},
    }


_SHOWN_TAGS: ledger.Expression = {"$ifNull": ["$$d.tags", []]}


def _final_label(record: runs.Record, place: ledger.Expression) -> ledger.Expression:
    """The staged label ``$$d`` as it becomes final; its entry is at ``place``."""
    policy = [a["seq"] for a in actions.history_of(record["run"]) if a["actor"] == actions.POLICY]
    compared = ("label", *review_type_of(record).geometry)
    # Other writers may spell out as null what a label does not have.
    edited = {
        "$or": [
            {"$ne": [{"$ifNull": [f"$$d.{a}", None]}, {"$ifNull": [f"$$was.{a}", None]}]} for a in compared
        ]
    }
    source = {
        "$switch": {
            "branches": [
                {"case": {"$gt": ["$$e.drawn_by", None]}, "then": "human"},
                {"case": edited, "then": "edited"},
                {"case": {"$in": ["$$e.action", policy]}, "then": "auto"},
            ],
            "default": "human",
        }
    }
    # A tag of an action that a screen has wiped is no undo of it.
    given = {"$setDifference": [{"$ifNull": ["$$e.tags.tag", []]}, _SHOWN_TAGS]}
    tags = {
        "$filter": {
            "input": {"$concatArrays": [_SHOWN_TAGS, given]},
            "as": "t",
            "cond": {"$not": [{"$in": ["$$t", list(WORKFLOW_TAGS)]}]},
        }
    }
    # The model's, and nobody's to edit: a screen that hides it may save it as null.
    confidence = {"$cond": [{"$isNumber": "$$e.confidence"}, {"confidence": "$$e.confidence"}, {}]}
    added = {"tags": tags, "run": {"$literal": record["run"]}, "source": source}
    return {
        "$let": {
            "vars": {
                "e": {"$arrayElemAt": ["$labels", place]},
                "was": {"$arrayElemAt": ["$predicted", place]},
            },
            "in": {"$mergeObjects": ["$$d", confidence, added]},
        }
    }


def _is_worked_on(place: ledger.Expression) -> ledger.Expression:
    """Whether a person has changed the staged label ``$$d`` since it was predicted."""
    plain = {label: {"$unsetField": {"field": "tags", "input": f"$${label}"}} for label in ("d", "was")}
    own_tags = {"$setDifference": [_SHOWN_TAGS, {"$ifNull": ["$$was.tags", []]}]}
    return {
        "$let": {
            "vars": {"was": {"$arrayElemAt": ["$predicted", place]}},
            "in": {
                "$or": [
                    {"$ne": [plain["d"], plain["was"]]},
                    {"$not": [{"$setIsSubset": [own_tags, list(WORKFLOW_TAGS)]}]},
                ]
            },
        }
    }


def _check_nothing_vanished(record: runs.Record, token: str) -> None:
    lost: list[str] = []
    for document in database.ledger().find(
        {
            "run": record["run"],
            "labels.0": {"$exists": True},
            "$or": [{"frozen.token": {"$ne": token}}, {"frozen.vanished.0": {"$exists": True}}],
        },
        {
            "sample_id": 1,
            "labels._id": 1,
            "labels.state": 1,
            "labels.label": 1,
            "frozen.token": 1,
            "frozen.vanished": 1,
        },
    ):
        frozen = document.get("frozen") or {}
        gone = frozen.get("vanished") if frozen.get("token") == token else None
        for entry in document["labels"]:
            if (gone is None and entry["state"] != REJECTED) or (gone and entry["_id"] in gone):
                lost.append(f"{entry['_id']} ({entry['label']}, sample {document['sample_id']})")
    if lost:
        raise LabelsVanished(
            f"{len(lost)} labels are gone from {record['dataset']}.{record['staging_field']} although nobody rejected "
            f"them: {', '.join(lost[:5])}{' …' if len(lost) > 5 else ''}. Nothing was finalized. Reject them by id if "
            f"that was meant (`valflow reject {record['run']} --label ID`), or bring the field back"
        )
