"""Where shards are predicted: in this process, in several, or on a cluster of Dask or Ray. All of it is Prefect's."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from valflow.config import RunnerConfig


def runner_of(config: RunnerConfig) -> AbstractContextManager[TaskRunner[Any]]:
    """Prefect's task runner for a configuration; enter it before tasks are submitted.

    Raises:
        ImportError: the extra of this kind is not installed, which the checks before a run have told.
    """
    if config.kind == "thread":
        return ThreadPoolTaskRunner(max_workers=config.shards_at_a_time)
    if config.kind == "process":
        return ProcessPoolTaskRunner(max_workers=config.shards_at_a_time)
    return _on_dask(config) if config.kind == "dask" else _on_ray(config)


def _on_dask(config: RunnerConfig) -> AbstractContextManager[TaskRunner[Any]]:
    from prefect_dask import DaskTaskRunner

    if config.address is not None:
        return DaskTaskRunner(address=config.address)
    # A process each: models are not safe to share between threads. No dashboard, which would open a port.
    return DaskTaskRunner(
        cluster_kwargs={
            "n_workers": config.shards_at_a_time,
            "threads_per_worker": 1,
            "dashboard_address": None,
        }
    )


def _on_ray(config: RunnerConfig) -> AbstractContextManager[TaskRunner[Any]]:
    from tasks.rays import ray_at, ray_here

    return ray_here(config.shards_at_a_time) if config.address is None else ray_at(config.address)
