"""The whole database and a folder of files, as they are at one moment, and brought back."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SYSTEM = "system."


@dataclass(frozen=True)
class Snapshot:
    """All documents and indexes of a database, and a copy of a folder."""

    documents: dict[str, list[dict[str, Any]]]
    indexes: dict[str, dict[str, Any]]
    files: Path


def take(db: Any, folder: Path, place: Path) -> Snapshot:
    """Copy a database, and a folder to ``place``."""
    names = [n for n in db.list_collection_names() if not n.startswith(_SYSTEM)]
    shutil.copytree(folder, place, symlinks=True)
    return Snapshot(
        {name: list(db[name].find()) for name in names},
        {name: db[name].index_information() for name in names},
        place,
    )


def bring_back(snapshot: Snapshot, db: Any, folder: Path) -> None:
    """Make database and folder what they were."""
    for name in db.list_collection_names():
        if name.startswith(_SYSTEM):
            continue
        if db[name].index_information() != snapshot.indexes.get(name):
            db.drop_collection(name)
        else:
            db[name].delete_many({})
    there = set(db.list_collection_names())
    for name, documents in snapshot.documents.items():
        if name not in there:
            db.create_collection(name)
            _make_indexes(db[name], snapshot.indexes[name])
        if documents:
            db[name].insert_many(documents)
    shutil.rmtree(folder)
    shutil.copytree(snapshot.files, folder, symlinks=True)


def _make_indexes(collection: Any, indexes: dict[str, Any]) -> None:
    for name, index in indexes.items():
        if name != "_id_":
            options = {k: v for k, v in index.items() if k not in ("v", "key", "ns")}
            collection.create_index(index["key"], name=name, **options)
