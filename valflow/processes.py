"""Child processes that always end: with a health check, a log file, and a mark to know them by."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from valflow.errors import StackError
from valflow.leash import end_processes, family_of, is_shared_database
from valflow.quiet import QUIET

LEASH = Path(__file__).with_name("leash.py")
# Every child and all that it starts inherit this variable, so that a leftover is recognised beyond doubt
# before it is ended: process ids are used again by the system, a token is not.
MARK = "VALFLOW_STACK_TOKEN"
PATIENCE = 120.0  # seconds to get healthy: a new Prefect server took 20 on two cores, 60 on busy ones
GRACE = 15.0  # seconds from SIGTERM to SIGKILL
MOST_LOG = 20_000_000  # bytes; a log that is larger at a start is put aside, once


class Child:
    """One child process in a process group of its own.

    It ends with this object's process, whatever ends that (see ``leash.py``).

    Args:
        name: what people call it; also the name of its log.
        command: program and arguments.
        log: file to which its output is appended.
        is_healthy: asked until it says yes; must not block for more than a second or two.
        env: variables beside (or, with the value None, taken out of) this process's own.
        token: mark of the stack that it belongs to.
        cwd: its working directory.
        patience: seconds that it may take to get healthy.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        is_healthy: Callable[[], bool],
        *,
        env: Mapping[str, str | None] | None = None,
        token: str = "",
        cwd: Path | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self.is_healthy = is_healthy
        self.env = dict(env or {})
        self.token = token
        self.cwd = cwd
        self.patience = patience
        self.started_in: float | None = None
        self._leash: subprocess.Popen[bytes] | None = None
        self._spawned_at = 0.0
        # One thread may watch and start again what another one ends.
        self._lock = threading.Lock()

    @property
    def is_running(self) -> bool:
        """Whether the process lives (healthy or not)."""
        return self._leash is not None and self._leash.poll() is None

    @property
    def pid(self) -> int | None:
        """Process id of the group's leader, None when it does not run."""
        return self._leash.pid if self._leash is not None and self.is_running else None

    def spawn(self) -> None:
        """Start the process without waiting for its health; a running one is left alone."""
        with self._lock:
            if not self.is_running:
                self._spawn()

    def _spawn(self) -> None:
        env = {**QUIET, **os.environ, **self.env, MARK: self.token}
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > MOST_LOG:
            self.log.replace(self.log.with_name(self.log.name + ".1"))
        with self.log.open("ab") as log:
            self._leash = subprocess.Popen(
                [sys.executable, "-I", str(LEASH), *self.command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={key: value for key, value in env.items() if value is not None},
                cwd=self.cwd,
                start_new_session=True,  # Ctrl-C in the terminal reaches us only; we end them in order
            )
        self._spawned_at = time.monotonic()

    def wait_until_healthy(self) -> None:
        """Wait for the health check.

        Raises:
            StackError: it ended, or is not healthy after ``patience`` seconds; with the end of its log.
        """
        deadline = self._spawned_at + self.patience
        while True:
            # In this order: on a port that somebody else took meanwhile, it is they who answer.
            if not self.is_running:
                raise StackError(f"{self.name} ended right after its start. {self._why()}")
            if self.is_healthy():
                break
            if time.monotonic() > deadline:
                self.stop()
                raise StackError(f"{self.name} did not answer within {self.patience:.0f} s. {self._why()}")
            time.sleep(0.1)
        self.started_in = time.monotonic() - self._spawned_at

    def start(self) -> None:
        """Start the process and wait until it is healthy.

        Raises:
            StackError: see ``wait_until_healthy``.
        """
        self.spawn()
        self.wait_until_healthy()

    def stop(self, grace: float = GRACE) -> None:
        """End the process and all that it started: SIGTERM, then SIGKILL after ``grace`` seconds."""
        with self._lock:
            if self._leash is not None:
                # A worker puts each flow run into a session of its own, so the process group is not enough.
                with contextlib.suppress(psutil.NoSuchProcess):
                    end_processes(family_of(psutil.Process(self._leash.pid)), grace)
                self._leash.wait()
                if self._leash.stdin is not None:
                    self._leash.stdin.close()
                self._leash = None

    def kill(self) -> None:
        """SIGKILL to the process and all that it started, as a power cut would (for tests of recovery)."""
        self.stop(grace=0.0)

    def _why(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-15:] if self.log.exists() else []
        return f"The end of {self.log}:\n" + "\n".join(f"    {line}" for line in lines)


def marked_processes(token: str) -> list[psutil.Process]:
    """All processes of this user that carry the token of a stack; never this one, never a shared database."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or not token or process.environ().get(MARK) != token:
                continue
            if not any(is_shared_database(p) for p in (process, *process.parents())):
                found.append(process)
    return found


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_port_taken(port: int) -> bool:
    """Whether something listens on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
