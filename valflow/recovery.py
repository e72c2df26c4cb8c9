"""Runs that stopped without having ended: what is to be done about each of them, and doing it.

``look`` finds them and makes plain steps, which can be shown; ``carry_out`` does one. Before it does, it takes the
attempt by compare-and-set on the run's record, so two that look at once, or one beside a living process, do no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from valflow import database, prefect_api, runs, schema
from valflow.config import DEFAULT_ATTEMPTS, LabelingConfig, duration
from valflow.errors import IllegalTransition, RunBusy, StackError, ValflowError
from valflow.lots import is_waiting
from valflow.prefect_api import FlowRunState
from valflow.schedules import POOL
from valflow.states import STAGE_AFTER, TRANSITIONS, Event, State

if TYPE_CHECKING:
    from pymongo.collection import Collection

Kind = Literal["go_on", "ask_again", "resume", "roll_back", "discard", "clear", "start", "give_up", "tell"]

_IN_WORDS: dict[Kind, str] = {
    "go_on": "go on from its record",
    "ask_again": "let its flow run ask again",
    "resume": "tell its flow run the decision",
    "roll_back": "finish the rollback",
    "discard": "discard it",
    "clear": "remove its review field",
    "start": "start its flow run again",
    "give_up": "give up, and say so in its record",
    "tell": "nothing; a person must act",
}
# From the start of a flow's process to its first sign of life: imports, and a model that loads in the checks.
STARTING = timedelta(seconds=120)
# Whoever decides resumes the flow run right afterwards.
SETTLED = timedelta(seconds=15)
# For a flow run of which nothing is on record: a process that lives may look for a long time at data and model.
LONGEST_START = timedelta(minutes=10)
# What is older was given up by whoever started it.
OLDEST_START = timedelta(days=1)
# Before the second attempt; twice that before the third, and so on.
PAUSE = timedelta(seconds=30)

_AT_WORK = (State.CREATED, State.PREDICTED, State.REVIEWED, State.VALIDATED, State.FINALIZING)
_GOES_ON_BY = {
    State.ROLLING_BACK: "`valflow rollback {run}`",
    State.REOPENING: "`valflow rollback {run}`",
    State.CREATED: "the same `valflow run CONFIG`",
    State.PREDICTED: "the same `valflow run CONFIG`",
}


@dataclass(frozen=True)
class Step:
    """What is to be done about one run.

    Attributes:
        run: its key.
        kind: *go_on*: the flow continues; *ask_again*: its flow run starts again, to wait with a form; *resume*: the
            suspended flow run is told the decision; *roll_back*: a rollback is finished; *discard*: nobody reviewed
            it in time; *clear*: the review field of a discarded run goes; *start*: a flow run that died before its
            run was on record starts again; *give_up*: after too many attempts; *tell*: given up before, a person
            must act.
        why: what was found.
        remedy: what a person can do.
        attempt: number of this attempt, from 1; 0 where the step is none.
        most: attempts that there are.
        flow_run: the Prefect flow run to start again or to resume.
        seen: what of the record the step rests on.
    """

    run: str
    kind: Kind
    why: str
    remedy: str
    attempt: int
    most: int
    flow_run: str | None
    seen: dict[str, Any]

    @property
    def in_words(self) -> str:
        """What would be done."""
        if self.kind in ("discard", "give_up", "tell"):
            return _IN_WORDS[self.kind]
        return f"{_IN_WORDS[self.kind]} (attempt {self.attempt} of {self.most})"

    @property
    def is_automatic(self) -> bool:
        """Whether ``carry_out`` does anything about it."""
        return self.kind != "tell"


def look(records: Collection[dict[str, Any]], api: str | None, now: datetime | None = None) -> list[Step]:
    """Find the runs that stopped without having ended; writes nothing.

    Args:
        records: the collection of run records.
        api: address of Prefect's API; None where there is no server.
        now: the present.
    """
    now = now or datetime.now(UTC)
    answers = api is None or prefect_api.is_reachable(api)
    steps = []
    for record in records.find(_suspects(), {"class_table": 0, "failed": 0, "validation": 0, "metrics": 0}):
        if runs.is_alive(record):
            continue
        if schema.version_of(record) > schema.VERSION:
            steps.append(_leave_to_newer(record))
            continue
        flow = _flow_run_of(record, api) if answers else None
        step = plan(record, flow, now, prefect_answers=answers)
        if step is not None:
            steps.append(step)
    if api is not None and answers:
        steps += _lost_starts(records, api, now)
    return steps


def _lost_starts(records: Collection[dict[str, Any]], api: str, now: datetime) -> Iterator[Step]:
    """Flow runs whose process died before it had made a record of its run, or found it."""
    for flow_run, name, starts, state in prefect_api.unfinished(api=api):
        if not state.is_deployed or state.since is None or _far(now, state.since, OLDEST_START):
            continue
        of_it = {"$or": [{"flow_run_id": flow_run}, {"suspended_in": flow_run}]}
        if (
            not _far(now, state.since, _longest_start(state))
            or records.find_one(of_it, {"_id": 1}) is not None
        ):
            continue
        why = f"it is {state.name} in Prefect, and died before its run was on record"
        remedy = f"See flow run {flow_run} in Prefect and its logs, mend the cause, and start it again"
        kind: Kind = "start" if starts <= DEFAULT_ATTEMPTS else "tell"
        yield Step(
            name, kind, why, remedy, max(starts, 1), DEFAULT_ATTEMPTS, flow_run, {"since": state.since}
        )


def _longest_start(flow: FlowRunState) -> timedelta:
    """How long a flow run may be in its state before its run is on record."""
    if flow.kind == "CRASHED":
        return SETTLED
    # A process of our own worker says soon that it runs; a container may wait for its image.
    return STARTING if flow.kind == "PENDING" and flow.pool == POOL else LONGEST_START


def plan(
    record: runs.Record, flow: FlowRunState | None, now: datetime, *, prefect_answers: bool = True
) -> Step | None:
    """What is to be done about a run that no process holds; None where nothing is.

    Args:
        record: the run.
        flow: its flow run, None where Prefect knows none.
        now: the present.
        prefect_answers: whether Prefect could be asked.
    """
    found = _found(record, flow, now, prefect_answers)
    if found is None:
        return None
    kind, why = found
    before = record.get("recovery") or {}
    done = before.get("attempts", 0) if before.get("stage") == _stage(record) else 0
    most = record["config"].get("max_attempts", DEFAULT_ATTEMPTS)
    if kind != "discard" and done:
        if before.get("given_up"):
            return _step(record, "tell", f"{why}; given up after {done} attempts", 0, most, flow)
        if not _far(now, before["at"], PAUSE * 2 ** (done - 1)):
            return None
        if done >= most:
            return _step(record, "give_up", f"{why}; {done} attempts did not help", 0, most, flow)
    return _step(record, kind, why, done + 1, most, flow)


def carry_out(step: Step, api: str | None, go_on_here: Callable[[str], object] | None = None) -> str:
    """Do what a step says; returns in words what became of it.

    Args:
        step: of ``look``.
        api: address of Prefect's API; None where there is no server.
        go_on_here: continues a run in this process, where no Prefect does.

    Raises:
        StackError: Prefect did not take it; the attempt is on record.
    """
    if not step.is_automatic:
        return f"run {step.run}: {step.why}. {step.remedy}"
    if step.kind == "start":
        return _start(step, api)
    if not _take_attempt(step):
        return f"run {step.run} was left alone: it has changed since it was looked at"
    try:
        said = _DO[step.kind](step, api, go_on_here)
    except (RunBusy, IllegalTransition) as somebody:
        return f"run {step.run} was left alone: {somebody}"
    counted = f" (attempt {step.attempt} of {step.most})" if step.attempt else ""
    return f"run {step.run}: {step.why}; {said}{counted}"


def mend(api: str | None, go_on_here: Callable[[str], object] | None = None) -> Iterator[str]:
    """Look, and carry out what is found; in words, one line per run.

    Args:
        api: address of Prefect's API; None where there is no server.
        go_on_here: continues a run in this process, where no Prefect does.
    """
    for step in look(database.runs(), api):
        try:
            yield carry_out(step, api, go_on_here)
        except ValflowError as error:
            yield f"run {step.run}: {step.why}; attempt {step.attempt} of {step.most} came to nothing: {error}"


def is_outage(error: BaseException | None) -> bool:
    """Whether an error says that the database or Prefect were away: another try may succeed without anybody's help."""
    import httpx
    from pymongo.errors import ConnectionFailure

    while error is not None:
        if isinstance(error, ConnectionFailure | httpx.TransportError | StackError):
            return True
        if isinstance(error, httpx.HTTPStatusError) and _is_away(error.response.status_code):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_away(status: int) -> bool:
    """Whether a server says that it cannot work now, whatever it was asked."""
    return status >= 500 or status in prefect_api.BUSY


def _suspects() -> dict[str, Any]:
    going = (*_AT_WORK, State.IN_REVIEW, State.ROLLING_BACK, State.REOPENING, State.FAILED)
    working = [state.value for state in going]
    unfinished = {"completed_at": None, "flow_run_id": {"$type": "string"}}
    return {
        "$or": [
            {"state": {"$in": working}},
            {"state": State.FINALIZED.value, **unfinished},
            {"state": State.DISCARDED.value, **unfinished, "suspended_in": {"$type": "string"}},
            {"state": State.DISCARDED.value, "is_cleared": False},
        ]
    }


def _flow_run_of(record: runs.Record, api: str | None) -> FlowRunState | None:
    identifier = record.get("flow_run_id")
    return prefect_api.find_flow_run(identifier, api=api) if api and identifier else None


def _found(
    record: runs.Record, flow: FlowRunState | None, now: datetime, prefect_answers: bool
) -> tuple[Kind, str] | None:
    """What is wrong with a run that no process holds, and which kind of step mends it."""
    state = State(record["state"])
    is_settled = _far(now, record["updated_at"], SETTLED)
    if state is State.ROLLING_BACK:
        return "roll_back", "its rollback was broken off"
    if state is State.DISCARDED and record.get("is_cleared") is False and is_settled:
        return "clear", "it is discarded, but its review field is still there"
    if state is State.REOPENING:
        return "roll_back", "it was being brought back into review, and that was broken off"
    if state is State.IN_REVIEW and _is_overdue(record, now):
        return "discard", f"nobody worked on its review for {record['config']['review']['discard_after']}"
    if not prefect_answers or is_waiting(record) or (flow is not None and _is_coming(record, flow, now)):
        return None
    if flow is not None and flow.is_waiting and state is State.IN_REVIEW and _has_no_form(record):
        return ("ask_again", "its flow run waits without the form") if is_settled else None
    if flow is not None and flow.is_waiting and state is not State.IN_REVIEW:
        return ("resume", "it is decided, but its flow run was not told") if is_settled else None
    if state is State.FAILED:
        was_away = record.get("failure") == "outage"
        return ("go_on", f"{record.get('failed_stage')} failed in an outage") if was_away else None
    if flow is not None and flow.is_deployed and _is_lost(flow):
        return (
            None
            if state is State.DISCARDED
            else ("go_on", f"its flow run is {flow.name}, and no process works on it")
        )
    died = state in (*_AT_WORK, State.FINALIZED) and record.get("heartbeat_at") is not None
    was_stopped = flow is not None and flow.kind == "CANCELLED"
    return ("go_on", f"its process {record['process']} died") if died and not was_stopped else None


def _is_coming(record: runs.Record, flow: FlowRunState, now: datetime) -> bool:
    """Whether a process is about to work on it."""
    if flow.kind == "SCHEDULED":
        return True
    beat = record.get("heartbeat_at")
    if beat is not None and flow.since is not None and runs.aware(beat) > flow.since:
        return False  # it came, and is not alive any more
    is_new = flow.since is not None and not _far(now, flow.since, STARTING)
    return flow.kind in {"PENDING", "RUNNING"} and is_new


def _is_lost(flow: FlowRunState) -> bool:
    """Whether it stands still, given that it is not coming and that no process holds the run."""
    return flow.kind in {"PENDING", "RUNNING", "CRASHED", "FAILED"}


def _has_no_form(record: runs.Record) -> bool:
    """Whether the process died between suspending the flow run and handing Prefect the form; see ``tasks.review``."""
    return record.get("suspended_in") is not None and record.get("has_form") is False


def _is_overdue(record: runs.Record, now: datetime) -> bool:
    after = record["config"]["review"].get("discard_after")
    return after is not None and now - runs.aware(record["updated_at"]) > duration(after)


def _leave_to_newer(record: runs.Record) -> Step:
    """A record that this valflow cannot read is for nobody here to mend."""
    why = f"its record has version {schema.version_of(record)}, this valflow knows versions up to {schema.VERSION}"
    remedy = "Update valflow here; the newer one goes on with it"
    return Step(record["run"], "tell", why, remedy, 0, 0, None, {})


def _far(now: datetime, time: datetime, span: timedelta) -> bool:
    """Whether a time is further away than a span; in the future, too, where it lies after a clock was set back."""
    return abs(now - runs.aware(time)) > span


def _stage(record: runs.Record) -> list[Any]:
    """What attempts are counted for: progress begins a new count."""
    state = record["failed_from"] if record["state"] == State.FAILED.value else record["state"]
    return [state, record["round"]]


def _step(
    record: runs.Record, kind: Kind, why: str, attempt: int, most: int, flow: FlowRunState | None
) -> Step:
    run, state = record["run"], State(record["state"])
    by = _GOES_ON_BY.get(state, "`valflow finalize {run}`").format(run=run)
    remedy = f"See `valflow show {run}` and the logs, mend the cause, then {by} goes on"
    if kind in ("ask_again", "resume") or (flow is not None and flow.is_deployed and _is_lost(flow)):
        flow_run = record.get("flow_run_id")
    else:
        flow_run = None
    seen = {
        "state": state.value,
        "attempt": record["attempt"],
        "updated_at": record["updated_at"],
        "recovery": record.get("recovery"),
        "stage": _stage(record),
    }
    return Step(run, kind, why, remedy, attempt, most, flow_run, seen)


def _take_attempt(step: Step) -> bool:
    """Write the attempt into the run's record and history; False where somebody was faster."""
    stage, condition = step.seen["stage"], {k: v for k, v in step.seen.items() if k != "stage"}
    giving_up = step.kind == "give_up"
    attempts = step.most if giving_up else step.attempt
    taken = {"stage": stage, "attempts": attempts, "at": database.now(), "given_up": giving_up}
    text = (
        f"{step.why}. {step.remedy}" if giving_up else f"{step.why} (attempt {step.attempt} of {step.most})"
    )
    return runs.note(
        step.run,
        "give_up" if giving_up else "recover",
        actor="system",
        text=text,
        figures={"attempt": attempts},
        changes={"recovery": taken},
        condition=condition,
    )


def _go_on(step: Step, api: str | None, here: Callable[[str], object] | None) -> str:
    if step.flow_run is not None:
        prefect_api.retry(step.flow_run, api=api)
        return "its flow run starts again"
    if api is not None:
        record = runs.load(step.run)
        config = LabelingConfig.model_validate(record["config"]).model_copy(update={"run_key": step.run})
        key = f"recover-{step.run}-{'-'.join(map(str, step.seen['stage']))}-{step.attempt}"
        prefect_api.trigger(config, name=record["name"], api=api, idempotency_key=key)
        return "another flow run goes on with it"
    if here is None:
        return f"no Prefect server is known that could go on with it. {step.remedy}"
    here(step.run)
    return f"it went on here, and is {runs.load(step.run)['state']} now"


def _resume(step: Step, api: str | None, _: Callable[[str], object] | None) -> str:
    from valflow.resuming import resume_decided

    resumed = resume_decided(runs.load(step.run), api)
    if resumed.outcome == "unreachable":
        raise StackError(resumed.message)
    return "its flow run was told"


def _roll_back(step: Step, api: str | None, _: Callable[[str], object] | None) -> str:
    from valflow import rolling_back
    from valflow.resuming import ask_again

    record = rolling_back.go_on(step.run)
    if record["state"] == State.IN_REVIEW.value:
        return f"it is in review again. {ask_again(record, api)}"
    return f"it is {record['state']} now"


def _discard(step: Step, api: str | None, _: Callable[[str], object] | None) -> str:
    from valflow import actions, decisions

    decision = decisions.Decision(
        "discard", actions.POLICY, note=f"{step.why} (review.discard_after)", via=actions.POLICY
    )
    unchanged = {"updated_at": step.seen["updated_at"], **actions.not_being_confirmed()}
    record = decisions.discard(step.run, decision, condition=unchanged)
    if record.get("suspended_in"):
        _resume(step, api, None)
    return "it was discarded"


def _start(step: Step, api: str | None) -> str:
    """Prefect counts the starts of a flow run that has no record to count them in."""
    assert step.flow_run is not None
    if prefect_api.flow_run_state(step.flow_run, api=api).since != step.seen["since"]:
        return f"flow run {step.run} was left alone: it has changed since it was looked at"
    prefect_api.retry(step.flow_run, api=api)
    return f"flow run {step.run}: {step.why}; it starts again (attempt {step.attempt} of {step.most})"


def _clear(step: Step, api: str | None, _: Callable[[str], object] | None) -> str:
    from valflow import decisions

    decisions.clear(runs.load(step.run))
    return "it is gone now"


def _give_up(step: Step, api: str | None, _: Callable[[str], object] | None) -> str:
    record = runs.load(step.run)
    state = State(record["state"])
    if (state, Event.FAIL) in TRANSITIONS:
        changes = {
            "failed_from": state.value,
            "failed_stage": STAGE_AFTER[state],
            "failure": "error",
            "error": step.why,
        }
        runs.transition(record, Event.FAIL, actor="system", note=step.why, changes=changes)
    return f"given up. {step.remedy}"


_DO: dict[Kind, Callable[[Step, str | None, Callable[[str], object] | None], str]] = {
    "go_on": _go_on,
    "ask_again": _go_on,
    "resume": _resume,
    "roll_back": _roll_back,
    "discard": _discard,
    "clear": _clear,
    "give_up": _give_up,
}
