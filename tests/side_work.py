"""What tests let a process beside do."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.waiting import wait_until
from valflow.errors import ConfigError, RunBusy
from valflow.side_processes import SideProcesses


def wait_until_up(processes: SideProcesses, timeout: float = 60.0) -> None:
    """Until they do the work, and not we."""
    wait_until(lambda: processes.call(pid) != os.getpid(), timeout)


class OddError(Exception):
    """Cannot be made again from what it was made of."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def nothing() -> None:
    """Prepares nothing."""


def pid() -> int:
    """Who is at work."""
    return os.getpid()


def environment() -> dict[str, str]:
    """The variables of who is at work."""
    return dict(os.environ)


def same(value: Any) -> Any:
    """A value there and back."""
    return value


def fail(kind: str) -> None:
    """Raise, in one of several ways."""
    if kind == "ours":
        raise ConfigError(["dataset: no such thing"], "a.yaml")
    if kind == "with more":
        raise RunBusy("it is busy", "run_1")
    if kind == "odd":
        raise OddError(1, 2)
    raise ValueError("no good")


def unpicklable() -> Any:
    """What no other process can have."""
    return lambda: None


def die(number: int = signal.SIGKILL) -> None:
    """As one that takes too much memory."""
    os.kill(os.getpid(), number)
    time.sleep(60)


def die_once(folder: str) -> str:
    """Dies the first time."""
    try:
        os.mkdir(f"{folder}/died")
    except FileExistsError:
        return "done"
    die()
    return "never"


def read_or_die(path: str) -> Any:
    """A reader of images that the bytes of some files kill, as faulty decoders do."""
    name = Path(path).stem
    if name.startswith("deadly"):
        die(signal.SIGSEGV)
    if name.startswith("broken"):
        raise OSError("cut off")
    return np.full((64, 512, 3), int(name.partition("-")[2] or 0), np.uint8)
