"""Export: the finalized labels as files, read back before they count."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prefect import get_run_logger, task

from valflow import runs
from valflow.run_exports import export_run, missing_exports
from valflow.states import State


def export(run: str) -> None:
    """Make the exports of a finalized run that are not there yet."""
    record = runs.load(run)
    if record["state"] == State.FINALIZED.value and missing_exports(record):
        write_exports(run)


@task(name="export")
def write_exports(run: str) -> None:
    """Write the files, and note each export once it was read back and found equal."""
    for entry in export_missing(run):
        get_run_logger().info(
            "export: %(format)s, %(labels)d labels on %(samples)d samples, read back and equal: %(dir)s",
            entry,
        )


def export_missing(run: str) -> Iterator[dict[str, Any]]:
    """Make the exports that a run does not have yet; yields each once it is noted in the record."""
    record = runs.load(run)
    fence = runs.fence_of(record)
    with runs.timed(fence, "export"):
        for entry in export_run(record, missing_exports(record)):
            runs.update(fence, {"exports": [*runs.load(run)["exports"], entry]})
            yield entry
