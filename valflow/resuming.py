"""A decided run goes on where it lives: in Prefect, or wherever it is called next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from valflow import prefect_api, runs
from valflow.config import LabelingConfig
from valflow.errors import ConfigError, StackError

_DONE = {
    "ACCEPT": "resumed the Prefect run",
    "REJECT": "Prefect did not take the answer, so the run was started again to find it in its record",
    "ABORT": "the Prefect run does not wait any more",
}


@dataclass(frozen=True)
class Resumed:
    """What became of telling Prefect about a decision.

    Attributes:
        outcome: *resumed*: the flow run goes on; *in_process*: no flow run waits for it, or the one that did has
            ended; *unreachable*: Prefect could not be told.
        message: what to do now, for people.
    """

    outcome: Literal["resumed", "in_process", "unreachable"]
    message: str


def resume_decided(record: runs.Record, api: str | None = None) -> Resumed:
    """Resume the suspended flow run of a decided run; the decision is kept whatever happens here.

    Args:
        record: the run.
        api: address of Prefect's API; None finds it.
    """
    decision, flow_run = record["decision"], record.get("suspended_in")
    again = f"`valflow {decision['decision']} {record['run']}`"
    if not flow_run:
        return Resumed(
            "in_process", f"The decision is recorded. No Prefect run waits for it: {again} goes on from here."
        )
    answer = {k: decision[k] or "" for k in ("decision", "reviewer", "note", "override", "digest")}
    try:
        state = prefect_api.flow_run_state(flow_run, api=api)
        if state.is_final:
            ended = (
                f"The decision is recorded; the Prefect run ended as {state.name}: {record['prefect_url']}"
            )
            return Resumed("in_process", f"{ended}. {again} goes on from here.")
        outcome = prefect_api.resume(flow_run, answer, api=api)
        if outcome.status == "REJECT":
            # Its form is of another valflow, or was lost when its process died; the record is what counts.
            prefect_api.retry(flow_run, api=api)
    except StackError as error:
        return Resumed(
            "unreachable",
            f"the decision is recorded, but Prefect could not be told: {error} "
            f"Once it answers, {again} again only resumes.",
        )
    return Resumed("resumed", f"{_DONE[outcome.status]}: {record['prefect_url']}")


def ask_again(record: runs.Record, api: str | None = None) -> str:
    """Let a new flow run wait for the decision about a run that was reopened, where one waited before.

    The one before has ended. Should Prefect not answer, nothing is lost: the run goes on wherever it is decided.
    Harmless when repeated: a round gets one flow run.

    Args:
        record: the run, in review.
        api: address of Prefect's API; None finds it.

    Returns:
        How it goes on, in words.
    """
    run = record["run"]
    here = f"Decide it with `valflow finalize {run}`, which then goes on from there."
    if not record.get("was_suspended"):
        return here
    config = LabelingConfig.model_validate(record["config"]).model_copy(update={"run_key": run})
    key = f"reopen-{run}-r{record['round']}"
    try:
        flow_run = prefect_api.trigger(config, name=record["name"], api=api, idempotency_key=key)
    except (ConfigError, StackError) as error:
        return f"No Prefect run waits for it ({error}) {here}"
    return f"A new Prefect run waits for the decision: {prefect_api.ui_url(flow_run, api)}"
