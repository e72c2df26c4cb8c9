"""Review: the flow is suspended until a person decides."""

from __future__ import annotations

from typing import Literal

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import Pause
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput, keyset_from_base_key, read_flow_run_input
from prefect.runtime import deployment, flow_run
from pydantic import Field

from tasks.events import emit_once, page
from valflow import certifying, decisions, runs
from valflow.errors import CertificateError, DecisionRefused, LabelsVanished, StackError
from valflow.reminders import plan_reminder
from valflow.reporting import current_view
from valflow.review_app import address_of
from valflow.review_page import waiting_markdown
from valflow.states import State, is_past


class ReviewDecision(RunInput):
    """The form on the suspended run's page."""

    decision: Literal["finalize", "discard"] = Field(
        ...,
        description="finalize: the approved labels go through validation into the label field. discard: none does",
    )
    reviewer: str = Field(..., min_length=1, description="Your name; it is written into the run's record")
    # Plain texts: Prefect shows a switch between two types for anything that may be None.
    note: str = Field("", description="Anything worth keeping with the run")
    override: str = Field("", description="Why to finalize although evidence is missing")
    digest: str = Field(
        "", description="Digest of the approval set that you saw; empty takes it as it is now"
    )


def is_decided(run: str) -> bool:
    """Whether the review is over: validated, or discarded."""
    state = runs.load(run)["state"]
    return is_past(state, State.VALIDATED) or state == State.DISCARDED.value


def ask_for_decision(run: str) -> bool:
    """Get a decision into the record; False where nobody can be asked here.

    The command line and the App write the record before they resume this flow, so a decision that is
    there needs no form. One that does not hold reopens the review with its reason.
    """
    record = runs.load(run)
    if record["state"] != State.IN_REVIEW.value:
        return True
    # What the gate has refused, the policy would only decide again: then a person is asked after all.
    waits = certifying.is_open(record)
    if not record["config"]["review"]["required"] and record["round"] == 1 and not waits:
        decisions.submit_by_policy(run)
        return True
    if deployment.id is None:
        _tell_that_it_waits(record)
        return False
    answer = _unread_answer(record) or _suspend(record)
    if runs.load(run)["state"] != State.IN_REVIEW.value:
        return True
    try:
        decisions.submit(run, _as_decision(answer))
    except (CertificateError, DecisionRefused, LabelsVanished) as refusal:
        get_run_logger().warning("review: %s", refusal)
        decisions.reopen(runs.load(run), reason=str(refusal), actor=answer.reviewer)
    return True


def _tell_that_it_waits(record: runs.Record) -> None:
    """Once in each round, on the run's page and by an event; again every ``review.remind_after``."""
    now, address = current_view(record), address_of(record)
    if emit_once("waiting", record, now["counts"]):
        create_markdown_artifact(
            waiting_markdown(now, address), key="valflow-review", description=f"{record['run']} awaits review"
        )
        get_run_logger().info("review: %s labels wait: %s", now["counts"]["undecided"], address or "no App")
    try:
        plan_reminder(record)
    except StackError as error:  # the review is worth more than its reminder
        get_run_logger().warning("review: nobody will be reminded: %s", error)


def _as_decision(answer: ReviewDecision) -> decisions.Decision:
    return decisions.Decision(
        answer.decision,
        answer.reviewer,
        answer.note or None,
        answer.override or None,
        answer.digest or None,
        via="prefect",
    )


def _unread_answer(record: runs.Record) -> ReviewDecision | None:
    """What a person answered to an earlier start of this flow run that died before it was on record."""
    for count in range((flow_run.run_count or 1) - 1, 0, -1):
        keyset = keyset_from_base_key(f"suspended-{_key(record, count)}")
        answer = read_flow_run_input(keyset["response"])
        if answer is not None:
            return ReviewDecision.model_validate(answer)
    return None


def _key(record: runs.Record, count: int) -> str:
    # With a key that does not change, a second suspend would return the first answer at once.
    return f"review-{count}-r{record['round']}"


def _suspend(record: runs.Record) -> ReviewDecision:
    key = _key(record, flow_run.run_count)
    runs.update(
        runs.fence_of(record),
        {
            "suspended_in": flow_run.id,
            "flow_run_id": flow_run.id,
            "prefect_url": page(),
            "has_form": False,
        },
    )
    record = runs.load(record["run"])
    _tell_that_it_waits(record)
    page_of_form = waiting_markdown(current_view(record), address_of(record))
    form = ReviewDecision.with_initial_data(description=page_of_form)
    try:
        return suspend_flow_run(wait_for_input=form, key=key, timeout=None)
    except Pause:
        # Prefect suspends first and keeps the form afterwards: whoever dies in between leaves a run without one.
        runs.update(runs.fence_of(record), {"has_form": True})
        raise
