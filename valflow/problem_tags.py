"""Problem tags where people see them: on labels in the review field, and on their samples.

The ledger says which labels an action tagged; this writes it into the dataset, and takes it back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from bson import ObjectId
from pymongo import UpdateMany, UpdateOne

from valflow import collector, database, ledger, runs
from valflow.label_types import label_type_of
from valflow.own_writes import Stamp

_BATCH = 4000
# How far an action is that puts tags on: nothing but the ledger is written, or what had the tag before is remembered.
_STARTED, _REMEMBERED = "started", "remembered"


def labels_tagged(run: str, action: int) -> int:
    """Number of labels that owe a tag to an action."""
    return ledger.count_where(
        {"run": run, "labels.tags.action": action}, {"$in": [action, "$$l.tags.action"]}
    )


def put_on(record: dict[str, Any], dataset: Any, name: str, action: int) -> None:
    """Put the tag of an action on its labels and on their samples; what had it before is remembered.

    That is written down first, for all of them: who goes on after a crash could not tell it any more.
    """
    _put_on(record, dataset, name, action, is_remembered=False)
    dataset.reload()


def writing(step: str = _STARTED) -> dict[str, Any]:
    """What an action says of itself while its tags are put on."""
    return {"step": step, **runs.sign_of_life()}


def finish(record: dict[str, Any], dataset: Any) -> None:
    """Put on the tags of actions whose process died before it had done so."""
    unfinished = {"run": record["run"], "event": "tag", "writing": {"$exists": True}, "undone_by": None}
    for action in list(database.actions().find(unfinished)):
        if not runs.is_alive(action["writing"]):
            is_remembered = action["writing"]["step"] == _REMEMBERED
            _put_on(record, dataset, action["selector"]["tag"], action["seq"], is_remembered)


@collector.paused()
def _put_on(record: dict[str, Any], dataset: Any, name: str, action: int, is_remembered: bool) -> None:
    path = label_type_of(record).list_path(record["staging_field"])
    samples, stamp = database.samples_of(dataset), Stamp.take(record["run"])
    this = {"run": record["run"], "seq": action}
    if not is_remembered:
        if samples.find_one({"$or": [{"tags": name}, {f"{path}.tags": name}]}, {"_id": 1}) is None:
            # Nothing had it before: one update instead of several per batch.
            _mark_samples({"run": record["run"], "labels.tags.action": action}, name, action)
        else:
            for holders in _holders(record["run"], action):
                _remember(record["run"], samples, path, name, action, list(holders))
        database.actions().update_one(this, {"$set": {"writing": writing(_REMEMBERED)}})
    for holders in _holders(record["run"], action):
        ids = list(holders)
        samples.bulk_write(_changes("$addToSet", name, ids, ids, path, holders, stamp, samples))
    database.actions().update_one(this, {"$unset": {"writing": ""}})


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
def take_off(record: dict[str, Any], dataset: Any, name: str, action: int) -> int:
    """Take the tag of an action off again, but for what had it before; returns the number of labels."""
    changed = labels_tagged(record["run"], action)
    path = label_type_of(record).list_path(record["staging_field"])
    samples, stamp = database.samples_of(dataset), Stamp.take(record["run"])
    # A sample that owes the tag to another action as well keeps it.
    others = {"$elemMatch": {"tag": name, "action": {"$ne": action}}}
    mine_alone = [{"sample_tags": {"tag": name, "action": action}}, {"sample_tags": {"$not": others}}]
    query = {"run": record["run"], "$and": mine_alone}
    alone = {d["sample_id"] for d in database.ledger().find(query, {"_id": 0, "sample_id": 1})}
    whole = set(alone)
    for holders in _holders(record["run"], action):
        mine = [i for i in holders if i in alone]
        whole -= holders.keys()
        samples.bulk_write(_changes("$pull", name, list(holders), mine, path, holders, stamp, samples))
    if whole:
        _change_samples("$pull", name, list(whole), stamp, samples)
    database.ledger().update_many(
        {"run": record["run"], "labels.tags.action": action},
        {"$pull": {"labels.$[].tags": {"action": action}}},
    )
    database.ledger().update_many(
        {"run": record["run"], "sample_tags.action": action}, {"$pull": {"sample_tags": {"action": action}}}
    )
    dataset.reload()
    return changed


def _change_samples(operator: str, name: str, ids: Sequence[ObjectId], stamp: Stamp, samples: Any) -> None:
    """Change the tags of whole samples."""
    change = {operator: {"tags": name}}
    samples.bulk_write(
        stamp.updates(
            {"_id": {"$in": list(ids)}}, change, None, stamp.worked_on(samples, ids), is_mended=False
        )
    )


def _holders(run: str, action: int) -> Iterator[dict[ObjectId, list[ObjectId]]]:
    """Labels that owe their tag to an action, by sample, in batches."""
    owes = {
        "$anyElementTrue": {
            "$map": {
                "input": "$$l.tags",
                "as": "t",
                "in": {"$and": [{"$eq": ["$$t.action", action]}, {"$ne": ["$$t.kept", True]}]},
            }
        }
    }
    chosen = {"$filter": {"input": "$labels", "as": "l", "cond": owes}}
    cursor = database.ledger().aggregate(
        [
            {"$match": {"run": run, "labels.tags.action": action}},
            {
                "$project": {
                    "_id": 0,
                    "sample_id": 1,
                    "ids": {"$map": {"input": chosen, "as": "l", "in": "$$l._id"}},
                }
            },
        ],
        batchSize=_BATCH,
    )
    while batch := list(islice(cursor, _BATCH)):
        yield {holder["sample_id"]: holder["ids"] for holder in batch}


def _mark_samples(query: Mapping[str, Any], name: str, action: int) -> None:
    """Note that samples owe the tag to this action."""
    mark = {"$addToSet": {"sample_tags": {"tag": name, "action": action}}}
    database.ledger().update_many(query, mark)


def _remember(run: str, samples: Any, path: str, name: str, action: int, ids: Sequence[ObjectId]) -> None:
    """Note which samples owe the tag to this action, and which labels do not."""
    _owe(run, samples, name, action, ids)
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
