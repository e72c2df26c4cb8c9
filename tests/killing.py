"""A process that dies between two writes, as the database sees it."""

from __future__ import annotations

import os
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pymongo import monitoring

_WRITES = frozenset({"insert", "update", "delete", "findAndModify", "bulkWrite", "drop", "create"})


class _Executioner(monitoring.CommandListener):
    left: int | None = None
    seen: list[Any] | None = None

    def started(self, event: Any) -> None:
        if self.seen is not None and _writes(event):
            self.seen.append(event)
        if self.left is not None and _writes(event):
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self.left -= 1

    def succeeded(self, event: Any) -> None:
        pass

    def failed(self, event: Any) -> None:
        pass


_EXECUTIONER = _Executioner()


def register() -> None:
    """To be called before anything connects to MongoDB."""
    monitoring.register(_EXECUTIONER)


@contextmanager
def writes_seen() -> Iterator[list[Any]]:
    """The commands of this process that write, as long as the block runs."""
    _EXECUTIONER.seen = seen = []
    try:
        yield seen
    finally:
        _EXECUTIONER.seen = None


def dies_after(writes: int, work: Callable[[], Any]) -> bool:
    """Let a process of its own work until SIGKILL comes instead of its next write; False where none came."""
    pid = os.fork()
    if pid == 0:
        try:
            warnings.simplefilter("ignore")  # pymongo connects anew, and says that one should not fork
            _EXECUTIONER.left = writes
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001  # pytest must not go on in two processes
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0, "the work failed; see its traceback"
    return False


def _writes(event: Any) -> bool:
    pipeline = event.command.get("pipeline") or [{}]
    return event.command_name in _WRITES or (
        event.command_name == "aggregate" and not {"$merge", "$out"}.isdisjoint(pipeline[-1])
    )
