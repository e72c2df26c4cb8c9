"""``python -m tests.chaos.journal TRIES``: MongoDB gets SIGKILL right after a write of valflow that is said to be done.

A line of JSON: how many writes of each kind are gone, with the write concern of valflow and, in a single try that shows
that the test can fail, with MongoDB's own, which answers up to a tenth of a second before a write is on the disk.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import psutil

from tests.isolation import own_folder, settings
from valflow.leash import family_of
from valflow.mongod import Mongod


def main() -> int:
    """Kill and look, so many times with each write concern."""
    tries = int(sys.argv[1])
    # Not in memory: what is there before the disk is what this is about.
    with (
        own_folder("valflow-journal-", in_memory=False) as folder,
        Mongod(folder / "db", cache_gb=0.25) as mongod,
    ):
        os.environ.update({**mongod.environment, **settings(folder)})
        from pymongo import WriteConcern

        from valflow import database

        ours = database.JOURNALED
        found = {"journaled": _lost(mongod, tries)}
        database.JOURNALED = WriteConcern()
        found["not journaled"] = _lost(mongod, 1)
        database.JOURNALED = ours
        print(json.dumps(found))
    return 0


def _lost(mongod: Mongod, tries: int) -> dict[str, int]:
    """Writes of each kind that are gone."""
    lost: Counter[str] = Counter()
    for number in range(tries):
        for kind, (write, is_there) in _KINDS.items():
            key = f"{kind}-{number}"
            _prepare(key)
            server = _server(mongod)
            write(key)
            server.kill()
            server.wait()
            mongod.kill()  # and what kept it on a leash
            mongod.start()
            lost[kind] += not is_there(key)
    return {kind: lost[kind] for kind in _KINDS}


def _server(mongod: Mongod) -> psutil.Process:
    assert mongod.pid is not None
    [server] = [p for p in family_of(psutil.Process(mongod.pid)) if "mongod" in p.name()]
    return server


def _prepare(key: str) -> None:
    """A run and a place in its ledger, on the disk whatever is tried; nothing else is written right before."""
    from pymongo import WriteConcern

    from valflow import database

    safe = database.connection().with_options(write_concern=WriteConcern("majority", j=True))
    run: dict[str, Any] = {"run": key, "state": "IN_REVIEW", "history": [], "attempt": 1}
    # The unique index over open runs: none is open here.
    safe[database.RUNS].replace_one({"run": key}, run, upsert=True)
    safe[database.LEDGER].delete_many({"run": key})
    safe[database.ACTIONS].delete_many({"run": key})


def _insert(key: str) -> None:
    from valflow import database

    database.actions().insert_one({"run": key, "seq": 1, "actor": "ann", "event": "approve"})


def _update(key: str) -> None:
    from valflow import runs

    runs.note(key, "a_note", actor="ann", text="said to be done")


def _merge(key: str) -> None:
    from valflow import database

    database.run_to_end(
        database.runs().aggregate(
            [
                {"$match": {"run": key}},
                {"$project": {"_id": 0, "run": 1, "sample_id": "$_id"}},
                {"$merge": {"into": database.LEDGER, "on": ["run", "sample_id"]}},
            ]
        )
    )


def _has(collection: str, **more: Any) -> Callable[[str], bool]:
    def look(key: str) -> bool:
        from valflow import database

        return database.connection()[collection].count_documents({"run": key, **more}) == 1

    return look


_KINDS: dict[str, tuple[Callable[[str], None], Callable[[str], bool]]] = {
    "insert": (_insert, _has("valflow_actions")),
    "update": (_update, _has("valflow_runs", history={"$size": 1})),
    "merge": (_merge, _has("valflow_ledger")),
}

if __name__ == "__main__":
    sys.exit(main())
