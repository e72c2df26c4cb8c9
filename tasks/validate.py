"""Validate: the frozen approved labels must pass the suites, or the review opens again."""

from __future__ import annotations

from pathlib import Path

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact

from expectations.gate import validate as run_gate
from expectations.loader import load_suite
from expectations.page import render_page
from valflow import runs, validation
from valflow.config import LabelingConfig
from valflow.states import State
from valflow.tables import decided_table, sample_table


@task(name="validate")
def validate(run: str) -> bool:
    """Judge the frozen labels; returns whether they passed."""
    import fiftyone as fo

    record = runs.load(run)
    if record["state"] != State.REVIEWED.value:
        return record["state"] != State.IN_REVIEW.value
    config = LabelingConfig.model_validate(record["config"])
    dataset = fo.load_dataset(record["dataset"])
    with runs.timed(runs.fence_of(record), "validate"):
        labels = decided_table(record, dataset)
        suites = [load_suite(s, Path.cwd()) for s in config.validation.suites]
        outcome = run_gate(
            {"labels": labels, "samples": sample_table(labels)}, suites, validation.suite_parameters(record, dataset)
        )
        result = outcome.to_json()
        page = render_page(result, f"Validation of {record['name']}, round {record['round']}")
        record = validation.conclude(record, result, page, labels)
    rows = [{k: c.get(k) for k in ("suite", "title", "severity", "success", "observed")} for c in result["checks"]]
    create_table_artifact(rows, key="valflow-validation", description=f"Validation of {run}")
    get_run_logger().info(
        "validate: %s, %d checks, %d failing labels",
        "passed" if outcome.passed else "refused, review reopened",
        len(result["checks"]),
        len(outcome.failing_labels),
    )
    return outcome.passed
