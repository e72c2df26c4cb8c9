"""Report: what happened, for people and for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact

from tasks.events import emit_once
from valflow import database, runs
from valflow.notices import What
from valflow.reporting import write_run_report
from valflow.review_page import report_markdown
from valflow.states import State


@task(name="report")
def report(run: str) -> dict[str, Any]:
    """Write run record and report, and tell whoever waits for the end of a run."""
    record = runs.load(run)
    fence = runs.fence_of(record)
    with runs.timed(fence, "report"):
        runs.update(fence, {"artifacts": {**record["artifacts"], **write_run_report(record)}})
    record = runs.load(run)
    create_markdown_artifact(report_markdown(record), key="valflow-report", description=f"Report of {run}")
    create_link_artifact(
        Path(record["artifacts"]["report"]).as_uri(), key="valflow-report-page", link_text="Full report"
    )
    ended: What = "finalized" if record["state"] == State.FINALIZED.value else "discarded"
    emit_once(ended, record, record["counts"])
    runs.update(fence, {"completed_at": database.now()})
    get_run_logger().info("report: %s", record["artifacts"]["report"])
    return {"outcome": record["state"].lower(), "run": run, "counts": record["counts"]}
