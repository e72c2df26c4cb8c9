"""Remind: tell again that a run waits, and plan the next reminder."""

from __future__ import annotations

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed

from tasks.events import emit
from valflow import runs
from valflow.reminders import mark_of, plan_reminder, still_waits
from valflow.reporting import current_view
from valflow.states import State as RunState


def remind(run: str, review_round: int, number: int) -> State:
    """Emit one reminder where the run still waits in this round; a decided run is never reminded."""
    record = runs.load(run)
    if not still_waits(record, review_round):
        message = f"run {run} does not wait in round {review_round} any more ({record['state']})"
        return Completed(name="NotWaiting", message=message)
    plan_reminder(record, number + 1)
    # In one step with the look at the state, so that a decision made in this moment wins.
    waits = {"state": RunState.IN_REVIEW.value, "round": review_round}
    if runs.mark_told(record, mark_of(record, number), **waits):
        facts = {
            **current_view(record)["counts"],
            "number": number,
            "every": record["config"]["review"]["remind_after"],
        }
        emit("reminder", record, facts)
        get_run_logger().info("reminder %d of run %s", number, run)
    return Completed(message=f"reminder {number} of run {run}")
