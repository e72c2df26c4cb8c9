"""What the processes of a race do: the calls that the flow, the command line and the panel make."""

from __future__ import annotations

import time
from typing import Any

from tests.builders import infer, review
from valflow import actions, database, decisions, opening, promotion, rolling_back, runs, undoing
from valflow.config import LabelingConfig, config_from_mapping
from valflow.decisions import Decision
from valflow.errors import IllegalTransition, RollbackRefused, RunBusy
from valflow.selections import Selection
from valflow.states import State

SOON = 30.0  # seconds in which "try again in a moment" must lead to an answer


def name_of(number: int) -> str:
    """The person at a process."""
    return f"reviewer-{number}"


def start(arguments: dict[str, Any], number: int) -> str:
    """A tick of the scheduler: find or create the run, and bring it into review."""
    opened = opening.open_run(config_of(arguments))
    if opened.outcome != "run" or opened.run is None:
        raise RunBusy(opened.message, opened.run or "")
    run = opened.run
    with runs.heartbeat(runs.fence_of(runs.load(run))):
        record = runs.load(run)
        if record["state"] not in (State.CREATED.value, State.PREDICTED.value):
            return "nothing left"
        dataset = database.dataset_of(record)
        if record["state"] == State.CREATED.value:
            record = infer(opening.prepare(record, dataset), dataset)
        review(record, dataset)
    return "started"


def decide(arguments: dict[str, Any], number: int) -> str:
    """A reviewer's decision; who is asked to try again in a moment does so."""
    decision = Decision(
        arguments["decision"], name_of(number), override="a test" if arguments.get("override") else None
    )
    until = time.monotonic() + SOON
    while True:
        try:
            decisions.submit(arguments["run"], decision)
            return "decided"
        except IllegalTransition as refusal:
            if "try again in a moment" not in str(refusal) or time.monotonic() > until:
                raise
            time.sleep(0.02)


def finalize(arguments: dict[str, Any], number: int) -> str:
    """The flow that goes on with a decided run."""
    time.sleep(arguments.get("after", 0.0))
    opened = opening.open_run(config_of(arguments))
    if opened.outcome != "run":
        raise RunBusy(opened.message, opened.run or "")
    run = arguments["run"]
    with runs.heartbeat(runs.fence_of(runs.load(run))):
        record = runs.load(run)
        if record["state"] not in (State.VALIDATED.value, State.FINALIZING.value):
            return "nothing left"
        promotion.promote(record, database.dataset_of(record))
    return "finalized"


def roll_back(arguments: dict[str, Any], number: int) -> str:
    """A person takes the run back; asked for before the run is final, it is asked for again."""
    until = time.monotonic() + arguments.get("insist", 0.0)
    while True:
        try:
            rolling_back.roll_back(
                arguments["run"], name_of(number), including_edited=arguments.get("including_edited", False)
            )
            return "rolled back"
        except (RollbackRefused, RunBusy):
            state = runs.load(arguments["run"])["state"]
            if state in (State.ROLLING_BACK.value, State.ROLLED_BACK.value) or time.monotonic() > until:
                raise
            time.sleep(0.02)


def act_on_labels(arguments: dict[str, Any], number: int) -> str:
    """Reviewers work on the same labels."""
    run, who, event = arguments["run"], name_of(number), arguments["event"]
    everything = Selection(all=True)
    if event == "tag":
        actions.tag(run, arguments["tag"], everything, who)
    elif event == "undo":
        undoing.undo(run, who)
    else:
        {"approve": actions.approve, "reject": actions.reject}[event](run, everything, who)
    return event


def config_of(arguments: dict[str, Any]) -> LabelingConfig:
    """The configuration that a start is given."""
    return config_from_mapping(arguments["config"])


ACTS = {
    "start": start,
    "decide": decide,
    "finalize": finalize,
    "roll back": roll_back,
    "act": act_on_labels,
}
