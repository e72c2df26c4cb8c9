"""What a deployed pipeline needs on one machine, as child processes that start and end together.

A *home* is the folder that people work in (VALFLOW_HOME, else the current folder): configurations, suites
and models of one's own live there and are importable in flow runs. ``<home>/.valflow/`` holds what the stack
keeps: ``stack.json`` (ports and addresses, so that other commands of this home find the stack), ``logs/``,
``prefect/`` (the server's database) and ``db/`` (the own MongoDB, where one is used).
"""

from __future__ import annotations

import collections
import json
import os
import secrets
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import get_args

import psutil

from valflow import prefect_api, schedules
from valflow.app_server import app_server
from valflow.errors import StackError
from valflow.homes import Database, Record, environment, home, read_record, state_folder, write_record
from valflow.leash import end_processes
from valflow.login import FOR_CLIENTS, login_file, make_login
from valflow.mongod import Mongod, configured_uri, embedded_uris, without_password
from valflow.prefect_server import prefect_server
from valflow.processes import Child, free_port, is_port_taken, marked_processes
from valflow.quiet import QUIET
from valflow.reaper import EVERY, Reaper
from valflow.waiting import Waiting
from valflow.worker import POLL, Worker

__all__ = ["Database", "Ports", "Stack", "environment", "home", "up"]

MOST_RESTARTS = 3
RESTART_WINDOW = 600.0  # seconds


@dataclass(frozen=True)
class Ports:
    """TCP ports on 127.0.0.1; None leaves the choice."""

    mongod: int | None = None
    prefect: int | None = None
    app: int | None = None


STANDARD_PORTS = Ports(prefect=4200, app=5151)


class Stack:
    """MongoDB (where it is our own), Prefect server, worker and FiftyOne App of one home.

    Use it as a context manager, or ``start()`` and ``stop()``. Each child is ``stack.children[name]`` with
    ``start``, ``stop`` and ``kill``; started again it comes back on the same port and files.

    Args:
        home: the folder to serve.
        database: "own" or "default"; None continues what this home used last, except where
            a MongoDB is configured for FiftyOne.
        app: whether to start the FiftyOne App.
        secure: whether the servers ask for a login; None continues what this home used last.
        new_secret: make a new login, even where there is one.
        ports: must be these; a port that is taken is an error.
        usual_ports: tried where ``ports`` says nothing, then the last ones of this home, then any free one.
        deployments: what the worker serves.
        env: further variables for all children.
        say: called with one line per step.
    """

    def __init__(
        self,
        home: Path,
        *,
        database: Database | None = None,
        app: bool = True,
        secure: bool | None = None,
        new_secret: bool = False,
        ports: Ports | None = None,
        usual_ports: Ports | None = None,
        deployments: tuple[schedules.Deployment, ...] = schedules.DEPLOYMENTS,
        env: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.home = home.expanduser().resolve()
        self.folder = state_folder(self.home)
        self.logs = self.folder / "logs"
        self.say = say
        self.children: dict[str, Child] = {}
        self.deployment_ids: dict[str, str] = {}
        self._app = app
        self._asked_database = database
        self._asked_secure = True if new_secret else secure
        self._new_secret = new_secret
        self._login: str | None = None
        self._asked_ports = ports or Ports()
        self._usual_ports = usual_ports or Ports()
        self._deployments = deployments
        self._extra_env = dict(env or {})
        self._record = Record()

    # -- addresses

    @property
    def token(self) -> str:
        """The mark that all children carry."""
        return self._record.token

    @property
    def database(self) -> Database:
        """Which database the stack uses."""
        return self._record.database

    @property
    def is_secure(self) -> bool:
        """Whether its servers ask for a login."""
        return self._record.is_secure

    @property
    def api_url(self) -> str:
        """Address of Prefect's API."""
        return f"http://127.0.0.1:{self._record.ports['prefect']}/api"

    @property
    def ui_url(self) -> str:
        """Address of Prefect's pages."""
        return self.api_url.removesuffix("/api")

    @property
    def app_url(self) -> str | None:
        """Address of the FiftyOne App."""
        return f"http://127.0.0.1:{self._record.ports['app']}" if self._app else None

    @property
    def environment(self) -> dict[str, str]:
        """See ``stack.environment``."""
        return dict(self._record.addresses)

    def find_database(self) -> str | None:
        """Address of the database; FiftyOne's embedded one starts late, and comes back on another port."""
        return self.environment.get("FIFTYONE_DATABASE_URI") or next(iter(embedded_uris()), None)

    # -- life

    def start(self) -> Stack:
        """Start everything and wait until it is healthy; ends what it started when one thing fails.

        Raises:
            StackError: a stack of this home runs already, a port is taken, or a child does not get healthy.
        """
        previous = read_record(self.home)
        if previous.is_running:
            where = ", ".join(f"{k}={v}" for k, v in previous.addresses.items() if k.endswith("_URL"))
            raise StackError(f"a stack of {self.home} runs already (process {previous.pid}): {where}")
        # Whatever a killed stack left behind holds our ports and files.
        end_processes(marked_processes(previous.token), grace=10.0)
        self._begin_record(previous)
        try:
            self._start_children()
        except BaseException:
            self.stop()
            raise
        self._record.is_ready = True
        self._write_record()
        return self

    def stop(self) -> None:
        """End everything that was started, the database last; harmless when repeated."""
        base = ("server", "mongod")  # what the others speak to
        for group in ([name for name in self.children if name not in base], ["server"], ["mongod"]):
            members = [self.children[name] for name in group if name in self.children]
            threads = [threading.Thread(target=child.stop) for child in members]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if self._record.token:
            # Flow runs whose worker was killed before.
            end_processes(marked_processes(self._record.token), grace=5.0)
            self._record.pid, self._record.is_ready = None, False
            self._write_record()

    def __enter__(self) -> Stack:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def supervise(
        self, until: threading.Event, poll: float = 1.0, meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        """Watch the children and start again what dies, until the event is set.

        Args:
            until: ends it.
            poll: seconds between two looks.
            meanwhile: called after each look.

        Raises:
            StackError: a child died more than three times within ten minutes, or did not come back.
        """
        deaths: dict[str, collections.deque[float]] = collections.defaultdict(collections.deque)
        while not until.wait(poll):
            for name, child in self.children.items():
                if child.is_running:
                    continue
                recent = deaths[name]
                recent.append(time.monotonic())
                while recent[0] < recent[-1] - RESTART_WINDOW:
                    recent.popleft()
                if len(recent) > MOST_RESTARTS:
                    raise StackError(
                        f"{name} died {len(recent)} times within {RESTART_WINDOW / 60:.0f} minutes, so it is "
                        f"not started again; its log is {child.log}"
                    )
                self.say(
                    f"{_now()} {name} ended by itself; starting it again ({len(recent)} of {MOST_RESTARTS})"
                )
                child.start()
                self.say(f"{_now()} {name} is back")
            meanwhile()

    def reaper(self, every: float = EVERY) -> Reaper:
        """What looks after the runs of dead processes, for as long as its block runs."""
        return Reaper(
            self.find_database,
            self.api_url,
            lambda line: self.say(f"{_now()} {line}"),
            env=self._child_environment(),
            cwd=self.home,
            token=self.token,
            every=every,
        )

    # -- children

    def _start_children(self) -> None:
        if self.database == "own":
            self.children["mongod"] = mongod = self._make_mongod()
            mongod.start()
            self._say_started(mongod, mongod.uri)
        else:
            uri = configured_uri()
            self.say(
                f"database {without_password(uri) if uri else 'embedded, shared by your FiftyOne sessions'}"
            )
        server = self.children["server"] = self._make_server()
        server.spawn()
        app = self._make_app() if self._app else None
        if app is not None:
            self.children["app"] = app
            app.spawn()
        server.wait_until_healthy()
        self._say_started(server, self.ui_url)
        schedules.ensure_pool(self.api_url)
        worker = Worker(self.api_url, self.logs, self._child_environment(), token=self.token, cwd=self.home)
        self.children["worker"] = worker
        worker.spawn()
        self._deploy()
        worker.wait_until_healthy()
        self._say_started(worker, f"pool {schedules.POOL}, asks every {POLL} s")
        if app is not None:
            app.wait_until_healthy()
            self._say_started(app, self.app_url or "")

    def _make_mongod(self) -> Mongod:
        return Mongod(
            self.folder / "db",
            self._record.ports["mongod"],
            self.logs / "mongod.log",
            token=self._record.token,
        )

    def _make_server(self) -> Child:
        return prefect_server(
            self._record.ports["prefect"],
            log=self.logs / "server.log",
            env=self._child_environment(),
            token=self._record.token,
            cwd=self.home,
            login=self._login,
        )

    def _make_app(self) -> Child:
        return app_server(
            self.folder,
            self._record.ports["app"],
            log=self.logs / "app.log",
            env=self._child_environment(),
            token=self._record.token,
            cwd=self.home,
            login=self._login,
        )

    def _deploy(self) -> None:
        env = {**QUIET, **os.environ, **self._child_environment()}
        wanted = json.dumps([asdict(deployment) for deployment in self._deployments])
        done = subprocess.run(
            [sys.executable, "-m", "valflow.schedules", wanted],
            env={key: value for key, value in env.items() if value is not None},
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
        )
        names = [deployment.name for deployment in self._deployments]
        if done.returncode != 0:
            raise StackError(f"cannot deploy {', '.join(names)}: {done.stderr.strip()[-2000:]}")
        self.deployment_ids.update(zip(names, done.stdout.split()[-len(names) :], strict=True))

    def _child_environment(self) -> dict[str, str | None]:
        path = [str(self.home), *_code_folder(), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        return {
            "PYTHONPATH": os.pathsep.join(dict.fromkeys(p for p in path if p)),
            "PYTHONUNBUFFERED": "1",
            # A hosted Prefect that the user is logged in to must not be reached from here.
            "PREFECT_API_KEY": None,
            "PREFECT_PROFILE": None,
            "PREFECT_PROFILES_PATH": None,
            **self._record.addresses,
            **({FOR_CLIENTS: self._login} if self._login else {}),
            **self._extra_env,
        }

    def _say_started(self, child: Child, where: str) -> None:
        self.say(f"{child.name:<8} {where}  ({child.started_in or 0.0:.1f} s)")

    # -- the record

    def _begin_record(self, previous: Record) -> None:
        wanted = self._asked_database
        if wanted is None:
            wanted = "default" if configured_uri() else previous.database
        if wanted not in get_args(Database):
            raise StackError(f"expected the database to be one of {get_args(Database)}, found {wanted!r}")
        names = ["prefect", *(["app"] if self._app else []), *(["mongod"] if wanted == "own" else [])]
        ports = {}
        for name in names:
            first_choices = (getattr(self._usual_ports, name), previous.ports.get(name))
            ports[name] = _choose_port(name, getattr(self._asked_ports, name), first_choices)
        me = psutil.Process()
        secure = previous.is_secure if self._asked_secure is None else self._asked_secure
        self._login = make_login(self.folder, anew=self._new_secret) if secure else None
        self._record = Record(secrets.token_hex(8), me.pid, me.create_time(), False, wanted, secure, ports)
        self._record.addresses = self._addresses()
        prefect_api.use_login(self.api_url, self._login)
        self._write_record()

    def _addresses(self) -> dict[str, str]:
        addresses = {
            "VALFLOW_HOME": str(self.home),
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": self.api_url,
        }
        if self.app_url:
            addresses["VALFLOW_APP_URL"] = self.app_url
        if self.database == "own":
            addresses |= Mongod(self.folder / "db", self._record.ports["mongod"]).environment
        elif uri := configured_uri():
            addresses["FIFTYONE_DATABASE_URI"] = uri
        return addresses

    def _write_record(self) -> None:
        write_record(self.home, self._record)


def up(
    folder: Path | None = None,
    *,
    app: bool = True,
    database: Database | None = None,
    secure: bool | None = None,
    new_secret: bool = False,
    ports: Ports | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Run a stack until Ctrl-C or SIGTERM, starting again what dies. For a program's main thread.

    Args:
        folder: the home; None takes VALFLOW_HOME, else the current folder.
        app: whether to start the FiftyOne App.
        database: see ``Stack``.
        secure: see ``Stack``.
        new_secret: see ``Stack``.
        ports: must be these; otherwise 4200 for Prefect and 5151 for the App, where they are free.
        say: called with one line per step.

    Raises:
        StackError: something did not start, or died too often; everything has ended by then.
    """
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(*_: object) -> None:
        # A second Ctrl-C must not break off the orderly end, which is bounded anyway.
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    handlers = {number: signal.signal(number, interrupt) for number in signals}
    try:
        stack = Stack(
            folder or home(),
            app=app,
            database=database,
            secure=secure,
            new_secret=new_secret,
            ports=ports,
            usual_ports=STANDARD_PORTS,
            say=say,
        )
        with stack:
            say(f"logs     {stack.logs}")
            if stack.is_secure:
                say(f"login    {login_file(stack.folder)}  (user:secret, for Prefect's pages and the App)")
            say("Stop with Ctrl-C.")
            with stack.reaper():
                stack.supervise(threading.Event(), meanwhile=_announcer(stack, say))
    except KeyboardInterrupt:
        say("stopped")
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _announcer(stack: Stack, say: Callable[[str], None]) -> Callable[[], None]:
    """Says which runs wait and where."""
    if stack.app_url is None:
        return lambda: None
    return Waiting(stack.find_database, stack.app_url, say).look


def _code_folder() -> list[str]:
    # A clone that is not installed must be importable in the children. site-packages is so already, and named
    # on PYTHONPATH it would come before the standard library.
    folder = Path(__file__).resolve().parents[1]
    return (
        []
        if folder in {Path(sysconfig.get_path(k)).resolve() for k in ("purelib", "platlib")}
        else [str(folder)]
    )


def _choose_port(name: str, asked: int | None, usual: tuple[int | None, ...]) -> int:
    if asked is not None:
        if is_port_taken(asked):
            raise StackError(f"expected port {asked} to be free for {name}, found another program on it")
        return asked
    return next((port for port in usual if port and not is_port_taken(port)), None) or free_port()


def _now() -> str:
    return datetime.now().astimezone().strftime("%H:%M:%S")
