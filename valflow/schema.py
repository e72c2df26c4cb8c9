"""Versions of the run record: older ones are brought up to date when they are read, newer ones are refused.

Version 1: the first. A history of plain entries.
Version 2: the history is a chain of digests (earlier entries stay as they are, see ``trail``), and a discarded run
says in ``is_cleared`` whether its review field is gone.
Version 3: a decided run says in ``frozen.round`` to which round of its review its digest is bound; a run decided before
says nothing, and its digest stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from valflow.errors import RecordTooNew

VERSION = 3

Record = dict[str, Any]


def version_of(record: Mapping[str, Any]) -> int:
    """The version that a record was written in."""
    return int(record.get("schema_version", 1))


def check(record: Mapping[str, Any]) -> None:
    """Refuse a record of a later valflow, before anything is done with it.

    Raises:
        RecordTooNew: this valflow does not know its version.
    """
    if version_of(record) > VERSION:
        raise RecordTooNew(
            f"run {record['run']} was written by a newer valflow: its record has version {version_of(record)}, this "
            f"valflow knows versions up to {VERSION}. Nothing was changed. Update valflow here (`valflow doctor` says "
            "which one is installed), or go on with the run where the newer one is"
        )


def changes_to_current(record: Mapping[str, Any]) -> Record:
    """What to set on a record so that it has the current version; empty where it has.

    Raises:
        RecordTooNew: this valflow does not know its version.
    """
    check(record)
    changes: Record = {}
    for version in range(version_of(record), VERSION):
        changes |= _FROM[version]({**record, **changes})
        changes["schema_version"] = version + 1
    return changes


def _from_1(record: Record) -> Record:
    # Nobody can tell any more whether the end of a discarded run was broken off; the next run clears up after it.
    return {"is_cleared": True} if record["state"] == "DISCARDED" else {}


def _from_2(record: Record) -> Record:
    # To bind a digest that a person has confirmed to a round would be to make another one.
    return {}


_FROM: dict[int, Callable[[Record], Record]] = {1: _from_1, 2: _from_2}
