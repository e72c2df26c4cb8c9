"""Start: find or create the run, and hold it while this process works on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from expectations.loader import check_suites
from tasks.events import emit, emit_failed_start
from valflow import lots, runs
from valflow.config import LabelingConfig, with_absolute_paths
from valflow.errors import StaleAttempt
from valflow.opening import Opened, open_run
from valflow.recovery import is_outage
from valflow.states import STAGE_AFTER, Event
from valflow.states import State as RunState

HOME = "VALFLOW_HOME"
_BY_ITSELF = " · Once it answers, `valflow up` goes on with it by itself, and so does `valflow doctor --fix`."


def start(config: LabelingConfig) -> Opened:
    """Check the configuration and find or create the run it means."""
    try:
        config = with_absolute_paths(config, Path(os.environ.get(HOME) or Path.cwd()))
        suites = check_suites(config.validation.suites, Path.cwd())
        opened = open_run(config, flow_run.id, suites)
    except Exception as error:
        emit_failed_start(config, _reason(error)[:500])
        raise
    get_run_logger().info(opened.message)
    return opened


def ended_early(opened: Opened) -> State:
    """The final Prefect state of a start without work: it ended well, and its name says why."""
    name = {"skipped": "Skipped", "nothing_new": "NothingNew"}[opened.outcome]
    return Completed(name=name, message=opened.message, data={"outcome": opened.outcome, "run": opened.run})


def awaiting_review(run: str) -> State:
    """The final state of a flow run that cannot suspend, because it is not a deployment's."""
    message = f"run {run} awaits review; decide it with `valflow finalize {run}`"
    return Completed(name="AwaitingReview", message=message, data={"outcome": "awaiting_review", "run": run})


def waiting_for_more(run: str) -> State:
    """The final state of a flow run whose labels wait in a lot."""
    outcome = {"outcome": "waiting_for_more", "run": run}
    return Completed(name="WaitingForMore", message=lots.in_words(runs.load(run)), data=outcome)


@contextmanager
def holding(run: str) -> Iterator[None]:
    """Say that this process is alive; a stage that raises leaves the run FAILED, to be retried from there."""
    record = runs.load(run)
    with runs.heartbeat(runs.fence_of(record)):
        try:
            yield
        except StaleAttempt:
            raise
        except Exception as error:
            _mark_failed(run, record["attempt"], error)
            raise


def _mark_failed(run: str, attempt: int, error: Exception) -> None:
    record = runs.load(run)
    if record["attempt"] != attempt or record["state"] not in STAGE_AFTER:
        return
    was_away, stage = is_outage(error), STAGE_AFTER[RunState(record["state"])]
    reason = _reason(error)[:2000] + (_BY_ITSELF if was_away else "")
    runs.transition(
        record,
        Event.FAIL,
        actor="system",
        note=reason,
        changes={
            "failed_from": record["state"],
            "failed_stage": stage,
            "error": reason,
            # What an outage broke off is tried again without anybody's help.
            "failure": "outage" if was_away else "error",
        },
    )
    emit("failed", record, {"stage": stage, "reason": reason[:500]})


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
