"""The folder that a stack serves, and what it leaves there for other commands to find it."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from valflow.errors import StackError
from valflow.login import FOR_CLIENTS, read_login
from valflow.quiet import be_quiet

# own: a MongoDB in the home's folder. default: what FiftyOne uses here without us.
Database = Literal["own", "default"]


def home() -> Path:
    """The folder of this installation: VALFLOW_HOME, else the current folder."""
    return Path(os.environ.get("VALFLOW_HOME") or Path.cwd()).expanduser().resolve()


def enter_home() -> dict[str, str]:
    """Pull step of the deployment: a flow run works in the home of its worker.

    A step of our own, because a template such as ``{{ $VALFLOW_HOME }}`` is filled in already by
    `prefect deploy` where the deploying shell has that variable, and that machine's folder is then everybody's.

    Raises:
        StackError: the worker does not say where its home is.
    """
    folder = os.environ.get("VALFLOW_HOME")
    if not folder or not Path(folder).is_dir():
        raise StackError(
            f"expected VALFLOW_HOME in the worker's environment to be the folder of your configurations, suites "
            f"and models, found {folder!r}; set it and start the worker again"
        )
    os.chdir(folder)
    be_quiet()
    return {"directory": folder}


def state_folder(home: Path) -> Path:
    """Where a stack of this home keeps its files."""
    return home / ".valflow"


@dataclass
class Record:
    """What ``stack.json`` says about the last stack of a home."""

    token: str = ""
    pid: int | None = None
    created: float = 0.0  # start time of that process: a process id alone may belong to somebody else by now
    is_ready: bool = False
    database: Database = "default"
    is_secure: bool = False  # its servers ask for the login
    ports: dict[str, int] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)  # environment variables for other commands

    @property
    def is_running(self) -> bool:
        """Whether the process that started the stack lives."""
        try:
            return self.pid is not None and psutil.Process(self.pid).create_time() == self.created
        except psutil.NoSuchProcess:
            return False


def read_record(home: Path) -> Record:
    """The record of the last stack of this home; an empty one where there was none."""
    try:
        values = json.loads((state_folder(home) / "stack.json").read_text(encoding="utf-8"))
        return Record(**values)
    except (FileNotFoundError, NotADirectoryError):
        return Record()
    except (OSError, ValueError, TypeError) as error:
        path = state_folder(home) / "stack.json"
        raise StackError(f"cannot read {path}: {error}. Delete it; nothing but ports is lost.") from error


def environment(home: Path) -> dict[str, str]:
    """Variables that lead a process to the stack that runs in ``home``; empty where none runs.

    Holds PREFECT_API_URL, PREFECT_HOME, VALFLOW_HOME, VALFLOW_APP_URL (with an App), FIFTYONE_DATABASE_URI unless
    the stack uses FiftyOne's embedded database, and PREFECT_API_AUTH_STRING where its servers ask for a login that
    can be read. Apply it before fiftyone or prefect is imported.
    """
    record = read_record(home)
    if not (record.is_running and record.is_ready):
        return {}
    login = None
    if record.is_secure:
        # Work on labels goes on without it; who asks Prefect is told what is wrong.
        with contextlib.suppress(StackError):
            login = read_login(state_folder(home))
    return {**record.addresses, **({FOR_CLIENTS: login} if login else {})}


def join(home: Path) -> None:
    """Let this process use database and Prefect of the stack that runs in ``home``, where nothing else is set."""
    found = environment(home)
    login = found.pop(FOR_CLIENTS, None)
    # The login belongs to this stack's server; no other one is told of it.
    if login and os.environ.get("PREFECT_API_URL", found["PREFECT_API_URL"]) == found["PREFECT_API_URL"]:
        os.environ[FOR_CLIENTS] = login
    for name, value in found.items():
        os.environ.setdefault(name, value)


def login_for(home: Path) -> str | None:
    """The login of the servers of ``home``; None where they ask for none.

    Raises:
        StackError: it cannot be read, or others can read it.
    """
    return read_login(state_folder(home)) if read_record(home).is_secure else None


def write_record(home: Path, record: Record) -> None:
    """Replace the record in one step, so that no reader sees half of it."""
    folder = state_folder(home)
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / "stack.json.draft"
    draft.touch(mode=0o600)  # an address of a database may hold a password
    draft.write_text(json.dumps(asdict(record), indent=1), encoding="utf-8")
    draft.replace(folder / "stack.json")
