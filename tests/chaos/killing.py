"""A process that counts its own writes, and dies by SIGKILL at a chosen one of them: before, inside or after it.

Writes are commands to MongoDB, as the driver sends them, and changes of files in a folder. *Inside* means what a crash
of the database leaves of a command that changes several documents: the first half of them. Of a file that is being
written it means a file with a broken beginning.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pymongo
from pymongo import monitoring

BEFORE, INSIDE, AFTER = "before", "inside", "after"
_COMMANDS = frozenset(
    {"insert", "update", "delete", "findAndModify", "create", "createIndexes", "drop", "dropIndexes"}
)
# Changes of files; the path is the first argument of each event.
_FILE_EVENTS = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.link"})


@dataclass(frozen=True)
class Write:
    """One write of a process.

    Attributes:
        number: counts the writes of the process from 1.
        stage: in which it happens.
        what: command and collection, or the change of a file.
        parts: whether it can be broken off in the middle.
    """

    number: int
    stage: str
    what: str
    parts: bool

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Point:
    """Where a process dies: ``when`` is before, inside or after the write ``number``."""

    number: int
    when: str


class Killer(monitoring.CommandListener):
    """Counts the writes of this process and kills it at a point.

    Make one per process, before it connects to MongoDB, which is when the driver collects its listeners.

    Args:
        folder: changes of files in here count.
        point: where to die; None only counts.
        tell: called with each write, before it happens.
        act: what happens there instead of dying; the process goes on as far as it can.
    """

    def __init__(
        self,
        folder: Path,
        point: Point | None,
        tell: Callable[[Write], None],
        act: Callable[[], object] | None = None,
    ) -> None:
        self.stage = "start"
        self.writes = 0
        self._folder = str(folder) + os.sep
        self._point = point
        self._tell = tell
        self._act = act or die
        self._open_commands: dict[int, int] = {}
        self._is_own = False
        monitoring.register(self)
        sys.addaudithook(self._file_event)

    # -- MongoDB

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """The driver is about to send a command."""
        if self._is_own or not is_write(event.command_name, event.command):
            return
        number = self._count(f"{event.command_name} {_collection(event)}", has_parts(event.command))
        self._open_commands[event.request_id] = number
        if self._point == Point(number, INSIDE) and has_parts(event.command):
            self._is_own = True
            write_half(event.database_name, event.command)
            die()

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """The server has answered."""
        number = self._open_commands.pop(event.request_id, None)
        if number is not None and self._point == Point(number, AFTER):
            die()

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """The server refused; nothing was written."""
        self._open_commands.pop(event.request_id, None)

    # -- files

    def _file_event(self, name: str, arguments: tuple[Any, ...]) -> None:
        if self._is_own or (name != "open" and name not in _FILE_EVENTS):
            return
        path = str(arguments[0])
        if not path.startswith(self._folder):
            return
        if name == "open":
            mode, flags = arguments[1], arguments[2]
            if not (set(mode or "") & set("wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR)):
                return
        number = self._count(f"{name} {Path(path).name}", name == "open")
        if self._point == Point(number, INSIDE):
            self._is_own = True
            Path(path).write_bytes(b'{"broken off')
            die()

    # -- both

    def _count(self, what: str, parts: bool) -> int:
        self.writes += 1
        self._tell(Write(self.writes, self.stage, what, parts))
        if self._point == Point(self.writes, BEFORE):
            self._is_own = True
            self._act()
            self._is_own = False
        return self.writes


def die() -> None:
    """As when the power goes: nothing is flushed, closed or cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


def is_write(name: str, command: Mapping[str, Any]) -> bool:
    """Whether a command changes what people could miss; when a dataset was loaded last, for one, they could."""
    if name == "aggregate":
        return _merges(command)
    if name == "update" and command["update"] == "datasets":
        return any(_changed_keys(u["u"]) != {"last_loaded_at"} for u in command["updates"])
    if name == "update" and command["update"] == "valflow_runs":
        # Signs of life come by the clock, and would give the writes after them other numbers each time.
        return any(_changed_keys(u["u"]) != {"heartbeat_at"} for u in command["updates"])
    return name in _COMMANDS


def has_parts(command: Mapping[str, Any]) -> bool:
    """Whether a command changes more than one document, each of them for itself."""
    if "pipeline" in command:
        return _merges(command)
    documents = command.get("documents") or command.get("updates") or command.get("deletes") or []
    return len(documents) > 1 or any(u.get("multi") or u.get("limit") == 0 for u in documents)


def write_half(database: str, command: Mapping[str, Any]) -> None:
    """Carry out the first half of a command, over a connection of its own."""
    with pymongo.MongoClient[dict[str, Any]](os.environ["FIFTYONE_DATABASE_URI"]) as client:
        half = _half(client[database], command)
        if half:
            client[database].command(half)


def _half(db: Any, command: Mapping[str, Any]) -> dict[str, Any] | None:
    kept = ("ordered", "cursor", "let", "allowDiskUse")
    options = {k: command[k] for k in kept if k in command}
    name = next(iter(command))
    if name == "aggregate":
        *stages, merge = command["pipeline"]
        found = next(db[command[name]].aggregate([*stages, {"$count": "n"}]), {"n": 0})
        if found["n"] < 2:
            return None
        return {name: command[name], "pipeline": [*stages, {"$limit": found["n"] // 2}, merge], **options}
    key = {"insert": "documents", "update": "updates", "delete": "deletes"}[name]
    parts = list(command[key])
    if len(parts) > 1:
        return {name: command[name], key: parts[: len(parts) // 2], **options}
    found = [d["_id"] for d in db[command[name]].find(parts[0]["q"], {"_id": 1})]
    if len(found) < 2:
        return None
    first = {"_id": {"$in": found[: len(found) // 2]}}
    return {name: command[name], key: [{**parts[0], "q": {"$and": [parts[0]["q"], first]}}], **options}


def _merges(command: Mapping[str, Any]) -> bool:
    last = (list(command["pipeline"]) or [{}])[-1]
    return "$merge" in last or "$out" in last


def _changed_keys(update: Any) -> set[str]:
    stages = update if isinstance(update, list) else [update]
    return {key for stage in stages for change in stage.values() for key in change}


def _collection(event: monitoring.CommandStartedEvent) -> str:
    name = str(event.command.get(event.command_name, ""))
    return "samples" if name.startswith("samples.") else name
