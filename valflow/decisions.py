"""The decision that ends a review: frozen, bound to a digest, taken once."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from typing import Any, Literal

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import ReturnDocument

from valflow import actions, audits, checklist, database, ledger, runs
from valflow.errors import DecisionRefused, IllegalTransition, LabelsVanished
from valflow.label_types import APPROVED, REJECTED, WORKFLOW_TAGS, label_type_of
from valflow.states import Event, State


@dataclass(frozen=True)
class Decision:
    """What a person decided about a run.

    Attributes:
        decision: whether to finalize the approved labels or to discard the run.
        reviewer: the person's name.
        note: kept with the record.
        override: why finalization may go on although evidence is missing.
        digest: the approval set that the person saw; None accepts the one there is.
        via: where the decision came from.
    """

    decision: Literal["finalize", "discard"]
    reviewer: str
    note: str | None = None
    override: str | None = None
    digest: str | None = None
    via: str = "cli"


@dataclass(frozen=True)
class Preview:
    """What finalization would do now."""

    run: str
    label_field: str
    labels: int
    samples: int
    per_class: dict[str, int]
    by_source: dict[str, int]
    rejected: int
    undecided: int
    digest: str
    token: str
    checklist: list[dict[str, Any]]
    missing: list[str]
    class_table: list[dict[str, Any]]


def preview(run: str, reviewer: str) -> Preview:
    """Freeze the approval set as it is now and describe it; nothing is decided.

    Raises:
        IllegalTransition: the run is not in review.
        LabelsVanished: labels are gone from the review field without a recorded rejection.
    """
    record = runs.load(run)
    claimed = _claim_freeze(record, reviewer)
    try:
        return _freeze(claimed, reviewer)
    finally:
        _release_freeze(claimed)


def submit(run: str, decision: Decision) -> runs.Record:
    """Decide a run: the first decision wins, and what it covers can no longer change.

    Raises:
        IllegalTransition: the run is not in review; the message says who decided.
        DecisionRefused: no reviewer, one who may not decide, evidence missing without an override, nothing
            approved, or an approval set that differs from the one the person saw.
        LabelsVanished: labels are gone from the review field without a recorded rejection.
    """
    record = runs.load(run)
    _check_reviewer(record, decision)
    if decision.decision == "discard":
        return discard(run, decision)
    claimed = _claim_freeze(record, decision.reviewer)
    try:
        frozen = _freeze(claimed, decision.reviewer)
        _check_decision(claimed, decision, frozen)
        return _accept(claimed, decision, frozen)
    finally:
        _release_freeze(claimed)


def submit_by_policy(run: str) -> runs.Record:
    """Decide a run whose configuration asks for no review: what the thresholds approved becomes final.

    A run in which they approved nothing is discarded.
    """
    anything = ledger.count_labels(run, {"state": APPROVED})
    decision: Literal["finalize", "discard"] = "finalize" if anything else "discard"
    note = "review.required is false" + ("" if anything else ", and nothing was approved")
    return submit(run, Decision(decision, actions.POLICY, note, via=actions.POLICY))


def discard(run: str, decision: Decision) -> runs.Record:
    """End a run without labels; its predictions stay in the ledger.

    Raises:
        IllegalTransition: the run has ended, or is already being finalized.
    """
    record = runs.load(run)
    record = runs.transition(
        record,
        Event.DISCARD,
        actor=decision.reviewer,
        note=decision.note,
        changes={"decision": _as_document(decision, record), "heartbeat_at": None},
    )
    drop_staging(record)
    return record


def drop_staging(record: runs.Record) -> None:
    """Remove the review field of a run that has ended; already gone is fine."""
    import fiftyone as fo

    if not fo.dataset_exists(record["dataset"]):
        return
    dataset = fo.load_dataset(record["dataset"])
    dataset.reload()
    if dataset.has_field(record["staging_field"]):
        dataset.delete_sample_field(record["staging_field"])


def reopen(
    record: runs.Record, *, reason: str, actor: str = actions.POLICY, changes: dict[str, Any] | None = None
) -> runs.Record:
    """Send a run back into its review, in a new round with a fresh form."""
    return runs.transition(
        record,
        Event.REOPEN,
        actor=actor,
        note=reason,
        changes={**(changes or {}), "round": record["round"] + 1, "decision": None, "frozen": None},
    )


def digest_of(run: str, token: str) -> tuple[str, int, int]:
    """``(digest, labels, samples)`` of a frozen approval set: SHA-256 over its raw BSON, in order of sample ids."""
    raw: Any = database.ledger().with_options(CodecOptions(document_class=RawBSONDocument))
    sha, labels, samples = hashlib.sha256(), 0, 0
    pipeline: list[dict[str, Any]] = [
        {"$match": {"run": run, "frozen.token": token, "frozen.labels.0": {"$exists": True}}},
        {"$sort": {"sample_id": 1}},
        {
            "$project": {
                "_id": 0,
                "n": {"$size": "$frozen.labels"},
                "sample_id": 1,
                "labels": "$frozen.labels",
            }
        },
    ]
    for document in raw.aggregate(pipeline, allowDiskUse=True):
        sha.update(document.raw)
        labels += document["n"]
        samples += 1
    return sha.hexdigest(), labels, samples


def _check_reviewer(record: runs.Record, decision: Decision) -> None:
    reviewer = decision.reviewer.strip()
    allowed = record["config"]["review"]["reviewers"]
    if not reviewer:
        raise DecisionRefused(
            "a decision needs the name of its reviewer: --reviewer NAME or VALFLOW_REVIEWER"
        )
    if allowed and reviewer not in allowed and decision.via != actions.POLICY:
        raise DecisionRefused(f"{reviewer!r} may not decide this run; its reviewers are {', '.join(allowed)}")


def _check_decision(record: runs.Record, decision: Decision, frozen: Preview) -> None:
    if decision.digest is not None and not frozen.digest.startswith(decision.digest):
        raise DecisionRefused(
            f"the approval set has changed since you saw it: you confirmed {decision.digest[:12]}, it is "
            f"{frozen.digest[:12]} now ({frozen.labels} labels); look again and confirm what is there"
        )
    if frozen.labels == 0:
        raise DecisionRefused(f"run {record['run']} has no approved labels; approve some, or discard the run")
    if frozen.missing and not decision.override:
        raise DecisionRefused(
            "evidence is missing: "
            + "; ".join(frozen.missing)
            + ". Supply it, or give a reason with --override",
            frozen.missing,
        )


def _accept(record: runs.Record, decision: Decision, frozen: Preview) -> runs.Record:
    time = database.now()
    opened = runs.aware(record["review"]["opened_at"])
    audit = audits.latest(record["run"])
    counts = {
        **record["counts"],
        **ledger.label_counts(frozen.class_table),
        "edited": frozen.by_source.get("edited", 0),
    }
    return runs.transition(
        record,
        Event.SUBMIT,
        actor=decision.reviewer,
        note=decision.note,
        figures={"labels": frozen.labels, "samples": frozen.samples, "digest": frozen.digest},
        condition={"freezing.token": record["freezing"]["token"]},
        changes={
            "freezing": None,
            "decision": _as_document(decision, record, frozen.digest),
            "frozen": {
                "token": frozen.token,
                "digest": frozen.digest,
                "labels": frozen.labels,
                "samples": frozen.samples,
                "per_class": frozen.per_class,
                "at": time,
            },
            "counts": counts,
            "class_table": frozen.class_table,
            "checklist": frozen.checklist,
            "audit": audits.summary(audit) if audit else None,
            "problem_tags": ledger.problem_tag_counts(record["run"]),
            "issues": checklist.issue_notes(record["run"]),
            "review": {
                **record["review"],
                "decided_at": time,
                "seconds": (time - opened).total_seconds(),
                "reviewers": checklist.reviewer_statistics(record["run"]),
            },
        },
    )


def _as_document(decision: Decision, record: runs.Record, digest: str | None = None) -> dict[str, Any]:
    return {
        "decision": decision.decision,
        "reviewer": decision.reviewer.strip(),
        "note": decision.note,
        "override": decision.override,
        "digest": digest,
        "via": decision.via,
        "time": database.now(),
        "round": record["round"],
    }


def _claim_freeze(record: runs.Record, reviewer: str) -> runs.Record:
    """Hold off actions and other decisions while the approval set is copied."""
    claimed: Any = database.runs().find_one_and_update(
        {
            "run": record["run"],
            "state": State.IN_REVIEW.value,
            **actions.not_being_confirmed(),
        },
        {
            "$set": {"freezing": {"token": uuid.uuid4().hex, "by": reviewer, "at": database.now()}},
            "$inc": {"action_seq": 1},  # the number of the drawing action, should there be one
        },
        return_document=ReturnDocument.AFTER,
    )
    if claimed is not None:
        return claimed
    current = runs.load(record["run"])
    if current["state"] == State.IN_REVIEW.value:
        raise IllegalTransition(
            f"run {current['run']} is being confirmed by {current['freezing']['by']} just now; try again in a moment"
        )
    decision = current.get("decision")
    said = f": {decision['reviewer']} decided to {decision['decision']} it" if decision else ""
    raise IllegalTransition(
        f"run {current['run']} is not waiting for a decision, it is {current['state']}{said}"
    )


def _release_freeze(record: runs.Record) -> None:
    database.runs().update_one(
        {"run": record["run"], "freezing.token": record["freezing"]["token"]}, {"$set": {"freezing": None}}
    )


def _freeze(record: runs.Record, reviewer: str) -> Preview:
    import fiftyone as fo

    dataset = fo.load_dataset(record["dataset"])
    token = record["freezing"]["token"]
    _adopt_drawn_labels(record, dataset, reviewer)
    _copy_decided_labels(record, dataset, token)
    _check_nothing_vanished(record, token)
    digest, labels, samples = digest_of(record["run"], token)
    table = ledger.class_table(record["run"], record["thresholds"])
    items = checklist.evidence(record, table)
    return Preview(
        run=record["run"],
        label_field=record["label_field"],
        labels=labels,
        samples=samples,
        per_class=_frozen_counts(record["run"], token, "label"),
        by_source=_frozen_counts(record["run"], token, "source"),
        rejected=sum(r[REJECTED] for r in table),
        undecided=sum(r[ledger.UNDECIDED] for r in table),
        digest=digest,
        token=token,
        checklist=items,
        missing=checklist.missing(items) if record["config"]["review"]["required"] else [],
        class_table=table,
    )


def _adopt_drawn_labels(record: runs.Record, dataset: Any, reviewer: str) -> None:
    """Labels that a person drew in the review field enter the ledger, approved by whoever confirms them."""
    path = label_type_of(record).list_path(record["staging_field"])
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
                {"$match": {f"{path}.0": {"$exists": True}}},
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


def _copy_decided_labels(record: runs.Record, dataset: Any, token: str) -> None:
    """Copy every approved label, as it stands in the review field, into the ledger. Server-side.

    State from the ledger, content from the field, joined by label id.
    """
    label_type = label_type_of(record)
    path = label_type.list_path(record["staging_field"])
    policy = [a["seq"] for a in actions.history_of(record["run"]) if a["actor"] == actions.POLICY]
    compared = ("label", *label_type.geometry)
    edited = {"$or": [{"$ne": [f"$$d.{a}", f"$$was.{a}"]} for a in compared]}
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
    tags = {
        "$filter": {
            "input": {"$ifNull": ["$$d.tags", []]},
            "as": "t",
            "cond": {"$not": [{"$in": ["$$t", list(WORKFLOW_TAGS)]}]},
        }
    }
    final = {
        "$let": {
            "vars": {"i": {"$indexOfArray": ["$labels._id", "$$d._id"]}},
            "in": {
                "$let": {
                    "vars": {
                        "e": {"$arrayElemAt": ["$labels", "$$i"]},
                        "was": {"$arrayElemAt": ["$predicted", "$$i"]},
                    },
                    "in": {
                        "$mergeObjects": [
                            "$$d",
                            {"tags": tags, "run": {"$literal": record["run"]}, "source": source},
                        ]
                    },
                }
            },
        }
    }
    approved = {"$filter": {"input": "$labels", "as": "l", "cond": {"$eq": ["$$l.state", APPROVED]}}}
    chosen = {
        "$let": {
            "vars": {"ids": {"$map": {"input": approved, "as": "l", "in": "$$l._id"}}},
            "in": {"$filter": {"input": "$$new.staged", "as": "d", "cond": {"$in": ["$$d._id", "$$ids"]}}},
        }
    }
    kept = {"$filter": {"input": "$labels", "as": "l", "cond": {"$ne": ["$$l.state", REJECTED]}}}
    vanished = {"$setDifference": [{"$map": {"input": kept, "as": "l", "in": "$$l._id"}}, "$$new.staged._id"]}
    frozen = {
        "token": token,
        "labels": {"$map": {"input": chosen, "as": "d", "in": final}},
        "vanished": vanished,
    }
    database.run_to_end(
        database.samples_of(dataset).aggregate(
            [
                {"$match": {path: {"$exists": True}}},
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
                        "whenMatched": [{"$set": {"frozen": frozen}}],
                        "whenNotMatched": "discard",
                    }
                },
            ]
        )
    )


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


def _frozen_counts(run: str, token: str, attribute: str) -> dict[str, int]:
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
