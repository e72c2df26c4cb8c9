"""Rollback: the labels of a finalized run leave the label field, and nothing else does.

Every step is harmless when repeated. A run that is ROLLING_BACK, or REOPENING, is finished by rolling it back again.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import Any

from bson import ObjectId

from valflow import (
    actions,
    bringing_back,
    database,
    promotion,
    references,
    reopening,
    runs,
    safety_copies,
    schema_changes,
)
from valflow.decisions import SHORTEST_DIGEST
from valflow.errors import RollbackRefused, RunBusy
from valflow.evaluation.storing import remove_evaluation
from valflow.label_types import label_type_of
from valflow.ledger import Expression
from valflow.promotion import field_identity
from valflow.rollback_plan import (
    Preview,
    describe,
    finalized_in,
    is_edited,
    marks_of_evaluation,
    with_sample,
)
from valflow.states import Event, State

BATCH = 1000
# Somebody is at it, or was when it broke off.
GOING = (State.ROLLING_BACK.value, State.REOPENING.value)


@dataclass(frozen=True)
class Options:
    """What is wanted beyond taking the labels of the run out.

    Attributes:
        including_edited: also labels that were edited since; with ``reopen`` they come into review as edited.
        reopen: afterwards everything is in review as it was before the decision, in a new round.
        from_copy: a safety copy of the run, or ``latest``: what is missing of it comes back. Of a run that was rolled
            back, that takes the rollback back.
        exactly: what was added or changed since the copy goes, too, and edited labels of the run with it.
    """

    including_edited: bool = False
    reopen: bool = False
    from_copy: str | None = None
    exactly: bool = False

    def __post_init__(self) -> None:
        if self.reopen and self.from_copy is not None:
            raise RollbackRefused(
                "a run comes back into review, or a safety copy comes back; not both at once"
            )
        if self.exactly and self.from_copy is None:
            raise RollbackRefused("only a safety copy says what `exactly` would be: add --from-copy")

    @property
    def takes_edited(self) -> bool:
        """Whether edited labels of the run go, too."""
        return self.including_edited or self.exactly


def preview(run: str, **options: Any) -> Preview:
    """Describe a rollback; nothing is written.

    Args:
        run: key of a finalized run; with ``reopen`` or ``from_copy`` also of one that was rolled back.
        options: see ``Options``.

    Raises:
        RollbackRefused: the run is in another state, something is in the way, or there is no such copy.
    """
    return _look(runs.load(run), Options(**options))


def roll_back(
    run: str, reviewer: str, *, digest: str | None = None, note: str | None = None, **options: Any
) -> runs.Record:
    """Take the labels of a run out of its label field, whatever happened since.

    Labels of people and of other runs stay, and so do labels of the run that somebody edited since. The field goes
    with its last label where valflow made it; so do evaluation and custom run of this run. The ledger keeps everything.

    Args:
        run: key of a finalized run, or of one whose rollback was broken off.
        reviewer: who takes it back.
        digest: what the person saw in the preview; None accepts what is there.
        note: why.
        options: see ``Options``.

    Raises:
        RollbackRefused: the run is in another state, differs from what the person saw, or something is in the way.
        RunBusy: a living process is at it, or another run into the field was opened just now.
        SelectionError: the name is the machine's.
        DecisionRefused: the name is not one of ``review.reviewers``.
    """
    actions.check_person(reviewer)
    if not reviewer.strip():
        raise RollbackRefused("a rollback needs the name of who does it: --reviewer NAME or VALFLOW_REVIEWER")
    record, wanted = runs.load(run), Options(**options)
    actions.check_reviewer(record, reviewer)
    if record["state"] in GOING and runs.is_alive(record):
        raise RunBusy(
            f"{record['rollback']['reviewer']} is rolling run {run} back just now (process {record['process']})",
            record["run"],
        )
    if record["state"] not in GOING:
        _begin(record, reviewer.strip(), wanted, digest, note)
    return go_on(record["run"])


def _look(record: runs.Record, wanted: Options) -> Preview:
    _require(record, wanted)
    dataset = database.dataset_of(record)
    copy = None
    if wanted.from_copy is not None:
        copy = bringing_back.choose(record, wanted.from_copy)
        reopening.check_field(record, dataset)
    if wanted.reopen or _brings_in(record, wanted):
        reopening.check(record, dataset)
    found = describe(record, dataset, wanted.takes_edited, wanted.reopen, copy)
    return replace(found, labels=0, samples=0) if _brings_in(record, wanted) else found


def _brings_in(record: runs.Record, wanted: Options) -> bool:
    """Whether the labels of the run come back, instead of going."""
    return wanted.from_copy is not None and record["state"] == State.ROLLED_BACK.value


def _begin(record: runs.Record, reviewer: str, wanted: Options, digest: str | None, note: str | None) -> None:
    _require(record, wanted)
    _require_free(record)
    found = _look(record, wanted)
    _check_digest(found, digest)
    if wanted.reopen and found.edited and not wanted.takes_edited:
        raise RollbackRefused(
            f"{len(found.edited)} labels of run {record['run']} were edited since ({', '.join(found.edited[:5])}); "
            "they cannot be final and in review at once. --including-edited brings them into review as they "
            "were edited"
        )
    copy, brings_in = found.copy, _brings_in(record, wanted)
    figures = {
        "labels": found.labels,
        "samples": found.samples,
        "edited": len(found.edited),
    }
    runs.transition(
        record,
        Event.BEGIN_ROLLBACK,
        actor=reviewer,
        note=note,
        figures=figures if copy is None else {**figures, "copy": copy.copy, "missing": copy.missing},
        changes={
            **runs.sign_of_life(),
            "copy": uuid.uuid4().hex,
            # Nobody may label into the field before the review is open again.
            "open": wanted.reopen or brings_in,
            "rollback": {
                "reviewer": reviewer,
                "note": note,
                "digest": found.digest,
                "including_edited": wanted.takes_edited,
                "reopen": wanted.reopen,
                "from_copy": None if copy is None else copy.copy,
                "exactly": wanted.exactly,
                "brings_in": brings_in,
                "announced": found.labels,
                "returned": 0 if copy is None else copy.missing,
                "time": database.now(),
            },
        },
    )


def go_on(run: str) -> runs.Record:
    """Finish a rollback that was begun, or a reopening; harmless when repeated.

    Raises:
        RunBusy: a living process is at it.
        RollbackRefused: none was begun.
    """
    with runs.holding(run) as record:
        if record["state"] not in GOING:
            raise RollbackRefused(f"run {run} is {record['state']}; no rollback of it was broken off")
        dataset = database.dataset_of(record)
        if record["state"] == State.ROLLING_BACK.value:
            record = _change_field(record, dataset)
        if record["state"] == State.REOPENING.value:
            record = reopening.bring_back(record, dataset)
    safety_copies.prune(record)
    return record


def _change_field(record: runs.Record, dataset: Any) -> runs.Record:
    rollback, samples = record["rollback"], _finalized_samples(record)
    brings_in = rollback.get("brings_in", False)
    if record.get("copy") and (rollback["announced"] or rollback.get("from_copy")):
        why: safety_copies.Why = "bring_back" if brings_in else "rollback"
        safety_copies.make(record, dataset, record["copy"], why, rollback["reviewer"], samples)
    if not brings_in:
        _remove_labels(record, dataset, samples)
    if rollback.get("from_copy"):
        record = _bring_copy_back(record, dataset)
    runs.require(runs.fence_of(record), State.ROLLING_BACK)
    return _end_final(record, dataset) if brings_in else _end_taken_out(record, dataset)


def _bring_copy_back(record: runs.Record, dataset: Any) -> runs.Record:
    rollback = record["rollback"]
    copy = safety_copies.find(rollback["from_copy"])
    if copy is None:
        raise RollbackRefused(
            f"safety copy {rollback['from_copy']} is gone although run {record['run']} is being rolled back to it; "
            f"somebody deleted it from {database.COPIES} by hand"
        )
    if copy["labels"] or copy["samples"]:
        runs.update(runs.fence_of(record), {"field_id": promotion.declare_label_field(record, dataset)})
    bringing_back.apply(record, dataset, copy["_id"], exactly=rollback["exactly"])
    return runs.load(record["run"])


def _end_taken_out(record: runs.Record, dataset: Any) -> runs.Record:
    _remove_traces(record, dataset)
    left = _count(record, dataset)
    return runs.transition(
        record,
        Event.BEGIN_REOPEN if record["rollback"].get("reopen") else Event.ROLL_BACK,
        actor=record["rollback"]["reviewer"],
        figures={"left": left},
        changes={"rollback.left": left},
    )


def _end_final(record: runs.Record, dataset: Any) -> runs.Record:
    """The labels are in their field again; what was computed from them is due again."""
    dataset.reload()
    dataset.sync_last_modified_at()
    promotion.register(record, dataset)
    final = _count(record, dataset)
    measured = {"metrics": None, "completed_at": None} if record["config"].get("evaluation") else {}
    return runs.transition(
        record,
        Event.BRING_BACK,
        actor=record["rollback"]["reviewer"],
        figures={"labels": final},
        changes={"rollback.left": 0, "counts.finalized": final, "heartbeat_at": None, **measured},
    )


def _require_free(record: runs.Record) -> None:
    """Refuse while the run is still evaluated, exported or reported."""
    if runs.is_alive(record):
        raise RunBusy(
            f"run {record['run']} is final, but process {record['process']} still evaluates or exports it; "
            "roll it back when that is done",
            record["run"],
        )


def _require(record: runs.Record, wanted: Options) -> None:
    also = wanted.reopen or wanted.from_copy is not None
    allowed = [State.FINALIZED.value, *([State.ROLLED_BACK.value] if also else [])]
    if record["state"] in allowed:
        return
    hint = ""
    if record["state"] == State.ROLLED_BACK.value:
        hint = (
            f"; {record['rollback']['reviewer']} has taken it back: --reopen brings it back into review, "
            "--from-copy its labels into the label field"
        )
    elif record["state"] == State.IN_REVIEW.value and wanted.reopen:
        hint = "; its review is open"
    elif record["open"]:
        hint = "; discard it instead"
    raise RollbackRefused(
        f"run {record['run']} is {record['state']}; only a run that is {' or '.join(allowed)} can be "
        f"{'reopened' if wanted.reopen else 'rolled back'}{hint}"
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


def _finalized_samples(record: runs.Record) -> list[ObjectId]:
    cursor = database.ledger().find(finalized_in(record), {"_id": 0, "sample_id": 1}).sort("sample_id", 1)
    return [d["sample_id"] for d in cursor]


def _remove_labels(record: runs.Record, dataset: Any, samples: list[ObjectId]) -> None:
    """Batch by batch, on the server; a sample that had no such field before gets rid of it with its last label."""
    for start in range(0, len(samples), BATCH):
        part = samples[start : start + BATCH]
        runs.require(runs.fence_of(record), State.ROLLING_BACK)
        if record["rollback"]["including_edited"]:
            _keep_edits(record, dataset, part[0], part[-1])
        _remove_batch(record, dataset, part[0], part[-1])


def _keep_edits(record: runs.Record, dataset: Any, first: ObjectId, last: ObjectId) -> None:
    """What people made of labels that go now stays in the ledger, without the marks of an evaluation."""
    labels = label_type_of(record).first_labels_in("$sample", record["label_field"])
    token = {"$literal": record["frozen"]["token"]}
    own = {
        "$and": [
            {"$eq": ["$$d.run", record["run"]]},
            {"$in": ["$$d._id", "$ids"]},
            is_edited(record, "$labels", "$ids"),
        ]
    }
    there = {"$ifNull": [labels, []]}
    label: Expression | str = "$$d"
    for mark in marks_of_evaluation(record):
        label = {"$unsetField": {"field": {"$literal": mark}, "input": label}}
    edited = {
        "$map": {"input": {"$filter": {"input": there, "as": "d", "cond": own}}, "as": "d", "in": label}
    }
    earlier = {"$cond": [{"$eq": ["$edited_since.token", token]}, "$edited_since.labels", []]}
    others = {
        "$filter": {"input": earlier, "as": "d", "cond": {"$not": [{"$in": ["$$d._id", "$$new.edited._id"]}]}}
    }
    wanted = {**finalized_in(record), "sample_id": {"$gte": first, "$lte": last}}
    database.run_to_end(
        database.runs().aggregate(
            [
                *runs.while_held(runs.fence_of(record), State.ROLLING_BACK, wanted),
                with_sample(dataset),
                {"$set": {"labels": "$frozen.labels", "ids": "$frozen.labels._id"}},
                {"$project": {"edited": edited}},
                {"$match": {"edited.0": {"$exists": True}}},
                {
                    "$merge": {
                        "into": database.LEDGER,
                        "on": "_id",
                        "whenMatched": [
                            {
                                "$set": {
                                    "edited_since": {
                                        "token": token,
                                        "labels": {"$concatArrays": [others, "$$new.edited"]},
                                    }
                                }
                            }
                        ],
                        "whenNotMatched": "discard",
                    }
                },
            ]
        )
    )


def _remove_batch(record: runs.Record, dataset: Any, first: ObjectId, last: ObjectId) -> None:
    label_type, name = label_type_of(record), record["label_field"]
    path = label_type.labels_in(f"${name}")
    own = [{"$eq": ["$$d.run", record["run"]]}, {"$in": ["$$d._id", "$$new.labels._id"]}]
    if not record["rollback"]["including_edited"]:
        own.append({"$not": [is_edited(record, "$$new.labels", "$$new.labels._id")]})
    kept = {"$filter": {"input": {"$ifNull": [path, []]}, "as": "d", "cond": {"$not": [{"$and": own}]}}}
    bare = {"$and": [{"$eq": [{"$size": kept}, 0]}, {"$not": ["$$new.had_field"]}]}
    value = {"$cond": [bare, "$$REMOVE", label_type.value_of(name, kept)]}
    # A sample on which nothing is left to remove is not touched.
    concerned = {"$gt": [{"$size": {"$ifNull": [path, []]}}, {"$size": kept}]}
    wanted = {**finalized_in(record), "sample_id": {"$gte": first, "$lte": last}}
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
    with schema_changes.changing(dataset):
        _take_out(record, dataset)
    dataset.reload()
    dataset.sync_last_modified_at()


def _take_out(record: runs.Record, dataset: Any) -> None:
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
    if not made_by_us or database.samples_of(dataset).count_documents(in_use, limit=1):
        return
    # The next run may have declared the field just now, and be about to write into it.
    following = runs.find_open(record["dataset_id"], name)
    if following is None or State.FINALIZING.value not in (following["state"], following.get("failed_from")):
        dataset.delete_sample_field(name)


def _count(record: runs.Record, dataset: Any) -> int:
    """Labels of the run that stay in the label field: those edited since."""
    label_type, name = label_type_of(record), record["label_field"]
    query = {f"{label_type.path(name)}.run": record["run"]}
    own = {
        "$filter": {
            "input": label_type.labels_in(f"${name}"),
            "as": "d",
            "cond": {"$eq": ["$$d.run", record["run"]]},
        }
    }
    total = {"$group": {"_id": None, "n": {"$sum": {"$size": own}}}}
    return sum(d["n"] for d in database.samples_of(dataset).aggregate([{"$match": query}, total]))
