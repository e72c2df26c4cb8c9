"""What the benchmarks share: a database of their own, CPU seconds, and the table.

Figures are CPU seconds of this process and of mongod together, so that a slow client with a fast server, or
the reverse, cannot hide. Wall times are not shown: they are those of whatever else the machine does.
"""

from __future__ import annotations

import gc
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

from valflow.mongod import Mongod, server_version

_HEAD = ("operation", "labels", "CPU s", "µs per label", "figure", "limit")
_ADDITIONS = 5_000_000


@contextmanager
def own_database() -> Iterator[Meter]:
    """A mongod on a free port that FiftyOne will use; enter before anything imports fiftyone."""
    with (
        tempfile.TemporaryDirectory(prefix="valflow-bench-") as folder,
        Mongod(Path(folder) / "db") as mongod,
    ):
        os.environ.update(mongod.environment)
        os.environ["FIFTYONE_SHOW_PROGRESS_BARS"] = "false"
        os.environ["FIFTYONE_DO_NOT_TRACK"] = "true"
        yield Meter(_server_process(mongod), Path(folder), server_version(mongod.uri) or "?")


@dataclass
class Measured:
    """CPU seconds of one operation; ``apart`` are those of the functions measured inside it, by name."""

    cpu: float = 0.0
    apart: dict[str, float] = field(default_factory=dict)

    @property
    def rest(self) -> float:
        """What remains without the functions that have rows of their own."""
        return self.cpu - sum(self.apart.values())


@dataclass
class Meter:
    """Measures CPU of this process and the server, and collects the rows of the table.

    Attributes:
        server: the mongod.
        folder: a place for files, removed at the end.
        version: of the mongod.
    """

    server: psutil.Process
    folder: Path
    version: str = "?"
    rows: list[tuple[str, ...]] = field(default_factory=list)

    @contextmanager
    def measure(self, *apart: tuple[Any, str]) -> Iterator[Measured]:
        """Count what runs inside.

        Args:
            apart: functions whose share is also counted by itself: the module that calls them, and their name.
                None of them may call another.
        """
        gc.collect()
        result = Measured(apart={name: 0.0 for _, name in apart})
        with ExitStack() as stack:
            for module, name in apart:
                stack.enter_context(patch.object(module, name, self._counted(module, name, result)))
            begin = self._cpu()
            yield result
            result.cpu = self._cpu() - begin

    def _counted(self, module: Any, name: str, result: Measured) -> Any:
        function = getattr(module, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            begin = self._cpu()
            try:
                return function(*args, **kwargs)
            finally:
                result.apart[name] += self._cpu() - begin

        return counted

    def row(
        self, name: str, labels: int | None, cpu: float | None, figure: str = "", limit: str = ""
    ) -> None:
        """Add one line; ``figure`` is what the limit is about."""
        each = f"{cpu / labels * 1e6:.1f}" if cpu is not None and labels else ""
        seconds = "" if cpu is None else f"{cpu:.2f}"
        self.rows.append((name, f"{labels:,}" if labels else "", seconds, each, figure, limit))

    def against(self, name: str, labels: int, cpu: float, theirs: float, least: float | None = None) -> None:
        """Add one line that says how many times cheaper this is, and how many times it must be."""
        limit = "" if least is None else f"at least {least:.0f}x"
        self.row(name, labels, cpu, f"{theirs / cpu:.1f}x" if cpu > 0 else "", limit)

    def print_table(self, title: str, head: tuple[str, ...] = _HEAD) -> None:
        """Print the rows as a Markdown table, under what is to be known about the machine."""
        print(f"\n## {title}\n\n{_machine(self.version)}\n")
        widths = [max(len(row[i]) for row in (head, *self.rows)) for i in range(len(head))]
        for line in (head, tuple("-" * w for w in widths), *self.rows):
            print("| " + " | ".join(_aligned(line, widths)) + " |", flush=True)

    def _cpu(self) -> float:
        return sum(sum(p.cpu_times()[:2]) for p in (psutil.Process(), self.server))


def cpu_of(command: Sequence[str], environment: Mapping[str, str] | None = None) -> float:
    """CPU seconds of a command and of the processes that it waited for.

    Raises:
        subprocess.CalledProcessError: it failed; what it printed is shown.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, env={**os.environ, **(environment or {})}, check=False, capture_output=True, text=True
    )
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
        done.check_returncode()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        cell.ljust(w) if i == 0 else cell.rjust(w)
        for i, (cell, w) in enumerate(zip(line, widths, strict=True))
    ]


def _machine(mongod: str) -> str:
    """Versions, cores, and how fast the machine is at this moment."""
    begin, total = time.process_time(), 0
    for number in range(_ADDITIONS):
        total += number
    each = (time.process_time() - begin) / _ADDITIONS * 1e9
    return (
        f"{_processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Python "
        f"{platform.python_version()}, MongoDB {mongod}; one addition in a Python loop takes {each:.0f} ns"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _server_process(mongod: Mongod) -> psutil.Process:
    """The mongod itself, which runs below the process that holds its leash."""
    family = [psutil.Process(mongod.pid), *psutil.Process(mongod.pid).children(recursive=True)]
    return next(p for p in family if p.name().startswith("mongod"))
