"""Whole runs on a real stack whose parts are killed meanwhile, each compared with one that nobody disturbed."""

from __future__ import annotations

import contextlib
import io
import json
import random
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from tests.chaos import dumps, snapshots
from tests.chaos.components import COMPONENTS, FLOW, RunningStack
from valflow.errors import StackError

RUN = "stack_run"
DATASET = "chaos-stack"
DATABASE = "chaos"
# MongoDB writes its journal every tenth of a second.
_JOURNALED = 0.2
# Seconds from one stop to the next; a flow run that says it runs, without a record, is left alone for 600.
LIMIT = 900.0
LABEL, REVIEW, DECIDE = "label", "review", "decide"


@dataclass(frozen=True)
class Kill:
    """One part that was killed, and where the run stood in that moment."""

    number: int
    component: str
    stage: str
    second: float


@dataclass
class Played:
    """One run.

    Attributes:
        kills: what was killed.
        problems: differences from the undisturbed run; empty where nothing was lost.
        repairs: entries of the recovery in the run's history.
        refused: messages of commands that a person had to give again.
        seconds: how long it took.
        pace: and each phase of it.
    """

    kills: list[Kill] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    repairs: int = 0
    refused: list[str] = field(default_factory=list)
    seconds: float = 0.0
    pace: dict[str, float] = field(default_factory=dict)


class Killing:
    """A thread that kills parts at moments drawn by a seed, for as long as its block runs."""

    def __init__(self, stack: RunningStack, plan: Sequence[tuple[float, str]], first: int) -> None:
        self.kills: list[Kill] = []
        self._stack, self._plan, self._first = stack, list(plan), first
        self._over = threading.Event()
        self._start = time.monotonic()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Killing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=60.0)

    def _work(self) -> None:
        for pause, component in self._plan:
            if self._over.wait(pause):
                return
            while not self._over.is_set():
                # What is dead already is killed when it is back; a flow process comes and goes.
                stage = self._stack.stage(RUN)
                if self._stack.kill(component):
                    number = self._first + len(self.kills)
                    self.kills.append(Kill(number, component, stage, time.monotonic() - self._start))
                    _tell(f"  kill {number:>3} {component:<14} {stage}")
                    break
                if component == FLOW and stage == "IN_REVIEW":
                    break  # suspended: there is none
                self._over.wait(0.2)


class Person:
    """Gives commands, and gives them again where they did not come through."""

    def __init__(self, name: str, played: Played) -> None:
        self._name, self._played = name, played

    def does(
        self, *arguments: str, until: Callable[[], bool] = lambda: False, patience: float = LIMIT
    ) -> Any:
        """One command of the real command line; what says that it was done before is done.

        Raises:
            AssertionError: it printed a traceback, or did not come through in time.
        """
        from valflow.cli import main as valflow

        named = ["--reviewer", self._name] if arguments[0] not in ("show",) else []
        deadline = time.monotonic() + patience
        while True:
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = valflow([*arguments, *named, "--json"])
            if code == 0:
                return json.loads(out.getvalue())
            message = err.getvalue().strip().splitlines()[-1] if err.getvalue().strip() else "(no message)"
            assert "Traceback" not in err.getvalue(), err.getvalue()
            if _is_done(message) or (until is not None and _quietly(until)):
                return None
            self._played.refused.append(f"{arguments[0]}: {message[:160]}")
            _tell(f"  again: {self._played.refused[-1]}")
            assert time.monotonic() < deadline, f"{' '.join(arguments)} does not come through: {message}"
            time.sleep(1.0)


class Lab:
    """Plays runs on one stack, from the same beginning each."""

    def __init__(self, stack: RunningStack, files: Path, config: Any, prepare: Callable[[], None]) -> None:
        self._stack, self._files, self._config = stack, files, config
        self._copies = files.with_name("copies")
        files.mkdir(parents=True)
        prepare()
        with self._client() as client:
            self._beginning = snapshots.take(client[DATABASE], files, self._copies)
        self.undisturbed: dumps.Dump | None = None

    def play(self, plan: dict[str, list[tuple[float, str]]], first: int = 1) -> Played:
        """One run from nothing to its report.

        Args:
            plan: what is killed in each phase: pause and component, one after the other.
            first: number of the first kill.
        """
        played, start = Played(), time.monotonic()
        self._begin()
        try:
            with self._killing(plan, LABEL, first, played):
                self._trigger(played)
                self._until(self._awaits_review, "suspended in review")
            with self._killing(plan, REVIEW, first, played):
                self._review(played)
            with self._killing(plan, DECIDE, first, played):
                self._decide(played)
                self._until(self._has_ended, "ended")
            self._until(lambda: self._stack.is_ready, "whole")
            # A reaper that is at work would be seen as a difference.
            self._until(self._is_at_rest, "at rest")
            with self._client() as client:
                there = dumps.dump(client[DATABASE], self._files)
            if self.undisturbed is None:
                self.undisturbed = there
            played.problems = self.undisturbed.differences(there)
            played.repairs = sum(h["event"] == "recover" for h in self._record()["history"])
        except (AssertionError, TimeoutError) as stopped:
            played.problems = [f"it did not come to its end: {stopped}"]
        played.seconds = time.monotonic() - start
        return played

    # -- phases

    def _begin(self) -> None:
        self._until(lambda: self._stack.is_ready, "whole")
        with self._client() as client:
            snapshots.bring_back(self._beginning, client[DATABASE], self._files)

    @contextlib.contextmanager
    def _killing(
        self, plan: dict[str, list[tuple[float, str]]], phase: str, first: int, played: Played
    ) -> Iterator[None]:
        start = time.monotonic()
        killing = Killing(self._stack, plan.get(phase, []), first + len(played.kills))
        try:
            with killing:
                yield
        finally:
            played.kills += killing.kills
            played.pace[phase] = time.monotonic() - start

    def _trigger(self, played: Played) -> None:
        from valflow import prefect_api

        key, deadline = str(uuid.uuid4()), time.monotonic() + LIMIT
        while True:
            try:
                prefect_api.trigger(self._config, name=RUN, idempotency_key=key)
                return
            except StackError as error:
                played.refused.append(f"run: {str(error)[:160]}")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the run cannot be started: {error}") from None
                time.sleep(1.0)

    def _review(self, played: Played) -> None:
        from examples.digits import reviewer

        ann, bob = Person("ann", played), Person("bob", played)
        ann.does("approve", RUN, "--class", "3", "--class", "5", "--min-confidence", "0.6")
        ann.does("reject", RUN, "--max-confidence", "0.3")
        note = "thin strokes are taken for ones"
        bob.does("tag", RUN, "false_positive", "--class", "1", "--max-confidence", "0.3", "--note", note)
        corrected = self._retried(self._correct)
        ann.does("approve", RUN, "--label", corrected)
        drawn = ann.does("audit", RUN, "--seed", "7", until=self._is_drawn)
        if drawn is None or "items" not in drawn:
            drawn = ann.does("audit", RUN)
        sheet = self._files / "verdicts.csv"
        dataset = self._retried(self._dataset)
        self._retried(lambda: reviewer.judge(dataset, self._staging, drawn["items"], sheet))
        ann.does("audit", RUN, "--verdicts", str(sheet))
        sheet.unlink()

    def _decide(self, played: Played) -> None:
        Person("ann", played).does(
            "finalize", RUN, "--yes", "--note", "chaos", "--no-wait", until=self._is_decided
        )

    @property
    def _staging(self) -> str:
        return str(self._config.staging_field)

    def _correct(self) -> str:
        """As in the App: the first label that nobody has decided gets another class."""
        from valflow import database

        # As predicted: what is decided and corrected stands beside it.
        label_id, sample_id = next(
            (str(label["_id"]), str(d["sample_id"]))
            for d in database.ledger().find({"run": RUN}).sort("sample_id", 1)
            for label in d.get("predicted", [])
            if label["label"] not in "1357" and 0.4 < (label["confidence"] or 0) < 0.75
        )
        while True:
            sample = self._dataset()[sample_id]
            label = next(d for d in sample[self._staging].detections if d.id == label_id)
            if label.label == "7":
                return label_id
            label.label = "7"
            sample.save()
            # FiftyOne does not wait for the journal: what it said is saved may go with the database. People look again.
            time.sleep(_JOURNALED)

    def _dataset(self) -> Any:
        import fiftyone as fo

        dataset = fo.load_dataset(DATASET)
        dataset.reload()
        return dataset

    # -- looking

    def _record(self) -> dict[str, Any]:
        with self._client() as client:
            return client[DATABASE]["valflow_runs"].find_one({"run": RUN}) or {}

    def _awaits_review(self) -> bool:
        from valflow import prefect_api

        record = self._record()
        if record.get("state") != "IN_REVIEW" or not record.get("suspended_in"):
            return False
        return prefect_api.flow_run_state(record["suspended_in"]).name == "Suspended"

    def _is_drawn(self) -> bool:
        with self._client() as client:
            return bool(
                client[DATABASE]["valflow_audits"].count_documents({"run": RUN, "kind": "spot_check"})
            )

    def _is_decided(self) -> bool:
        """Decided, and whoever has to tell Prefect is the recovery, should nobody have."""
        return bool(self._record().get("decision"))

    def _has_ended(self) -> bool:
        from valflow import prefect_api

        record = self._record()
        if record.get("state") == "FAILED" and record.get("failure") != "outage":
            raise AssertionError(f"the run failed: {record.get('error')}")
        if (record.get("recovery") or {}).get("given_up"):
            raise AssertionError("the recovery gave up")
        if record.get("state") != "FINALIZED" or not record.get("completed_at"):
            return False
        return prefect_api.flow_run_state(record["flow_run_id"]).kind == "COMPLETED"

    def _is_at_rest(self) -> bool:
        from valflow import recovery

        with self._client() as client:
            steps = recovery.look(client[DATABASE]["valflow_runs"], None)
        return not steps and self._record().get("heartbeat_at") is None

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + LIMIT
        while not _quietly(holds):
            if time.monotonic() > deadline:
                kept = ("state", "heartbeat_at", "recovery", "error", "flow_run_id")
                state = {k: self._record().get(k) for k in kept}
                raise TimeoutError(f"not {what} after {LIMIT:.0f} s: {state}")
            time.sleep(0.3)

    @staticmethod
    def _retried(act: Callable[[], Any]) -> Any:
        """Done again for as long as the database is away."""
        from valflow.errors import DatabaseError

        deadline = time.monotonic() + LIMIT
        while True:
            try:
                return act()
            except (PyMongoError, DatabaseError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def _client(self) -> Any:
        return MongoClient(self._stack.uri, serverSelectionTimeoutMS=120_000)


def draw_plan(
    chance: random.Random, kills: int, pace: dict[str, float]
) -> dict[str, list[tuple[float, str]]]:
    """What is killed in a run: seeded components at seeded moments of seeded phases.

    Args:
        chance: where the draws come from.
        kills: how many.
        pace: seconds that each phase takes when nobody disturbs it.
    """
    plan: dict[str, list[tuple[float, str]]] = {}
    deck = chance.sample(COMPONENTS, len(COMPONENTS))
    for place in range(kills):
        phase = (LABEL, REVIEW, DECIDE)[place % 3]
        # Every component is met as often as any other, in another order each time.
        plan.setdefault(phase, []).append((chance.uniform(0.0, pace[phase]), deck[place % len(deck)]))
    return plan


def _tell(line: str) -> None:
    # What a command prints meanwhile is caught.
    print(line, file=sys.__stdout__, flush=True)


def _is_done(message: str) -> bool:
    """Whether a command says that nothing is left to do."""
    return "no label" in message.lower() and (
        "left to" in message or "matches" in message or "would change" in message
    )


def _quietly(holds: Callable[[], bool]) -> bool:
    """Whether it holds; False while database or Prefect are away."""
    try:
        return holds()
    except (PyMongoError, StackError):
        return False
