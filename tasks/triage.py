"""Triage: label checks first, then thresholds; what is left waits for a person."""

from __future__ import annotations

from pathlib import Path

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from expectations.gate import failing_labels
from expectations.loader import load_suite
from tasks.report import emit
from valflow import runs, triage as stage
from valflow.config import LabelingConfig
from valflow.review_page import class_rows, waiting_markdown
from valflow.states import State, is_past
from valflow.tables import predicted_table
from valflow.validation import suite_parameters


@task(name="triage")
def triage(run: str) -> dict[str, int]:
    """Enter the predictions into the ledger, mark what fails a check, approve by policy, open the review."""
    import fiftyone as fo

    record = runs.load(run)
    if is_past(record["state"], State.IN_REVIEW):
        counts: dict[str, int] = record["counts"]
        return counts
    config = LabelingConfig.model_validate(record["config"])
    dataset = fo.load_dataset(record["dataset"])
    with runs.timed(runs.fence_of(record), "triage"):
        stage.begin_triage(record, dataset)
        table = predicted_table(record, dataset)
        suites = [load_suite(s, Path.cwd()) for s in config.validation.suites]
        failing = failing_labels(table, suites, suite_parameters(record, dataset))
        sample_of = dict(zip(table["label_id"], table["sample_id"], strict=True)) if failing else {}
        stage.mark_failing(run, failing, sample_of)
        record = stage.finish_triage(record, dataset)
    create_table_artifact(class_rows(record), key="valflow-classes", description=f"Classes of {run} after triage")
    create_markdown_artifact(waiting_markdown(record), key="valflow-review", description=f"{run} awaits review")
    emit("waiting", record, record["counts"])
    counts = record["counts"]
    get_run_logger().info(
        "triage: %(predicted)d labels, %(approved)d approved by threshold, %(undecided)d wait, %(invalid)d invalid", counts
    )
    return counts
