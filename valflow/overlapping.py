"""Reading, predicting and writing at the same time, with few things waiting in between.

What waits is bounded, so that memory does not grow with the number of samples.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from bson import ObjectId

from valflow.batch_size import BatchSize
from valflow.beside import Processes
from valflow.models import Source
from valflow.models.source import OutOfMemory, PreparingSource

Batch = tuple[list[ObjectId], list[Any]]

READERS = min(16, max(4, os.cpu_count() or 1))
_WRITES_WAITING = 2
_MOST_AT_ONCE = 64  # images that one process reads before it hands them on

# Shards of a run may be at work in several threads: a model answers one at a time.
_locks: WeakKeyDictionary[Any, threading.Lock] = WeakKeyDictionary()
_locks_guard = threading.Lock()


def predictions(
    source: Source,
    dataset: Any,
    sample_ids: Sequence[ObjectId],
    batch_size: BatchSize,
    processes: Processes | None = None,
) -> Generator[Batch, None, None]:
    """Predict samples, batch by batch, in order, while the next ones are read.

    Args:
        source: of the predictions.
        dataset: of the samples.
        sample_ids: which.
        batch_size: asked before each batch, and told how it went.
        processes: that read; threads do without them.
    """
    if processes is None:
        readers, at_once, fetch = READERS, source.read_at_once, source.fetch
    else:  # a batch each, as far as is known, so that nobody needs to put it together here
        readers, at_once, fetch = processes.readers, min(batch_size.size, _MOST_AT_ONCE), processes.fetch
    parts = [sample_ids[i : i + at_once] for i in range(0, len(sample_ids), at_once)]
    with (
        _reading(partial(fetch, dataset), parts, readers, 2 if processes is None else readers + 1) as more,
        ThreadPoolExecutor(1, thread_name_prefix="valflow-prepare") as pool,
    ):
        waiting: deque[tuple[ObjectId, Any]] = deque()
        prepare = source.prepare if isinstance(source, PreparingSource) else None

        def next_batch() -> _Waiting | None:
            size = batch_size.size
            while len(waiting) < size and (read := more(2 * size)):
                waiting.extend(read)
            if not waiting:
                return None
            ids, inputs = zip(*(waiting.popleft() for _ in range(min(size, len(waiting)))), strict=True)
            return _Waiting(list(ids), list(inputs), prepare(inputs) if prepare else None)

        coming = pool.submit(next_batch)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next_batch)
            yield from _asked(source, batch, batch_size)
            # Not here: to give some hundred megabytes back takes milliseconds, and the model waits.
            pool.submit(_let_go, batch)


def _let_go(batch: _Waiting) -> None:
    batch.inputs, batch.prepared = [], None


def grouped(batches: Iterable[Batch], least: int) -> Iterator[Batch]:
    """Batches joined until they hold enough to be worth a write."""
    ids: list[ObjectId] = []
    found: list[Any] = []
    for more_ids, more_found in batches:
        ids, found = ids + more_ids, found + more_found
        if len(ids) >= least:
            yield ids, found
            ids, found = [], []
    if ids:
        yield ids, found


@contextmanager
def in_background(write: Callable[[Batch], None]) -> Iterator[Callable[[Batch], None]]:
    """Call ``write`` in another thread, one batch after the other.

    Yields a function that takes a batch; it waits while two are waiting already, and raises what a write
    raised. After an exception nothing more is begun. At the end of the block all writes are done.
    """
    waiting: deque[Future[None]] = deque()
    pool = ThreadPoolExecutor(1, thread_name_prefix="valflow-write")

    def put(batch: Batch) -> None:
        while len(waiting) >= _WRITES_WAITING or (waiting and waiting[0].done()):
            waiting.popleft().result()
        waiting.append(pool.submit(write, batch))

    try:
        yield put
        while waiting:
            waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass
class _Waiting:
    """A batch that the model has not seen yet; ``prepared`` is as the source wants it, or None."""

    ids: list[ObjectId]
    inputs: list[Any]
    prepared: Any


def _asked(source: Source, batch: _Waiting, batch_size: BatchSize) -> Iterator[Batch]:
    """Predict a batch, in parts where it is too large for the memory."""
    done = 0
    while done < len(batch.ids):
        # The one after a batch that did not fit was put together before that was known.
        part = slice(done, done + batch_size.size)
        inputs, prepared = batch.inputs[part], batch.prepared
        whole = len(inputs) == len(batch.inputs)
        if not whole:
            batch.prepared = None  # give its memory back
        try:
            found = _predict(source, inputs, prepared if whole else None, batch_size)
        except OutOfMemory:
            batch_size.too_many(len(inputs))
            batch.prepared = None
            continue
        yield batch.ids[part], found
        done += len(inputs)


def _predict(source: Source, inputs: list[Any], prepared: Any, batch_size: BatchSize) -> list[Any]:
    with _lock_of(source):
        begin = time.perf_counter()
        if prepared is not None and isinstance(source, PreparingSource):
            found = source.predict_prepared(prepared)
        else:
            found = source.predict(inputs)
        batch_size.took(len(inputs), time.perf_counter() - begin)
    return found


def _lock_of(source: Source) -> threading.Lock:
    with _locks_guard:
        return _locks.setdefault(source, threading.Lock())


@contextmanager
def _reading(
    fetch: Callable[[Sequence[ObjectId]], list[Any]],
    parts: Sequence[Sequence[ObjectId]],
    readers: int,
    least: int,
) -> Iterator[Callable[[int], list[tuple[ObjectId, Any]]]]:
    """Yields a function that gives the next samples as they were read, and keeps so many more being read.

    Args:
        fetch: reads the samples of a part.
        parts: of all samples.
        readers: parts that are read at a time.
        least: parts that are read ahead, at least.
    """
    coming = iter(parts)
    reading: deque[tuple[Sequence[ObjectId], Future[list[Any]]]] = deque()
    pool = ThreadPoolExecutor(readers, thread_name_prefix="valflow-read")

    def more(ahead: int) -> list[tuple[ObjectId, Any]]:
        while (len(reading) < least or sum(len(part) for part, _ in reading) < ahead) and (
            part := next(coming, None)
        ) is not None:
            reading.append((part, pool.submit(fetch, part)))
        if not reading:
            return []
        part, future = reading.popleft()
        return list(zip(part, future.result(), strict=True))

    try:
        yield more
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
