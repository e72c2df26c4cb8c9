"""The contests: what is prepared, who does what at once, and how it must end."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.builders import bring_to, entries, ids_where, judge_all, labels_in, make_config, make_dataset
from tests.races.acts import name_of
from tests.races.crew import Told
from valflow import app_edits, audits, database, opening, problem_tags, runs
from valflow.label_types import WORKFLOW_TAGS
from valflow.states import State

FIELDS = [f"auto_{n}" for n in range(8)]
Part = tuple[str, dict[str, Any]]


@dataclass
class Ground:
    """One dataset, swept clean before each round."""

    folder: Path
    chance: random.Random
    dataset: Any = field(init=False)

    # The run that the last round left behind; the next one may go on with it.
    _left: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.dataset = make_dataset(self.folder, samples=4)

    def sweep(self) -> None:
        """As if no run had ever been."""
        self._left = None
        self.dataset.reload()
        for name in list(self.dataset.get_field_schema()):
            if name.startswith("auto"):
                self.dataset.delete_sample_field(name)
        self.dataset.delete_saved_views()
        self.dataset.delete_runs()
        for collection in (
            database.runs, database.ledger, database.actions, database.audits, database.targets
        ):  # fmt: skip
            collection().delete_many({})
        database.samples_of(self.dataset).update_many({}, {"$set": {"tags": []}})

    def config(self, **changes: Any) -> dict[str, Any]:
        """Settings of a start, as they travel."""
        return make_config(self.dataset, target={"only": "all"}, **changes).model_dump(
            mode="json", exclude_unset=True
        )

    def goes_on(self, run: str) -> None:
        """Let the next round begin where this one ended."""
        self._left = run

    def next_run_in(self, state: State) -> str:
        """The run that the last round left behind, brought on to a state; a new one where that cannot be."""
        left = self._left
        stands = None if left is None else runs.load(left)["state"]
        self._left = None
        if left is None or stands == State.DISCARDED.value or not ids_where(left, state="approved"):
            self.sweep()
            return self.run_in(state)
        if stands != state.value:
            self.dataset.reload()
            bring_to(left, self.dataset, state)
            runs.release(runs.fence_of(runs.load(left)))
        return left

    def run_in(self, state: State, **changes: Any) -> str:
        """A run that no process holds, in a state."""
        opened = opening.open_run(make_config(self.dataset, target={"only": "all"}, **changes))
        assert opened.run is not None
        bring_to(opened.run, self.dataset, state)
        runs.release(runs.fence_of(runs.load(opened.run)))
        return opened.run


@dataclass(frozen=True)
class Contest:
    """One kind of race.

    Attributes:
        name: for people.
        prepare: brings about what is raced for; returns the part of each process.
        check: what is wrong with how it ended.
    """

    name: str
    prepare: Callable[[Ground, int], list[Part]]
    check: Callable[[Ground, Sequence[Part], Sequence[Told]], list[str]]


# Start.


def _prepare_start(ground: Ground, size: int) -> list[Part]:
    ground.sweep()
    key = f"race_{ground.chance.randrange(10**9)}" if ground.chance.random() < 0.5 else None
    return [("start", {"config": ground.config(**({"run_key": key} if key else {}))})] * size


def _check_start(ground: Ground, plan: Sequence[Part], told: Sequence[Told]) -> list[str]:
    [*records] = database.runs().find({})
    problems = [f"{len(records)} runs"] if len(records) != 1 else []
    record = records[0]
    ground.goes_on(record["run"])
    problems += _one_won(told, "started")
    problems += [f"{t}: does not name the run" for t in _refused(told) if record["run"] not in t.message]
    problems += _events(record, create=1, infer=1, triage=1)
    problems += _state(record, State.IN_REVIEW)
    staged = labels_in(ground.dataset, record["staging_field"])
    if set(staged) != set(entries(record["run"])) or len(staged) != 12:
        problems.append(f"{len(staged)} labels in review, {len(entries(record['run']))} in the ledger")
    return problems + _is_readable(ground, record["staging_field"])


# Review.


def _prepare_review(ground: Ground, size: int) -> list[Part]:
    run = ground.next_run_in(State.IN_REVIEW)
    events = ["approve", "reject", "tag", "tag", "undo", "approve", "tag", "undo"]
    ground.chance.shuffle(events)
    return [
        ("act", {"run": run, "event": events[n % 8], "tag": ground.chance.choice(["odd", "poor_bbox"])})
        for n in range(size)
    ]


def _check_review(ground: Ground, plan: Sequence[Part], told: Sequence[Told]) -> list[str]:
    run = plan[0][1]["run"]
    ground.goes_on(run)
    app_edits.read_edits(run)
    record = runs.load(run)
    # Tags that meet others follow after the answer; a decision waits for them in the same way.
    problem_tags.finish(record, ground.dataset)
    done = list(database.actions().find({"run": run}).sort("seq", 1))
    numbers = [a["seq"] for a in done]
    problems = [] if len(set(numbers)) == len(numbers) else [f"numbers of actions: {numbers}"]
    who = Counter(a["actor"] for a in done if a["actor"] not in ("policy", "system"))
    acted = Counter(name_of(t.number) for t in told if not t.message)
    if who != acted:
        problems.append(f"on record {dict(who)}, done {dict(acted)}")
    if max(numbers) > record["action_seq"]:
        problems.append("an action has a number that the record has not given")
    staged = labels_in(ground.dataset, record["staging_field"])
    known = {a["seq"] for a in done if a["undone_by"] is None}
    samples: dict[str, set[str]] = {}
    for label, entry in entries(run).items():
        shown = set(staged[label]["tags"])
        wanted = ({entry["state"]} - {"undecided"}) | {t["tag"] for t in entry["tags"]}
        if shown != wanted:
            problems.append(f"label {label} shows {shown}, expected {wanted}")
        if not {entry["action"], *(t["action"] for t in entry["tags"])} <= known | {0} or len(
            {t["tag"] for t in entry["tags"]}
        ) != len(entry["tags"]):
            problems.append(f"label {label}: {entry}")
        samples.setdefault(entry["sample_id"], set()).update(t["tag"] for t in entry["tags"])
    found = database.samples_of(ground.dataset).find({}, {"tags": 1})
    tagged = {str(d["_id"]): set(d["tags"]) - set(WORKFLOW_TAGS) for d in found}
    if {i: t for i, t in tagged.items() if t} != {i: t for i, t in samples.items() if t}:
        problems.append(f"samples are tagged {tagged}, expected {samples}")
    return problems


# Decide.


def _prepare_decision(ground: Ground, size: int) -> list[Part]:
    run = ground.next_run_in(State.IN_REVIEW)
    if audits.needs_draw(runs.load(run), audits.latest(run)):
        judge_all(run)
    kinds = ground.chance.choice([["finalize"], ["finalize"], ["finalize", "discard"]])
    return [("decide", {"run": run, "decision": ground.chance.choice(kinds)}) for _ in range(size)]


def _check_decision(ground: Ground, plan: Sequence[Part], told: Sequence[Told]) -> list[str]:
    record = runs.load(plan[0][1]["run"])
    ground.goes_on(record["run"])
    problems = _one_won(told, "decided")
    if problems:
        return problems
    [winner] = [t.number for t in told if t.kind == "decided"]
    wanted = plan[winner][1]["decision"]
    decision = record["decision"]
    if (decision["reviewer"], decision["decision"]) != (name_of(winner), wanted):
        problems.append(f"{decision} is on record, {name_of(winner)} won with {wanted}")
    problems += _state(record, State.REVIEWED if wanted == "finalize" else State.DISCARDED)
    problems += _events(record, submit=int(wanted == "finalize"), discard=int(wanted == "discard"))
    return problems + _name(told, name_of(winner))


# Finalize.


def _prepare_finalization(ground: Ground, size: int) -> list[Part]:
    run = ground.next_run_in(State.VALIDATED)
    return [("finalize", {"run": run, "config": ground.config(run_key=run)})] * size


def _check_finalization(ground: Ground, plan: Sequence[Part], told: Sequence[Told]) -> list[str]:
    record = runs.load(plan[0][1]["run"])
    ground.goes_on(record["run"])
    problems = _one_won(told, "finalized") + _state(record, State.FINALIZED)
    problems += _events(record, begin_finalize=1, finalize=1) + _is_final(ground, record)
    return problems + _name(told, *[t.process for t in told], record["run"])


# Roll back.


def _prepare_rollback(ground: Ground, size: int) -> list[Part]:
    run = ground.next_run_in(State.FINALIZED)
    return [
        ("roll back", {"run": run, "including_edited": ground.chance.random() < 0.5}) for _ in range(size)
    ]


def _check_rollback(ground: Ground, plan: Sequence[Part], told: Sequence[Told]) -> list[str]:
    record = runs.load(plan[0][1]["run"])
    problems = _one_won(told, "rolled back") + _state(record, State.ROLLED_BACK)
    problems += _events(record, begin_rollback=1, roll_back=1) + _is_gone(ground, record)
    winner = record["rollback"]["reviewer"]
    if [name_of(t.number) for t in told if t.kind == "rolled back"] != [winner]:
        problems.append(f"{winner} is on record")
    return problems + _name(told, winner)


# Finalize against roll back, on the same run.


def _prepare_both(ground: Ground, size: int) -> list[Part]:
    ground.sweep()
    run = ground.run_in(State.VALIDATED)
    config, parts = ground.config(run_key=run), []
    for number in range(size):
        if number % 2:
            parts.append(("roll back", {"run": run, "insist": ground.chance.choice([0.0, 0.2, 10.0])}))
        else:
            parts.append(
                ("finalize", {"run": run, "config": config, "after": ground.chance.choice([0.0, 0.0, 0.3])})
            )
    return parts


def _check_both(ground: Ground, plan: Sequence[Part], told: Sequence[Told]) -> list[str]:
    record = runs.load(plan[0][1]["run"])
    back = sum(t.kind == "rolled back" for t in told)
    problems = _one_won(told, "finalized") + ([f"{back} rolled it back"] if back > 1 else [])
    problems += _events(record, begin_finalize=1, finalize=1, begin_rollback=back, roll_back=back)
    problems += _state(record, State.ROLLED_BACK if back else State.FINALIZED)
    return problems + (_is_gone(ground, record) if back else _is_final(ground, record)) + _crashes(told)


# A start while the run before it is rolled back.


def _prepare_next(ground: Ground, size: int) -> list[Part]:
    ground.sweep()
    run = ground.run_in(State.FINALIZED)
    config = ground.config()
    return [("roll back", {"run": run}) if n % 2 else ("start", {"config": config}) for n in range(size)]


def _check_next(ground: Ground, plan: Sequence[Part], told: Sequence[Told]) -> list[str]:
    run = next(p[1]["run"] for p in plan if "run" in p[1])
    record, [*others] = runs.load(run), database.runs().find({"run": {"$ne": run}})
    problems = _one_won(told, "rolled back") + _one_won(told, "started") + _state(record, State.ROLLED_BACK)
    if len(others) != 1:
        return [*problems, f"{len(others)} runs began"]
    found = [d for d in labels_in(ground.dataset, "auto").values() if d.get("run") == run]
    problems += [f"{len(found)} labels of the run that was rolled back"] if found else []
    problems += _state(others[0], State.IN_REVIEW)
    if set(labels_in(ground.dataset, "auto_in_review")) != set(entries(others[0]["run"])):
        problems.append("the labels in review are not those of the next run")
    return problems + _is_readable(ground, "auto_in_review")


# Each into a field of its own, on the same dataset: nobody loses, and nobody loses anything.


def _prepare_fields(ground: Ground, size: int) -> list[Part]:
    ground.sweep()
    if ground.chance.random() < 0.5:
        return [("start", {"config": ground.config(label_field=FIELDS[n])}) for n in range(size)]
    parts: list[Part] = []
    for number in range(size):
        state = ground.chance.choice([State.VALIDATED, State.FINALIZED])
        run = ground.run_in(state, label_field=FIELDS[number])
        config = ground.config(label_field=FIELDS[number], run_key=run)
        parts.append(
            ("finalize", {"run": run, "config": config})
            if state is State.VALIDATED
            else ("roll back", {"run": run})
        )
    return parts


def _check_fields(ground: Ground, plan: Sequence[Part], told: Sequence[Told]) -> list[str]:
    problems = _crashes(told) + [f"{t}: refused" for t in _refused(told)]
    for number, (act, arguments) in enumerate(plan):
        if act == "start":
            problems += _is_readable(ground, f"{FIELDS[number]}_in_review")
            continue
        record = runs.load(arguments["run"])
        problems += _is_final(ground, record) if act == "finalize" else _is_gone(ground, record)
    return problems


# All at once.


def _prepare_everything(ground: Ground, size: int) -> list[Part]:
    ground.sweep()
    run = ground.run_in(State.IN_REVIEW)
    judge_all(run)
    kinds: list[Part] = [
        ("start", {"config": ground.config()}),
        ("decide", {"run": run, "decision": "finalize"}),
        ("decide", {"run": run, "decision": "discard"}),
        ("roll back", {"run": run}),
    ]
    return [kinds[n % len(kinds)] for n in range(size)]


def _check_everything(ground: Ground, plan: Sequence[Part], told: Sequence[Told]) -> list[str]:
    run = next(p[1]["run"] for p in plan if "run" in p[1])
    record = runs.load(run)
    problems = _one_won(told, "decided") + _crashes(told)
    problems += [f"{t}: rolled back" for t in told if t.kind == "rolled back"]
    winner = record["decision"]["reviewer"]
    deciders = [t for t in told if plan[t.number][0] == "decide"]
    problems += _name(deciders, winner)
    names = [*(r["run"] for r in database.runs().find({}, {"run": 1})), winner]
    problems += [f"{t}: names nothing" for t in _refused(told) if not any(n in t.message for n in names)]
    started = [t for t in told if t.kind == "started"]
    if started and record["state"] != State.DISCARDED.value:
        problems.append("another run began beside an open one")
    return problems + ([f"{len(started)} started"] if len(started) > 1 else [])


# The first five go on with the same run, each where the one before it ended.
CONTESTS = (
    Contest("start", _prepare_start, _check_start),
    Contest("review", _prepare_review, _check_review),
    Contest("decide", _prepare_decision, _check_decision),
    Contest("finalize", _prepare_finalization, _check_finalization),
    Contest("roll back", _prepare_rollback, _check_rollback),
    Contest("finalize or roll back", _prepare_both, _check_both),
    Contest("start or roll back", _prepare_next, _check_next),
    Contest("eight fields", _prepare_fields, _check_fields),
    Contest("everything", _prepare_everything, _check_everything),
)


def _refused(told: Sequence[Told]) -> list[Told]:
    return [t for t in told if t.message and not t.is_crash]


def _crashes(told: Sequence[Told]) -> list[str]:
    return [f"process {t.number} crashed: {t.message}" for t in told if t.is_crash]


def _one_won(told: Sequence[Told], kind: str) -> list[str]:
    winners = [t.number for t in told if t.kind == kind]
    return ([f"{kind}: {winners}"] if len(winners) != 1 else []) + _crashes(told)


def _name(told: Sequence[Told], *names: str) -> list[str]:
    """Whoever was refused must be told who was faster."""
    return [
        f"{t}: does not name {names[0]}" for t in _refused(told) if not any(n in t.message for n in names)
    ]


def _events(record: dict[str, Any], **wanted: int) -> list[str]:
    found = Counter(h["event"] for h in record["history"])
    return [f"{found[e]} times {e}, expected {n}" for e, n in wanted.items() if found[e] != n]


def _state(record: dict[str, Any], state: State) -> list[str]:
    return [] if record["state"] == state.value else [f"is {record['state']}, expected {state.value}"]


def _is_readable(ground: Ground, name: str) -> list[str]:
    """What stands on the samples is declared; else FiftyOne cannot read them any more."""
    ground.dataset.reload()
    declared = set(ground.dataset.get_field_schema())
    stored = {k for d in database.samples_of(ground.dataset).find({}) for k in d}
    undeclared = {k for k in stored if k.startswith("auto")} - declared
    problems = [f"undeclared on the samples: {sorted(undeclared)}"] if undeclared else []
    return problems + ([] if name in declared else [f"field {name} is not declared"])


def _is_final(ground: Ground, record: dict[str, Any]) -> list[str]:
    name, frozen = record["label_field"], {}
    for document in database.ledger().find({"run": record["run"], "frozen.labels.0": {"$exists": True}}):
        frozen |= {str(label["_id"]): label["label"] for label in document["frozen"]["labels"]}
    found = {
        i: d["label"] for i, d in labels_in(ground.dataset, name).items() if d.get("run") == record["run"]
    }
    problems = _is_readable(ground, name)
    if found != frozen or not found:
        problems.append(f"{len(found)} labels in {name}, {len(frozen)} were frozen")
    if ground.dataset.has_field(record["staging_field"]) or labels_in(
        ground.dataset, record["staging_field"]
    ):
        problems.append("the review field is still there")
    if record["run"] not in ground.dataset.list_runs():
        problems.append("no custom run is registered")
    return problems


def _is_gone(ground: Ground, record: dict[str, Any]) -> list[str]:
    ground.dataset.reload()
    name = record["label_field"]
    found = [d for d in labels_in(ground.dataset, name).values() if d.get("run") == record["run"]]
    problems = [f"{len(found)} labels of {record['run']} are still there"] if found else []
    if ground.dataset.has_field(name):
        problems.append(f"the field {name}, which the run created, is still there")
    if record["run"] in ground.dataset.list_runs():
        problems.append("its custom run is still there")
    return problems
