"""Finalize: the frozen labels become the label field."""

from __future__ import annotations

from prefect import get_run_logger, task

from tasks.progress import progress_bar
from valflow import database, promotion, runs
from valflow.states import State


def finalize(run: str) -> None:
    """Promote the frozen labels of a validated run, or finish a promotion that was broken off."""
    if runs.load(run)["state"] in (State.VALIDATED.value, State.FINALIZING.value):
        promote(run)


@task(name="finalize")
def promote(run: str) -> dict[str, int]:
    """The journaled promotion, with its progress."""
    record = runs.load(run)
    with (
        runs.timed(runs.fence_of(record), "finalize"),
        progress_bar("finalize", record["frozen"]["samples"], "samples") as advance,
    ):
        record = promotion.promote(record, database.dataset_of(record), advance)
    counts: dict[str, int] = record["counts"]
    get_run_logger().info("finalize: %(finalized)d labels written, %(discarded)d discarded", counts)
    return counts
