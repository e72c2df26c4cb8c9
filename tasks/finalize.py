"""Finalize: the frozen labels become the label field."""

from __future__ import annotations

from prefect import get_run_logger, task

from tasks.progress import progress_bar
from valflow import promotion, runs
from valflow.states import State


@task(name="finalize")
def finalize(run: str) -> dict[str, int]:
    """Promote the frozen labels; a run that was finalized before is left as it is."""
    import fiftyone as fo

    record = runs.load(run)
    if record["state"] in (State.VALIDATED.value, State.FINALIZING.value):
        with (
            runs.timed(runs.fence_of(record), "finalize"),
            progress_bar("finalize", record["frozen"]["samples"], "samples") as advance,
        ):
            record = promotion.promote(record, fo.load_dataset(record["dataset"]), advance)
    counts: dict[str, int] = record["counts"]
    if record["state"] == State.DISCARDED.value:
        return counts
    get_run_logger().info("finalize: %(finalized)d labels written, %(discarded)d discarded", counts)
    return counts
