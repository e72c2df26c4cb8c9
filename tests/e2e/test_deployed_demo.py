"""The deployment of several machines from its one documented command."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]


def command_of(target: str) -> list[str]:
    """What make runs for a target, with the interpreter of these tests."""
    # Below another make, as in `make test`, make names the folder it leaves on a last line of its own.
    printed = subprocess.run(
        ["make", "--no-print-directory", "-n", target, "ARGS=--scenes 40"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    words = shlex.split(printed.stdout.splitlines()[-1])
    return [sys.executable, *words[1:]]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Not one of pytest's own folders, which are closed to the other user that PostgreSQL may run as."""
    with tempfile.TemporaryDirectory(prefix="valflow-tests-") as place:
        Path(place).chmod(0o755)
        yield Path(place)


@pytest.mark.stack
@pytest.mark.slow
def test_postgres_a_replica_set_and_two_workers_run_the_demo(tmp_path: Path, temporary: Path) -> None:
    home = tmp_path / "user"
    home.mkdir()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("FIFTYONE_", "PREFECT_", "VALFLOW_"))}
    # What leads elsewhere must not be followed.
    env |= {"HOME": str(home), "TMPDIR": str(temporary), "PREFECT_API_URL": "http://127.0.0.1:9/api"}

    done = subprocess.run(
        command_of("deployed-demo"),
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    for said in (
        "replica set of one member",
        "its tables in PostgreSQL",
        "worker-1 up to the review",
        "worker-2 up to the review",
        "final labels of 2 runs, as their records say",
        "logins    asked for by Prefect, MongoDB and PostgreSQL",
        "all processes ended, nothing left",
    ):
        assert said in done.stdout
    assert not list(temporary.iterdir())
    assert not list(home.iterdir())  # nothing goes to the user's own home
    left = [
        p for p in psutil.process_iter(["cmdline"]) if str(temporary) in " ".join(p.info["cmdline"] or [])
    ]
    assert not left
