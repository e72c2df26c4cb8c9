"""Run records: one document per labeling run, changed only by compare-and-set.

The run's state is the truth about labels; Prefect's state is the truth about execution.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError, PyMongoError

from valflow import database, schema, trail
from valflow.config import LabelingConfig
from valflow.errors import DatabaseError, IllegalTransition, RunBusy, RunNotFound, StaleAttempt
from valflow.plain import as_json as as_json
from valflow.plain import aware as aware
from valflow.states import OPEN_STATES, Event, State, advance

HEARTBEAT_SECONDS = 5.0
DEAD_AFTER_SECONDS = 30.0

Record = dict[str, Any]


# Attempts that this process works on. A process that was given up for dead keeps its old number, and with it
# cannot write any more.
_held: dict[str, int] = {}


@dataclass(frozen=True)
class Fence:
    """The right of one process to write to a run; a newer attempt ends it."""

    run: str
    attempt: int


def load(run: str) -> Record:
    """The record of ``run``; ``latest`` is the one created last.

    A record of an older version is brought up to date.

    Raises:
        RunNotFound: no such run; the message names those there are.
        RecordTooNew: a newer valflow wrote it.
    """
    if run == "latest":
        record = database.runs().find_one({}, sort=[("created_at", -1), ("_id", -1)])
        if record is None:
            raise RunNotFound("there is no labeling run yet; start one with `valflow run CONFIG`")
        return _current(record)
    record = find(run=run)
    if record is None:
        known = [r["run"] for r in database.runs().find({}, {"run": 1}).sort("created_at", -1).limit(5)]
        there = f"the latest are: {', '.join(known)}" if known else "there is none yet"
        raise RunNotFound(f"no labeling run is named {run!r}; {there}")
    return record


def find(**values: Any) -> Record | None:
    """The run whose record has these values, None where there is none.

    Raises:
        RecordTooNew: a newer valflow wrote it.
    """
    record = database.runs().find_one(values)
    return None if record is None else _current(record)


def find_by_flow_run(flow_run_id: str) -> Record | None:
    """The run that a Prefect flow run works on."""
    return find(flow_run_id=flow_run_id)


def find_open(dataset_id: str, label_field: str) -> Record | None:
    """The one open run into a label field."""
    return find(dataset_id=dataset_id, label_field=label_field, open=True)


def list_runs(dataset: str | None = None, limit: int = 50) -> list[Record]:
    """Latest runs first."""
    query = {} if dataset is None else {"dataset": dataset}
    return list(database.runs().find(query).sort([("created_at", -1), ("_id", -1)]).limit(limit))


def create(config: LabelingConfig, *, dataset_id: str, flow_run_id: str | None = None) -> Record:
    """Insert the record of a new run.

    Raises:
        RunBusy: another run into the label field is open, or the key is taken.
    """
    time = database.now()
    key = config.run_key or _derived_key(config, time)
    record: Record = {
        "schema_version": schema.VERSION,
        "run": key,
        "name": config.run_name or key,
        "dataset": config.dataset,
        "dataset_id": dataset_id,
        "label_field": config.label_field,
        "staging_field": config.staging_field,
        "state": State.CREATED.value,
        "open": True,
        "round": 1,
        "attempt": 1,
        "action_seq": 0,
        "flow_run_id": flow_run_id,
        "prefect_url": None,
        "config": config.model_dump(mode="json"),
        "model": None,
        "created_at": time,
        "updated_at": time,
        "heartbeat_at": time,
        "process": _this_process(),
        "counts": {},
        "failed": [],
        "class_table": [],
        "decision": None,
        "frozen": None,
        "validation": None,
        "verification": None,
        "metrics": None,
        "exports": [],
        "artifacts": {},
        "timings": {},
        "history": [],
    }
    record["history"] = [trail.next_entry(record, _entry("create", None, State.CREATED, "system", None, {}))]
    if flow_run_id is None:
        del record["flow_run_id"]
    try:
        database.runs().insert_one(record)
    except DuplicateKeyError:
        other = find_open(dataset_id, config.label_field) or database.runs().find_one({"run": key})
        holder = other["run"] if other else key
        raise RunBusy(
            f"run {holder} into {config.dataset}.{config.label_field} is already there; finish or discard it first",
            holder,
        ) from None
    return record


def claim(run: str, flow_run_id: str | None = None) -> Record:
    """Take a run over for this process: its attempt goes up, and older processes may not write any more.

    Raises:
        RunBusy: the process that holds the run is alive.
    """
    record = load(run)
    if is_alive(record) and record["process"] != _this_process():
        raise RunBusy(f"run {record['run']} is being worked on by process {record['process']}", record["run"])
    changes: Record = {"process": _this_process(), "heartbeat_at": database.now()}
    if flow_run_id is not None:
        changes["flow_run_id"] = flow_run_id
    claimed = database.runs().find_one_and_update(
        {"run": record["run"], "attempt": record["attempt"]},
        {"$set": changes, "$inc": {"attempt": 1}},
        return_document=ReturnDocument.AFTER,
    )
    if claimed is None:
        raise RunBusy(f"run {record['run']} was taken over by another process just now", record["run"])
    return claimed


def release(fence: Fence) -> None:
    """Say that no process works on the run any more."""
    database.runs().update_one({"run": fence.run, "attempt": fence.attempt}, {"$set": {"heartbeat_at": None}})


def is_alive(record: Record) -> bool:
    """Whether the process that holds the run gave a sign of life lately."""
    beat = record.get("heartbeat_at")
    if beat is None:
        return False
    if not exists(record["process"]):
        return False
    return (datetime.now(UTC) - aware(beat)).total_seconds() < DEAD_AFTER_SECONDS


def exists(process: str) -> bool:
    """Whether a process is there; those of other machines are believed to be."""
    host, _, pid = process.partition(":")
    return host != socket.gethostname() or _pid_exists(int(pid))


def sign_of_life() -> Record:
    """That this process lives now, in the form that ``is_alive`` reads."""
    return {"process": _this_process(), "heartbeat_at": database.now()}


@contextmanager
def heartbeat(fence: Fence) -> Iterator[None]:
    """Hold a run: keep saying that this process is alive, and fence its writes, for as long as the block runs."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            # A database that is away for a moment must not end the beat: this process lives.
            with suppress(PyMongoError, DatabaseError):
                database.runs().update_one(
                    {"run": fence.run, "attempt": fence.attempt}, {"$set": {"heartbeat_at": database.now()}}
                )

    thread = threading.Thread(target=beat, name=f"heartbeat-{fence.run}", daemon=True)
    thread.start()
    _held[fence.run] = fence.attempt
    try:
        yield
    finally:
        _held.pop(fence.run, None)
        stop.set()
        thread.join()
        release(fence)


@contextmanager
def holding(run: str) -> Iterator[Record]:
    """Claim a run for this process and hold it for as long as the block runs; yields its record.

    Raises:
        RunBusy: another process that is alive holds it, or another thread of this one.
    """
    if run in _held:
        raise RunBusy(f"run {run} is being worked on by this very process", run)
    record = claim(run)
    with heartbeat(Fence(record["run"], record["attempt"])):
        yield record


def require(fence: Fence, state: State) -> None:
    """Refuse to go on where the run is somebody else's by now; asked before each bulk write.

    Raises:
        StaleAttempt: another process has taken the run over, or it has left the state.
    """
    holds = {"run": fence.run, "attempt": fence.attempt, "state": state.value}
    if database.runs().count_documents(holds, limit=1) == 0:
        now = load(fence.run)
        raise StaleAttempt(
            f"run {fence.run} is {now['state']} in attempt {now['attempt']} by now; this process, which worked on "
            f"attempt {fence.attempt} in {state.value}, stops here and writes nothing more"
        )


def while_held(fence: Fence, state: State, match: Record, collection: str = database.LEDGER) -> list[Record]:
    """The first stages of a pipeline over the run records that yields documents of the ledger, or of another one.

    None where the run is somebody else's by now, or has left the state: looked at on the server, in the very
    operation that writes, so that a process which was given up for dead can wake up at any moment.
    """
    return [
        {"$match": {"run": fence.run, "attempt": fence.attempt, "state": state.value}},
        {"$lookup": {"from": collection, "pipeline": [{"$match": match}], "as": "document"}},
        {"$unwind": "$document"},
        {"$replaceRoot": {"newRoot": "$document"}},
    ]


def transition(
    record: Record,
    event: Event,
    *,
    actor: str,
    note: str | None = None,
    figures: Record | None = None,
    changes: Record | None = None,
    condition: Record | None = None,
) -> Record:
    """Move a run on by one compare-and-set update, with its entry in the history.

    Args:
        record: the record as this process knows it; its state must still hold.
        event: what happens.
        actor: a person's name, ``policy`` or ``system``.
        note: why, in words.
        figures: numbers worth keeping in the history.
        changes: further fields to set in the same update.
        condition: further conditions on the record.

    Returns:
        The record after the update.

    Raises:
        IllegalTransition: the state does not allow the event, or somebody else changed it meanwhile.
        StaleAttempt: another process has taken the run over.
        RunBusy: the run would be open again, and another one into its field is.
    """
    before = State(record["state"])
    after = advance(before, event, record.get("failed_from"))
    held = _held.get(record["run"])
    fenced = {} if held is None else {"attempt": held}
    known, entry = record, _entry(event.value, before, after, actor, note, figures or {})
    now = {"state": after.value, "open": after in OPEN_STATES, "updated_at": database.now()}
    while True:
        try:
            updated: Any = database.runs().find_one_and_update(
                {**_unchanged(known), "state": before.value, **fenced, **(condition or {})},
                {"$set": {**now, **(changes or {})}, "$push": {"history": trail.next_entry(known, entry)}},
                return_document=ReturnDocument.AFTER,
            )
        except DuplicateKeyError:
            raise _field_is_taken(record) from None
        if updated is not None:
            return updated
        current = load(record["run"])
        if len(current["history"]) == len(known["history"]):
            break
        known = current  # somebody only added a note, perhaps
    if held is not None and current["attempt"] != held:
        raise StaleAttempt(
            f"run {record['run']} was taken over by process {current['process']} (attempt {current['attempt']}); "
            "this process stops here and writes nothing more"
        )
    raise IllegalTransition(
        f"run {record['run']} was {before.value} and is {current['state']} now: {_last_words(current)}. "
        f"{event.value!r} was not done"
    )


def _field_is_taken(record: Record) -> RunBusy:
    other = find_open(record["dataset_id"], record["label_field"])
    holder = other["run"] if other else "another run"
    field = f"{record['dataset']}.{record['label_field']}"
    return RunBusy(f"run {holder} into {field} is open; finish or discard it first", holder)


def update(fence: Fence, changes: Record) -> None:
    """Set fields of the record.

    Raises:
        StaleAttempt: another process has taken the run over.
    """
    done = database.runs().update_one(
        {"run": fence.run, "attempt": fence.attempt}, {"$set": {**changes, "updated_at": database.now()}}
    )
    if done.matched_count == 0:
        raise StaleAttempt(f"run {fence.run} was taken over by another process; nothing was written")


def note(
    run: str,
    event: str,
    *,
    actor: str,
    text: str,
    figures: Record | None = None,
    changes: Record | None = None,
    condition: Record | None = None,
) -> bool:
    """Add to the history of a run without changing its state.

    Args:
        run: its key.
        event: what happened.
        actor: a person's name, ``policy`` or ``system``.
        text: why, in words.
        figures: numbers worth keeping.
        changes: further fields to set in the same update.
        condition: further conditions on the record.

    Returns:
        False where a condition did not hold, and nothing was written.
    """
    while True:
        record = load(run)
        state = State(record["state"])
        entry = trail.next_entry(record, _entry(event, state, state, actor, text, figures or {}))
        update: Record = {"$push": {"history": entry}, **({"$set": changes} if changes else {})}
        unchanged = {**_unchanged(record), "state": state.value}
        if database.runs().update_one({**unchanged, **(condition or {})}, update).matched_count:
            return True
        # Either the condition does not hold, or somebody else has just added an entry.
        if condition and database.runs().find_one(unchanged, {"_id": 1}) is not None:
            return False


def mark_told(record: Record, mark: str, **condition: Any) -> bool:
    """Note that people are told about something; False where they were already, or a condition does not hold.

    Args:
        record: the run.
        mark: names what is told; unique within the run.
        condition: values that the record must still have, such as its state.
    """
    told = database.runs().update_one(
        {"run": record["run"], "told": {"$ne": mark}, **condition}, {"$push": {"told": mark}}
    )
    return told.modified_count == 1


@contextmanager
def timed(fence: Fence, stage: str) -> Iterator[None]:
    """Add the seconds of the block to the stage's time in the record."""
    start = time.perf_counter()
    try:
        yield
    finally:
        database.runs().update_one(
            {"run": fence.run, "attempt": fence.attempt},
            {"$inc": {f"timings.{stage}": round(time.perf_counter() - start, 3)}},
        )


def fence_of(record: Record) -> Fence:
    """The attempt under which this process writes to the run."""
    return Fence(record["run"], _held.get(record["run"], int(record["attempt"])))


def _current(record: Record) -> Record:
    """The record in the current version; an older one is written back, by whoever is first."""
    changes = schema.changes_to_current(record)
    if changes:
        before = {"run": record["run"], "schema_version": record.get("schema_version")}
        database.runs().update_one(before, {"$set": changes})
    return {**record, **changes}


def _unchanged(record: Record) -> Record:
    """Condition on a run record: nobody has added to its history since it was read."""
    return {"run": record["run"], "history": {"$size": len(record["history"])}}


def _entry(
    event: str, before: State | None, after: State, actor: str, note: str | None, figures: Record
) -> Record:
    return {
        "time": database.now(),
        "actor": actor,
        "event": event,
        "from": before.value if before else None,
        "to": after.value,
        "note": note,
        "figures": figures,
    }


def _last_words(record: Record) -> str:
    last = record["history"][-1]
    return f"{last['event']} by {last['actor']} at {as_json(last['time'])}"


def _derived_key(config: LabelingConfig, time: datetime) -> str:
    # The milliseconds keep two runs started in one second apart.
    stem = "".join(
        c if c.isalnum() and c.isascii() else "_" for c in f"{config.dataset}_{config.label_field}"
    )
    stem = stem if stem[0].isalpha() else f"run_{stem}"
    return f"{stem}_{time:%Y%m%d_%H%M%S}_{time.microsecond // 1000:03d}"


def _this_process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _pid_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
