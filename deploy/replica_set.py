"""A MongoDB replica set of one member, which others can join, with a user and a password."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Any

from valflow.errors import StackError
from valflow.mongod import Mongod

NAME = "rs0"
USER = "valflow"
PATIENCE = 60.0  # seconds for a member to become primary; takes one or two


class ReplicaSet(Mongod):
    """A mongod on 127.0.0.1 that is a replica set by itself; ``start`` makes it one, the first time.

    Args:
        dbpath: folder of its files; made when it is missing.
        log: its output.
        port: TCP port; None takes a free one.
        token: mark of the stack that it belongs to.
        cache_gb: memory for cached documents in GB; None leaves MongoDB's choice (half of the machine).

    Raises:
        StackError: there is no mongod on this machine.
    """

    def __init__(
        self,
        dbpath: Path,
        log: Path,
        *,
        port: int | None = None,
        token: str = "",
        cache_gb: float | None = None,
    ) -> None:
        super().__init__(dbpath, port, log, token=token, cache_gb=cache_gb)
        # Members trust each other by this file; with it, everybody else has to log in.
        self._key_file = dbpath / "members.key"
        self._password = secrets.token_hex(24)
        self.command += ["--replSet", NAME, "--keyFile", str(self._key_file)]

    @property
    def uri(self) -> str:
        """Connection string; holds the password."""
        return f"mongodb://{USER}:{self._password}@127.0.0.1:{self.port}/?replicaSet={NAME}&authSource=admin"

    def start(self) -> None:
        """Start it and wait until it takes writes; a running one is left alone.

        Raises:
            StackError: the port is taken, or it does not start or become primary.
        """
        if self.is_running:
            return
        is_new = not self._key_file.exists()
        if is_new:
            self.dbpath.mkdir(parents=True, exist_ok=True)
            self._key_file.touch(mode=0o400 | 0o200)
            self._key_file.write_text(secrets.token_urlsafe(96).replace("-", "+").replace("_", "/"))
            self._key_file.chmod(0o400)
        super().start()
        if is_new:
            self._initiate()

    def _initiate(self) -> None:
        # As long as there is no user, whoever comes from this machine may do these two things.
        with self._direct() as client:
            members = [{"_id": 0, "host": f"127.0.0.1:{self.port}"}]
            client.admin.command("replSetInitiate", {"_id": NAME, "members": members})
            deadline = time.monotonic() + PATIENCE
            while not client.admin.command("hello").get("isWritablePrimary"):
                if time.monotonic() > deadline:
                    self.stop()
                    raise StackError(f"mongod did not become primary of {NAME} within {PATIENCE:.0f} s")
                time.sleep(0.1)
            client.admin.command("createUser", USER, pwd=self._password, roles=["root"])

    def _direct(self) -> Any:
        from pymongo import MongoClient

        return MongoClient("127.0.0.1", self.port, directConnection=True, serverSelectionTimeoutMS=1000)

    def _answers(self) -> bool:
        from pymongo.errors import PyMongoError

        # Before it is a replica set, nothing but a direct connection finds it.
        try:
            with self._direct() as client:
                return bool(client.admin.command("hello")["ok"])
        except PyMongoError:
            return False
