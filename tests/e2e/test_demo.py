"""The demo, started beside a FiftyOne session of the same user: it works, and the session notices nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]

# A person's FiftyOne: its own embedded database, a dataset named as the demo's, and an open App.
SESSION = """
import json, sys
import fiftyone as fo
if "digits" not in fo.list_datasets():
    dataset = fo.Dataset("digits", persistent=True)
    dataset.add_samples([fo.Sample(f"/mine/{n}.png", tags=["precious"]) for n in range(3)])
session = fo.launch_app(fo.load_dataset("digits"), address="127.0.0.1", port=int(sys.argv[1]), remote=True)
print("MINE{}", flush=True)
for line in sys.stdin:
    dataset = fo.load_dataset("digits")
    found = {"datasets": fo.list_datasets(), "tags": dataset.count_sample_tags(), "session": session.dataset.name}
    print("MINE" + json.dumps(found), flush=True)
"""


@dataclass
class OtherSession:
    """A process with a FiftyOne session."""

    process: subprocess.Popen[str]
    port: int

    def state(self) -> dict[str, Any]:
        """What the session sees of its own datasets, once it is ready."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("MINE"):
                found: dict[str, Any] = json.loads(line.removeprefix("MINE"))
                return found
        raise AssertionError("the other session ended")

    def ask(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write("?\n")
        self.process.stdin.flush()
        return self.state()

    def processes(self) -> dict[str, int]:
        """Its database and App server, by name."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return {" ".join(c.cmdline())[:200]: c.pid for c in children if c.status() != psutil.STATUS_ZOMBIE}

    def app_answers(self) -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=20) as answer:
            return bool(answer.status == 200)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One user's: without any setting of FiftyOne or Prefect, as on a new machine."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FIFTYONE_", "PREFECT_", "VALFLOW_"))}
    return kept | {"HOME": str(tmp_path / "user"), "FIFTYONE_DO_NOT_TRACK": "true", "DO_NOT_TRACK": "1"}


@pytest.fixture
def other_session(environment: dict[str, str], tmp_path: Path) -> Iterator[OtherSession]:
    (tmp_path / "user").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", SESSION, str(port)],
        env=environment,
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    session = OtherSession(process, port)
    try:
        session.state()
        yield session
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.communicate(timeout=60)
        psutil.wait_procs(children, timeout=60)


@pytest.mark.stack
@pytest.mark.slow
def test_the_demo_works_beside_an_open_session_that_notices_nothing(
    environment: dict[str, str], other_session: OtherSession, tmp_path: Path
) -> None:
    before, children = other_session.ask(), other_session.processes()
    assert other_session.app_answers()

    home = tmp_path / "demo"
    home.mkdir()
    command = [sys.executable, "-m", "examples.digits.demo", "--scenes", "80", "--home", str(home)]
    demo = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)

    assert demo.returncode == 0, demo.stdout + demo.stderr
    stages = {line.split()[0] for line in demo.stdout.splitlines() if line.strip()}
    assert stages >= {
        "infer",
        "triage",
        "review",
        "validate",
        "finalize",
        "evaluate",
        "export",
        "report",
        "stopped",
    }
    assert list(home.glob("demo_output/**/report.html"))
    left = [p for p in psutil.process_iter(["cmdline"]) if str(home) in " ".join(p.info["cmdline"] or [])]
    assert not left

    assert other_session.ask() == before
    assert other_session.processes() == children
    assert other_session.app_answers()
