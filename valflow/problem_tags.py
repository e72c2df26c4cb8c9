"""Problem tags where people see them: on labels in the review field, and on their samples.

The ledger says which labels an action tagged; this writes it into the dataset, and takes it back, in the order of the
actions. An action that is still to be written says so, and who is at it: if that process dies, the next one goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from bson import ObjectId
from pymongo import UpdateMany, UpdateOne

from valflow import collector, database, ledger, mirroring, runs
from valflow.label_types import review_type_of
from valflow.own_writes import Stamp

_BATCH = 4000
# More samples than these take a noticeable part of a second: their tags follow after the answer.
AT_ONCE = 1000
_LOOK_EVERY = 0.05  # seconds
_WAIT_FOR_OTHERS = 5.0  # seconds
# How far an action is that puts tags on: nothing but the ledger is written, or what had the tag before is remembered.
_STARTED, _REMEMBERED = "started", "remembered"


def labels_tagged(run: str, action: int) -> int:
    """Number of labels that owe a tag to an action."""
    return ledger.count_where(
        {"run": run, "labels.tags.action": action}, {"$in": [action, "$$l.tags.action"]}
    )


def writing(step: str = _STARTED) -> dict[str, Any]:
    """What an action says of itself while its tags are written."""
    return {"step": step, **runs.sign_of_life()}


def write(record: dict[str, Any], dataset: Any, action: int) -> None:
    """Put the tag of an action on its labels and their samples, or take it off where the action is an undo.

    At once where few samples are concerned and nothing else is to be written before, else in the background.
    """
    run = record["run"]
    while (before := _earlier(run, action)) is not None and not runs.is_alive(before["writing"]):
        _write(record, dataset, before)
    change: Any = database.actions().find_one({"run": run, "seq": action})
    of = {"$or": [{"labels.tags.action": action}, {"labels.untag": change["selector"].get("action", action)}]}
    many = database.ledger().count_documents({"run": run, **of}, limit=AT_ONCE + 1) > AT_ONCE
    if many or before is not None:

        def first() -> None:
            # An undo waits for this alone, not for all that the run has still to write.
            if before is None and change["event"] == "tag":
                _remember(record, dataset, change, mirroring.rest)

        mirroring.afterwards(run, lambda: _in_turn(record, dataset, action), first)
        return
    _write(record, dataset, change)
    dataset.reload()


def finish(record: dict[str, Any], dataset: Any) -> None:
    """Write the tags of actions whose process died before it had done so; wait for those of one that lives.

    One elsewhere that lives is left to it after a while.
    """
    deadline = time.monotonic() + _WAIT_FOR_OTHERS
    mirroring.wait(record["run"])
    while (action := _earlier(record["run"])) is not None:
        if not runs.is_alive(action["writing"]):
            _write(record, dataset, action)
        elif time.monotonic() > deadline:
            return
        else:
            time.sleep(_LOOK_EVERY)


def is_remembered(action: dict[str, Any]) -> bool:
    """Whether it is known what had the tag of an action before, so that it can be taken back while it is written."""
    return action.get("writing", {"step": _REMEMBERED}).get("step") == _REMEMBERED


def until_remembered(record: dict[str, Any], dataset: Any, action: dict[str, Any]) -> dict[str, Any]:
    """The action that puts a tag on, once ``is_remembered``, or after a while in which it did not become so."""
    deadline = time.monotonic() + _WAIT_FOR_OTHERS
    with mirroring.in_a_hurry():
        while not is_remembered(action) and time.monotonic() < deadline:
            if runs.is_alive(action["writing"]):
                time.sleep(_LOOK_EVERY)
            else:
                finish(record, dataset)
            action = database.actions().find_one({"_id": action["_id"]}) or action
    return action


def withdraw(run: str, action: int) -> int:
    """The labels of an action owe its tag no more: what is left to do is to take it off; returns their number."""
    changed = labels_tagged(run, action)
    owing = {"l.tags": {"$elemMatch": {"action": action, "kept": {"$ne": True}}}}
    database.ledger().update_many(
        {"run": run, "labels.tags.action": action},
        {
            "$addToSet": {"labels.$[l].untag": action},
            "$pull": {"labels.$[t].tags": {"action": action}},
        },
        array_filters=[owing, {"t.tags.action": action}],
    )
    return changed


def _earlier(run: str, action: int | None = None) -> dict[str, Any] | None:
    """The first action (before this one) whose tags are still to be written."""
    query: dict[str, Any] = {"run": run, "event": {"$in": ["tag", "undo"]}, "writing": {"$exists": True}}
    if action is not None:
        query["seq"] = {"$lt": action}
    return database.actions().find_one(query, sort=[("seq", 1)])


def _in_turn(record: dict[str, Any], dataset: Any, action: int) -> None:
    """Write in the background, after all earlier actions, for a later one asks what had the tag before."""
    while (before := _earlier(record["run"], action)) is not None:
        if runs.is_alive(before["writing"]):
            time.sleep(_LOOK_EVERY)
        else:
            _write(record, dataset, before)
    now: Any = database.actions().find_one({"run": record["run"], "seq": action})
    _write(record, dataset, now, mirroring.rest)


def _write(
    record: dict[str, Any], dataset: Any, action: dict[str, Any], between: Callable[[], None] | None = None
) -> None:
    """Write what an action changes, all of it or what is left; ``between`` is called before each batch."""
    run, seq, selector = record["run"], action["seq"], action["selector"]

    def alive() -> None:
        if between is not None:
            between()
        database.actions().update_one(
            {"run": run, "seq": seq}, {"$set": {f"writing.{k}": v for k, v in runs.sign_of_life().items()}}
        )

    if action["event"] == "undo":
        undone: Any = database.actions().find_one({"run": run, "seq": selector["action"]})
        withdraw(run, selector["action"])  # already done, unless the process died in between
        _take_off(record, dataset, undone["selector"]["tag"], selector["action"], alive)
        if undone["event"] == "tag":  # an undo of verdicts has more to do, and is repeated instead
            taken_back = {"run": run, "seq": selector["action"], "undone_by": None}
            database.actions().update_one(taken_back, {"$set": {"undone_by": seq}})
    else:
        _put_on(record, dataset, action, alive)
    database.actions().update_one({"run": run, "seq": seq}, {"$unset": {"writing": ""}})


@collector.paused()
def _put_on(record: dict[str, Any], dataset: Any, tagging: dict[str, Any], alive: Callable[[], None]) -> None:
    """Put the tag of an action on its labels and their samples, in batches."""
    name, action = tagging["selector"]["tag"], tagging["seq"]
    path = review_type_of(record).list_path(record["staging_field"])
    samples, stamp = database.samples_of(dataset), Stamp.take(record["run"])
    _remember(record, dataset, tagging, alive)
    for holders in _tagged(record["run"], action):
        alive()
        ids = list(holders)
        samples.bulk_write(_changes("$addToSet", name, ids, ids, path, holders, stamp, samples))


@collector.paused()
def _remember(
    record: dict[str, Any], dataset: Any, tagging: dict[str, Any], alive: Callable[[], None]
) -> None:
    """Note what had the tag before, for all, before any is written: who goes on after a crash could not tell it."""
    if is_remembered(tagging):
        return
    run, name, action = record["run"], tagging["selector"]["tag"], tagging["seq"]
    path = review_type_of(record).list_path(record["staging_field"])
    samples = database.samples_of(dataset)
    alive()
    if samples.find_one({"$or": [{"tags": name}, {f"{path}.tags": name}]}, {"_id": 1}) is None:
        # Nothing had it before: one update instead of several per batch.
        _mark_samples({"run": run, "labels.tags.action": action}, name, action)
    else:
        for holders in _tagged(run, action):
            alive()
            ids = list(holders)
            _owe(run, samples, name, action, ids)
            _keep_those_tagged(run, samples, path, name, action, ids)
    database.actions().update_one({"run": run, "seq": action}, {"$set": {"writing": writing(_REMEMBERED)}})


def put_on_samples(
    record: dict[str, Any], dataset: Any, name: str, action: int, sample_ids: Sequence[ObjectId]
) -> None:
    """Put a tag on whole samples, whatever labels they have; those that had it before owe it to nobody."""
    samples = database.samples_of(dataset)
    owing = _owe(record["run"], samples, name, action, sample_ids)
    if owing:
        _change_samples("$addToSet", name, owing, Stamp.take(record["run"]), samples)
        dataset.reload()


@collector.paused()
def _take_off(
    record: dict[str, Any],
    dataset: Any,
    name: str,
    action: int,
    between: Callable[[], None],
) -> None:
    """Take the tag of an action off again, but for what had it before; ``between`` is called before each batch."""
    run, path = record["run"], review_type_of(record).list_path(record["staging_field"])
    samples, stamp = database.samples_of(dataset), Stamp.take(run)
    # A sample that owes the tag to another action as well keeps it.
    others = {"$elemMatch": {"tag": name, "action": {"$ne": action}}}
    mine_alone = [{"sample_tags": {"tag": name, "action": action}}, {"sample_tags": {"$not": others}}]
    query = {"run": run, "$and": mine_alone}
    alone = {d["sample_id"] for d in database.ledger().find(query, {"_id": 0, "sample_id": 1})}
    whole = set(alone)
    for holders in _withdrawn(run, action, name, is_given_again=False):
        between()
        mine = [i for i in holders if i in alone]
        whole -= holders.keys()
        samples.bulk_write(_changes("$pull", name, list(holders), mine, path, holders, stamp, samples))
    if whole:
        _change_samples("$pull", name, list(whole), stamp, samples)
    # Who gave the tag again while it was taken off.
    for holders in _withdrawn(run, action, name, is_given_again=True):
        between()
        again = {i: labels for i, labels in holders.items() if labels}
        ids = list(again)
        if ids:
            samples.bulk_write(_changes("$addToSet", name, ids, ids, path, again, stamp, samples))
    marked = {"run": run, "$or": [{"labels.untag": action}, {"sample_tags.action": action}]}
    while ids := [d["_id"] for d in database.ledger().find(marked, {"_id": 1}).limit(_BATCH)]:
        between()
        batch = {"_id": {"$in": ids}}
        database.ledger().update_many(
            {**batch, "labels.untag": action},
            {"$pull": {"labels.$[l].untag": action}},
            array_filters=[{"l.untag": action}],
        )
        database.ledger().update_many(batch, {"$pull": {"sample_tags": {"action": action}}})
    dataset.reload()


def _change_samples(operator: str, name: str, ids: Sequence[ObjectId], stamp: Stamp, samples: Any) -> None:
    """Change the tags of whole samples."""
    change = {operator: {"tags": name}}
    samples.bulk_write(
        stamp.updates(
            {"_id": {"$in": list(ids)}}, change, None, stamp.worked_on(samples, ids), is_mended=False
        )
    )


def _tagged(run: str, action: int) -> Iterator[dict[ObjectId, list[ObjectId]]]:
    """Labels that owe their tag to an action, by sample, in batches."""
    owed = {"$and": [{"$eq": ["$$t.action", action]}, {"$ne": ["$$t.kept", True]}]}
    owes: ledger.Expression = {"$anyElementTrue": {"$map": {"input": "$$l.tags", "as": "t", "in": owed}}}
    return _holders(run, {"labels.tags.action": action}, owes)


def _withdrawn(
    run: str, action: int, name: str, *, is_given_again: bool
) -> Iterator[dict[ObjectId, list[ObjectId]]]:
    """Labels that owed a tag to an action until it was taken back; those that another one has given it are apart."""
    owed = {"$in": [action, {"$ifNull": ["$$l.untag", []]}]}
    # One that is still to be written puts it on by itself, after this.
    waiting = database.actions().distinct("seq", {"run": run, "writing": {"$exists": True}})
    given = {"$and": [{"$eq": ["$$t.tag", {"$literal": name}]}, {"$not": [{"$in": ["$$t.action", waiting]}]}]}
    again: ledger.Expression = {"$anyElementTrue": {"$map": {"input": "$$l.tags", "as": "t", "in": given}}}
    return _holders(
        run, {"labels.untag": action}, {"$and": [owed, again if is_given_again else {"$not": [again]}]}
    )


def _holders(
    run: str, query: Mapping[str, Any], chosen: ledger.Expression
) -> Iterator[dict[ObjectId, list[ObjectId]]]:
    labels = {"$filter": {"input": "$labels", "as": "l", "cond": chosen}}
    ids = {"$map": {"input": labels, "as": "l", "in": "$$l._id"}}
    cursor = database.ledger().aggregate(
        [{"$match": {"run": run, **query}}, {"$project": {"_id": 0, "sample_id": 1, "ids": ids}}],
        batchSize=_BATCH,
    )
    while batch := list(islice(cursor, _BATCH)):
        yield {holder["sample_id"]: holder["ids"] for holder in batch}


def _mark_samples(query: Mapping[str, Any], name: str, action: int) -> None:
    """Note that samples owe the tag to this action."""
    mark = {"$addToSet": {"sample_tags": {"tag": name, "action": action}}}
    database.ledger().update_many(query, mark)


def _keep_those_tagged(
    run: str, samples: Any, path: str, name: str, action: int, ids: Sequence[ObjectId]
) -> None:
    """Note which labels do not owe the tag to this action, for they carry it already."""
    carrying = {"_id": {"$in": ids}, f"{path}.tags": name}
    kept = []
    for sample in samples.find(carrying, {f"{path}._id": 1, f"{path}.tags": 1}):
        labels = [d["_id"] for d in _list_at(sample, path) if name in (d.get("tags") or [])]
        kept.append(
            UpdateOne(
                {"run": run, "sample_id": sample["_id"]},
                {"$set": {"labels.$[l].tags.$[t].kept": True}},
                array_filters=[{"l._id": {"$in": labels}}, {"t.action": action}],
            )
        )
    if kept:
        database.ledger().bulk_write(kept, ordered=False)


def _owe(run: str, samples: Any, name: str, action: int, ids: Sequence[ObjectId]) -> list[ObjectId]:
    """Note which samples owe the tag to this action, perhaps not to it alone; returns them.

    One that carries the tag without owing it to any action of the run had it before, and keeps it.
    """
    wanted = {"run": run, "sample_id": {"$in": list(ids)}}
    owed = database.ledger().find({**wanted, "sample_tags.tag": name}, {"_id": 0, "sample_id": 1})
    there = {d["_id"] for d in samples.find({"_id": {"$in": list(ids)}, "tags": name}, {"_id": 1})}
    had_before = there - {d["sample_id"] for d in owed}
    owing = [i for i in ids if i not in had_before]
    _mark_samples({"run": run, "sample_id": {"$in": owing}}, name, action)
    return owing


def _list_at(sample: dict[str, Any], path: str) -> list[dict[str, Any]]:
    field, _, name = path.partition(".")
    return (sample.get(field) or {}).get(name) or []


def _changes(
    operator: str,
    name: str,
    ids: Sequence[ObjectId],
    on_sample: Sequence[ObjectId],
    path: str,
    labels: Mapping[ObjectId, Sequence[ObjectId]],
    stamp: Stamp,
    samples: Any,
) -> list[UpdateMany]:
    """Updates of one batch: the tags of its labels, and those of its samples."""
    worked_on = stamp.worked_on(samples, ids)
    wanted = [label for sample_id in ids for label in labels[sample_id]]
    filters: list[Mapping[str, Any]] = [{"l._id": {"$in": wanted}, "l.tags": {"$type": "array"}}]
    there = {f"{path}.0": {"$exists": True}}
    on_labels = {f"{path}.$[l].tags": name}
    both = {**on_labels, "tags": name}
    alone = [i for i in ids if i not in set(on_sample)] if len(on_sample) < len(ids) else []
    return [
        *stamp.updates(
            {"_id": {"$in": on_sample}, **there}, {operator: both}, filters, worked_on, is_mended=False
        ),
        *stamp.updates(
            {"_id": {"$in": alone}, **there}, {operator: on_labels}, filters, worked_on, is_mended=False
        ),
        # A sample whose review field is gone cannot take label tags; its own tag still says it.
        *stamp.updates(
            {"_id": {"$in": on_sample}, f"{path}.0": {"$exists": False}},
            {operator: {"tags": name}},
            None,
            worked_on,
            is_mended=False,
        ),
    ]
