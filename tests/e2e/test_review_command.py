"""`valflow review` for real: a server of one's own, the address that opens exactly this run, and its end."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.browser import CHROMIUM, page_at
from tests.builders import counts, make_dataset, make_run
from valflow import database, runs
from valflow.app_server import EXPOSED
from valflow.mongod import Mongod
from valflow.processes import free_port, is_port_taken

ROOT = Path(__file__).resolve().parents[2]
STARTED = 90.0  # seconds


class Command:
    """The command at work, as in a terminal of a person's own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "VALFLOW_HOME": str(folder), "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "valflow.cli", "review", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=env,
            text=True,
            # Whoever starts the tests in the background has it ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.said: list[str] = []

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.put(line.rstrip("\n"))

    def address(self) -> str:
        """Wait for the address on a line of its own."""
        deadline = time.monotonic() + STARTED
        while not (self.said and self.said[-1].startswith("http://")):
            self.said.append(self._lines.get(timeout=deadline - time.monotonic()))
        return self.said[-1]

    def interrupt(self) -> tuple[int, str]:
        """Ctrl-C; returns exit code and what stands on standard output."""
        self._process.send_signal(signal.SIGINT)
        code = self._process.wait(timeout=60)
        assert self._process.stdout is not None
        return code, self._process.stdout.read()

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


@pytest.fixture
def waiting(tmp_path: Path) -> runs.Record:
    return runs.load(make_run(make_dataset(tmp_path)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.0.0.2"]
)  # the second is not the usual one, but still here
def test_a_server_of_ones_own_until_it_is_interrupted(
    tmp_path: Path, waiting: runs.Record, address: str
) -> None:
    port = free_port()
    options = [
        "--port",
        str(port),
        "--no-browser",
        *(["--address", address] if address != "127.0.0.1" else []),
    ]
    command = Command(tmp_path, waiting["run"], *options)
    try:
        shown = command.address()
        slug = runs.load(waiting["run"])["workspace"]
        assert shown == f"http://{address}:{port}/datasets/{waiting['dataset']}?workspace={slug}"
        assert httpx.get(f"http://{address}:{port}/fiftyone", timeout=10).status_code == 200
        other = "127.0.0.2" if address == "127.0.0.1" else "127.0.0.1"
        with pytest.raises(httpx.ConnectError):  # bound to this address alone
            httpx.get(f"http://{other}:{port}/fiftyone", timeout=10)
        warned = EXPOSED in "\n".join(command.said)
        assert warned == (address != "127.0.0.1")
        assert command.interrupt() == (0, "stopped\n")
        assert not is_port_taken(port)
    finally:
        command.end()


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium")
def test_the_printed_address_opens_exactly_this_run(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, samples=6)
    wanted = make_run(dataset)
    other = make_run(dataset, label_field="other", approval={"mode": "review_all"})
    command = Command(tmp_path, wanted, "--port", str(free_port()), "--no-browser", "--reviewer", "ann")
    try:
        with page_at(command.address()) as page:
            page.locator("[data-cy=looker]").first.wait_for()
            page.get_by_text(f"Add {counts(wanted)['undecided']} labels for approval").first.wait_for()
            assert counts(other)["undecided"] != counts(wanted)["undecided"]
            page.get_by_text("Your name (it stands beside all that you decide): ann").wait_for()
            page.get_by_role("button", name="Reject 10 labels").click()
            page.get_by_text("10 labels rejected").first.wait_for()
        action = database.actions().find_one({"run": wanted}, sort=[("seq", -1)])
        assert action is not None
        assert (action["event"], action["actor"]) == ("reject", "ann")
    finally:
        command.end()


def test_a_port_that_is_taken_is_refused(tmp_path: Path, waiting: runs.Record, mongod: Mongod) -> None:
    port = mongod.port
    done = subprocess.run(
        [sys.executable, "-m", "valflow.cli", "review", waiting["run"], "--port", str(port)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"expected port {port} to be free" in done.stderr
