"""The parts of a deployment as processes of one machine, each with a home of its own as if on machines of their own.

PostgreSQL, a MongoDB replica set, a Prefect server with a login, and workers. What differs from real machines:
the addresses are loopback ones, and the shared folder needs no network.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.postgres import Postgres
from deploy.replica_set import ReplicaSet
from valflow.errors import StackError
from valflow.leash import end_processes
from valflow.login import FOR_CLIENTS, USER
from valflow.prefect_server import prefect_server
from valflow.processes import Child, free_port, marked_processes
from valflow.quiet import QUIET
from valflow.schedules import POOL
from valflow.worker import Worker

ROOT = Path(__file__).resolve().parents[1]
OURS = ("FIFTYONE_", "PREFECT_", "VALFLOW_")  # variables that lead to somebody's database, server or home


@dataclass(frozen=True)
class Machine:
    """One member of the deployment: what it calls home, and nothing that another one has."""

    name: str
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Its homes: of the user, of valflow and of Prefect; and its temporary files."""
        folders = {
            "HOME": "user",
            "VALFLOW_HOME": "labeling",
            "PREFECT_HOME": "prefect",
            "TMPDIR": "temporary",
        }
        found = {variable: self.folder / name for variable, name in folders.items()}
        for path in found.values():
            path.mkdir(parents=True, exist_ok=True)
        return {variable: str(path) for variable, path in found.items()}


class Cluster:
    """All parts; ``start``, ``deploy`` and ``start_workers`` in this order, ``stop`` ends everything.

    Args:
        folder: for everything that is written; another user than root must be able to pass through it.
        workers: names of the workers, each of which takes one run at a time.
        say: called with one line per part that answers.
        server_settings: further variables for Prefect's server.
    """

    def __init__(
        self,
        folder: Path,
        workers: tuple[str, ...],
        say: Callable[[str], None],
        server_settings: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.token = secrets.token_hex(8)
        self.say = say
        self.shared = folder / "shared"
        self.shared.mkdir()
        self.login = f"{USER}:{secrets.token_urlsafe(32)}"
        self.postgres = Postgres(folder / "postgres", folder / "logs" / "postgres.log", token=self.token)
        self.database = ReplicaSet(
            folder / "mongodb", folder / "logs" / "mongod.log", token=self.token, cache_gb=0.5
        )
        self._prefect_port = free_port()
        self._server_settings = dict(server_settings or {})
        self.api_url = f"http://127.0.0.1:{self._prefect_port}/api"
        self.server = self._make_server()
        self.workers = {name: self._make_worker(name) for name in workers}

    def machine(self, name: str) -> Machine:
        """The machine of this name, with homes of its own."""
        return Machine(name, self.folder / "machines" / name)

    @property
    def database_environment(self) -> dict[str, str]:
        """What leads to the labels, for everybody who works on them."""
        return self.database.environment

    @property
    def prefect_environment(self) -> dict[str, str]:
        """What leads to Prefect, for everybody who starts or decides runs."""
        return {"PREFECT_API_URL": self.api_url, FOR_CLIENTS: self.login}

    def start(self) -> None:
        """Start both databases, and Prefect's server without waiting for it.

        Raises:
            StackError: one of them does not start.
        """
        self.postgres.start()
        self._say_started(self.postgres, f"{self.postgres.tools}, port {self.postgres.port}")
        self.database.start()
        self._say_started(self.database, f"replica set of one member, port {self.database.port}")
        self.server.spawn()

    def deploy(self) -> None:
        """Wait for the server; then what docs/deployment.md says, once, in a clone.

        Raises:
            StackError: the server does not answer, or Prefect refuses.
        """
        self.server.wait_until_healthy()
        self._say_started(self.server, f"{self.api_url}, its tables in PostgreSQL")
        env = self._environment(self.machine("deployer"), self.prefect_environment)
        for arguments in (
            ["work-pool", "create", POOL, "--type", "process"],
            ["--no-prompt", "deploy", "--all"],
        ):
            done = subprocess.run(
                [sys.executable, "-m", "prefect", *arguments],
                cwd=ROOT,
                env={**{k: v for k, v in os.environ.items() if not k.startswith(OURS)}, **env},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=180,
            )
            if done.returncode != 0:
                raise StackError(f"prefect {' '.join(arguments)}: {(done.stdout + done.stderr)[-2000:]}")

    def start_workers(self) -> None:
        """Start the workers and wait until the server has heard of each.

        Raises:
            StackError: one of them does not start.
        """
        for worker in self.workers.values():
            worker.spawn()
        for name, worker in self.workers.items():
            worker.wait_until_healthy()
            self._say_started(worker, f"pool {POOL}, home {self.machine(name).folder.name}/labeling")

    def stop(self) -> None:
        """End everything, what the others speak to last; harmless when repeated."""
        for child in (*self.workers.values(), self.server, self.database, self.postgres):
            child.stop()
        end_processes(marked_processes(self.token), grace=5.0)

    def _make_server(self) -> Child:
        database = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": self.postgres.url}
        machine = self.machine("server")
        return prefect_server(
            self._prefect_port,
            log=self.folder / "logs" / "server.log",
            env=self._environment(
                machine, {**database, "PREFECT_API_URL": self.api_url, **self._server_settings}
            ),
            token=self.token,
            cwd=machine.folder,
            login=self.login,
        )

    def _make_worker(self, name: str) -> Worker:
        machine = self.machine(name)
        addresses = {**self.database_environment, **self.prefect_environment}
        # Who may start runs may run code here: only the demo's model.
        allowed = {"VALFLOW_ALLOWED_MODELS": "examples.digits.model:DigitDetector"}
        return Worker(
            self.api_url,
            self.folder / "logs",
            self._environment(machine, {**addresses, **allowed}),
            token=self.token,
            cwd=machine.folder / "labeling",
            name=name,
            limit=1,
        )

    def _environment(self, machine: Machine, more: Mapping[str, str]) -> dict[str, str]:
        return {
            **QUIET,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "FIFTYONE_SHOW_PROGRESS_BARS": "false",
            **machine.environment,
            **more,
        }

    def _say_started(self, child: Child, where: str) -> None:
        self.say(f"{child.name:<9} {where}  ({child.started_in or 0.0:.0f} s)")
