"""The label tags that people see in the dataset: they follow the ledger, and are repaired from it.

What an answer to a person waits for is the ledger alone. Where many samples are concerned, their tags follow right
after it; marks in the ledger say what is still to be done, so a process that dies leaves it to the next.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from bson import ObjectId

from valflow import collector, database
from valflow.label_types import APPROVED, INVALID, REJECTED, review_type_of
from valflow.ledger import POLICY_ACTION, Expression
from valflow.own_writes import Stamp

_BATCH = 1000
# More samples than these take a noticeable part of a second.
_AT_ONCE = 1000

_at_work: dict[str, threading.Thread] = {}
_starting = threading.Lock()
_answers_awaited = 0
_in_a_hurry = 0
_answered = threading.Condition()


@contextmanager
def answering() -> Iterator[None]:
    """While a person waits for an answer, work in the background rests: both at once would take twice as long."""
    global _answers_awaited
    with _answered:
        _answers_awaited += 1
    try:
        yield
    finally:
        with _answered:
            _answers_awaited -= 1
            _answered.notify_all()


def mark(run: str, sample_ids: Sequence[ObjectId], action: int) -> None:
    """Note that the tags of samples differ from the ledger."""
    query = {"run": run, "sample_id": {"$in": list(sample_ids)}}
    database.ledger().update_many(query, {"$set": {"dirty": max(action, POLICY_ACTION)}})


def mirror_soon(record: dict[str, Any], dataset: Any) -> None:
    """Bring label tags in line with the ledger: at once where few samples are concerned, else in the background."""
    waiting = {"run": record["run"], "dirty": {"$exists": True}}
    if database.ledger().count_documents(waiting, limit=_AT_ONCE + 1) <= _AT_ONCE:
        mirror_tags(record, dataset)
        return
    own = {**waiting, "dirty": max(record["action_seq"], POLICY_ACTION)}
    if database.ledger().count_documents(own, limit=_AT_ONCE + 1) <= _AT_ONCE:
        _mirror(record, dataset, own)
    _start(record, dataset)


def mirror_tags(record: dict[str, Any], dataset: Any) -> None:
    """Bring the label tags that people see in line with the ledger, wherever they are marked as different.

    Labels that the ledger does not know keep their tags. By label id, so that an edit meanwhile does no harm;
    harmless when repeated.
    """
    _mirror(record, dataset, {"run": record["run"], "dirty": {"$exists": True}})
    dataset.reload()


def wait(run: str) -> None:
    """Return when this process has nothing left to write in the background for the run; it does not rest meanwhile."""
    with _starting:
        thread = _at_work.get(run)
    if thread is not None:
        with in_a_hurry():
            thread.join()


@contextmanager
def in_a_hurry() -> Iterator[None]:
    """While an answer waits for work in the background, that does not rest."""
    global _in_a_hurry
    with _answered:
        _in_a_hurry += 1
        _answered.notify_all()
    try:
        yield
    finally:
        with _answered:
            _in_a_hurry -= 1


def afterwards(run: str, work: Callable[[], None], first: Callable[[], None] = lambda: None) -> None:
    """Do some work on a run in a thread, after all that is at work on it already.

    Not a daemon: a command ends when its work is done.

    Args:
        run: key of the run.
        work: what waits for its turn.
        first: what does not.
    """
    with _starting:
        before = _at_work.get(run)

        def follow() -> None:
            first()
            if before is not None:
                before.join()
            work()

        _at_work[run] = threading.Thread(target=follow, name=f"tags of {run}")
        _at_work[run].start()


def rest() -> None:
    """Wait, in the background, while a person waits for an answer, unless the answer waits for this work."""
    with _answered:
        _answered.wait_for(lambda: _answers_awaited == 0 or _in_a_hurry > 0)


def _start(record: dict[str, Any], dataset: Any) -> None:
    """Mirror everything in the background, whatever is at work already: it may be at its end."""
    marked = {"run": record["run"], "dirty": {"$exists": True}}
    afterwards(record["run"], lambda: _mirror(record, dataset, marked, rest))


@collector.paused()
def _mirror(
    record: dict[str, Any], dataset: Any, marked: dict[str, Any], between: Callable[[], None] | None = None
) -> None:
    """Write the tags of all samples that are marked; ``between`` is called before each batch."""
    path = review_type_of(record).list_path(record["staging_field"])
    samples = database.samples_of(dataset)
    stamp = Stamp.take(record["run"])
    # What is decided upon while it is written stays marked, and comes round again.
    while database.ledger().count_documents(marked, limit=1):
        states = database.ledger().aggregate([{"$match": marked}, _IDS_BY_TAG], batchSize=_BATCH)
        for documents in _batches(states, _BATCH):
            if between is not None:
                between()
            _write_tags(samples, path, documents, stamp)
            _unmark(documents)


def _unmark(documents: Sequence[dict[str, Any]]) -> None:
    """Take the marks off, but for samples decided upon meanwhile."""
    by_mark = defaultdict(list)
    for document in documents:
        by_mark[document["dirty"]].append(document)
    for action, written in by_mark.items():
        unchanged = {"_id": {"$in": [d["_id"] for d in written]}, "dirty": action}
        done = database.ledger().update_many(unchanged, {"$unset": {"dirty": ""}})
        if done.modified_count < len(written):
            _mark_overwritten(written)


def _mark_overwritten(written: Sequence[dict[str, Any]]) -> None:
    """Mark those again of which another process has written a later state, before this one wrote an older.

    With a mark that nobody has: the other one may be about to take its own off, and would not look again.
    """
    query = {"_id": {"$in": [d["_id"] for d in written]}}
    now = {d["_id"]: d for d in database.ledger().aggregate([{"$match": query}, _IDS_BY_TAG])}
    late = [
        d["_id"]
        for d in written
        if d["_id"] in now and {**d, "dirty": None} != {**now[d["_id"]], "dirty": None}
    ]
    if late:
        database.ledger().update_many({"_id": {"$in": late}}, {"$set": {"dirty": ObjectId()}})


def _ids_by_tag() -> Expression:
    """The ids of all entries, and of those that should carry each tag of ours."""
    carries = {
        APPROVED: {"$eq": ["$$l.state", APPROVED]},
        REJECTED: {"$eq": ["$$l.state", REJECTED]},
        INVALID: {"$ne": ["$$l.invalid", []]},
    }
    return {"all": "$labels._id"} | {
        tag: {
            "$map": {
                "input": {"$filter": {"input": "$labels", "as": "l", "cond": condition}},
                "as": "l",
                "in": "$$l._id",
            }
        }
        for tag, condition in carries.items()
    }


_IDS_BY_TAG = {"$project": {"sample_id": 1, "dirty": 1, **_ids_by_tag()}}


def _write_tags(samples: Any, path: str, documents: Sequence[dict[str, Any]], stamp: Stamp) -> None:
    known = {i for d in documents for i in d["all"]}
    sample_ids = [d["sample_id"] for d in documents]
    there = {f"{path}.0": {"$exists": True}}
    tagged = {"_id": {"$in": sample_ids}, f"{path}.tags": {"$in": [APPROVED, REJECTED, INVALID]}}
    # One look instead of three updates that find nothing: a fresh review field carries no tags.
    carrying = [d["_id"] for d in samples.find(tagged, {"_id": 1})]
    worked_on = stamp.worked_on(samples, sample_ids)
    put_on, take_off = [], []
    for tag in (APPROVED, REJECTED, INVALID):
        wanted = {i for d in documents for i in d[tag]}
        tags = f"{path}.$[l].tags"
        if wanted:
            put_on += stamp.updates(
                {"_id": {"$in": [d["sample_id"] for d in documents if d[tag]]}, **there},
                {"$addToSet": {tags: tag}},
                # Null cannot take a tag; it would fail the update of all others.
                [{"l._id": {"$in": list(wanted)}, "l.tags": {"$nin": [tag, None]}}],
                worked_on,
            )
        if carrying:
            take_off += stamp.updates(
                {"_id": {"$in": carrying}, f"{path}.tags": tag, **there},
                {"$pull": {tags: tag}},
                [{"l._id": {"$in": list(known - wanted)}, "l.tags": tag}],
                worked_on,
            )
    # In this order: no label carries two states, not even for a moment.
    if take_off or put_on:
        samples.bulk_write([*take_off, *put_on])


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
