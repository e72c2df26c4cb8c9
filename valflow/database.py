"""Our collections in the FiftyOne database."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bson import ObjectId
from pymongo import ASCENDING, DESCENDING, WriteConcern
from pymongo.errors import PyMongoError

from valflow.errors import DatabaseError

if TYPE_CHECKING:
    from pymongo.collection import Collection
    from pymongo.database import Database

# FiftyOne garbage-collects collections named samples.*, frames.*, patches.* and clips.*; these are safe.
RUNS = "valflow_runs"
TARGETS = "valflow_targets"
LEDGER = "valflow_ledger"
ACTIONS = "valflow_actions"
AUDITS = "valflow_audits"
BATCHES = "valflow_batches"
LOCKS = "valflow_locks"
COPIES = "valflow_copies"
COPIED = "valflow_copied"

# "majority" is the server's own default where there are several, and one is a majority of one.
JOURNALED = WriteConcern("majority", j=True)

_indexed: set[tuple[Any, str]] = set()


def connection() -> Database[dict[str, Any]]:
    """FiftyOne's database, with our indexes in place.

    Raises:
        DatabaseError: the database cannot be reached.
    """
    import fiftyone.core.odm as foo

    try:
        # Answered when it is on the disk: what a person was told is done stays done when MongoDB dies.
        db = foo.get_db_conn().with_options(write_concern=JOURNALED)
        place = (db.client.address, db.name)
        if place not in _indexed:
            _create_indexes(db)
            _indexed.add(place)
    except (PyMongoError, OSError) as error:
        raise DatabaseError(
            f"cannot reach the FiftyOne database: {error}. "
            "Set FIFTYONE_DATABASE_URI to a running MongoDB, or see `valflow doctor`."
        ) from error
    return db


def disconnect() -> None:
    """Let go of the database, for a process that outlives it: FiftyOne's goodbye would look for it for 30 s."""
    import fiftyone.core.odm.database as connections

    connections._disconnect()
    _indexed.clear()


def runs() -> Collection[dict[str, Any]]:
    """One record per labeling run."""
    return connection()[RUNS]


def targets() -> Collection[dict[str, Any]]:
    """The samples that a run has to look at: one document per shard, written before anything else."""
    return connection()[TARGETS]


def ledger() -> Collection[dict[str, Any]]:
    """One document per run and sample: the truth about every label."""
    return connection()[LEDGER]


def actions() -> Collection[dict[str, Any]]:
    """Who approved, rejected, tagged or took back what, in order."""
    return connection()[ACTIONS]


def audits() -> Collection[dict[str, Any]]:
    """Random draws and their verdicts."""
    return connection()[AUDITS]


def batches() -> Collection[dict[str, Any]]:
    """The labels that a certificate speaks about, in parts, with the scores that they were proposed with."""
    return connection()[BATCHES]


def locks() -> Collection[dict[str, Any]]:
    """Who changes the fields of which dataset right now."""
    return connection()[LOCKS]


def copies() -> Collection[dict[str, Any]]:
    """One record per safety copy."""
    return connection()[COPIES]


def copied() -> Collection[dict[str, Any]]:
    """What the safety copies hold: one document per copy and sample."""
    return connection()[COPIED]


def dataset_of(record: dict[str, Any]) -> Any:
    """The FiftyOne dataset of a run, under whatever name it has now.

    Raises:
        DatabaseError: it was deleted; a new one of its name is another dataset.
    """
    import fiftyone as fo

    document = connection()["datasets"].find_one({"_id": ObjectId(record["dataset_id"])}, {"name": 1})
    if document is None:
        raise DatabaseError(f"the dataset {record['dataset']!r} of run {record['run']} was deleted")
    return fo.load_dataset(document["name"])


def samples_of(dataset: Any) -> Collection[dict[str, Any]]:
    """The raw sample documents of a FiftyOne dataset."""
    return connection()[dataset._sample_collection_name]


def now() -> datetime:
    """The present in UTC, at MongoDB's resolution of a millisecond."""
    time = datetime.now(UTC)
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def side_by_side(*questions: Callable[[], Any]) -> list[Any]:
    """Ask the database several things at once, for each keeps but one of its cores busy; their answers in order."""
    with ThreadPoolExecutor(len(questions), thread_name_prefix="valflow-ask") as pool:
        return [answer.result() for answer in [pool.submit(question) for question in questions]]


def run_to_end(cursor: Iterable[Any]) -> None:
    """Run an aggregation that ends in ``$merge``: it does its work when its empty cursor is read."""
    for _ in cursor:
        pass


def _create_indexes(db: Database[dict[str, Any]]) -> None:
    db[RUNS].create_index([("run", ASCENDING)], unique=True)
    # At most one open run per dataset and field: a rule of the database, not a check that can race.
    db[RUNS].create_index(
        [("dataset_id", ASCENDING), ("label_field", ASCENDING)],
        unique=True,
        partialFilterExpression={"open": True},
        name="one_open_run",
    )
    db[RUNS].create_index(
        [("flow_run_id", ASCENDING)],
        unique=True,
        partialFilterExpression={"flow_run_id": {"$type": "string"}},
    )
    db[RUNS].create_index([("created_at", DESCENDING)])
    db[TARGETS].create_index([("run", ASCENDING), ("shard", ASCENDING)], unique=True)
    db[LEDGER].create_index([("run", ASCENDING), ("sample_id", ASCENDING)], unique=True)
    db[LEDGER].create_index([("run", ASCENDING), ("status", ASCENDING)])
    db[ACTIONS].create_index([("run", ASCENDING), ("seq", ASCENDING)], unique=True)
    db[AUDITS].create_index([("run", ASCENDING), ("drawn_at", DESCENDING)])
    db[AUDITS].create_index([("fingerprint", ASCENDING), ("drawn_at", DESCENDING)])
    db[BATCHES].create_index([("run", ASCENDING), ("part", ASCENDING)], unique=True)
    db[COPIES].create_index([("dataset_id", ASCENDING), ("label_field", ASCENDING), ("at", DESCENDING)])
    db[COPIES].create_index([("run", ASCENDING), ("at", DESCENDING)])
