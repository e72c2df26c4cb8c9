"""Saved views, workspaces and runs of FiftyOne that a process left behind when it died while it made them.

FiftyOne writes such a document first and lets the dataset refer to it afterwards. A death in between leaves one that
nobody sees, and its name looks free. Referred to again, it is one like any other: it can be found and replaced.
It also deletes such a document first, and the reference afterwards: what refers to nothing goes, too.
"""

from __future__ import annotations

from typing import Any, Literal

from valflow import database

Kind = Literal["workspaces", "saved_views", "runs", "evaluations"]

# Where FiftyOne keeps the documents, and what their name is called there.
_PLACES = {
    "workspaces": ("workspaces", "name"),
    "saved_views": ("views", "name"),
    "runs": ("runs", "key"),
    "evaluations": ("runs", "key"),
}


def adopt(dataset: Any, kind: Kind, name: str) -> bool:
    """Let a dataset refer to a document of ours of this name that it does not refer to; whether there was one.

    Args:
        dataset: a FiftyOne dataset.
        kind: the dataset's list or dictionary of references.
        name: the document's name or key.
    """
    collection, called = _PLACES[kind]
    datasets, identifier = database.connection()["datasets"], dataset._doc.id
    holder = datasets.find_one(
        {"_id": identifier}, {"workspaces": 1, "saved_views": 1, "runs": 1, "evaluations": 1}
    )
    if kind in ("runs", "evaluations") and _drop_dangling(dataset, kind, name, (holder or {}).get(kind)):
        return False
    known = [i for field in _PLACES for i in _ids((holder or {}).get(field))]
    query = {"_dataset_id": identifier, called: name, "_id": {"$nin": known}}
    found = database.connection()[collection].find_one(query, {"_id": 1}, sort=[("_id", -1)])
    if found is None:
        return False
    if kind in ("runs", "evaluations"):
        free = {f"{kind}.{name}": {"$exists": False}}
        datasets.update_one({"_id": identifier, **free}, {"$set": {f"{kind}.{name}": found["_id"]}})
    else:
        datasets.update_one({"_id": identifier}, {"$addToSet": {kind: found["_id"]}})
    dataset.reload()
    return True


def _drop_dangling(dataset: Any, kind: Kind, name: str, references: Any) -> bool:
    held = (references or {}).get(name)
    collection = database.connection()[_PLACES[kind][0]]
    if held is None or collection.find_one({"_id": held}, {"_id": 1}) is not None:
        return False
    gone = {"$unset": {f"{kind}.{name}": ""}}
    database.connection()["datasets"].update_one({"_id": dataset._doc.id, f"{kind}.{name}": held}, gone)
    dataset.reload()
    return True


def _ids(references: Any) -> list[Any]:
    return list(references.values() if isinstance(references, dict) else references or [])
