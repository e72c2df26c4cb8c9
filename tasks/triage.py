"""Triage: label checks first, then thresholds; what is left waits for a person."""

from __future__ import annotations

from pathlib import Path

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact

from expectations.gate import failing_labels
from expectations.loader import load_suite
from valflow import certificates, certifying, database, label_states, lots, runs
from valflow import triage as stage
from valflow.config import LabelingConfig
from valflow.review_app import save_workspace
from valflow.review_page import class_rows
from valflow.states import State
from valflow.tables import by_sample, predicted_tables
from valflow.validation import suite_parameters

# Prefect keeps an artifact as one value; the report has them all.
MOST_ROWS = 1_000


def triage(run: str) -> bool:
    """Open the review, unless it was opened before; False while the run waits for more labels."""
    record = runs.load(run)
    if record["state"] == State.PREDICTED.value:
        if not lots.close_if_due(record):
            return False
        open_review(run)
    certifying.judge_from_ground_truth(run)
    return True


@task(name="triage")
def open_review(run: str) -> dict[str, int]:
    """Enter the predictions into the ledger, mark what fails a check, approve by policy, open the review."""
    record = decide_by_policy(run)
    create_table_artifact(
        class_rows(record)[:MOST_ROWS], key="valflow-classes", description=f"Classes of {run} after triage"
    )
    counts: dict[str, int] = record["counts"]
    get_run_logger().info(
        "triage: %(predicted)d labels, %(approved)d approved by policy, %(undecided)d wait, %(invalid)d invalid",
        counts,
    )
    if record["certificate"]:
        get_run_logger().info("certificate: %s", certificates.in_words(record["certificate"]))
    return counts


def decide_by_policy(run: str) -> runs.Record:
    """Mark what fails a check, approve by policy, and open the review; returns the record."""
    record = runs.load(run)
    config = LabelingConfig.model_validate(record["config"])
    dataset = database.dataset_of(record)
    with runs.timed(runs.fence_of(record), "triage"):
        stage.begin_triage(record, dataset)
        suites = [load_suite(s, Path.cwd()) for s in config.validation.suites]
        parameters = suite_parameters(record, dataset)
        for table in predicted_tables(record, dataset):
            label_states.mark_invalid(run, by_sample(failing_labels(table, suites, parameters), table))
        # Before the review is open, for then triage is not repeated any more.
        save_workspace(record, dataset)
        stage.finish_triage(record, dataset)
    return runs.load(run)
