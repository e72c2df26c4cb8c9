"""Run records: one change at a time, one process at a time, everything in the history."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from tests.builders import make_config, make_dataset
from valflow import database, runs, schema
from valflow.config import LabelingConfig, config_from_mapping
from valflow.errors import IllegalTransition, RunBusy, RunNotFound, StaleAttempt
from valflow.states import Event, State


@pytest.fixture
def config(request: pytest.FixtureRequest) -> LabelingConfig:
    """A configuration of a dataset that only its record needs to know."""
    name = f"{request.node.name}-{ObjectId()}"
    return config_from_mapping(
        {"dataset": name, "label_field": "auto", "model": {"kind": "field", "field": "pred"}}
    )


@pytest.fixture
def record(config: LabelingConfig) -> runs.Record:
    return runs.create(config, dataset_id=config.dataset)


@pytest.fixture
def other_process() -> Iterator[str]:
    """Name of a process that lives, and is not this one."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield f"{socket.gethostname()}:{process.pid}"
        process.communicate(b"\n")


def dead_process() -> str:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return f"{socket.gethostname()}:{process.pid}"


def set_process(run: str, process: str, seconds_ago: float = 0.0) -> None:
    beat = database.now() - timedelta(seconds=seconds_ago)
    database.runs().update_one({"run": run}, {"$set": {"process": process, "heartbeat_at": beat}})


class TestCreate:
    def test_the_record(self, record: runs.Record, config: LabelingConfig) -> None:
        stored = runs.load(record["run"])
        assert stored["schema_version"] == schema.VERSION
        assert stored["run"].isidentifier()
        assert stored["name"] == stored["run"]
        assert (stored["state"], stored["open"], stored["round"], stored["attempt"]) == (
            "CREATED",
            True,
            1,
            1,
        )
        assert stored["staging_field"] == "auto_in_review"
        assert LabelingConfig.model_validate(stored["config"]) == config
        (entry,) = stored["history"]
        assert (entry["event"], entry["from"], entry["to"]) == ("create", None, "CREATED")

    @pytest.mark.parametrize(
        ("dataset", "stem"),
        [
            pytest.param("my data-2", "my_data_2_auto_", id="signs"),
            pytest.param("2024", "run_2024_auto_", id="begins-with-a-digit"),
            pytest.param("日本", "run____auto_", id="no-latin-letter"),
        ],
    )
    def test_a_derived_key_is_an_identifier(self, config: LabelingConfig, dataset: str, stem: str) -> None:
        named = config.model_copy(update={"dataset": dataset})
        record = runs.create(named, dataset_id=str(ObjectId()))
        assert record["run"].startswith(stem)
        assert record["run"].isidentifier()

    def test_a_field_has_one_open_run(self, record: runs.Record, config: LabelingConfig) -> None:
        with pytest.raises(RunBusy, match="finish or discard it first") as caught:
            runs.create(config, dataset_id=config.dataset)
        assert caught.value.run == record["run"]
        other_field = config.model_copy(update={"label_field": "auto2"})
        assert runs.create(other_field, dataset_id=config.dataset)["open"]
        runs.transition(record, Event.DISCARD, actor="ann")
        assert runs.create(config, dataset_id=config.dataset)["open"]

    def test_a_failed_run_is_still_open(self, record: runs.Record, config: LabelingConfig) -> None:
        runs.transition(record, Event.FAIL, actor="system", changes={"failed_from": "CREATED"})
        with pytest.raises(RunBusy):
            runs.create(config, dataset_id=config.dataset)

    def test_a_key_is_taken_once(self, config: LabelingConfig) -> None:
        keyed = config.model_copy(update={"run_key": f"key_{ObjectId()}"})
        runs.create(keyed, dataset_id=str(ObjectId()))
        with pytest.raises(RunBusy) as caught:
            runs.create(keyed, dataset_id=str(ObjectId()))
        assert caught.value.run == keyed.run_key

    def test_of_many_threads_one_creates(self, config: LabelingConfig) -> None:
        made: list[str] = []
        busy: list[str] = []
        barrier = threading.Barrier(6)

        def create() -> None:
            barrier.wait()
            try:
                made.append(runs.create(config, dataset_id=config.dataset)["run"])
            except RunBusy as error:
                busy.append(error.run)

        threads = [threading.Thread(target=create) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 1
        assert busy == made * 5

    def test_flow_runs_are_found_again(self, config: LabelingConfig) -> None:
        flow_run = str(ObjectId())
        record = runs.create(config, dataset_id=config.dataset, flow_run_id=flow_run)
        found = runs.find_by_flow_run(flow_run)
        assert found is not None
        assert found["run"] == record["run"]
        assert runs.find_by_flow_run("another") is None


class TestLoad:
    def test_latest(self, record: runs.Record) -> None:
        assert runs.load("latest")["run"] == record["run"]

    def test_an_unknown_key_names_what_there_is(self, record: runs.Record) -> None:
        with pytest.raises(RunNotFound, match="no labeling run is named 'nothing'") as caught:
            runs.load("nothing")
        assert record["run"] in str(caught.value)

    def test_without_any_run(self) -> None:
        kept = list(database.runs().find())
        database.runs().delete_many({})
        try:
            with pytest.raises(RunNotFound, match="there is no labeling run yet"):
                runs.load("latest")
            with pytest.raises(RunNotFound, match="there is none yet"):
                runs.load("nothing")
        finally:
            if kept:
                database.runs().insert_many(kept)

    def test_lists_are_of_one_dataset_and_latest_first(
        self, record: runs.Record, config: LabelingConfig
    ) -> None:
        second = runs.create(config.model_copy(update={"label_field": "b"}), dataset_id=config.dataset)
        assert [r["run"] for r in runs.list_runs(config.dataset)] == [second["run"], record["run"]]
        assert len(runs.list_runs(config.dataset, limit=1)) == 1


class TestTransition:
    def test_moves_the_state_with_everything_that_belongs_to_it(self, record: runs.Record) -> None:
        after = runs.transition(
            record,
            Event.INFER,
            actor="system",
            note="done",
            figures={"samples": 3},
            changes={"counts": {"samples": 3}},
        )
        assert after == runs.load(record["run"])
        assert (after["state"], after["counts"]) == ("PREDICTED", {"samples": 3})
        entry = after["history"][-1]
        assert {k: entry[k] for k in ("actor", "event", "from", "to", "note", "figures")} == {
            "actor": "system",
            "event": "infer",
            "from": "CREATED",
            "to": "PREDICTED",
            "note": "done",
            "figures": {"samples": 3},
        }

    def test_a_record_that_is_out_of_date_changes_nothing(self, record: runs.Record) -> None:
        runs.transition(record, Event.INFER, actor="ann")
        before = runs.load(record["run"])
        with pytest.raises(
            IllegalTransition,
            match=r"was CREATED and is PREDICTED now: infer by ann at .*Z?\. 'infer' was not",
        ):
            runs.transition(record, Event.INFER, actor="bob", changes={"counts": {"samples": 9}})
        assert runs.load(record["run"]) == before

    def test_an_event_that_the_state_does_not_allow(self, record: runs.Record) -> None:
        with pytest.raises(IllegalTransition, match="it allows: discard, fail, infer"):
            runs.transition(record, Event.SUBMIT, actor="ann")

    def test_a_condition_that_does_not_hold(self, record: runs.Record) -> None:
        with pytest.raises(IllegalTransition):
            runs.transition(record, Event.INFER, actor="ann", condition={"round": 7})
        assert runs.load(record["run"])["state"] == "CREATED"

    def test_of_many_threads_one_wins(self, record: runs.Record) -> None:
        won: list[str] = []
        barrier = threading.Barrier(6)

        def infer(name: str) -> None:
            barrier.wait()
            try:
                runs.transition(record, Event.INFER, actor=name)
                won.append(name)
            except IllegalTransition:
                pass

        threads = [threading.Thread(target=infer, args=(f"thread-{i}",)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert [h["actor"] for h in runs.load(record["run"])["history"]] == ["system", won[0]]

    def test_ended_runs_are_closed(self, record: runs.Record) -> None:
        assert runs.transition(record, Event.DISCARD, actor="ann")["open"] is False
        assert runs.find_open(record["dataset_id"], "auto") is None

    def test_a_retry_returns_to_the_stage_that_failed(self, record: runs.Record) -> None:
        record = runs.transition(record, Event.INFER, actor="system")
        record = runs.transition(record, Event.FAIL, actor="system", changes={"failed_from": "PREDICTED"})
        assert runs.transition(record, Event.RETRY, actor="system")["state"] == "PREDICTED"


class TestClaim:
    def test_raises_the_attempt(self, record: runs.Record) -> None:
        runs.release(runs.fence_of(record))
        claimed = runs.claim(record["run"], "flow-" + record["run"])
        assert (claimed["attempt"], claimed["flow_run_id"]) == (2, "flow-" + record["run"])
        assert runs.is_alive(claimed)

    def test_a_living_process_is_left_alone(self, record: runs.Record, other_process: str) -> None:
        set_process(record["run"], other_process)
        with pytest.raises(RunBusy, match=f"being worked on by process {other_process}"):
            runs.claim(record["run"])
        assert runs.load(record["run"])["attempt"] == 1

    @pytest.mark.parametrize(
        ("process", "seconds_ago"),
        [
            pytest.param("dead", 0.0, id="its-process-is-gone"),
            pytest.param("silent", 31.0, id="silent-for-too-long"),
            pytest.param("elsewhere:1", 31.0, id="silent-on-another-machine"),
        ],
    )
    def test_a_dead_one_is_replaced(
        self, record: runs.Record, other_process: str, process: str, seconds_ago: float
    ) -> None:
        names = {"dead": dead_process(), "silent": other_process}
        set_process(record["run"], names.get(process, process), seconds_ago)
        assert not runs.is_alive(runs.load(record["run"]))
        assert runs.claim(record["run"])["attempt"] == 2

    def test_another_machine_is_believed_while_it_speaks(self, record: runs.Record) -> None:
        set_process(record["run"], "elsewhere:1", 10.0)
        assert runs.is_alive(runs.load(record["run"]))

    def test_of_many_threads_each_gets_its_own_attempt_or_none(self, record: runs.Record) -> None:
        attempts: list[int] = []
        barrier = threading.Barrier(6)

        def claim() -> None:
            barrier.wait()
            with contextlib.suppress(RunBusy):
                attempts.append(runs.claim(record["run"])["attempt"])

        threads = [threading.Thread(target=claim) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(attempts)) == len(attempts) >= 1
        assert runs.load(record["run"])["attempt"] == max(attempts)


class TestFence:
    def test_a_process_given_up_for_dead_writes_nothing_more(self, record: runs.Record) -> None:
        old = runs.fence_of(record)
        with runs.heartbeat(old):
            runs.claim(record["run"])
            before = runs.load(record["run"])
            with pytest.raises(StaleAttempt, match="nothing was written"):
                runs.update(old, {"counts": {"samples": 9}})
            with pytest.raises(StaleAttempt, match=r"taken over by process .* stops here"):
                runs.transition(record, Event.INFER, actor="system")
            with runs.timed(old, "infer"):
                pass
        after = runs.load(record["run"])
        # Leaving the block must not say that the new process is gone, either.
        assert after == before
        assert runs.is_alive(after)

    def test_the_holder_writes_with_any_copy_of_the_record(self, record: runs.Record) -> None:
        claimed = runs.claim(record["run"])
        with runs.heartbeat(runs.fence_of(claimed)):
            assert runs.fence_of(record).attempt == 2
            runs.update(runs.fence_of(record), {"model": {"kind": "field"}})
        assert runs.load(record["run"])["model"] == {"kind": "field"}

    def test_a_person_is_not_fenced(self, record: runs.Record) -> None:
        runs.claim(record["run"])
        assert runs.transition(record, Event.DISCARD, actor="ann")["state"] == "DISCARDED"


class TestHeartbeat:
    def test_says_that_the_process_lives(self, record: runs.Record, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(runs, "HEARTBEAT_SECONDS", 0.02)
        set_process(record["run"], record["process"], 1000.0)
        assert not runs.is_alive(runs.load(record["run"]))
        beaten = threading.Event()
        with runs.heartbeat(runs.fence_of(record)):
            for _ in range(100):
                if runs.is_alive(runs.load(record["run"])):
                    beaten.set()
                    break
                beaten.wait(0.02)
            assert beaten.is_set()
        assert runs.load(record["run"])["heartbeat_at"] is None
        assert not runs.is_alive(runs.load(record["run"]))

    def test_survives_a_database_that_is_away_for_a_moment(
        self, record: runs.Record, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from pymongo.errors import AutoReconnect

        monkeypatch.setattr(runs, "HEARTBEAT_SECONDS", 0.02)
        collection, calls = database.runs(), []

        def away_once() -> Any:
            calls.append(None)
            if len(calls) == 1:
                raise AutoReconnect("connection closed")
            return collection

        set_process(record["run"], record["process"], 1000.0)
        with runs.heartbeat(runs.fence_of(record)):
            monkeypatch.setattr(database, "runs", away_once)
            waited = threading.Event()
            for _ in range(100):
                if len(calls) >= 3 or waited.wait(0.02):
                    break
            monkeypatch.undo()
            assert runs.is_alive(runs.load(record["run"]))

    def test_ends_with_an_error_too(self, record: runs.Record) -> None:
        with pytest.raises(RuntimeError), runs.heartbeat(runs.fence_of(record)):
            raise RuntimeError
        assert runs.fence_of({**record, "attempt": 5}).attempt == 5
        assert not [t for t in threading.enumerate() if t.name == f"heartbeat-{record['run']}"]


class TestSmallThings:
    def test_notes_do_not_change_the_state(self, record: runs.Record) -> None:
        runs.note(record["run"], "skip", actor="$system", text="$state met", figures={"$n": 1})
        stored = runs.load(record["run"])
        assert stored["state"] == "CREATED"
        entry = stored["history"][-1]
        assert (entry["actor"], entry["note"], entry["figures"]) == ("$system", "$state met", {"$n": 1})
        assert (entry["from"], entry["to"]) == ("CREATED", "CREATED")

    def test_times_add_up(self, record: runs.Record) -> None:
        fence = runs.fence_of(record)
        with runs.timed(fence, "infer"):
            pass
        with pytest.raises(RuntimeError), runs.timed(fence, "infer"):
            raise RuntimeError
        with runs.timed(fence, "triage"):
            pass
        assert set(runs.load(record["run"])["timings"]) == {"infer", "triage"}

    def test_open_runs_are_found_by_dataset_and_field(self, tmp_path: Path) -> None:
        dataset = make_dataset(tmp_path, samples=1, empty=0)
        record = runs.create(make_config(dataset), dataset_id=str(dataset._doc.id))
        found = runs.find_open(str(dataset._doc.id), "auto")
        assert found is not None
        assert found["run"] == record["run"]
        assert runs.find_open(str(dataset._doc.id), "other") is None

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            pytest.param(ObjectId("0" * 24), "0" * 24, id="id"),
            pytest.param(
                datetime(2026, 11, 23, 1, 2, 3, 4000, tzinfo=UTC), "2026-11-23T01:02:03.004+00:00", id="time"
            ),
            pytest.param(datetime(2026, 11, 23), "2026-11-23T00:00:00.000+00:00", id="time-of-the-database"),
            pytest.param({"a": [ObjectId("1" * 24)]}, {"a": ["1" * 24]}, id="nested"),
            pytest.param(("a", 1), ["a", 1], id="tuple"),
            pytest.param(
                {3: "x", "_id": ObjectId()}, {"3": "x"}, id="keys-are-text-and-ids-of-documents-stay-out"
            ),
            pytest.param(math.nan, None, id="nan"),
            pytest.param(math.inf, None, id="infinity"),
            pytest.param([True, None, 0.5], [True, None, 0.5], id="plain"),
            pytest.param(State.CREATED, "CREATED", id="state"),
        ],
    )
    def test_as_json(self, value: Any, expected: Any) -> None:
        plain = runs.as_json(value)
        assert plain == expected
        json.dumps(plain, allow_nan=False)

    def test_a_whole_record_is_json(self, record: runs.Record) -> None:
        plain = json.loads(json.dumps(runs.as_json(runs.load(record["run"])), allow_nan=False))
        assert plain["process"] == f"{socket.gethostname()}:{os.getpid()}"
        assert "_id" not in plain
