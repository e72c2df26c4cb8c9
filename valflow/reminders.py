"""Reminders that a run still waits for a person: one planned flow run at a time, of a deployment of its own.

Prefect keeps it in its database and starts it when its time has come, so neither a restart nor a machine that was
switched off loses a reminder, no process waits for it, and it works wherever a worker does. Whether there is still
something to remind of, the run's record says at that moment.
"""

from __future__ import annotations

from datetime import UTC, datetime

from valflow import runs
from valflow.config import duration
from valflow.prefect_api import call, find_deployment
from valflow.schedules import REMIND_REVIEWER
from valflow.states import State


def plan_reminder(record: runs.Record, number: int = 1, api: str | None = None) -> None:
    """Plan the next reminder of this round; does nothing without ``review.remind_after``, or when repeated.

    Args:
        record: a run that waits.
        number: counts the reminders of the round from 1.
        api: address of Prefect's API; None finds it.

    Raises:
        StackError: no server answers, or it does not have the deployment.
    """
    every = record["config"]["review"].get("remind_after")
    if every is None:
        return
    review = {"run": record["run"], "review_round": record["round"], "number": number}
    deployment = find_deployment(REMIND_REVIEWER.flow, REMIND_REVIEWER.name, api)
    body = {
        "name": f"remind-{record['run']}-{mark_of(record, number)}",
        "parameters": review,
        "state": {
            "type": "SCHEDULED",
            "state_details": {"scheduled_time": (datetime.now(UTC) + duration(every)).isoformat()},
        },
        # Prefect makes one run per key.
        "idempotency_key": f"remind-{record['run']}-{mark_of(record, number)}",
    }
    call("POST", f"/deployments/{deployment['id']}/create_flow_run", body, api=api)


def still_waits(record: runs.Record, review_round: int) -> bool:
    """Whether the run waits in this round; a decided or reopened one does not."""
    return record["state"] == State.IN_REVIEW.value and record["round"] == review_round


def mark_of(record: runs.Record, number: int) -> str:
    """What tells one reminder of a run from another."""
    return f"reminder-r{record['round']}-{number}"
