"""How entries of the ledger come into a state, and back; each change leaves the number of its action.

What a state replaces stays on a stack beside it, so that an undo needs no list of ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import bson
from bson import ObjectId
from pymongo import UpdateOne

from valflow import database
from valflow.label_types import APPROVED
from valflow.ledger import FRESH, POLICY_ACTION, UNDECIDED, Expression, count_labels

_WRITE_BATCH = 1000
_CLASSES_AT_ONCE = 100
_STATES_AT_ONCE = 20
# A change of more labels than these takes a noticeable part of a second.
_FEW = 5000


def undecide_all(run: str) -> None:
    """Bring all labels back to how they were entered; for a run that nobody has reviewed yet."""
    touched = {"$or": [{"action": {"$ne": 0}}, {"invalid": {"$ne": []}}]}
    database.ledger().update_many(
        {"run": run, "labels": {"$elemMatch": touched}},
        {"$set": {**{f"labels.$[].{k}": v for k, v in FRESH.items()}, "dirty": POLICY_ACTION}},
    )


def approve_by_threshold(run: str, default: float, per_class: dict[str, float]) -> int:
    """The policy's action: approve undecided, valid labels at or above the threshold of their class.

    One update for all classes that have no threshold of their own and for up to 100 that have: filters of array
    elements cost half of what a pipeline does, but a label is compared with class after class.

    Returns:
        The number of labels approved.
    """
    named = list(per_class.items())
    others = {"l.label": {"$nin": list(per_class)}, "l.confidence": {"$gte": default}}
    change = {"state": APPROVED, "action": POLICY_ACTION, "prev": [{"state": UNDECIDED, "action": 0}]}
    update = {"$set": {**{f"labels.$[l].{k}": v for k, v in change.items()}, "dirty": POLICY_ACTION}}
    for start in range(0, max(len(named), 1), _CLASSES_AT_ONCE):
        part = named[start : start + _CLASSES_AT_ONCE]
        rules: list[Any] = [
            {"l.label": label, "l.confidence": {"$gte": threshold}} for label, threshold in part
        ]
        rules += [] if start else [others]
        # A missing or NaN confidence is not a number at or above the least threshold, so it never passes.
        least = min([threshold for _, threshold in part] + ([] if start else [default]))
        open_label = {"action": 0, "state": UNDECIDED, "invalid": [], "confidence": {"$gte": least}}
        database.ledger().update_many(
            {"run": run, "labels": {"$elemMatch": open_label}},
            update,
            array_filters=[{**{f"l.{k}": v for k, v in open_label.items()}, "$or": rules}],
        )
    return count_labels(run, {"action": POLICY_ACTION})


def map_labels(condition: Expression, change: Expression) -> Expression:
    """A pipeline stage that merges ``change`` into every label entry (``$$l``) for which ``condition`` holds."""
    changed = {"$cond": [condition, {"$mergeObjects": ["$$l", change]}, "$$l"]}
    return {"$set": {"labels": {"$map": {"input": "$labels", "as": "l", "in": changed}}}}


def state_change(state: str, action: int, *also: str) -> Expression:
    """The entry's new state; the old one, and other attributes ``also``, go on top of its stack for undo."""
    previous = {name: f"$$l.{name}" for name in ("state", "action", *also)}
    return {"state": state, "action": action, "prev": {"$concatArrays": [[previous], "$$l.prev"]}}


@dataclass(frozen=True)
class Standing:
    """What some entries are now.

    Attributes:
        selected: number of entries that are meant.
        possible: number of those that may be changed.
        before: the different states of the latter, as their stacks will hold them.
    """

    selected: int
    possible: int
    before: tuple[dict[str, Any], ...]


def standing(query: Mapping[str, Any], chosen: Expression, may: Expression) -> Standing:
    """Look at entries before they are decided.

    Args:
        query: which documents may hold such entries.
        chosen: whether the entry ``$$l`` is meant.
        may: whether it may be changed.
    """
    entries = {"$filter": {"input": "$labels", "as": "l", "cond": chosen}}
    possible = {"$filter": {"input": "$$chosen", "as": "l", "cond": may}}
    was = {"$map": {"input": "$$possible", "as": "l", "in": {"state": "$$l.state", "action": "$$l.action"}}}
    looked = {
        "n": {"$size": "$$chosen"},
        "both": {"$size": "$$possible"},
        "before": {"$setUnion": [was]},
    }
    inner = {"$let": {"vars": {"possible": possible}, "in": looked}}
    groups = list(
        database.ledger().aggregate(
            [
                {"$match": dict(query)},
                {"$project": {"s": {"$let": {"vars": {"chosen": entries}, "in": inner}}}},
                {"$group": {"_id": "$s.before", "n": {"$sum": "$s.n"}, "both": {"$sum": "$s.both"}}},
            ]
        )
    )
    before = tuple(_different(group["_id"] for group in groups))
    return Standing(sum(g["n"] for g in groups), sum(g["both"] for g in groups), before)


def decide(
    run: str,
    query: Mapping[str, Any],
    entry: Mapping[str, Any],
    now: Standing,
    state: str,
    action: int,
) -> None:
    """Bring entries into a state; the old one goes on top of their stacks for undo.

    Filters of array elements cost half of what a pipeline does, but cannot read what they replace: so the few
    different states that there are must be known. What somebody else decided since is in none of them, and stays.

    Args:
        run: key of the run.
        query: which documents may hold such entries.
        entry: which entries, as a query on one.
        now: what they are; see ``standing``.
        state: the new state.
        action: the action that brings them there.
    """
    for part in _parts(now.before):
        change: dict[str, Any] = {"dirty": action}
        stack, filters = {}, []
        for number, was in enumerate(part):
            name = f"l{number}"
            change |= {f"labels.$[{name}].state": state, f"labels.$[{name}].action": action}
            stack[f"labels.$[{name}].prev"] = {"$each": [was], "$position": 0}
            filters.append(array_filter(name, {"$and": [entry, was]}))
        update_entries(run, query, {"$set": change, "$push": stack}, filters, now.possible)


def restore(run: str, action: int, undo: int) -> int:
    """Bring the entries of an action, their last one, back to what they were; returns their number.

    ``returned`` remembers when the action held. As in ``decide``, the few different states come first.
    """
    query = {"labels.action": action}
    mine = {"$filter": {"input": "$labels", "as": "l", "cond": {"$eq": ["$$l.action", action]}}}
    values = {"$map": {"input": mine, "as": "l", "in": {"$first": "$$l.prev"}}}
    groups = list(
        database.ledger().aggregate(
            [
                {"$match": {"run": run, **query}},
                {"$project": {"was": values}},
                {"$group": {"_id": {"$setUnion": ["$was"]}, "n": {"$sum": {"$size": "$was"}}}},
            ]
        )
    )
    labels = sum(group["n"] for group in groups)
    for part in _parts(_different(group["_id"] for group in groups)):
        change: dict[str, Any] = {"dirty": undo}
        popped, returned, filters = {}, {}, []
        for number, before in enumerate(part):
            name = f"l{number}"
            change |= {f"labels.$[{name}].{key}": value for key, value in before.items()}
            popped[f"labels.$[{name}].prev"] = -1
            returned[f"labels.$[{name}].returned"] = {"of": action, "at": undo}
            filters.append(array_filter(name, {"action": action, "prev.0": before}))
        update_entries(run, query, {"$set": change, "$pop": popped, "$push": returned}, filters, labels)
    return labels


def take_out_below(run: str, action: int, undo: int) -> None:
    """Take an action out of the stacks of entries that a later one has decided: its undo must not bring it back."""
    change = {
        "$pull": {"labels.$[l].prev": {"action": action}},
        "$push": {"labels.$[l].returned": {"of": action, "at": undo}},
    }
    database.ledger().update_many(
        {"run": run, "labels.prev.action": action},
        change,
        array_filters=[{"l.prev.action": action}],
    )


def update_entries(
    run: str,
    query: Mapping[str, Any],
    update: Mapping[str, Any],
    array_filters: Sequence[Mapping[str, Any]],
    labels: int,
) -> None:
    """Update documents of a run while a person waits, many of them by halves side by side.

    Args:
        run: key of the run.
        query: which documents.
        update: what changes.
        array_filters: which entries the update means.
        labels: about how many those are.
    """

    def change(half: dict[str, Any]) -> None:
        database.ledger().update_many(
            {"$and": [{"run": run}, half, query]}, update, array_filters=array_filters
        )

    parts = halves(run) if labels > _FEW else [{}]
    database.side_by_side(*(partial(change, part) for part in parts))


def halves(run: str) -> list[dict[str, Any]]:
    """Queries for either half of a run's samples: one update or aggregation keeps but one core of the server busy."""
    this = {"run": run}
    skip = database.ledger().count_documents(this) // 2
    middle = database.ledger().find_one(this, {"sample_id": 1}, sort=[("sample_id", 1)], skip=skip)
    return [{"sample_id": {side: middle["sample_id"]}} for side in ("$lt", "$gte")] if middle else [{}]


def _different(sets: Iterable[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The different states in several sets of them, also where they differ by the order of their fields alone."""
    return list({bson.encode(state): state for states in sets for state in states}.values())


def _parts(states: Sequence[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    """Of different states, as many as one update takes at a time."""
    for start in range(0, len(states), _STATES_AT_ONCE):
        yield states[start : start + _STATES_AT_ONCE]


def array_filter(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """A query on one entry, as a filter of array elements."""
    return {
        **{f"{name}.{key}": value for key, value in entry.items() if not key.startswith("$")},
        **{
            key: [array_filter(name, part) for part in parts if part]
            for key, parts in entry.items()
            if key.startswith("$")
        },
    }


def mark_invalid(
    run: str, reasons: dict[ObjectId, dict[ObjectId, list[str]]], action: int = POLICY_ACTION
) -> None:
    """Write why labels fail a check, ``{sample_id: {label_id: reasons}}``; an empty list takes the mark away."""
    updates = []
    for sample_id, labels in reasons.items():
        ids = list(labels)
        why = {"$arrayElemAt": [{"$literal": list(labels.values())}, {"$indexOfArray": [ids, "$$l._id"]}]}
        stage = map_labels({"$in": ["$$l._id", ids]}, {"invalid": why})
        updates.append(UpdateOne({"run": run, "sample_id": sample_id}, [stage, {"$set": {"dirty": action}}]))
    for start in range(0, len(updates), _WRITE_BATCH):
        database.ledger().bulk_write(updates[start : start + _WRITE_BATCH], ordered=False)
