"""Validate: the frozen approved labels must pass the suites, or the review opens again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact

from expectations.gate import Outcome
from expectations.gate import validate as run_gate
from expectations.loader import load_suite
from expectations.page import render_page
from expectations.suite import OF_CERTIFICATE
from valflow import database, runs, validation
from valflow.certificate_tables import audit_table, certificate_table
from valflow.certificates import is_certified
from valflow.config import LabelingConfig
from valflow.states import State
from valflow.tables import by_sample, decided_table, sample_table

if TYPE_CHECKING:
    import pandas as pd


def validate(run: str) -> None:
    """Judge a decided run, unless that was done before."""
    if runs.load(run)["state"] == State.REVIEWED.value:
        judge_frozen_labels(run)


@task(name="validate")
def judge_frozen_labels(run: str) -> bool:
    """Run the suites; returns whether the labels passed. Where they do not, the review is open again."""
    outcome = pass_gate(run)
    rows = [
        {k: c.get(k) for k in ("suite", "title", "severity", "success", "observed")}
        for c in outcome.to_json()["checks"]
    ]
    create_table_artifact(rows, key="valflow-validation", description=f"Validation of {run}")
    get_run_logger().info(
        "validate: %s, %d checks, %d failing labels",
        "passed" if outcome.passed else "refused, review reopened",
        len(outcome.checks),
        len(outcome.failing_labels),
    )
    return outcome.passed


def pass_gate(run: str) -> Outcome:
    """Run the suites over what is frozen, and move the run on, or back into its review."""
    record = runs.load(run)
    config = LabelingConfig.model_validate(record["config"])
    dataset = database.dataset_of(record)
    with runs.timed(runs.fence_of(record), "validate"):
        labels = decided_table(record, dataset)
        certified = is_certified(record)
        # A certificate is held to its own suites, whether the configuration names them or not.
        names = [*config.validation.suites, *(OF_CERTIFICATE if certified else ())]
        suites = [load_suite(s, Path.cwd()) for s in dict.fromkeys(names)]
        tables = {
            "labels": labels,
            "samples": sample_table(labels),
            "certificate": certificate_table(record) if certified else None,
            "audit": audit_table(record) if certified else None,
        }
        outcome = run_gate(tables, suites, validation.suite_parameters(record, dataset))
        result = outcome.to_json()
        page = render_page(result, f"Validation of {record['name']}, round {record['round']}")
        validation.conclude(record, result, page, by_sample(_refused(outcome, labels), labels))
    return outcome


def _refused(outcome: Outcome, labels: pd.DataFrame) -> dict[str, list[str]]:
    """Why labels failed: on their own, or because their whole sample did."""
    reasons = {label: list(why) for label, why in outcome.failing_labels.items()}
    affected = labels[labels["sample_id"].isin(list(outcome.failing_samples))]
    for label, sample in zip(affected["label_id"], affected["sample_id"], strict=True):
        reasons.setdefault(label, []).extend(outcome.failing_samples[sample])
    return reasons
