"""Where shards are predicted: in this process, in several, or on a Dask cluster. All of it is Prefect's."""

from __future__ import annotations

from typing import Any

from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from valflow.config import RunnerConfig


def runner_of(config: RunnerConfig) -> TaskRunner[Any]:
    """Prefect's task runner for a configuration; enter it before tasks are submitted.

    Raises:
        ImportError: the extra ``dask`` is not installed, which the checks before a run have told.
    """
    if config.kind == "thread":
        return ThreadPoolTaskRunner(max_workers=config.workers)
    if config.kind == "process":
        return ProcessPoolTaskRunner(max_workers=config.workers)
    from prefect_dask import DaskTaskRunner

    if config.address is not None:
        return DaskTaskRunner(address=config.address)
    # A process each: models are not safe to share between threads. No dashboard, which would open a port.
    return DaskTaskRunner(
        cluster_kwargs={"n_workers": config.workers, "threads_per_worker": 1, "dashboard_address": None}
    )
