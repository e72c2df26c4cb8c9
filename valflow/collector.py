"""Bulk work on plain objects without Python's cyclic garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """Pause the cyclic collector while many dicts and lists come and go.

    The collector looks for cycles among all objects that are alive, those of FiftyOne's imports included; while
    hundreds of thousands of labels pass through, this costs as much as the work itself (an export took twice
    the CPU). Plain dicts and lists have no cycles: they are freed as always when nobody holds them any more.
    Only for work whose objects are plain; FiftyOne's samples do have cycles.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
