"""Who runs a stack is told which runs wait, whichever database it uses."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders import make_dataset, make_run
from valflow import decisions, review_app, runs
from valflow.mongod import Mongod, embedded_uris, find_mongod, server_version
from valflow.waiting import Waiting

APP = "http://127.0.0.1:5151"
# As FiftyOne does: a service with these arguments, whose child is a mongod on a port that the system chooses.
SERVICE = """
import subprocess, sys
subprocess.run([sys.argv[1], "--dbpath", sys.argv[2], "--port", "0", "--bind_ip", "127.0.0.1", "--nounixsocket"])
"""


@pytest.fixture
def waiting_run(tmp_path: Path) -> runs.Record:
    dataset = make_dataset(tmp_path)
    run = make_run(dataset)
    review_app.save_workspace(runs.load(run), dataset)
    return runs.load(run)


def test_each_round_is_said_once(mongod: Mongod, waiting_run: runs.Record) -> None:
    lines: list[str] = []
    waiting = Waiting(lambda: mongod.uri, APP, lines.append)

    def said() -> list[str]:
        waiting.look()
        return [line for line in lines if waiting_run["dataset"] in line]

    expected = f"review   {waiting_run['name']}: {review_app.address_of(waiting_run, APP)}"
    assert said() == said() == [expected]
    assert expected.endswith(f"{APP}/datasets/{waiting_run['dataset']}?workspace={waiting_run['workspace']}")
    decided = decisions.submit(
        waiting_run["run"], decisions.Decision("finalize", "ann", override="a test of something else")
    )
    assert len(said()) == 1
    decisions.reopen(decided, reason="a check failed")
    assert said() == [expected, expected]
    waiting.close()


def test_a_database_that_comes_late_or_moves_is_found(mongod: Mongod, waiting_run: runs.Record) -> None:
    lines: list[str] = []
    uris = iter([None, "mongodb://127.0.0.1:9", mongod.uri])  # none yet; gone again; back on another port
    waiting = Waiting(lambda: next(uris), APP, lines.append)
    for _ in range(2):
        waiting.look()
        assert lines == []
    waiting.look()
    assert any(waiting_run["dataset"] in line for line in lines)
    waiting.close()


def test_an_empty_database_says_once_what_to_begin_with(
    mongod: Mongod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setenv("FIFTYONE_DATABASE_NAME", "empty")
    waiting = Waiting(lambda: mongod.uri, APP, lines.append)
    waiting.look()
    waiting.look()
    waiting.close()
    assert [line.split(":")[0] for line in lines] == ["data     no dataset yet"]
    assert "-m examples.digits.scenes mine" in lines[0]
    monkeypatch.undo()
    make_dataset(tmp_path)
    waiting = Waiting(lambda: mongod.uri, APP, lines.append)
    waiting.look()
    waiting.close()
    assert not any("no dataset" in line for line in lines[1:])


@pytest.fixture
def others(tmp_path: Path) -> Iterator[set[str]]:
    """An embedded database is started; these are there besides, of whoever runs the tests."""
    others = set(embedded_uris())
    (tmp_path / "db").mkdir()
    command = [sys.executable, "-c", SERVICE, str(find_mongod()), str(tmp_path / "db")]
    with subprocess.Popen([*command, "--51-service", "db", "--multi"], stdout=subprocess.DEVNULL) as service:
        yield others
        import psutil

        for child in psutil.Process(service.pid).children():
            child.terminate()


def test_the_embedded_database_is_found_by_its_process(others: set[str]) -> None:
    deadline = time.monotonic() + 30
    while not (mine := set(embedded_uris()) - others):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert server_version(mine.pop(), timeout=10) is not None
