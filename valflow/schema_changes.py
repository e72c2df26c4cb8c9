"""One process at a time changes what a dataset declares: its fields, saved views, workspaces, runs and forms.

FiftyOne saves such lists whole. Of two processes that change one at the same moment, each from a copy of its own, the
later one takes the change of the other away without a word; values in a field whose declaration is lost that way make
the dataset unreadable.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from bson import ObjectId
from pymongo.errors import DuplicateKeyError

from valflow import database, runs
from valflow.errors import DatabaseError

# A change takes a second. Taking a field off a million samples takes longer, and its process must not seem dead then.
PATIENCE = 120.0
EXPIRES = timedelta(minutes=10)
_PAUSE = 0.05


@contextmanager
def changing(dataset: Any) -> Iterator[None]:
    """Change a dataset's declarations alone, beginning with what is there now. Not to be nested.

    Raises:
        DatabaseError: another process is at it and does not come to an end; it is named.
    """
    key, token = str(dataset._doc.id), uuid.uuid4().hex
    until = time.monotonic() + PATIENCE
    while (holder := _take(key, token)) is not None:
        if time.monotonic() > until:
            raise DatabaseError(
                f"process {holder['process']} has been changing the fields of {dataset.name} since "
                f"{holder['heartbeat_at']:%H:%M:%S} UTC; nothing was changed. Try again once it is done, or end it"
            )
        time.sleep(_PAUSE)
    try:
        dataset.reload()
        yield
    finally:
        database.locks().delete_one({"_id": key, "token": token})


def is_declared(dataset: Any, field: str) -> bool:
    """Whether the database, not this process's copy, knows a field; asked before raw values are written into it."""
    known = {"_id": ObjectId(dataset._doc.id), "sample_fields.name": field}
    return database.connection()["datasets"].count_documents(known, limit=1) > 0


def _take(key: str, token: str) -> dict[str, Any] | None:
    """Take the lock of a dataset; returns who holds it where that is somebody else."""
    mine = {"token": token, **runs.sign_of_life()}
    try:
        database.locks().insert_one({"_id": key, **mine})
        return None
    except DuplicateKeyError:
        holder = database.locks().find_one({"_id": key})
    if holder is None:
        return _take(key, token)
    if not _is_lost(holder):
        return holder
    taken = database.locks().update_one({"_id": key, "token": holder["token"]}, {"$set": mine})
    return None if taken.modified_count else holder


def _is_lost(holder: dict[str, Any]) -> bool:
    """Whether it belongs to a process that died in the middle."""
    since = datetime.now(UTC) - runs.aware(holder["heartbeat_at"])
    return since > EXPIRES or not runs.exists(holder["process"])
