"""Evaluate: compare with ground truth, where there is any."""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger, task

from valflow import database, runs
from valflow.config import LabelingConfig
from valflow.evaluation import evaluate as compare
from valflow.label_types import label_type_of
from valflow.states import State


def evaluate(run: str) -> None:
    """Measure a finalized run; nothing to do without ground truth, or when it was done before."""
    record = runs.load(run)
    if record["state"] == State.FINALIZED.value and record["config"]["evaluation"] and not record["metrics"]:
        measure(run)


@task(name="evaluate")
def measure(run: str) -> None:
    """Store FiftyOne's evaluation in the dataset, and the metrics with the run."""
    approved = measure_run(run)["run"]["approved"]
    get_run_logger().info(
        "evaluate: precision %s, recall %s, mAP %s",
        *(approved.get(k) for k in ("precision", "recall", "mAP")),
    )


def measure_run(run: str) -> dict[str, Any]:
    """Evaluate a finalized run; returns the metrics, which are kept with the run."""
    record = runs.load(run)
    config = LabelingConfig.model_validate(record["config"])
    assert config.evaluation is not None
    fence = runs.fence_of(record)
    with runs.timed(fence, "evaluate"):
        metrics: dict[str, Any] = compare(
            database.dataset_of(record),
            record["label_field"],
            config.evaluation.ground_truth,
            config.evaluation.eval_key,
            run_key=run,
            iou=config.evaluation.iou,
            label_type=label_type_of(record),
        )
        runs.update(fence, {"metrics": metrics})
    return metrics
