"""Processes that work beside a model, so that it has the interpreter's lock for itself."""

from __future__ import annotations

import atexit
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from valflow import side_process
from valflow.errors import StackError
from valflow.quiet import QUIET

IDLE_SECONDS = 60.0  # after which one that is not needed ends
_LEAVING = 10.0  # seconds that a process has for what it is at when nobody wants it any more
_MOST_LOST = 20  # in a row, before it is no single image that ends them


class SideProcessLost(Exception):
    """A process ended while it was at work.

    Args:
        how: such as ``by signal 9``.
    """

    def __init__(self, how: str) -> None:
        self.how = how
        super().__init__(f"a process beside the model ended {how}")


class SideProcesses:
    """Some processes that are alike, each of which does one thing at a time.

    They start in the background, and until the first is there whoever calls does the work. One that is not needed
    for a minute ends by itself, and is started again when it is. One that crashes is replaced, and from then on
    nobody does by himself what might crash.

    Args:
        number: how many.
        prepare: called in each before it is asked for anything else, to import what it will need.
        arguments: of ``prepare``.
    """

    def __init__(self, number: int, prepare: Callable[..., Any], *arguments: Any) -> None:
        self._prepare = (prepare, *arguments)
        self._idle: queue.LifoQueue[_Process] = queue.LifoQueue()
        self._guard = threading.Lock()
        self._up = self._lost = 0
        self._has_crashed = False
        self._problem: Exception | None = None
        self._all: set[_Process] = set()
        self._closed = False
        atexit.register(self.close)
        for _ in range(number):
            self._start_one()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function of a module returns, or raises.

        Raises:
            SideProcessLost: the process crashed meanwhile; another takes its place.
            StackError: none can be started, or one after the other crashes.
        """
        while (process := self._take()) is not None:
            try:
                returned, value = process.ask(function, *arguments)
            except (EOFError, ConnectionError) as error:
                code = self._replace(process)
                if code == 0:  # it had just left by itself
                    continue
                self._count_loss(code)
                raise SideProcessLost(_in_words(code)) from error
            except Exception:
                self._idle.put(process)
                raise
            except BaseException:  # the thread is to end: the answer would be that of the next call
                self._replace(process)
                raise
            self._idle.put(process)
            self._lost = 0
            if returned:
                return value
            raise value
        return function(*arguments)

    def close(self) -> None:
        """End them all; what they are at is done first."""
        with self._guard:
            self._closed = True
            everybody, self._all = self._all, set()
        atexit.unregister(self.close)
        for process in everybody:
            process.close()

    def _take(self) -> _Process | None:
        """One that is idle, as soon as there is one; None while none is up yet."""
        while True:
            with self._guard:
                if self._problem is not None:
                    raise StackError(
                        f"a process beside the model does not start: {self._problem}. {_WITHOUT}"
                    ) from self._problem
                if not self._up and not self._has_crashed:
                    return None
            with suppress(queue.Empty):
                process = self._idle.get(timeout=1.0)
                if process.is_alive():
                    return process
                self._replace(process)

    def _count_loss(self, code: int) -> None:
        self._has_crashed = True
        self._lost += 1
        if self._lost >= _MOST_LOST:
            raise StackError(
                f"{self._lost} processes beside the model ended one after the other, the last one {_in_words(code)}; "
                f"by signal 9 the system ends those that take too much memory. {_WITHOUT}"
            )

    def _replace(self, process: _Process) -> int:
        code = process.close()
        with self._guard:
            self._up -= 1
            self._all.discard(process)
        self._start_one()
        return code

    def _start_one(self) -> None:
        threading.Thread(target=self._start, name="valflow-side-process", daemon=True).start()

    def _start(self) -> None:
        try:
            process = _Process()
            with self._guard:
                self._all.add(process)
                closed = self._closed
            if closed:
                process.close()
                return
            returned, value = process.ask(*self._prepare)
            if not returned:
                raise value
        except Exception as error:  # noqa: BLE001 - raised by the next call
            with self._guard:
                self._problem = None if self._closed else error
            return
        with self._guard:
            self._up += 1
        self._idle.put(process)


_WITHOUT = "With `runner.beside: thread` there are none"


class _Process:
    """One of them, and our end of the sockets."""

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair()
        with theirs:
            # By path and isolated: which folder we started in must not decide which `signal` it imports.
            command = [sys.executable, "-I", side_process.__file__, str(theirs.fileno()), str(IDLE_SECONDS)]
            self._process = subprocess.Popen(
                command,
                env={**QUIET, **os.environ},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        side_process.send(self._connection, sys.path)

    def ask(self, *call: Any) -> tuple[bool, Any]:
        side_process.send(self._connection, (call[0], call[1:]))
        answer: tuple[bool, Any] = side_process.receive(self._connection)()
        return answer

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> int:
        """Hang up, and wait for its end; returns its exit code."""
        # `close` alone is not seen while a thread still listens.
        with suppress(OSError):  # it has hung up before
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()
        try:
            return self._process.wait(_LEAVING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def _in_words(code: int) -> str:
    return f"by signal {-code}" if code < 0 else f"with exit code {code}"
