"""Prefect's process worker of a stack, and how to know that it really works."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from valflow import prefect_api
from valflow.errors import StackError
from valflow.processes import Child
from valflow.schedules import POOL

NAME = "valflow"
POLL = 2  # seconds between two questions for work; Prefect's own 10 make every step of a demo slow


class Worker(Child):
    """A worker of our pool; healthy when the server has heard of *this* start of it.

    The server calls a worker online for a minute after its death, so its word alone says nothing.

    Args:
        api: address of Prefect's API.
        logs: folder of its log, which has the worker's name where that is not ours.
        env: variables beside this process's own.
        token: mark of the stack that it belongs to.
        cwd: its working directory.
        name: by which Prefect knows it; workers of one pool need different ones.
        limit: runs at a time; None for any number.
    """

    def __init__(
        self,
        api: str,
        logs: Path,
        env: Mapping[str, str | None],
        *,
        token: str,
        cwd: Path,
        name: str = NAME,
        limit: int | None = None,
    ) -> None:
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
        command += ["--name", name, "--install-policy", "never"]
        if limit is not None:
            command += ["--limit", str(limit)]
        super().__init__(
            "worker" if name == NAME else name,
            command,
            logs / ("worker.log" if name == NAME else f"{name}.log"),
            lambda: any(beat >= self._since for beat in heartbeats(api, name)),
            env={**env, "PREFECT_WORKER_QUERY_SECONDS": str(POLL)},
            token=token,
            cwd=cwd,
        )
        self._since = datetime.now(UTC)

    def spawn(self) -> None:
        """Start it without waiting; see ``Child.spawn``."""
        self._since = datetime.now(UTC)
        super().spawn()


def heartbeats(api: str | None = None, name: str | None = None) -> list[datetime]:
    """When each worker of our pool reported last (every 30 s while it lives); empty without a pool.

    Args:
        api: address of Prefect's API; None finds it.
        name: of the worker; None takes all.
    """
    try:
        answer = prefect_api.call("POST", f"/work_pools/{POOL}/workers/filter", {}, api=api)
    except StackError:
        return []
    workers = [worker for worker in answer.json() if name in (None, worker["name"])]
    times = [worker["last_heartbeat_time"] for worker in workers]
    return [datetime.fromisoformat(time) for time in times if time]
