"""Long-lived processes that wait behind a barrier, do the same thing at once, and say what they were told."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from valflow.errors import ValflowError

PATIENCE = 120.0  # seconds for one round; a race that hangs has no defined end
_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Told:
    """What one process was told.

    Attributes:
        number: of the process, from 0.
        process: as the records name it.
        kind: what it achieved, or the class of the error that refused it.
        message: the words of the refusal.
    """

    number: int
    process: str
    kind: str
    message: str = ""

    @property
    def is_crash(self) -> bool:
        """Whether it ended in an error that is not meant for people."""
        return self.kind == "crash"


Act = Callable[[dict[str, Any], int], str]


class Crew:
    """Processes forked from this one, which must not hold a connection to the database.

    Args:
        size: number of processes.
        acts: what can be asked of them, by name; each returns what it achieved.
    """

    def __init__(self, size: int, acts: dict[str, Act]) -> None:
        self._barrier = _FORK.Barrier(size)
        self._pipes: list[Connection] = []
        self._members: list[Any] = []
        for number in range(size):
            ours, theirs = _FORK.Pipe()
            member = _FORK.Process(target=_work, args=(number, theirs, self._barrier, acts), daemon=True)
            member.start()
            theirs.close()
            self._pipes.append(ours)
            self._members.append(member)

    def race(self, plan: list[tuple[str, dict[str, Any]]]) -> list[Told]:
        """Let each process do its part at once; returns what each was told.

        Raises:
            TimeoutError: one did not answer.
        """
        for pipe, part in zip(self._pipes, plan, strict=True):
            pipe.send(part)
        told = []
        for number, pipe in enumerate(self._pipes):
            if not pipe.poll(PATIENCE):
                raise TimeoutError(f"process {number} did not come to an end with {plan[number]}")
            told.append(pipe.recv())
        return told

    def dismiss(self) -> None:
        """End all of them."""
        for pipe in self._pipes:
            pipe.send(None)
        for member in self._members:
            member.join(10)
            if member.is_alive():
                member.kill()


def _work(number: int, pipe: Connection, barrier: Any, acts: dict[str, Act]) -> None:
    from valflow import runs

    process = runs._this_process()
    while True:
        part = pipe.recv()
        if part is None:
            os._exit(0)
        name, arguments = part
        barrier.wait(PATIENCE)
        try:
            told = Told(number, process, acts[name](arguments, number))
        except ValflowError as refusal:
            told = Told(number, process, type(refusal).__name__, str(refusal))
        except Exception:  # noqa: BLE001 - whatever it is, the judge must know
            told = Told(number, process, "crash", traceback.format_exc(limit=-8))
        pipe.send(told)
