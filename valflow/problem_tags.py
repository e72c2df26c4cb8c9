"""Problem tags where people see them: on labels in the review field, and on their samples.

The ledger says which labels an action tagged; this writes it into the dataset, and takes it back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bson import ObjectId
from pymongo import UpdateOne

from valflow import database, ledger
from valflow.label_types import label_type_of


def labels_tagged(run: str, action: int) -> int:
    """Number of labels that owe a tag to an action."""
    return ledger.count_where(
        {"run": run, "labels.tags.action": action}, {"$in": [action, "$$l.tags.action"]}
    )


def put_on(record: dict[str, Any], dataset: Any, name: str, action: int) -> None:
    """Put the tag of an action on its labels and on their samples; what had it before is remembered."""
    path = label_type_of(record).list_path(record["staging_field"])
    samples = database.samples_of(dataset)
    holders = _holders(record["run"], action)
    shown = {"tags": 1, f"{path}._id": 1, f"{path}.tags": 1}
    found = {s["_id"]: s for s in samples.find({"_id": {"$in": list(holders)}}, shown)}
    remembered, updates = [], []
    for sample_id, sample in found.items():
        holder = {"run": record["run"], "sample_id": sample_id}
        staged = _list_at(sample, path)
        if name not in sample.get("tags", []):
            mark = {"$addToSet": {"sample_tags": {"tag": name, "action": action}}}
            remembered.append(UpdateOne(holder, mark))
        had = [d["_id"] for d in staged or [] if name in (d.get("tags") or [])]
        if had:
            kept = {"$set": {"labels.$[l].tags.$[t].kept": True}}
            filters: list[Mapping[str, Any]] = [{"l._id": {"$in": had}}, {"t.action": action}]
            remembered.append(UpdateOne(holder, kept, array_filters=filters))
        updates += _changes("$addToSet", sample_id, name, True, path, staged, holders[sample_id])
    if remembered:
        database.ledger().bulk_write(remembered, ordered=False)
    if updates:
        samples.bulk_write(updates, ordered=False)
    dataset.reload()


def put_on_samples(
    record: dict[str, Any], dataset: Any, name: str, action: int, sample_ids: Sequence[ObjectId]
) -> None:
    """Put a tag on whole samples, whatever labels they have; those that had it before owe it to nobody."""
    samples = database.samples_of(dataset)
    query = {"_id": {"$in": list(sample_ids)}, "tags": {"$ne": name}}
    fresh = [s["_id"] for s in samples.find(query, {"_id": 1})]
    if not fresh:
        return
    database.ledger().update_many(
        {"run": record["run"], "sample_id": {"$in": fresh}},
        {"$addToSet": {"sample_tags": {"tag": name, "action": action}}},
    )
    samples.update_many(
        {"_id": {"$in": fresh}}, {"$addToSet": {"tags": name}, "$currentDate": {"last_modified_at": True}}
    )
    dataset.reload()


def take_off(record: dict[str, Any], dataset: Any, name: str, action: int) -> int:
    """Take the tag of an action off again, but for what had it before; returns the number of labels."""
    changed = labels_tagged(record["run"], action)
    path = label_type_of(record).list_path(record["staging_field"])
    samples = database.samples_of(dataset)
    holders = _holders(record["run"], action)
    query = {"run": record["run"], "sample_tags": {"tag": name, "action": action}}
    alone = {d["sample_id"] for d in database.ledger().find(query, {"sample_id": 1})}
    updates = []
    for sample in samples.find({"_id": {"$in": [*{*holders, *alone}]}}, {f"{path}._id": 1}):
        sample_id, tagged = sample["_id"], holders.get(sample["_id"], [])
        updates += _changes(
            "$pull", sample_id, name, sample_id in alone, path, _list_at(sample, path), tagged
        )
    if updates:
        samples.bulk_write(updates, ordered=False)
    database.ledger().update_many(
        {"run": record["run"], "labels.tags.action": action},
        {"$pull": {"labels.$[].tags": {"action": action}}},
    )
    database.ledger().update_many(
        {"run": record["run"], "sample_tags.action": action}, {"$pull": {"sample_tags": {"action": action}}}
    )
    dataset.reload()
    return changed


def _holders(run: str, action: int) -> dict[ObjectId, list[ObjectId]]:
    """Labels that owe their tag to an action, by sample."""
    cursor = database.ledger().find(
        {"run": run, "labels.tags.action": action}, {"sample_id": 1, "labels._id": 1, "labels.tags": 1}
    )
    return {
        holder["sample_id"]: [
            e["_id"]
            for e in holder["labels"]
            if any(t["action"] == action and not t.get("kept") for t in e["tags"])
        ]
        for holder in cursor
    }


def _list_at(sample: dict[str, Any], path: str) -> list[dict[str, Any]] | None:
    field, _, name = path.partition(".")
    return (sample.get(field) or {}).get(name)


def _changes(
    operator: str,
    sample_id: ObjectId,
    name: str,
    on_sample: bool,
    path: str,
    staged: list[Any] | None,
    labels: list[ObjectId],
) -> list[UpdateOne]:
    change: dict[str, Any] = {"tags": name} if on_sample else {}
    filters: list[Mapping[str, Any]] | None = None
    # A sample whose review field is gone cannot take label tags; its own tag still says it.
    if staged is not None and labels:
        change[f"{path}.$[d].tags"] = name
        filters = [{"d._id": {"$in": labels}}]
    if not change:
        return []
    update = {operator: change, "$currentDate": {"last_modified_at": True}}
    return [UpdateOne({"_id": sample_id}, update, array_filters=filters)]
