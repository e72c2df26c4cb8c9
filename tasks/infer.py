"""Infer: predict every target sample, shard by shard."""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger, task, unmapped
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from tasks.progress import progress_bar
from tasks.runners import runner_of
from valflow import database, inference, intake, opening, runs
from valflow.config import LabelingConfig
from valflow.states import State, is_past


@task(task_run_name="infer-shard-{shard}")
def infer_shard(run: str, shard: int) -> dict[str, int]:
    """Predict one shard; returns the number of samples by outcome."""
    return inference.infer_shard(run, shard)


@task(name="finish-inference")
def finish_inference(run: str) -> dict[str, int]:
    """Count what became of the samples; raises where too many failed."""
    counts: dict[str, int] = inference.finish_inference(runs.load(run))["counts"]
    return counts


def infer(run: str) -> None:
    """Predict what is still pending, and move on to PREDICTED."""
    record = runs.load(run)
    if is_past(record["state"], State.PREDICTED):
        return
    fence = runs.fence_of(record)
    with runs.timed(fence, "infer"):
        target = opening.prepare(record, database.dataset_of(record))["target"]
        artifact: Any = create_progress_artifact(
            0.0, key="valflow-inference", description=f"Inference of {run}"
        )
        config = LabelingConfig.model_validate(record["config"])
        with (
            runner_of(config.runner) as runner,
            progress_bar("infer", target["samples"], "samples") as advance,
        ):
            shards = {"run": unmapped(run), "shard": list(range(target["shards"]))}
            # Nothing but numbers comes back: a shard writes its results itself.
            futures: Any = runner.map(infer_shard, shards)  # type: ignore[arg-type]
            for done, future in enumerate(futures, 1):
                advance(sum(future.result().values()))
                update_progress_artifact(artifact, progress=100.0 * done / target["shards"])
        counts = finish_inference(run)
    for odd in intake.sentences_of(runs.load(run)):
        get_run_logger().warning("infer: %s", odd)
    get_run_logger().info(
        "infer: %(samples)d samples, %(empty_samples)d without labels, %(failed_samples)d failed", counts
    )
