"""Child processes and the stack that they make up: real processes, a real server, a real worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from valflow import prefect_api
from valflow.errors import ConfigError, StackError
from valflow.homes import Record, environment, read_record, write_record
from valflow.leash import family_of, is_shared_database
from valflow.mongod import Mongod, server_version
from valflow.processes import Child, is_port_taken, marked_processes
from valflow.stack import Ports, Stack

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {"dataset": "none", "label_field": "auto", "model": {"kind": "field", "field": "predictions"}}
# A child, with a grandchild in a session of its own, as a worker has with each flow run.
WITH_GRANDCHILD = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("ready", flush=True)
time.sleep(600)
"""


def make_child(folder: Path, code: str = WITH_GRANDCHILD, healthy: Callable[[], bool] | None = None) -> Child:
    log = folder / "child.log"
    is_healthy = healthy or (lambda: "ready" in log.read_text())
    return Child(
        "child", [sys.executable, "-c", code], log, is_healthy, token=f"test-{folder.name}", patience=10
    )


def wait_until(condition: Callable[[], bool], seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


# -- single children


@pytest.mark.parametrize("end", [Child.stop, Child.kill], ids=["stopped", "killed"])
def test_a_child_ends_with_its_grandchildren(tmp_path: Path, end: Callable[[Child], None]) -> None:
    child = make_child(tmp_path)
    child.start()
    assert child.pid is not None
    family = family_of(psutil.Process(child.pid))
    assert len(family) == 3  # the leash, the child, its child
    end(child)
    assert not child.is_running
    assert not [process for process in family if process.is_running()]
    child.start()  # and comes back
    assert child.is_running
    child.stop()


def test_a_child_and_its_grandchildren_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path\n"
            "from tests.core.test_stack import make_child\n"
            f"child = make_child(Path({str(tmp_path)!r})); child.start(); print(child.pid, flush=True)\n"
            "time.sleep(600)",
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    family = family_of(psutil.Process(int(parent.stdout.readline())))
    assert len(family) == 3
    parent.kill()
    parent.communicate()
    assert wait_until(lambda: not [process for process in family if process.is_running()])


def test_leftovers_are_known_by_their_token(tmp_path: Path) -> None:
    child = make_child(tmp_path)
    child.start()
    assert len(marked_processes(child.token)) == 3
    child.stop()
    assert not marked_processes(child.token)
    assert not marked_processes("")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "raise SystemExit('no such thing')",
            "child ended right after its start.*no such thing",
        ),  # ends at once
        (
            "import time; print('busy', flush=True); time.sleep(60)",
            "did not answer within 1 s.*busy",
        ),  # never ready
    ],
)
def test_a_child_that_does_not_get_healthy_is_explained_and_gone(
    tmp_path: Path, code: str, message: str
) -> None:
    child = make_child(tmp_path, code, healthy=lambda: False)
    child.patience = 1.0
    with pytest.raises(StackError, match=f"(?s){message}"):
        child.start()
    assert not child.is_running
    assert not marked_processes(child.token)


def test_the_embedded_database_of_other_sessions_is_not_ours_to_end() -> None:
    # What FiftyOne starts: python service/main.py --51-service db --multi mongod …
    code = "import time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, "--51-service", "db", "--multi"]) as database:
        try:
            process = psutil.Process(database.pid)
            assert wait_until(lambda: is_shared_database(process))
            assert database.pid not in {p.pid for p in family_of(psutil.Process())}
        finally:
            database.kill()


def test_a_large_log_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("valflow.processes.MOST_LOG", 10)
    (tmp_path / "child.log").write_text("of an earlier, longer life")
    child = make_child(tmp_path)
    child.start()
    child.stop()
    assert (tmp_path / "child.log.1").read_text() == "of an earlier, longer life"
    assert (tmp_path / "child.log").read_text() == "ready\n"


# -- MongoDB


def test_mongod_keeps_its_files_and_refuses_a_taken_port(tmp_path: Path) -> None:
    from pymongo import MongoClient

    with Mongod(tmp_path / "db", cache_gb=0.25) as mongod:
        # Without journal=True an acknowledged write may be up to 100 ms away from the disk.
        with MongoClient(mongod.uri, journal=True) as client:
            client.test.things.insert_one({"_id": 1})
        with pytest.raises(StackError, match=f"expected port {mongod.port} to be free"):
            Mongod(tmp_path / "other", mongod.port).start()
        mongod.kill()
        assert server_version(mongod.uri, timeout=0.2) is None
        mongod.start()
        with MongoClient(mongod.uri) as client:
            assert client.test.things.count_documents({}) == 1


# -- the record of a home


def test_a_home_without_a_stack_has_no_environment(tmp_path: Path) -> None:
    assert environment(tmp_path) == {}


@pytest.mark.parametrize(
    ("changes", "is_found"),
    [
        ({}, True),  # running and ready
        ({"is_ready": False}, False),  # still starting
        ({"pid": None}, False),  # stopped
        ({"created": 1.0}, False),  # killed, and the system gave its id to another process
    ],
)
def test_a_record_counts_only_while_its_process_lives(
    tmp_path: Path, changes: dict[str, object], is_found: bool
) -> None:
    me = psutil.Process()
    record = Record(
        "token", me.pid, me.create_time(), True, addresses={"PREFECT_API_URL": "http://127.0.0.1:1/api"}
    )
    for name, value in changes.items():
        setattr(record, name, value)
    write_record(tmp_path, record)
    assert bool(environment(tmp_path)) is is_found
    assert (tmp_path / ".valflow" / "stack.json").stat().st_mode & 0o077 == 0


def test_an_unreadable_record_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / ".valflow").mkdir()
    (tmp_path / ".valflow" / "stack.json").write_text("{")
    with pytest.raises(StackError, match="Delete it"):
        read_record(tmp_path)


def test_a_taken_port_ends_the_start(tmp_path: Path, mongod: Mongod) -> None:
    with pytest.raises(StackError, match=f"expected port {mongod.port} to be free for prefect"):
        Stack(tmp_path, ports=Ports(prefect=mongod.port)).start()


# -- supervision, on children that cost nothing


class Flaky(Stack):
    """A stack of one child that ends by itself after ``seconds``."""

    def __init__(self, folder: Path, seconds: float) -> None:
        super().__init__(folder)
        self.lines: list[str] = []
        self.say = self.lines.append
        self.children["flaky"] = make_child(
            folder, f"import time; time.sleep({seconds})", healthy=lambda: True
        )


def test_a_child_that_dies_too_often_ends_the_supervision(tmp_path: Path) -> None:
    stack = Flaky(tmp_path, 0.0)
    with pytest.raises(StackError, match=r"flaky died 4 times within 10 minutes.*child\.log"):
        stack.supervise(threading.Event(), poll=0.01)
    assert sum("starting it again" in line for line in stack.lines) == 3


def test_a_child_that_died_once_is_back(tmp_path: Path) -> None:
    stack, over = Flaky(tmp_path, 600.0), threading.Event()
    child = stack.children["flaky"]
    child.start()
    watcher = threading.Thread(target=stack.supervise, args=(over, 0.01))
    watcher.start()
    child.kill()
    assert wait_until(lambda: any("is back" in line for line in stack.lines))
    over.set()
    watcher.join()
    assert child.is_running
    stack.stop()
    assert not child.is_running


# -- the real stack


@pytest.mark.stack
def test_the_stack_is_found_from_its_home(stack: Stack) -> None:
    found = environment(stack.home)
    assert found == stack.environment
    assert found["PREFECT_API_URL"] == stack.api_url
    assert found["FIFTYONE_DATABASE_URI"] == os.environ["FIFTYONE_DATABASE_URI"]
    with pytest.raises(StackError, match="runs already"):
        Stack(stack.home).start()


@pytest.mark.stack
def test_the_pages_of_the_stack_answer(stack: Stack) -> None:
    assert httpx.get(stack.ui_url).status_code == 200
    assert httpx.get(f"{stack.ui_url}/ui-settings").json()["api_url"] == stack.api_url
    assert httpx.get(f"{stack.app_url}/fiftyone").status_code == 200


@pytest.mark.stack
def test_a_suspended_run_survives_the_death_of_worker_and_server(in_stack: Stack) -> None:
    def trigger() -> str:
        at = f"/deployments/{in_stack.deployment_ids['ask-person']}/create_flow_run"
        run: str = prefect_api.call("POST", at, {"parameters": {"config": CONFIG}}).json()["id"]
        return run

    run = trigger()
    assert prefect_api.wait_for(run, timeout=90).name == "Suspended"
    for name in ("worker", "server"):
        in_stack.children[name].kill()
    assert not prefect_api.is_reachable()
    with pytest.raises(StackError, match=r"no Prefect server answers.*valflow up"):
        prefect_api.flow_run_state(run)

    in_stack.children["server"].start()
    refused = prefect_api.resume(run, {"decision": "perhaps"})
    assert refused.status == "REJECT"
    assert refused.reason is not None
    assert "'perhaps' is not one of" in refused.reason
    assert prefect_api.resume(run, {"decision": "finalize"}).is_accepted  # with no worker at all
    assert prefect_api.resume(run, {"decision": "finalize"}).status == "ABORT"
    in_stack.children["worker"].start()
    assert prefect_api.wait_for(run, ["Completed"], timeout=90).is_final
    assert prefect_api.resume(run, {"decision": "finalize"}).status == "ABORT"

    def printed() -> set[str]:
        wanted = {"logs": {"flow_run_id": {"any_": [run]}}}
        return {line["message"] for line in prefect_api.call("POST", "/logs/filter", wanted).json()}

    assert wait_until(lambda: "none: finalize" in printed())  # a flow's lines arrive a little after its end
    assert f"folder {in_stack.home}" in printed()
    assert f"database {os.environ['FIFTYONE_DATABASE_URI']}" in printed()


@pytest.mark.stack
def test_trigger_refuses_what_the_flow_cannot_take(in_stack: Stack) -> None:
    with pytest.raises(ConfigError, match="dataset"):
        prefect_api.trigger({"label_field": "auto"})


@pytest.mark.stack
@pytest.mark.parametrize(
    "ask",
    [
        lambda run: prefect_api.flow_run_state(run),
        lambda run: prefect_api.resume(run, {}),
    ],
    ids=["state", "resume"],
)
def test_an_unknown_flow_run_is_named(in_stack: Stack, ask: Callable[[str], object]) -> None:
    run = "00000000-0000-4000-8000-000000000000"
    with pytest.raises(StackError, match=f"knows no flow run {run}"):
        ask(run)


@pytest.mark.stack
@pytest.mark.slow
def test_up_restarts_what_dies_and_ends_everything_on_ctrl_c(tmp_path: Path) -> None:
    """`valflow up` with a database of its own, as a person runs it."""
    code = "from valflow.stack import up; up(app=False, database='own')"
    env = {k: v for k, v in os.environ.items() if k != "FIFTYONE_DATABASE_URI"} | {
        "VALFLOW_HOME": str(tmp_path)
    }
    with subprocess.Popen(
        [sys.executable, "-u", "-c", code], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True
    ) as up:
        assert up.stdout is not None
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(iter(up.stdout.readline, "")))
        reader.start()
        try:
            assert wait_until(lambda: "Stop with Ctrl-C.\n" in lines, 120), lines
            found = environment(tmp_path)
            record = read_record(tmp_path)
            assert found["FIFTYONE_DATABASE_URI"] != os.environ["FIFTYONE_DATABASE_URI"]
            assert server_version(found["FIFTYONE_DATABASE_URI"]) is not None
            [mongod] = [p for p in marked_processes(record.token) if p.name() == "mongod"]
            mongod.kill()
            assert wait_until(lambda: any("mongod is back" in line for line in lines), 30), lines
            assert server_version(found["FIFTYONE_DATABASE_URI"]) is not None  # at the same address
        finally:
            up.send_signal(signal.SIGINT)
        reader.join()
        assert up.wait() == 0, lines
    assert lines[-1] == "stopped\n"
    assert not marked_processes(record.token)
    assert environment(tmp_path) == {}
    assert read_record(tmp_path).database == "own"  # and the next `up` continues with it
    assert not is_port_taken(record.ports["prefect"])
