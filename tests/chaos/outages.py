"""``python -m tests.chaos.outages NAME``: something is away in the middle of a run, and comes back.

A line for each place: ``held`` with what the process said, or ``LOST`` with what differs; or ``skipped`` and why.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from tests.isolation import own_folder, settings
from valflow.leash import family_of
from valflow.mongod import Mongod

MEGABYTE = 1_000_000
# What a process may end with: it names what is away.
_SAYS = (
    "No space left",
    "OutOfDiskSpace",
    "connection",
    "Connection",
    "refused",
    "closed",
    "timed out",
    "reach",
)


def main() -> int:
    """Run one of them; 0 where nothing was lost."""
    with own_folder("valflow-outage-", in_memory=False) as folder:
        try:
            return OUTAGES[sys.argv[1]](folder)
        except NoSmallDisk as reason:
            print(f"skipped: {reason}")
            return 0


class NoSmallDisk(Exception):
    """No tmpfs can be mounted here."""


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own that is soon full.

    Raises:
        NoSmallDisk: this user may not mount one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NoSmallDisk(f"a tmpfs cannot be mounted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(folder: Path) -> None:
    """Leave no byte free."""
    with (folder / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * MEGABYTE)
    with (folder / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0")


def make_room(folder: Path) -> None:
    """The opposite of ``fill``."""
    (folder / "filler").unlink(missing_ok=True)


def the_database_is_killed(folder: Path) -> int:
    """SIGKILL to mongod in the middle; started again later on the same files."""
    with Mongod(folder / "db", cache_gb=0.25) as mongod:

        def kill() -> None:
            for process in _server(mongod):
                process.kill()

        return _play(folder, mongod, kill, lambda: _start_again(mongod))


def the_database_hangs(folder: Path) -> int:
    """SIGSTOP to mongod for some seconds: the process waits, and notices nothing."""
    with Mongod(folder / "db", cache_gb=0.25) as mongod:

        def hang() -> None:
            pids = [str(p.pid) for p in _server(mongod)]
            subprocess.Popen(["sh", "-c", f"sleep 4; kill -CONT {' '.join(pids)}"], start_new_session=True)
            for pid in pids:
                os.kill(int(pid), signal.SIGSTOP)

        return _play(folder, mongod, hang, lambda: None, notices=False)


def the_disk_of_the_database_is_full(folder: Path) -> int:
    """No space left for mongod's files."""
    with small_disk(folder / "small", 400) as disk, Mongod(disk / "db", cache_gb=0.25) as mongod:

        def end() -> None:
            make_room(disk)
            _start_again(mongod)

        # Small writes may still fit into what mongod has reserved, so it may notice nothing.
        return _play(folder, mongod, lambda: fill(disk), end, notices=None)


def the_disk_of_the_output_is_full(folder: Path) -> int:
    """No space left for exports and reports."""
    with Mongod(folder / "db", cache_gb=0.25) as mongod, small_disk(folder / "small", 64) as disk:
        return _play(disk, mongod, lambda: fill(disk), lambda: make_room(disk), files=True)


def _start_again(mongod: Mongod) -> None:
    deadline = time.monotonic() + 60
    while mongod.is_running and not mongod.is_healthy() and time.monotonic() < deadline:
        time.sleep(0.2)
    mongod.start()


def _server(mongod: Mongod) -> list[psutil.Process]:
    # Asked in a fork, to which its parent's children do not belong.
    assert mongod._leash is not None
    return [p for p in family_of(psutil.Process(mongod._leash.pid)) if "mongod" in p.name()]


def _play(
    folder: Path,
    mongod: Mongod,
    begin: Callable[[], object],
    end: Callable[[], object],
    *,
    notices: bool | None = True,
    files: bool = False,
) -> int:
    """At three writes, spread over a step of the scenario; what the process says must name what is away."""
    # Half a minute of waiting for each write of a process that ends anyway shows nothing more.
    impatient = {"FIFTYONE_DATABASE_URI": f"{mongod.uri}/?serverSelectionTimeoutMS=2000"}
    os.environ.update({**mongod.environment, **settings(folder), **impatient})
    import fiftyone.core.odm.database as connections
    import fiftyone.utils.eval.coco  # noqa: F401 - as in the driver
    import great_expectations  # noqa: F401

    from tests.chaos.driver import Lab, Target, recover
    from tests.chaos.scenarios import digits_config, scenarios
    from valflow.models import open_model

    open_model(digits_config(folder).model)  # trained once, here
    connections._disconnect()
    lab = Lab(folder, mongod.uri, recover)
    [scenario] = [s for s in scenarios(lab.files) if s.name == "rolled back"]
    calm = lab.undisturbed(scenario)
    flow = [number for number, step in enumerate(scenario.steps) if step.name in ("label", "finish")]
    places = []
    for step in flow:
        writes = [w for w in calm.writes[step] if w.what.startswith("open ") == files and w.stage != "open"]
        places += [Target(step, writes[len(writes) * k // 5], "before") for k in (1, 3)] if writes else []
    code = 0
    for target in places[:3]:
        said, differences = lab.outage(scenario, calm, target, begin, end)
        last = (said.strip().splitlines() or [""])[-1]
        where = f"{scenario.steps[target.step].name}: {target.write.stage}: {target.write.what}"
        is_clear = any(word in said for word in _SAYS)
        if differences or (notices is True and not is_clear) or (notices is False and said):
            code = 1
            print(f"LOST {where}: {last[:300]} {differences[:3]}")
        else:
            print(f"held {where}: {last[:300] or 'it noticed nothing'}")
    return code


OUTAGES: dict[str, Callable[[Path], int]] = {
    "database-killed": the_database_is_killed,
    "database-hangs": the_database_hangs,
    "database-disk-full": the_disk_of_the_database_is_full,
    "output-disk-full": the_disk_of_the_output_is_full,
}

if __name__ == "__main__":
    sys.exit(main())
