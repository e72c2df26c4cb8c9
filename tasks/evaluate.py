"""Evaluate: compare with ground truth, where there is any."""

from __future__ import annotations

from prefect import get_run_logger, task

from valflow import runs
from valflow.config import LabelingConfig
from valflow.evaluation import evaluate as compare
from valflow.states import State


@task(name="evaluate")
def evaluate(run: str) -> None:
    """Store metrics with the run; nothing to do without ground truth, or when they are there."""
    import fiftyone as fo

    record = runs.load(run)
    config = LabelingConfig.model_validate(record["config"])
    if record["state"] != State.FINALIZED.value or config.evaluation is None or record["metrics"]:
        return
    fence = runs.fence_of(record)
    with runs.timed(fence, "evaluate"):
        metrics = compare(
            fo.load_dataset(record["dataset"]),
            record["label_field"],
            config.evaluation.ground_truth,
            config.evaluation.eval_key,
            run_key=run,
            iou=config.evaluation.iou,
        )
        runs.update(fence, {"metrics": metrics})
    approved = metrics["run"]["approved"]
    get_run_logger().info(
        "evaluate: precision %s, recall %s, mAP %s", *(approved.get(k) for k in ("precision", "recall", "mAP"))
    )
