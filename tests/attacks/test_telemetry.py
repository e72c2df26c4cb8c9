"""Nobody is told what happens here: telemetry is off in every process, unless somebody switched it on."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from tests import side_work
from valflow.homes import enter_home
from valflow.processes import Child
from valflow.quiet import QUIET, be_quiet
from valflow.reaper import Reaper
from valflow.side_processes import SideProcesses
from valflow.stack import Stack

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def loud(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which nobody has said anything about telemetry."""
    for name in QUIET:
        monkeypatch.delenv(name, raising=False)


def is_quiet(environment: Mapping[str, str]) -> bool:
    return {name: environment.get(name) for name in QUIET} == QUIET


@pytest.mark.slow
def test_the_parts_understand_it(tmp_path: Path, loud: None) -> None:
    code = (
        "from valflow.quiet import be_quiet; be_quiet()\n"
        "import fiftyone as fo\n"
        "from prefect.settings import get_current_settings\n"
        "print(fo.config.do_not_track, get_current_settings().server.analytics_enabled)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["True", "False"], done.stdout + done.stderr


def test_every_child_process_has_it(tmp_path: Path, loud: None) -> None:
    log = tmp_path / "child.log"
    code = f"import os; print({{k: os.environ.get(k) for k in {list(QUIET)}}}, flush=True)"
    child = Child("child", [sys.executable, "-c", code], log, lambda: True, patience=10)
    child.spawn()
    child._leash.wait(timeout=20)  # type: ignore[union-attr]
    assert str(QUIET) in log.read_text()
    child.stop()


def test_the_command_line_its_recovery_and_flow_runs_have_it(
    tmp_path: Path, loud: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from valflow.cli import main as valflow

    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setenv("VALFLOW_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert not is_quiet(os.environ)
    assert is_quiet(Reaper(lambda: None, "http://nowhere", print, env={}, cwd=tmp_path)._env)
    valflow(["show", "nothing"])
    assert is_quiet(os.environ)
    for name in QUIET:
        monkeypatch.delenv(name)
    enter_home()  # what a flow run of a worker does first
    assert is_quiet(os.environ)


def test_processes_beside_a_model_have_it(loud: None) -> None:
    processes = SideProcesses(1, side_work.nothing)
    side_work.wait_until_up(processes)
    assert is_quiet(processes.call(side_work.environment))
    processes.close()


def test_who_wants_to_tell_may(loud: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "false")
    be_quiet()
    assert os.environ["FIFTYONE_DO_NOT_TRACK"] == "false"


def test_every_process_that_is_started_gets_its_environment_from_here() -> None:
    """A new Popen somewhere would pass nothing on: each one is looked at here, by name."""
    found = set()
    for path in (ROOT / "valflow").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "subprocess.Popen",
                "subprocess.run",
            ):
                found.add(path.relative_to(ROOT).as_posix())
    # leash.py passes on what it was given.
    assert found == {
        "valflow/processes.py",
        "valflow/reaper.py",
        "valflow/stack.py",
        "valflow/leash.py",
        "valflow/side_processes.py",
    }


@pytest.mark.stack
@pytest.mark.slow
def test_the_real_children_have_it(in_stack: Stack) -> None:
    for name, child in in_stack.children.items():
        process = psutil.Process(child.pid)
        for one in (process, *process.children(recursive=True)):
            assert is_quiet(one.environ()), (name, one.cmdline())
