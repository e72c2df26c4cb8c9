"""Export: the finalized labels as files, read back before they count."""

from __future__ import annotations

from prefect import get_run_logger, task

from valflow import runs
from valflow.run_exports import export_run
from valflow.states import State


@task(name="export")
def export(run: str) -> None:
    """Write every export of the configuration that is not there yet."""
    record = runs.load(run)
    if record["state"] != State.FINALIZED.value:
        return
    fence = runs.fence_of(record)
    with runs.timed(fence, "export"):
        for entry in export_run(record):
            runs.update(fence, {"exports": [*runs.load(run)["exports"], entry]})
            get_run_logger().info(
                "export: %(format)s, %(labels)d labels on %(samples)d samples, read back and equal: %(dir)s", entry
            )
