"""The part of `valflow up` that looks after runs whose process died; see ``recovery``.

It looks by MongoDB's and Prefect's own protocols, because importing FiftyOne takes seconds and much memory. Only where
something is to be done, a process of its own does it: ``python -m valflow.reaper``. With ``--every 15`` that
looks by itself, for deployments without `valflow up`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from valflow import prefect_api, recovery
from valflow.database import RUNS
from valflow.errors import StackError
from valflow.mongod import configured_uri
from valflow.processes import LEASH, MARK
from valflow.quiet import QUIET

if TYPE_CHECKING:
    from pymongo import MongoClient

EVERY = 15.0  # seconds between two looks


class Reaper:
    """Looks in a thread of its own, from entering to leaving the block.

    Args:
        find_uri: finds the database; None while there is none.
        api: address of Prefect's API.
        say: called with one line per run that something was done about.
        env: variables of the process that does it, beside this one's own; None takes one out.
        cwd: its working directory.
        token: mark of the stack that it belongs to.
        every: seconds between two looks.
    """

    def __init__(
        self,
        find_uri: Callable[[], str | None],
        api: str,
        say: Callable[[str], None],
        *,
        env: Mapping[str, str | None],
        cwd: Path,
        token: str = "",
        every: float = EVERY,
    ) -> None:
        self._find_uri = find_uri
        self._api = api
        self._say = say
        self._env = {**QUIET, **os.environ, **env, MARK: token}
        self._cwd = cwd
        self._every = every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="reaper", daemon=True)

    def __enter__(self) -> Reaper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # What it started carries the mark of the stack, and ends with that.
        self._over.set()

    def look(self) -> bool:
        """Look once, and have done what is to be done; whether there was anything."""
        from pymongo import MongoClient
        from pymongo.errors import PyMongoError

        uri = self._find_uri()
        if uri is None:
            return False
        client: MongoClient[dict[str, Any]] = MongoClient(uri, serverSelectionTimeoutMS=2000)
        try:
            records = client[os.environ.get("FIFTYONE_DATABASE_NAME", "fiftyone")][RUNS]
            found = any(step.is_automatic for step in recovery.look(records, self._api))
        except (PyMongoError, StackError):
            return False  # both are started again by the stack, and looked at next time
        finally:
            client.close()
        if found:
            self._carry_out()
        return found

    def _watch(self) -> None:
        while not self._over.wait(self._every):
            self.look()

    def _carry_out(self) -> None:
        with subprocess.Popen(
            [sys.executable, "-I", str(LEASH), sys.executable, "-m", "valflow.reaper"],
            stdin=subprocess.PIPE,  # it ends with us
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={key: value for key, value in self._env.items() if value is not None},
            cwd=self._cwd,
            start_new_session=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                self._say(f"recovery {line.rstrip()}")


def watch(every: float) -> None:
    """Look again and again, until SIGTERM or Ctrl-C; for a deployment without `valflow up`."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    reaper = Reaper(
        configured_uri, prefect_api.api_url(), lambda line: print(line, flush=True), env={}, cwd=Path.cwd()
    )
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            reaper.look()
            time.sleep(every)


def main(arguments: list[str] | None = None) -> None:
    """Look, and do what is to be done; one line each."""
    parser = argparse.ArgumentParser("python -m valflow.reaper", description=main.__doc__)
    parser.add_argument("--every", type=float, metavar="SECONDS", help="go on looking")
    options = parser.parse_args(arguments)
    if options.every is not None:
        watch(options.every)
        return
    for line in recovery.mend(prefect_api.api_url()):
        print(line, flush=True)


if __name__ == "__main__":
    main()
