"""What stopped without having ended goes on from its record: once, a few times at most, and on record."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from pymongo.errors import AutoReconnect

from tests.builders import counts, labels_in, make_dataset, make_run
from tests.waiting import wait_until
from valflow import database, decisions, prefect_api, promotion, recovery, rolling_back, runs
from valflow.errors import PromotionError, RunBusy, StackError, StaleAttempt
from valflow.prefect_api import FlowRunState
from valflow.schedules import POOL

LONG_AGO = timedelta(hours=1)
DEAD = {"process": "elsewhere:1"}


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    return make_dataset(tmp_path)


def orphan(run: str, **changes: Any) -> runs.Record:
    """As a process leaves a run that was killed long ago."""
    past = database.now() - LONG_AGO
    left = {"heartbeat_at": past, "updated_at": past, **DEAD, **changes}
    database.runs().update_one({"run": run}, {"$set": left})
    return runs.load(run)


def flow(
    kind: str, *, ago: timedelta = LONG_AGO, deployed: bool = True, name: str = "", pool: str | None = None
) -> FlowRunState:
    return FlowRunState(kind, name or kind.title(), None, datetime.now(UTC) - ago, deployed, pool)


def steps_of(run: str, api: str | None = None, now: datetime | None = None) -> list[recovery.Step]:
    return [s for s in recovery.look(database.runs(), api, now) if s.run == run]


def plan(record: runs.Record, flow_run: FlowRunState | None = None, **options: Any) -> recovery.Step | None:
    return recovery.plan(record, flow_run, datetime.now(UTC), **options)


COLLECTED = datetime.now(UTC)
JUST_NOW = timedelta(seconds=5)
RELEASED = {"heartbeat_at": None}
NO_FORM = {**RELEASED, "suspended_in": "a flow run", "has_form": False}
HAS_FORM = {**NO_FORM, "has_form": True}


@pytest.mark.parametrize(
    ("state", "left", "flow_run", "kind"),
    [
        pytest.param("CREATED", {}, None, "go_on", id="killed-in-inference"),
        pytest.param("PREDICTED", {}, None, "go_on", id="killed-before-triage"),
        pytest.param("REVIEWED", {}, None, "go_on", id="killed-in-validation"),
        pytest.param("VALIDATED", {}, None, "go_on", id="killed-before-finalization"),
        pytest.param("CREATED", RELEASED, None, None, id="interrupted-by-a-person"),
        pytest.param("REVIEWED", RELEASED, None, None, id="decided-and-no-flow-run-waits"),
        pytest.param("CREATED", {}, flow("CRASHED"), "go_on", id="crashed-in-prefect"),
        pytest.param("CREATED", RELEASED, flow("CRASHED"), "go_on", id="crashed-after-an-orderly-release"),
        pytest.param("CREATED", RELEASED, flow("RUNNING"), "go_on", id="hangs-in-running"),
        pytest.param("CREATED", RELEASED, flow("PENDING"), "go_on", id="hangs-in-pending"),
        pytest.param("CREATED", {}, flow("RUNNING", ago=JUST_NOW), None, id="just-started"),
        pytest.param("CREATED", {}, flow("SCHEDULED"), None, id="waits-for-a-worker"),
        pytest.param("CREATED", {}, flow("CANCELLED"), None, id="cancelled-by-a-person"),
        pytest.param("CREATED", RELEASED, flow("RUNNING", deployed=False), None, id="no-worker-can-start-it"),
        pytest.param("IN_REVIEW", RELEASED, None, None, id="waits-without-prefect"),
        pytest.param("IN_REVIEW", RELEASED, flow("PAUSED"), None, id="suspended"),
        pytest.param("IN_REVIEW", HAS_FORM, flow("PAUSED"), None, id="suspended-with-its-form"),
        pytest.param("IN_REVIEW", NO_FORM, flow("PAUSED"), "ask_again", id="suspended-without-its-form"),
        pytest.param("REVIEWED", NO_FORM, flow("PAUSED"), "resume", id="decided-without-its-form"),
        pytest.param("IN_REVIEW", {}, None, None, id="killed-while-it-waited"),
        pytest.param("IN_REVIEW", {}, flow("CRASHED"), "go_on", id="died-before-it-was-suspended"),
        pytest.param("IN_REVIEW", RELEASED, flow("FAILED"), "go_on", id="could-not-be-suspended"),
        pytest.param("REVIEWED", RELEASED, flow("PAUSED"), "resume", id="decided-and-prefect-not-told"),
        pytest.param("DISCARDED", RELEASED, flow("PAUSED"), "resume", id="discarded-and-prefect-not-told"),
        pytest.param("DISCARDED", {}, flow("CRASHED"), None, id="discarded-and-over"),
        pytest.param("FAILED", {}, None, None, id="failed-by-itself"),
        pytest.param("FAILED", {"failure": "outage"}, None, "go_on", id="failed-in-an-outage"),
        pytest.param("FINALIZED", {}, flow("CRASHED"), "go_on", id="killed-in-the-evaluation"),
    ],
)  # fmt: skip
def test_what_is_to_be_done(
    dataset: Any, state: str, left: dict[str, Any], flow_run: FlowRunState | None, kind: str | None
) -> None:
    record = orphan(make_run(dataset, state), flow_run_id=str(uuid.uuid4()), **left)
    if flow_run is not None and flow_run.since is not None:
        # The table was made when the tests were collected, which may be long ago.
        flow_run = replace(flow_run, since=flow_run.since + (datetime.now(UTC) - COLLECTED))
    step = plan(record, flow_run)
    assert (step and step.kind) == kind
    if step is not None:
        assert (step.attempt, step.most) == (1, 3)
        assert plan(record, flow_run, prefect_answers=False) is None, "what Prefect knows is needed for this"


def test_a_process_that_came_and_died_is_not_waited_for(dataset: Any) -> None:
    beat = database.now() - timedelta(seconds=40)
    record = orphan(make_run(dataset, "CREATED"), flow_run_id=str(uuid.uuid4()), heartbeat_at=beat)
    started_before = flow("RUNNING", ago=timedelta(seconds=60))
    assert started_before.since is not None
    assert datetime.now(UTC) - started_before.since < recovery.STARTING
    step = plan(record, started_before)
    assert step is not None
    assert step.kind == "go_on"
    assert plan(record, flow("RUNNING", ago=JUST_NOW)) is None, "this one is another, and may just start"


@pytest.mark.parametrize(
    ("state", "starts", "kind"),
    [
        pytest.param(flow("CRASHED"), 1, "start", id="crashed"),
        pytest.param(flow("CRASHED", ago=-LONG_AGO / 60), 1, "start", id="crashed-before-the-clock-was-set-back"),
        pytest.param(flow("RUNNING"), 1, "start", id="says-that-it-runs"),
        pytest.param(flow("RUNNING", ago=timedelta(minutes=5)), 1, None, id="looks-at-its-data-perhaps"),
        pytest.param(flow("PENDING", ago=timedelta(minutes=5)), 1, None, id="its-image-is-fetched-perhaps"),
        pytest.param(flow("PENDING", ago=timedelta(minutes=5), pool=POOL), 1, "start", id="has-no-process"),
        pytest.param(flow("PENDING", ago=timedelta(minutes=1), pool=POOL), 1, None, id="may-just-start"),
        pytest.param(flow("CRASHED", deployed=False), 1, None, id="no-worker-can-start-it"),
        pytest.param(flow("CRASHED", ago=timedelta(days=2)), 1, None, id="of-the-day-before-yesterday"),
        pytest.param(flow("CRASHED"), 4, "tell", id="too-many-starts"),
    ],
)  # fmt: skip
def test_a_flow_run_that_died_before_its_run_was_on_record(
    monkeypatch: pytest.MonkeyPatch, state: FlowRunState, starts: int, kind: str | None
) -> None:
    assert state.since is not None
    # The table was made when the tests were collected, which may be long ago.
    state = replace(state, since=state.since + (datetime.now(UTC) - COLLECTED))
    flow_run = str(uuid.uuid4())
    again: list[str] = []
    monkeypatch.setattr(prefect_api, "is_reachable", lambda api: True)
    monkeypatch.setattr(prefect_api, "find_flow_run", lambda flow_run, api: None)
    monkeypatch.setattr(prefect_api, "flow_run_state", lambda flow_run, api: state)
    monkeypatch.setattr(prefect_api, "unfinished", lambda api: [(flow_run, "nightly", starts, state)])
    monkeypatch.setattr(prefect_api, "retry", lambda flow_run, api: again.append(flow_run))
    steps = [s for s in recovery.look(database.runs(), "http://prefect") if s.flow_run == flow_run]
    assert [s.kind for s in steps] == ([kind] if kind else [])
    for step in steps:
        assert "died before its run was on record" in recovery.carry_out(step, "http://prefect")
    assert again == ([flow_run] if kind == "start" else [])
    fresh = FlowRunState("CRASHED", "Crashed", None, datetime.now(UTC), True)
    monkeypatch.setattr(prefect_api, "unfinished", lambda api: [(flow_run, "nightly", 1, fresh)])
    assert [s for s in recovery.look(database.runs(), "http://prefect") if s.flow_run == flow_run] == []


def test_right_after_the_decision_the_decider_resumes(dataset: Any) -> None:
    record = orphan(make_run(dataset, "REVIEWED"), updated_at=database.now())
    assert plan(record, flow("PAUSED")) is None


def discarded_in_a_crash(dataset: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run whose process died before the review field was gone."""
    run = make_run(dataset, "IN_REVIEW")
    with monkeypatch.context() as crash:
        crash.setattr(decisions, "drop_staging", lambda record: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            decisions.submit(run, decisions.Decision("discard", "ann"))
    return run


def test_the_review_field_of_a_run_that_was_discarded_in_a_crash_goes(
    dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = discarded_in_a_crash(dataset, monkeypatch)
    staging = runs.load(run)["staging_field"]
    dataset.reload()
    assert dataset.has_field(staging)
    assert steps_of(run) == [], "whoever discards it may just be at it"
    orphan(run)
    [step] = steps_of(run)
    assert step.kind == "clear"
    assert "its review field is still there" in recovery.carry_out(step, None)
    dataset.reload()
    assert not dataset.has_field(staging)
    assert steps_of(run) == []


@pytest.mark.slow
def test_a_caretaker_goes_on_looking_until_it_is_ended(
    dataset: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    database.runs().delete_many({})  # what other tests left would be recovered, too
    run = discarded_in_a_crash(dataset, monkeypatch)
    staging = runs.load(run)["staging_field"]
    env = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api"}  # Prefect is away; this needs none
    caretaker = subprocess.Popen(
        [sys.executable, "-m", "valflow.reaper", "--every", "0.2"],
        env=env,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        # It looks, and finds a process that may just be at it; only later that it died.
        time.sleep(2.0)
        assert caretaker.poll() is None
        dataset.reload()
        assert dataset.has_field(staging)
        orphan(run)
        wait_until(lambda: dataset.reload() or not dataset.has_field(staging), timeout=60.0)
    finally:
        caretaker.terminate()
        said, _ = caretaker.communicate(timeout=30)
    assert caretaker.returncode == 0
    assert f"recovery run {run}: " in said


def test_a_living_process_is_left_alone(dataset: Any) -> None:
    run = make_run(dataset, "CREATED")
    database.runs().update_one({"run": run}, {"$set": {**DEAD, "heartbeat_at": database.now()}})
    assert steps_of(run) == []


def test_it_goes_on_from_its_record(dataset: Any) -> None:
    run = make_run(dataset, "VALIDATED")
    orphan(run)
    [step] = steps_of(run)
    said = recovery.carry_out(step, None, lambda key: promotion.promote(runs.load(key), dataset))
    assert "FINALIZED" in said
    assert "attempt 1 of 3" in said
    assert len(labels_in(dataset, "auto")) == 6
    entry = next(h for h in runs.load(run)["history"] if h["event"] == "recover")
    assert entry["actor"] == "system"
    assert "elsewhere:1 died" in entry["note"]


def test_looking_writes_nothing(dataset: Any) -> None:
    run = make_run(dataset, "VALIDATED")
    before = orphan(run)
    assert steps_of(run)
    assert runs.load(run) == before


def test_of_many_at_once_one_does_it(dataset: Any) -> None:
    run = make_run(dataset, "VALIDATED")
    orphan(run)
    [step] = steps_of(run)
    done: list[str] = []
    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(lambda _: recovery.carry_out(step, None, done.append), range(6)))
    assert done == [run]
    assert sum("left alone" in line for line in said) == 5
    assert [h["event"] for h in runs.load(run)["history"]].count("recover") == 1


def test_a_process_that_wakes_up_in_between_wins(dataset: Any) -> None:
    run = make_run(dataset, "VALIDATED")
    orphan(run)
    [step] = steps_of(run)
    promotion.promote(runs.load(run), dataset)
    done: list[str] = []
    assert "left alone" in recovery.carry_out(step, None, done.append)
    assert done == []


class TestAttempts:
    def test_are_counted_and_spaced_and_end(self, dataset: Any) -> None:
        run = make_run(dataset, "VALIDATED", max_attempts=2)
        orphan(run)
        now, kinds = datetime.now(UTC), []
        for _ in range(3):
            [step] = steps_of(run, now=now)
            kinds.append((step.kind, step.attempt))
            said = recovery.carry_out(step, None, lambda run: None)
            assert steps_of(run) == []
            now += timedelta(minutes=10)
        assert kinds == [("go_on", 1), ("go_on", 2), ("give_up", 0)]
        assert f"`valflow finalize {run}` goes on" in said
        record = runs.load(run)
        assert (record["state"], record["failed_from"], record["failed_stage"]) == (
            "FAILED",
            "VALIDATED",
            "finalize",
        )
        assert [h["event"] for h in record["history"]][-4:] == ["recover", "recover", "give_up", "fail"]
        assert steps_of(run, now=now) == []

    def test_progress_begins_a_new_count(self, dataset: Any) -> None:
        run = make_run(dataset, "VALIDATED")
        spent = {"stage": ["REVIEWED", 1], "attempts": 3, "at": database.now(), "given_up": False}
        record = orphan(run, recovery=spent)
        step = plan(record)
        assert step is not None
        assert (step.kind, step.attempt) == ("go_on", 1)

    def test_what_cannot_fail_is_told(self, dataset: Any) -> None:
        run = make_run(dataset)
        given_up = {"stage": ["IN_REVIEW", 1], "attempts": 3, "at": database.now(), "given_up": True}
        step = plan(orphan(run, recovery=given_up, flow_run_id=str(uuid.uuid4())), flow("CRASHED"))
        assert step is not None
        assert (step.kind, step.is_automatic) == ("tell", False)
        assert run in recovery.carry_out(step, None)


class TestRollback:
    def test_half_done_is_finished(self, dataset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        run = make_run(dataset, "FINALIZED")
        with monkeypatch.context() as patch:
            patch.setattr(rolling_back, "_remove_traces", _die)
            with pytest.raises(KeyboardInterrupt):
                rolling_back.roll_back(run, "ann")
        orphan(run)
        [step] = steps_of(run)
        assert step.kind == "roll_back"
        assert "ROLLED_BACK" in recovery.carry_out(step, None)
        assert runs.load(run)["history"][-1]["actor"] == "ann"

    def test_two_at_once(self, dataset: Any) -> None:
        run = make_run(dataset, "FINALIZED")
        database.runs().update_one(
            {"run": run}, {"$set": {"state": "ROLLING_BACK", "heartbeat_at": database.now(), **DEAD}}
        )
        with pytest.raises(RunBusy, match="elsewhere:1"):
            rolling_back.go_on(run)


class TestDiscardAfter:
    def test_a_review_that_nobody_works_on_ends(self, dataset: Any) -> None:
        run = make_run(dataset, review={"discard_after": "30m"})
        orphan(run, **RELEASED)
        [step] = steps_of(run)
        assert step.kind == "discard"
        assert "it was discarded" in recovery.carry_out(step, None)
        record = runs.load(run)
        assert record["state"] == "DISCARDED"
        assert record["decision"]["reviewer"] == "policy"
        assert "nobody worked on its review for 30m" in record["decision"]["note"]
        dataset.reload()
        assert not dataset.has_field("auto_in_review")

    @pytest.mark.parametrize("settings", [{}, {"discard_after": "2h"}])
    def test_not_before_its_time(self, dataset: Any, settings: dict[str, Any]) -> None:
        run = make_run(dataset, review=settings)
        orphan(run, **RELEASED)
        assert steps_of(run) == []

    def test_a_reviewer_who_comes_at_that_moment_wins(self, dataset: Any) -> None:
        from valflow import actions
        from valflow.selections import Selection

        run = make_run(dataset, review={"discard_after": "30m"})
        orphan(run, **RELEASED)
        [step] = steps_of(run)
        actions.approve(run, Selection(all=True), "ann")
        assert "left alone" in recovery.carry_out(step, None)
        assert runs.load(run)["state"] == "IN_REVIEW"
        assert steps_of(run) == []


def refusal(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://127.0.0.1:1/api/artifacts/")
    return httpx.HTTPStatusError("refused", request=request, response=httpx.Response(status, request=request))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(AutoReconnect("connection closed"), True, id="mongod-died"),
        pytest.param(StackError("no Prefect server answers"), True, id="prefect-away"),
        pytest.param(refusal(503), True, id="prefect-busy"),
        pytest.param(refusal(500), True, id="prefect-broken"),
        pytest.param(refusal(404), False, id="prefect-does-not-know-it"),
        pytest.param(PromotionError("6 announced, 5 written"), False, id="a-real-failure"),
        pytest.param(ValueError("bad"), False, id="a-bug"),
    ],
)
def test_an_outage_is_no_failure_of_the_run(error: Exception, expected: bool) -> None:
    assert recovery.is_outage(error) is expected
    wrapped = RuntimeError("while promoting")
    wrapped.__cause__ = error
    assert recovery.is_outage(wrapped) is expected


# A process that promotes sample by sample, and stops itself after the first one, as a machine does that is suspended.
ZOMBIE = """
import os, signal, sys
from valflow import database, promotion, runs
from valflow.errors import StaleAttempt
promotion.BATCH = 1
run = sys.argv[1]
promote, calls = promotion._promote_batch, []
def stop_after_the_first(*arguments):
    promote(*arguments)
    calls.append(1)
    if len(calls) == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
if sys.argv[2] == "inside":
    runs_require = runs.require
    runs.require = lambda *_: None
promotion._promote_batch = stop_after_the_first
with runs.holding(run) as record:
    try:
        promotion.promote(record, database.dataset_of(record))
    except StaleAttempt as fenced:
        print("fenced:", fenced)
"""


@pytest.mark.parametrize("moment", ["before-a-batch", "inside"])
def test_a_process_that_was_given_up_for_dead_is_fenced_off(dataset: Any, moment: str) -> None:
    run = make_run(dataset, "VALIDATED")
    orphan(run)
    zombie = subprocess.Popen(
        [sys.executable, "-c", ZOMBIE, run, moment],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        os.waitid(os.P_PID, zombie.pid, os.WSTOPPED)
        assert psutil.Process(zombie.pid).status() == psutil.STATUS_STOPPED
        assert (runs.load(run)["state"], len(labels_in(dataset, "auto"))) == ("FINALIZING", 2)
        # Half a minute of silence.
        database.runs().update_one({"run": run}, {"$set": {"heartbeat_at": database.now() - LONG_AGO}})
        with runs.holding(run) as record:
            promotion.promote(record, dataset)
        assert len(labels_in(dataset, "auto")) == 6
        rolling_back.roll_back(run, "ann")
        again = make_run(dataset, "IN_REVIEW")
        before = counts(again)
        os.kill(zombie.pid, signal.SIGCONT)
        out, err = zombie.communicate(timeout=120)
    finally:
        zombie.kill()
    assert out.startswith("fenced:") or moment == "inside", out + err
    dataset.reload()
    assert labels_in(dataset, "auto") == {}
    assert len(labels_in(dataset, "auto_in_review")) == 12, (
        "the review field of the next run is not the zombie's"
    )
    assert counts(again) == before
    assert runs.load(run)["state"] == "ROLLED_BACK"


def test_what_a_fenced_process_reports_is_no_failure(dataset: Any) -> None:
    run = make_run(dataset, "CREATED")
    old = runs.fence_of(runs.load(run))
    with runs.heartbeat(old):
        database.runs().update_one({"run": run}, {"$inc": {"attempt": 1}})
        with pytest.raises(StaleAttempt, match="stops here and writes nothing more"):
            runs.require(old, recovery.State.CREATED)
    assert decisions.discard(run, decisions.Decision("discard", "ann"))["state"] == "DISCARDED"


def _die(*_: Any) -> None:
    raise KeyboardInterrupt
