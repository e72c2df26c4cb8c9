"""A stack as ``valflow up`` runs it, in a process of its own, and the parts of it that can be killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from valflow.homes import read_record, state_folder
from valflow.leash import end_processes
from valflow.processes import free_port, marked_processes

FLOW, WORKER, SERVER, MONGOD, APP, UP = (
    "flow process",
    "worker",
    "Prefect server",
    "mongod",
    "App",
    "valflow up",
)
COMPONENTS = (FLOW, WORKER, SERVER, MONGOD, APP, UP)
# What the command line of each holds, and that of nothing else in the stack.
_COMMANDS = {
    WORKER: ("prefect", "worker", "start"),
    SERVER: ("valflow.serving prefect",),
    MONGOD: ("mongod", "--dbpath"),
    APP: ("valflow.serving app",),
}
ROOT = Path(__file__).resolve().parents[2]
READY = 300.0  # seconds; a start takes 20 on two idle cores


class RunningStack:
    """Keeps a stack up as a person would: whatever ends it, it is started again.

    Args:
        home: its folder.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.ports = [free_port() for _ in range(3)]
        self.uri = f"mongodb://127.0.0.1:{self.ports[0]}"
        self.starts = 0
        self.log = home / "up.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    # -- life

    def __enter__(self) -> RunningStack:
        self.home.mkdir(parents=True, exist_ok=True)
        self._start()
        self.wait_until_ready()
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._keeper.join(timeout=10.0)
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(60)
                if self._process.poll() is None:
                    self._process.kill()
        end_processes(marked_processes(read_record(self.home).token), grace=5.0)

    def wait_until_ready(self, timeout: float = READY) -> None:
        """Wait until everything of it was healthy once."""
        deadline = time.monotonic() + timeout
        while not self.is_ready:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the stack is not ready after {timeout:.0f} s; its log is {self.log}")
            time.sleep(0.2)

    @property
    def is_ready(self) -> bool:
        """Whether the process that keeps it lives, and has started everything."""
        record = read_record(self.home)
        return record.is_running and record.is_ready

    @property
    def said(self) -> str:
        """What it printed."""
        return self.log.read_text(errors="replace")

    def _start(self) -> None:
        self.starts += 1
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.serving", str(self.home), *map(str, self.ports)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "FIFTYONE_DATABASE_NAME": "chaos"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _keep(self) -> None:
        while not self._over.wait(0.5):
            with self._lock:
                if not self._over.is_set() and self._process is not None and self._process.poll() is not None:
                    self._start()

    # -- death

    def kill(self, component: str) -> bool:
        """SIGKILL to one part; False where it does not live just now."""
        processes = self._processes(component)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return bool(processes)

    def stage(self, run: str) -> str:
        """Where a run stands, asked without FiftyOne; "?" while the database is away."""
        try:
            with MongoClient(self.uri, serverSelectionTimeoutMS=500, socketTimeoutMS=2000) as client:  # type: ignore[var-annotated]
                record = client["chaos"]["valflow_runs"].find_one(
                    {"run": run}, {"state": 1, "completed_at": 1}
                )
        except PyMongoError:
            return "database away"
        if record is None:
            return "start"
        return "ended" if record.get("completed_at") else str(record["state"])

    def _processes(self, component: str) -> list[psutil.Process]:
        if component == UP:
            return (
                [psutil.Process(self._process.pid)] if self._process and self._process.poll() is None else []
            )
        if component == FLOW:
            return self._flow_processes()
        wanted = _COMMANDS[component]
        return [p for p in self._members() if _is(p, wanted)]

    def _flow_processes(self) -> list[psutil.Process]:
        words = ("prefect.engine", "_workspace_runtime_bootstrap")
        return [p for p in self._members() if any(_is(p, (word,)) for word in words)]

    def _members(self) -> list[psutil.Process]:
        return marked_processes(read_record(self.home).token)

    @property
    def logs(self) -> Path:
        """Folder of the logs of its parts."""
        return state_folder(self.home) / "logs"


def _is(process: psutil.Process, words: tuple[str, ...]) -> bool:
    try:
        line = process.cmdline()
    except psutil.Error:
        return False
    # The leash has the whole command of its child behind its own.
    if any(part.endswith("leash.py") for part in line[:4]):
        return False
    return all(word in " ".join(line) for word in words)
