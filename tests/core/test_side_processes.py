"""Processes beside a model: values there and back, errors, crashes, and no process left behind."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests import side_work
from tests.waiting import wait_until
from valflow import side_processes
from valflow.errors import ConfigError, RunBusy, StackError
from valflow.side_processes import SideProcesses, SideProcessLost

RNG = np.random.default_rng(0)
LARGE = RNG.random((300, 400, 3))


@pytest.fixture
def one() -> Iterator[SideProcesses]:
    processes = SideProcesses(1, side_work.nothing)
    side_work.wait_until_up(processes)
    yield processes
    processes.close()


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(None, id="nothing"),
        pytest.param({"a": [1, 2.5, "x"], "b": b"bytes"}, id="plain"),
        pytest.param(RNG.random(10), id="a small array"),
        pytest.param(LARGE, id="a large array"),
        pytest.param(
            {"one": LARGE, "two": [LARGE[:200], np.arange(70_000, dtype=np.uint8)]}, id="several arrays"
        ),
        pytest.param(LARGE[::2, ::-1], id="an array that does not lie in one piece"),
        pytest.param(np.asfortranarray(LARGE), id="an array that lies by columns"),
        pytest.param(np.zeros((0, 1 << 20)), id="an array of nothing"),
    ],
)
def test_a_value_comes_back_as_it_went(one: SideProcesses, value: Any) -> None:
    back = one.call(side_work.same, value)
    np.testing.assert_equal(back, value)


def test_an_array_that_came_back_can_be_written_to(one: SideProcesses) -> None:
    back = one.call(side_work.same, LARGE)
    back[:] = 1.0
    assert back.min() == 1.0


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what is mapped is not told here")
def test_shared_memory_is_given_back_with_its_array(one: SideProcesses) -> None:
    back = one.call(side_work.same, LARGE)
    assert "memfd:valflow" in Path("/proc/self/maps").read_text()
    files = len(os.listdir("/proc/self/fd"))
    del back
    assert "memfd:valflow" not in Path("/proc/self/maps").read_text()
    assert len(os.listdir("/proc/self/fd")) < files


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("ours", ConfigError, "dataset: no such thing"),
        ("with more", RunBusy, "it is busy"),
        ("odd", RuntimeError, "OddError: 1 and 2"),
        ("common", ValueError, "no good"),
    ],
)
def test_an_error_comes_back_as_what_it_is_where_it_can(
    one: SideProcesses, kind: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as raised:
        one.call(side_work.fail, kind)
    if kind == "ours":
        assert raised.value.problems == ["dataset: no such thing"]  # type: ignore[attr-defined]
    assert one.call(side_work.same, 1) == 1


@pytest.mark.parametrize(
    "call", [(side_work.unpicklable,), (side_work.same, lambda: None)], ids=["back", "there"]
)
def test_what_cannot_travel_is_an_error_and_the_process_stays(
    one: SideProcesses, call: tuple[Any, ...]
) -> None:
    before = one.call(side_work.pid)
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError), match=r"[Pp]ickle"):
        one.call(*call)
    assert one.call(side_work.pid) == before


def test_whoever_calls_works_himself_until_one_is_up() -> None:
    processes = SideProcesses(1, time.sleep, 1.0)
    assert processes.call(side_work.pid) == os.getpid()
    side_work.wait_until_up(processes)
    processes.close()


class TestACrash:
    def test_is_told_and_another_takes_its_place(self, one: SideProcesses) -> None:
        before = one.call(side_work.pid)
        with pytest.raises(SideProcessLost, match="by signal 9"):
            one.call(side_work.die)
        after = one.call(side_work.pid)
        # Never by ourselves: it would be our crash.
        assert after not in (before, os.getpid())

    def test_of_one_after_the_other_ends_it(
        self, one: SideProcesses, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(side_processes, "_MOST_LOST", 3)
        for _ in range(2):
            with pytest.raises(SideProcessLost):
                one.call(side_work.die)
        with pytest.raises(StackError, match=r"3 processes .* by signal 9.*runner.beside: thread"):
            one.call(side_work.die)

    def test_before_it_is_asked_is_no_loss(self, one: SideProcesses) -> None:
        process = psutil.Process(one.call(side_work.pid))
        process.kill()
        wait_until(lambda: process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1, 10)
        time.sleep(0.5)  # its last threads
        assert one.call(side_work.same, 5) == 5


def test_one_that_does_not_start_says_why() -> None:
    processes = SideProcesses(1, side_work.fail, "common")
    with pytest.raises(StackError, match=r"does not start: no good.*runner.beside: thread"):
        wait_until(lambda: processes.call(side_work.same, False), 20)
    processes.close()


def test_one_that_is_not_needed_ends_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_processes, "IDLE_SECONDS", 0.5)
    processes = SideProcesses(1, side_work.nothing)
    side_work.wait_until_up(processes)
    first = psutil.Process(processes.call(side_work.pid))
    first_number = first.pid
    wait_until(lambda: not first.is_running() or first.status() == psutil.STATUS_ZOMBIE, 10)
    monkeypatch.undo()
    wait_until(lambda: processes.call(side_work.pid) not in (os.getpid(), first_number), 20)
    processes.close()


def test_none_is_left_where_the_one_who_asks_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "asker.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, time
            from tests import side_work
            from valflow.side_processes import SideProcesses
            processes = SideProcesses(2, side_work.nothing)
            while (pid := processes.call(side_work.pid)) == os.getpid():
                time.sleep(0.05)
            print(pid, flush=True)
            processes.call(time.sleep, 60)
            """
        )
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=environment) as asker:
        assert asker.stdout is not None
        beside = psutil.Process(asker.pid).children()
        wait_until(lambda: len(psutil.Process(asker.pid).children()) == 2, 20)
        number = int(asker.stdout.readline())
        beside = psutil.Process(asker.pid).children()
        assert number in [process.pid for process in beside]
        asker.kill()
    idle = [process for process in beside if process.pid != number]
    _, alive = psutil.wait_procs(idle, timeout=10)
    assert not alive
    # The one at work ends when it has done it; nobody waits for that here.
    for process in beside:
        if process.is_running():
            process.kill()
