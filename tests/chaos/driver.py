"""Runs scenarios in processes that die at a chosen write, recovers, and compares with a run that nobody disturbed.

Each step runs in a process of its own, forked from one that has imported everything and holds no connection, so that
a death and its recovery cost about a second.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos import dumps, snapshots
from tests.chaos.killing import AFTER, BEFORE, INSIDE, Killer, Point, Write
from tests.chaos.scenarios import Scenario, Step
from tests.chaos.walking import walk

DATABASE = "chaos"


@dataclass(frozen=True)
class Target:
    """Where to kill: at a point of a step, by its place in the scenario."""

    step: int
    write: Write
    when: str

    @property
    def point(self) -> Point:
        """The point within the step's process."""
        return Point(self.write.number, self.when)


@dataclass(frozen=True)
class Trial:
    """One kill and what became of it.

    Attributes:
        scenario: its name.
        step: name of the step that died.
        target: where it was to die.
        killed: number of processes that really died.
        stage: in which the first one did.
        problems: differences from the undisturbed run, or why recovery did not end.
        repeated: actions on record twice, without an effect.
    """

    scenario: str
    step: str
    target: Target
    killed: int
    stage: str
    problems: tuple[str, ...]
    repeated: int

    def __str__(self) -> str:
        return f"{self.scenario}: {described(self.step, self.target)}"


@dataclass
class Undisturbed:
    """A run that nobody kills: what its steps write, how things stand before each, and what each leaves behind."""

    writes: list[list[Write]] = field(default_factory=list)
    before: list[snapshots.Snapshot] = field(default_factory=list)
    left: list[dumps.Dump] = field(default_factory=list)

    def targets(self) -> list[Target]:
        """Every different place to die: after a write is before the next one, but for the first."""
        found = []
        for step, writes in enumerate(self.writes):
            for write in writes:
                whens = [*([BEFORE] if write.number == 1 else []), *([INSIDE] if write.parts else []), AFTER]
                found += [Target(step, write, when) for when in whens if when != AFTER or _ends(write)]
        return found


def described(step: str, target: Target) -> str:
    """A place to die, in words."""
    where = f"{target.when} write {target.write.number} ({target.write.what})"
    return f"{step}: {target.write.stage}: {where}"


def _ends(write: Write) -> bool:
    """Whether the end of a write is seen: of a file only its beginning is."""
    return not write.what.startswith(("open ", "os."))


class Lab:
    """Forks the processes of scenarios; make it in a process that has no connection to the database.

    Args:
        folder: for files of the runs, and copies of them.
        uri: of a MongoDB of our own.
        recover: what a system does after a crash, before anybody does anything again.
    """

    def __init__(self, folder: Path, uri: str, recover: Callable[[], object]) -> None:
        self.files = folder / "files"
        self._copies = folder / "copies"
        self._uri = uri
        self._recover = recover

    # -- undisturbed

    def undisturbed(self, scenario: Scenario) -> Undisturbed:
        """Run a scenario to its end, step by step."""
        found = Undisturbed()
        with self._client() as client:
            client.drop_database(DATABASE)
            shutil.rmtree(self.files, ignore_errors=True)
            self.files.mkdir(parents=True)
            self._must(lambda _: scenario.prepare(self.files))
            for number, step in enumerate(scenario.steps):
                copies = self._copies / scenario.name / str(number)
                shutil.rmtree(copies, ignore_errors=True)
                copies.parent.mkdir(parents=True, exist_ok=True)
                found.before.append(snapshots.take(client[DATABASE], self.files, copies))
                found.writes.append(self._must(_step(step)))
                found.left.append(dumps.dump(client[DATABASE], self.files))
        return found

    # -- disturbed

    def trial(
        self,
        scenario: Scenario,
        undisturbed: Undisturbed,
        target: Target,
        *,
        again: int | None = None,
        to_the_end: bool = True,
    ) -> Trial:
        """Kill one step, recover, and go on.

        Args:
            scenario: what happens.
            undisturbed: the same without a kill.
            target: where to kill.
            again: number of a write at which the recovering process is killed, too.
            to_the_end: whether the scenario is always played to its end. Otherwise only where things stand otherwise
                than without a kill, once the step was done again: from equal things follow equal ones.
        """
        steps = scenario.steps[target.step :]
        with self._client() as client:
            snapshots.bring_back(undisturbed.before[target.step], client[DATABASE], self.files)
            died = self._fork(_step(steps[0]), target.point)
            killed, trouble = died.killed, died.trouble
            if not killed and not trouble:
                trouble = "the process did not get there"
            if again is not None and not trouble:
                second = self._fork(self._after_death(steps[0]), Point(again, AFTER))
                killed, trouble = killed + second.killed, second.trouble
            parts = [self._after_death(steps[0]), *(_step(step) for step in steps[1:])]
            problems, repeated = [trouble], 0
            for place, part in enumerate(parts):
                if trouble:
                    break
                outcome = self._fork(part, None)
                trouble = outcome.trouble or ("killed, but not by us" if outcome.killed else "")
                problems = [trouble]
                if place == len(parts) - 1 or not (trouble or to_the_end):
                    there = dumps.dump(client[DATABASE], self.files)
                    expected = undisturbed.left[target.step + place]
                    problems = [trouble, *expected.differences(there)]
                    repeated = there.repeated - expected.repeated
                    if not any(problems):
                        break
        return Trial(
            scenario.name,
            steps[0].name,
            target,
            killed,
            died.writes[-1].stage if died.writes else target.write.stage,
            tuple(p for p in problems if p),
            max(repeated, 0),
        )

    def outage(
        self,
        scenario: Scenario,
        undisturbed: Undisturbed,
        target: Target,
        begin: Callable[[], object],
        end: Callable[[], object],
    ) -> tuple[str, list[str]]:
        """Something is taken away before a write; later it is back, and the step is done again.

        Args:
            scenario: what happens.
            undisturbed: the same without an outage.
            target: before which write of which step.
            begin: takes it away, in the process that writes.
            end: brings it back, when that process has ended.

        Returns:
            What the process said in the end, empty where it noticed nothing; and the differences from the
            undisturbed run.
        """
        step = scenario.steps[target.step]
        with self._client() as client:
            snapshots.bring_back(undisturbed.before[target.step], client[DATABASE], self.files)
        died = self._fork(_step(step), Point(target.write.number, BEFORE), begin)
        end()
        again = self._fork(self._after_death(step), None)
        if again.trouble:
            return died.trouble, [again.trouble]
        with self._client() as client:
            there = dumps.dump(client[DATABASE], self.files)
        return died.trouble, undisturbed.left[target.step].differences(there)

    def _after_death(self, step: Step) -> Callable[[Killer], None]:
        def run(killer: Killer) -> None:
            killer.stage = "recovery"
            self._wait_for_leases()
            self._recover()
            _step(step)(killer)

        return run

    @staticmethod
    def _wait_for_leases() -> None:
        """What holds for minutes after a death has ended: the clock of the test goes faster."""
        from valflow import actions, database

        past = database.now() - 2 * actions.FREEZE_EXPIRES
        database.runs().update_many({"freezing.at": {"$exists": True}}, {"$set": {"freezing.at": past}})
        database.runs().update_many({}, {"$set": {"updated_at": past}})

    # -- processes

    def _must(self, run: Callable[[Killer], None]) -> list[Write]:
        outcome = self._fork(run, None)
        if outcome.trouble or outcome.killed:
            raise RuntimeError(f"the undisturbed run did not end: {outcome.trouble or 'killed'}")
        return outcome.writes

    def _fork(
        self, run: Callable[[Killer], None], point: Point | None, act: Callable[[], object] | None = None
    ) -> Outcome:
        """Run in a child process; returns what it wrote and how it ended."""
        reading, writing = os.pipe()
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os.close(reading)
            self._child(run, point, writing, act)
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as pipe:
            lines = [json.loads(line) for line in pipe if line.endswith("\n")]
        _, status = os.waitpid(child, 0)
        writes = [Write(**line["write"]) for line in lines if "write" in line]
        trouble = next((line["trouble"] for line in lines if "trouble" in line), "")
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        return Outcome(writes, int(killed), trouble)

    def _child(
        self,
        run: Callable[[Killer], None],
        point: Point | None,
        pipe: int,
        act: Callable[[], object] | None,
    ) -> None:
        def tell(**values: Any) -> None:
            os.write(pipe, json.dumps(values).encode() + b"\n")

        code = 1
        # Draws whose seed is left to chance are the same in every run.
        secrets.randbits = lambda bits: 7
        try:
            killer = Killer(self.files, point, lambda write: tell(write=write.as_json()), act)
            run(killer)
            code = 0
        except BaseException:  # noqa: BLE001 - whatever it is, the parent must know
            tell(trouble=traceback.format_exc(limit=-6))
        finally:
            os._exit(code)

    def _client(self) -> Any:
        from pymongo import MongoClient

        return MongoClient(self._uri)


@dataclass(frozen=True)
class Outcome:
    """What a process wrote, whether it was killed, and the exception that it ended with."""

    writes: list[Write]
    killed: int
    trouble: str


def recover() -> None:
    """What ``valflow doctor --fix`` does where no Prefect server is."""
    from valflow import recovery, runs
    from valflow.config import LabelingConfig

    def go_on(run: str) -> None:
        config = LabelingConfig.model_validate(runs.load(run)["config"])
        walk(config.model_copy(update={"run_key": run}))

    for line in recovery.mend(None, go_on):
        if "came to nothing" in line:
            raise RuntimeError(line)


def _step(step: Step) -> Callable[[Killer], None]:
    def run(killer: Killer) -> None:
        def enter(stage: str) -> None:
            killer.stage = stage

        enter(step.stage or "open")
        step.do(enter)

    return run


def sample_targets(targets: Sequence[Target], number: int, seed: int) -> list[Target]:
    """A seeded sample in which every stage is drawn from as evenly as it can be."""
    chance = random.Random(seed)
    by_stage: dict[str, list[Target]] = {}
    for target in targets:
        by_stage.setdefault(target.write.stage, []).append(target)
    for members in by_stage.values():
        chance.shuffle(members)
    chosen: list[Target] = []
    while len(chosen) < min(number, len(targets)):
        for members in by_stage.values():
            if members and len(chosen) < number:
                chosen.append(members.pop())
    return chosen


def table(trials: Sequence[Trial]) -> Iterator[str]:
    """The figures, stage by stage."""
    kills: Counter[tuple[str, str]] = Counter()
    lost: Counter[str] = Counter()
    for trial in trials:
        kills[trial.stage, trial.target.when] += 1
        lost[trial.stage] += bool(trial.problems)
    stages = dict.fromkeys(stage for stage, _ in kills)
    yield f"{'stage':<12}{'before':>8}{'inside':>8}{'after':>8}{'kills':>8}{'losses':>8}"
    for stage in stages:
        counts = [kills[stage, when] for when in (BEFORE, INSIDE, AFTER)]
        yield f"{stage:<12}" + "".join(f"{n:>8}" for n in (*counts, sum(counts), lost[stage]))
    totals = [sum(n for (_, w), n in kills.items() if w == when) for when in (BEFORE, INSIDE, AFTER)]
    yield f"{'all':<12}" + "".join(f"{n:>8}" for n in (*totals, sum(totals), sum(lost.values())))
