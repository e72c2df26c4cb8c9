"""What reviewers do with labels: approve, reject, reset, tag.

Each action is one bulk update that leaves its number on every label it changed, so that undo is
"where action == n" and never a list of ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from bson import ObjectId
from pymongo import ReturnDocument, UpdateOne

from valflow import database, label_states, ledger, mirroring, problem_tags, runs
from valflow.errors import DecisionRefused, IllegalTransition, SelectionError
from valflow.label_states import map_labels, state_change
from valflow.label_types import APPROVED, REJECTED, WORKFLOW_TAGS
from valflow.ledger import UNDECIDED, Expression
from valflow.selections import Selection, object_ids
from valflow.states import State

POLICY = "policy"
MACHINE = (POLICY, "system")
# A freeze takes seconds; one older than this belongs to a process that died.
FREEZE_EXPIRES = timedelta(minutes=5)
JUDGE_IMAGES = "judge_images"


@dataclass(frozen=True)
class ActionResult:
    """What an action did.

    Attributes:
        run: key of the run.
        seq: number of the action; 0 where nothing was recorded.
        event: approve, reject, tag, judge, reset or undo.
        changed: number of labels changed.
        left: selected labels that were left as they are, by reason.
    """

    run: str
    seq: int
    event: str
    changed: int
    left: dict[str, int]


def check_person(name: str) -> None:
    """Refuse names that the history and the ledger use for the machine.

    Raises:
        SelectionError: the name is one of them.
    """
    if name.strip().lower() in MACHINE:
        raise SelectionError(
            f"{name.strip()!r} is the name of the machine in every record; give a person's name"
        )


def check_reviewer(record: runs.Record, name: str) -> None:
    """Refuse who may not act on a run: the machine's names, and where ``review.reviewers`` is set, all others.

    Raises:
        SelectionError: the name is the machine's.
        DecisionRefused: the name is not on the list.
    """
    check_person(name)
    allowed = record["config"]["review"]["reviewers"]
    if allowed and name.strip() not in allowed:
        raise DecisionRefused(
            f"{name.strip()!r} may not decide this run; its reviewers are {', '.join(allowed)}"
        )


def approve(run: str, selection: Selection, reviewer: str) -> ActionResult:
    """Approve the selected labels.

    Rejected labels stay rejected. Labels that fail a check are approved only where named by id: whoever
    names one has looked at it.

    Raises:
        SelectionError: nothing that is selected can be approved.
        IllegalTransition: the run is not in review.
        DecisionRefused: see ``check_reviewer``.
    """
    may: Expression = {"$eq": ["$$l.state", UNDECIDED]}
    if selection.label_ids:
        return _decide(run, "approve", selection, reviewer, APPROVED, may, None)
    may = {"$and": [may, {"$eq": ["$$l.invalid", []]}]}
    return _decide(run, "approve", selection, reviewer, APPROVED, may, {"state": UNDECIDED, "invalid": []})


def reject(run: str, selection: Selection, reviewer: str) -> ActionResult:
    """Reject the selected labels, approved ones included.

    Raises:
        SelectionError: nothing that is selected can be rejected.
        IllegalTransition: the run is not in review.
        DecisionRefused: see ``check_reviewer``.
    """
    may = {"$ne": ["$$l.state", REJECTED]}
    return _decide(run, "reject", selection, reviewer, REJECTED, may, {"state": {"$ne": REJECTED}})


def reset(run: str, reviewer: str, classes: Sequence[str] = ()) -> ActionResult:
    """Put every decided label, or those of some classes, back to undecided; the policy's approvals too.

    Raises:
        SelectionError: no label of these classes is decided.
        IllegalTransition: the run is not in review.
        DecisionRefused: see ``check_reviewer``.
    """
    selection = Selection(classes=tuple(classes), all=True)
    may = {"$ne": ["$$l.state", UNDECIDED]}
    return _decide(run, "reset", selection, reviewer, UNDECIDED, may, {"state": {"$ne": UNDECIDED}})


def tag(run: str, name: str, selection: Selection, reviewer: str, note: str | None = None) -> ActionResult:
    """Tag labels as a problem, and the samples they lie on, so that ``match_tags`` finds them ever after.

    Args:
        run: key of the run.
        name: one of the seven problem tags, or a team's own.
        selection: which labels.
        reviewer: who says so.
        note: an observation about these labels; it appears in the report under their classes.

    Raises:
        SelectionError: no label is selected, or the tag is one of the workflow's own.
    """
    record = runs.load(run)
    check_reviewer(record, reviewer)
    if not name.strip() or name in WORKFLOW_TAGS:
        raise SelectionError(
            f"expected a problem tag or one of your own, found {name!r}; {', '.join(WORKFLOW_TAGS)} are the workflow's"
        )
    run = record["run"]
    _check_known(run, selection)
    query, entry = selection.document_query(), selection.entry_query()
    # Where a query says it all, one label that matches is enough.
    there = {"run": run, **query}
    if not (
        database.ledger().find_one(there, {"_id": 1})
        if entry is not None
        else ledger.count_where(there, selection.condition())
    ):
        raise SelectionError(_nothing_selected(run, selection, "tagged"))
    record = begin(run)
    seq = record["action_seq"]
    dataset = database.dataset_of(record)
    selector = {"tag": name, "note": note, **selection.describe()}
    record_action(record, "tag", reviewer, selector, writing=problem_tags.writing())
    if name not in record.get("own_tags", []):
        database.runs().update_one({"run": run}, {"$addToSet": {"own_tags": name}})
    new = {"tags.tag": {"$ne": name}}
    added = {"tag": name, "action": seq}
    if entry is not None:
        database.ledger().update_many(
            {"run": run, **query},
            {"$push": {"labels.$[l].tags": added}},
            array_filters=[label_states.array_filter("l", {"$and": [entry, new]})],
        )
    else:
        fresh = {"$not": [{"$in": [{"$literal": name}, "$$l.tags.tag"]}]}
        change = {"tags": {"$concatArrays": ["$$l.tags", [{"tag": {"$literal": name}, "action": seq}]]}}
        stage = map_labels({"$and": [selection.condition(), fresh]}, change)
        database.ledger().update_many({"run": run, **query}, [stage])
    problem_tags.write(record, dataset, seq)
    return ActionResult(run, seq, "tag", problem_tags.labels_tagged(run, seq), {})


def judge_labels(run: str, reviewer: str, consequences: Mapping[str, Sequence[ObjectId]], audit: Any) -> int:
    """Act on audit verdicts; returns the number of the action, for ``finished`` once the verdicts are on record.

    A label that somebody rejected since the draw stays rejected, and one that somebody approved needs no approval.

    Args:
        run: key of a run in review.
        reviewer: who judged.
        consequences: per state the labels that get it; only approved ones become undecided.
        audit: id of the draw.
    """
    _read_app_edits(run)
    record = begin(run)
    seq = record["action_seq"]
    counts = {state: len(ids) for state, ids in consequences.items()}
    record_action(record, "judge", reviewer, {"audit": str(audit), **counts}, writing=runs.sign_of_life())
    may: dict[str, Expression] = {
        REJECTED: {"$ne": ["$$l.state", REJECTED]},
        UNDECIDED: {"$eq": ["$$l.state", APPROVED]},
        APPROVED: {"$eq": ["$$l.state", UNDECIDED]},
    }
    updates = []
    for state, ids in consequences.items():
        wanted = set(ids)
        holders: Any = (
            database.ledger().find({"run": run, "labels._id": {"$in": list(ids)}}, {"labels._id": 1})
            if ids
            else []
        )
        for holder in holders:
            mine = [e["_id"] for e in holder["labels"] if e["_id"] in wanted]
            stage = map_labels({"$and": [{"$in": ["$$l._id", mine]}, may[state]]}, state_change(state, seq))
            updates.append(UpdateOne({"_id": holder["_id"]}, [stage, {"$set": {"dirty": seq}}]))
    if updates:
        database.ledger().bulk_write(updates)
        mirroring.mirror_soon(record, database.dataset_of(record))
    return seq


def record_policy_action(run: str, thresholds: dict[str, Any]) -> None:
    """Write down the policy's own action, number 1; harmless when repeated."""
    _record_once(run, ledger.POLICY_ACTION, "approve", POLICY, {"thresholds": thresholds})


def withdraw_failing(record: runs.Record, failing: dict[ObjectId, dict[ObjectId, list[str]]]) -> int:
    """The gate's action: labels that failed validation are marked and wait for a person again.

    It comes before the review is open again, so that a crash in between leaves nothing to guess: the same validation
    does the same once more. Nobody else acts on a decided run, so the number of the action is the next one.

    Args:
        record: a decided run.
        failing: why, by sample and label.

    Returns:
        The number of the action, which the record must take over as the review is reopened.
    """
    run, seq = record["run"], record["action_seq"] + 1
    labels = sum(len(v) for v in failing.values())
    _record_once(run, seq, "refuse", POLICY, {"labels": labels})
    label_states.mark_invalid(run, failing, seq)
    for sample_id, reasons in failing.items():
        condition = {"$and": [{"$in": ["$$l._id", list(reasons)]}, {"$eq": ["$$l.state", APPROVED]}]}
        stage = map_labels(condition, state_change(UNDECIDED, seq))
        database.ledger().update_one({"run": run, "sample_id": sample_id}, [stage, {"$set": {"dirty": seq}}])
    mirroring.mirror_soon({**record, "action_seq": seq}, database.dataset_of(record))
    return seq


def history_of(run: str) -> list[dict[str, Any]]:
    """All actions of a run, in order."""
    return list(database.actions().find({"run": run}, {"_id": 0}).sort("seq", 1))


def _decide(
    run: str,
    event: str,
    selection: Selection,
    reviewer: str,
    state: str,
    may: Expression,
    may_query: dict[str, Any] | None,
) -> ActionResult:
    """Bring what is selected into a state, where it may be brought there.

    Args:
        run: key of the run.
        event: the action.
        selection: which labels.
        reviewer: who does it.
        state: the new state.
        may: whether the entry ``$$l`` may be brought there.
        may_query: the same as a query on one entry; None also takes their marks of failed checks off.
    """
    record = runs.load(run)
    check_reviewer(record, reviewer)
    run = record["run"]
    _read_app_edits(run)
    _check_known(run, selection)
    documents = {"run": run, **selection.document_query()}
    standing = label_states.standing(documents, selection.condition(), may)
    if not standing.possible:
        raise SelectionError(
            _nothing_selected(run, selection, {"approve": "approved", "reject": "rejected"}.get(event, event))
        )
    record = begin(run)
    seq = record["action_seq"]
    record_action(record, event, reviewer, selection.describe(), writing=runs.sign_of_life())
    query, entry = selection.document_query(), selection.entry_query()
    if may_query is not None and entry is not None:
        label_states.decide(run, query, {"$and": [entry, may_query]}, standing, state, seq)
    else:
        change = state_change(state, seq)
        if may_query is None:
            change = {**state_change(state, seq, "invalid"), "invalid": []}
        stage = map_labels({"$and": [selection.condition(), may]}, change)
        database.ledger().update_many({"run": run, **query}, [stage, {"$set": {"dirty": seq}}])
    mirroring.mirror_soon(record, database.dataset_of(record))
    finished(run, seq)
    changed = ledger.count_labels(run, {"action": seq})
    left = {"left as they are": standing.selected - changed} if standing.selected > changed else {}
    return ActionResult(run, seq, event, changed, left)


def _read_app_edits(run: str) -> None:
    """Before tags are written: what people tagged by hand in the App would be wiped as a difference."""
    from valflow.app_edits import read_edits

    read_edits(run)


def require_review(record: runs.Record) -> None:
    """Refuse what only a run in review allows.

    Raises:
        IllegalTransition: the run is in another state.
    """
    if record["state"] != State.IN_REVIEW.value:
        from valflow import lots

        if lots.is_waiting(record):
            raise IllegalTransition(lots.in_words(record))
        raise IllegalTransition(
            f"run {record['run']} is {record['state']}; labels can be decided only while it is {State.IN_REVIEW.value}"
            f"{who_decided(record)}"
        )


def who_decided(record: runs.Record) -> str:
    """The end of a sentence for whoever comes too late; empty where nobody has decided."""
    decision = record.get("decision")
    return f": {decision['reviewer']} decided to {decision['decision']} it" if decision else ""


def not_being_confirmed() -> dict[str, Any]:
    """Condition on a run record: nobody is copying its approval set right now."""
    now = database.now()
    expired = [
        {"freezing.at": {"$lt": now - FREEZE_EXPIRES}},
        {"freezing.at": {"$gt": now + FREEZE_EXPIRES}},  # the clock was set back since
    ]
    return {"$or": [{"freezing": None}, *expired]}


def begin(run: str) -> runs.Record:
    """Take the next action number.

    Raises:
        IllegalTransition: the run is not in review, or somebody is just confirming it.
    """
    record: Any = database.runs().find_one_and_update(
        {"run": run, "state": State.IN_REVIEW.value, **not_being_confirmed()},
        {"$inc": {"action_seq": 1}, "$set": {"updated_at": database.now()}},
        return_document=ReturnDocument.AFTER,
    )
    if record is None:
        current = runs.load(run)
        require_review(current)
        who = (current.get("freezing") or {}).get("by", "somebody")
        raise IllegalTransition(
            f"run {run} is being confirmed by {who} just now; look at it again in a moment"
        )
    return record


def record_action(record: runs.Record, event: str, actor: str, selector: dict[str, Any], **more: Any) -> None:
    """Write down the action that carries the record's current number, with what ``more`` there is to say of it."""
    database.actions().insert_one(
        {
            "run": record["run"],
            "seq": record["action_seq"],
            "actor": actor,
            "event": event,
            "selector": selector,
            "time": database.now(),
            "undone_by": None,
            **more,
        }
    )


def finished(run: str, seq: int) -> None:
    """Say that an action has written everything, so that it can be taken back."""
    database.actions().update_one({"run": run, "seq": seq}, {"$unset": {"writing": ""}})


def _record_once(run: str, seq: int, event: str, actor: str, selector: dict[str, Any]) -> None:
    """Write down an action of a stage that may be repeated; already there is fine."""
    action = {"event": event, "actor": actor, "selector": selector, "time": database.now(), "undone_by": None}
    database.actions().update_one({"run": run, "seq": seq}, {"$setOnInsert": action}, upsert=True)


def _check_known(run: str, selection: Selection) -> None:
    """Refuse a selection that names classes, labels or samples without labels in the run.

    Raises:
        SelectionError: names what is not there.
    """
    documents = database.ledger()
    lost = [
        c for c in selection.classes if not documents.find_one({"run": run, "labels.label": c}, {"_id": 1})
    ]
    if lost:
        known = [r["label"] for r in ledger.class_table(run)]
        raise SelectionError(
            f"run {run} has no labels of class {', '.join(lost)}; its classes: {', '.join(known[:30])}"
        )
    wanted = object_ids(selection.label_ids, "label")
    where = {"run": run, **selection.place_query(), "labels._id": {"$in": wanted}}
    found: Any = documents.find(where, {"labels._id": 1}) if wanted else []
    there = {entry["_id"] for document in found for entry in document["labels"]}
    lost = [str(i) for i in wanted if i not in there]
    if lost:
        raise SelectionError(f"run {run} has no label {', '.join(lost[:5])}; nothing was changed")
    wanted = object_ids(selection.sample_ids, "sample")
    lost = [
        str(i)
        for i in wanted
        if not documents.find_one({"run": run, "sample_id": i, "labels.0": {"$exists": True}})
    ]
    if lost:
        raise SelectionError(f"run {run} has no labels on sample {', '.join(lost[:5])}; nothing was changed")


def _nothing_selected(run: str, selection: Selection, what: str) -> str:
    return f"no label of run {run} matches {selection.describe()} and can be {what}; nothing was changed"
