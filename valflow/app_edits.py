"""What people did to labels with the App's own tools: tags put on by hand, boxes drawn, labels deleted.

The App tells nobody, so it is found out by comparing the review field with the ledger, for the samples that
changed since the last look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bson import ObjectId
from pymongo import UpdateOne

from valflow import actions, database, freezing, ledger, mirroring, own_writes, runs
from valflow.label_states import map_labels, state_change
from valflow.label_types import APPROVED, REJECTED, review_type_of
from valflow.ledger import UNDECIDED, Expression

_SAMPLES_AT_ONCE = 1000
# Whose hand put a tag on, the App does not say: not that of whoever happens to look first.
SOMEBODY = "a reviewer in the App"


@dataclass(frozen=True)
class Edits:
    """What was found since the last look.

    Attributes:
        approved: labels that a person tagged as approved, taken over as an action.
        rejected: labels that a person tagged as rejected, taken over as an action.
        refused: labels that a person tagged as approved although they are rejected; the tag was taken off.
        drawn: boxes that the ledger does not know yet; see ``adopt_drawn``.
        vanished: labels that are gone without a recorded rejection; they stop a finalization.
    """

    approved: int = 0
    rejected: int = 0
    refused: int = 0
    drawn: int = 0
    vanished: tuple[str, ...] = ()

    def in_words(self) -> str:
        """What a reviewer should know about it; empty where there is nothing."""
        parts = []
        if self.approved or self.rejected:
            parts.append(f"taken over from tags: {self.approved} approved, {self.rejected} rejected")
        if self.refused:
            parts.append(f"{self.refused} tagged approved, but rejected before: they stay rejected")
        if self.vanished:
            parts.append(
                f"{len(self.vanished)} labels were deleted ({', '.join(self.vanished[:3])}): "
                "reject them by id, or bring them back"
            )
        return "; ".join(parts)


def read_edits(run: str) -> Edits:
    """Take over what was tagged by hand, and repair tags that differ from the ledger.

    A tag that was added is an action of ``SOMEBODY``; one that is missing is never an undo, because the tags
    of labels do not survive a stale screen. A tag that may be left over from an earlier state is no action.

    Raises:
        IllegalTransition: the run is being confirmed just now.
    """
    record = runs.load(run)
    actions.require_review(record)
    now = database.now()
    dataset = database.dataset_of(record)
    found = _differences(record, dataset, _changed_samples(record, dataset))
    taken = {state: {d["sample_id"]: d[state] for d in found if d[state]} for state in (APPROVED, REJECTED)}
    counts = {}
    for state, event in ((APPROVED, "approve"), (REJECTED, "reject")):
        counts[state] = _take_over(record["run"], event, state, taken[state])
    crooked = [d["sample_id"] for d in found if d["crooked"]]
    if crooked or any(counts.values()):
        record = runs.load(run)
        mirroring.mark(record["run"], crooked, record["action_seq"])
        mirroring.mirror_soon(record, dataset)
    own_writes.looked_at(record["run"], now)
    return Edits(
        approved=counts[APPROVED],
        rejected=counts[REJECTED],
        refused=sum(len(d["refused"]) for d in found),
        drawn=sum(len(d["drawn"]) for d in found) + _drawn_elsewhere(record, dataset),
        vanished=tuple(str(i) for d in found for i in d["vanished"]),
    )


def adopt_drawn(run: str, reviewer: str) -> int:
    """Boxes that people drew in the review field enter the run, approved by ``reviewer``; returns their number.

    Raises:
        IllegalTransition: the run is not in review, or is being confirmed just now.
    """
    record = runs.load(run)
    actions.check_reviewer(record, reviewer)
    actions.require_review(record)
    dataset = database.dataset_of(record)
    freezing.admit_samples(record, dataset)
    every = [d["sample_id"] for d in _differences(record, dataset, None) if d["drawn"]]
    if not every:
        return 0
    record = actions.begin(record["run"])
    freezing.adopt_drawn_labels(record, dataset, reviewer, every)
    adopted = ledger.count_labels(record["run"], {"action": record["action_seq"]})
    mirroring.mark(record["run"], every, record["action_seq"])
    mirroring.mirror_soon(record, dataset)
    return adopted


def _changed_samples(record: runs.Record, dataset: Any) -> list[ObjectId] | None:
    """Samples written to since the last look; None for all."""
    query = own_writes.changed_by_others(record)
    if query is None:
        return None
    return [d["_id"] for d in database.samples_of(dataset).find(query, {"_id": 1})]


def _differences(
    record: runs.Record, dataset: Any, sample_ids: Sequence[ObjectId] | None
) -> list[dict[str, Any]]:
    """Per sample where field and ledger differ: ids to approve and to reject, refused, drawn and vanished ones.

    Samples whose field is gone altogether are not among them: that is for the freeze to stop.
    """
    if sample_ids is not None and not sample_ids:
        return []
    path = review_type_of(record).list_path(record["staging_field"])
    only = {} if sample_ids is None else {"sample_id": {"$in": list(sample_ids)}}
    pipeline: list[dict[str, Any]] = [
        {"$match": {"run": record["run"], **only}},
        {
            "$lookup": {
                "from": dataset._sample_collection_name,
                "localField": "sample_id",
                "foreignField": "_id",
                "as": "sample",
            }
        },
        {
            "$project": {
                "sample_id": 1,
                "labels": {"$ifNull": ["$labels", []]},
                "staged": {"$ifNull": [{"$first": f"$sample.{path}"}, []]},
            }
        },
        {"$match": {"staged.0": {"$exists": True}}},
        {"$set": {"ids": "$labels._id", "there": "$staged._id"}},
        {"$project": {"_id": 0, "sample_id": 1, **_compared()}},
        {"$match": {"$or": [{f"{k}.0": {"$exists": True}} for k in ("crooked", "drawn", "vanished")]}},
    ]
    return list(database.ledger().aggregate(pipeline, allowDiskUse=True))


def _compared() -> Expression:
    """Ids of the labels of one sample by what is to be done about them."""
    entry = {"$arrayElemAt": ["$labels", {"$indexOfArray": ["$ids", "$$d._id"]}]}
    tags = {"$ifNull": ["$$d.tags", []]}
    says = {tag: {"$in": [tag, tags]} for tag in (APPROVED, REJECTED)}
    known = {"$in": ["$$d._id", "$ids"]}

    def labels(condition: Expression) -> Expression:
        with_entry = {"$let": {"vars": {"e": entry}, "in": condition}}
        chosen = {"$filter": {"input": "$staged", "as": "d", "cond": {"$and": [known, with_entry]}}}
        return {"$map": {"input": chosen, "as": "d", "in": "$$d._id"}}

    def never(state: str) -> Expression:
        # What carried the state before may carry its tag still; what an undo returned, too.
        returned = {"$eq": [{"$size": {"$ifNull": ["$$e.returned", []]}}, 0]}
        return {"$and": [{"$not": [{"$in": [state, "$$e.prev.state"]}]}, returned]}

    by_hand = {
        APPROVED: {"$and": [says[APPROVED], {"$not": [says[REJECTED]]}, {"$eq": ["$$e.state", UNDECIDED]}]},
        REJECTED: {"$and": [says[REJECTED], {"$ne": ["$$e.state", REJECTED]}]},
    }
    off = [{"$ne": [says[tag], {"$eq": ["$$e.state", tag]}]} for tag in (APPROVED, REJECTED)]
    kept = {"$filter": {"input": "$labels", "as": "l", "cond": {"$ne": ["$$l.state", REJECTED]}}}
    return {
        **{state: labels({"$and": [by_hand[state], never(state)]}) for state in by_hand},
        "refused": labels({"$and": [says[APPROVED], {"$eq": ["$$e.state", REJECTED]}, never(APPROVED)]}),
        "crooked": labels({"$or": off}),
        "drawn": {"$setDifference": ["$there", "$ids"]},
        "vanished": {"$setDifference": [{"$map": {"input": kept, "as": "l", "in": "$$l._id"}}, "$there"]},
    }


def _take_over(run: str, event: str, state: str, by_sample: dict[ObjectId, list[ObjectId]]) -> int:
    """One action for all labels that were tagged by hand, sample by sample: a long list of ids is quadratic."""
    if not by_sample:
        return 0
    record = actions.begin(run)
    seq = record["action_seq"]
    number = sum(len(ids) for ids in by_sample.values())
    actions.record_action(record, event, SOMEBODY, {"tagged in the App": state, "labels": number})
    change = {**state_change(state, seq, "invalid"), "invalid": []}
    updates = [
        UpdateOne(
            {"run": run, "sample_id": sample_id},
            [map_labels({"$in": ["$$l._id", ids]}, change), {"$set": {"dirty": seq}}],
        )
        for sample_id, ids in by_sample.items()
    ]
    for start in range(0, len(updates), _SAMPLES_AT_ONCE):
        database.ledger().bulk_write(updates[start : start + _SAMPLES_AT_ONCE], ordered=False)
    return ledger.count_labels(run, {"action": seq})


def _drawn_elsewhere(record: runs.Record, dataset: Any) -> int:
    """Boxes on samples that the run never looked at."""
    strange = freezing.samples_drawn_on_elsewhere(record, dataset, own_writes.changed_by_others(record))
    if not strange:
        return 0
    path = review_type_of(record).list_path(record["staging_field"])
    total = {"$group": {"_id": None, "n": {"$sum": {"$size": f"${path}"}}}}
    counted = database.samples_of(dataset).aggregate([{"$match": {"_id": {"$in": strange}}}, total])
    return sum(d["n"] for d in counted)
