"""Runs a command and ends it, with everything that it started, when the process that asked for it is gone.

Run by path: ``python -I leash.py COMMAND…``. The parent holds the other end of our standard input and never
writes to it, so the pipe closes when the parent ends, be it by SIGKILL. Unlike Linux' own "signal me when my
parent dies" this reaches grandchildren, works on macOS, and does not fire when merely the *thread* ends that
started us. So that it costs 10 MB and some milliseconds, it imports nothing of valflow, and psutil only late.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

GRACE = 10.0  # seconds between SIGTERM and SIGKILL when the parent is gone


def main(command: list[str]) -> int:
    """Run ``command`` in our own process group; returns its exit code, 128 + n after signal n."""
    # Signals to the group are meant for the command; we leave when it has left. A handler, and not SIG_IGN,
    # because an ignored signal stays ignored in the command.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_with_parent, args=(child.pid,), daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code


def family_of(process: psutil.Process) -> list[psutil.Process]:
    """The process after all its descendants, without a database that other programs use too."""
    import psutil

    if is_shared_database(process):
        return []
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in process.children():
            family += family_of(child)
    return [*family, process]


def is_shared_database(process: psutil.Process) -> bool:
    """Whether this is FiftyOne's embedded MongoDB.

    It is the child of whichever process needed it first, perhaps one of ours, but serves all of the user's
    FiftyOne sessions, and ends by itself after the last of them.
    """
    import psutil

    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return "--51-service" in command and "db" in command


def end_processes(processes: Iterable[psutil.Process], grace: float) -> None:
    """SIGTERM to each process, and SIGKILL to those that are left after ``grace`` seconds (0: at once)."""
    import psutil

    processes = list(processes)
    if grace > 0:
        for process in processes:
            # psutil compares the start time, so an id that the system gave to somebody else is not hit.
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        _, processes = psutil.wait_procs(processes, timeout=grace)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=5.0)


def _end_with_parent(pid: int) -> None:
    while os.read(0, 4096):
        pass
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        end_processes(family_of(psutil.Process(pid)), GRACE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
