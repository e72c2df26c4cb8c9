"""What a run costs Prefect: rows and requests per run, per shard and per idle worker, on PostgreSQL.

Run as ``python -m benchmarks.bench_prefect``: two runs of the same size with different numbers of shards,
by a real server and worker; the difference is what a shard costs. Then nobody does anything, and requests are
those of an idle worker; last the server is asked as fast as it answers. Not part of `make bench`: two minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from deploy.cluster import Cluster
from deploy.local import PATIENCE, TABLES, become, forget_settings, own_folder, rows_of

SHARDS = (2, 22)
IDLE_SECONDS = 30.0
AT_ONCE, ASKED = 16, 1000
SETTLE = 10.0  # seconds until the server has written what it keeps in memory


@dataclass(frozen=True)
class Load:
    """What a piece of work cost: requests to the server, rows that it left, by table."""

    requests: int
    rows: dict[str, int]

    def less(self, other: Load) -> Load:
        """This without the other."""
        return Load(
            self.requests - other.requests, {table: n - other.rows[table] for table, n in self.rows.items()}
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=110)
    options = parser.parse_args()
    forget_settings()
    # So that the server writes one line per request.
    settings = {"PREFECT_LOGGING_SERVER_LEVEL": "INFO", "PREFECT_SERVER_LOGGING_LEVEL": "INFO"}
    with own_folder() as folder:
        cluster = Cluster(folder, ("worker-1",), print, settings)
        from valflow import database

        try:
            _measure(cluster, options.scenes)
        finally:
            database.disconnect()
            cluster.stop()


def _measure(cluster: Cluster, scenes: int) -> None:
    cluster.start()
    become(cluster.machine("reviewer"), cluster)
    from examples.digits.scenes import build_dataset

    build_dataset("digits", cluster.shared / "images", scenes)
    cluster.deploy()
    cluster.start_workers()
    few, many = (_cost_of_run(cluster, shards, scenes) for shards in SHARDS)
    more = many.less(few)
    idle = _cost_of_waiting(cluster)
    n = SHARDS[1] - SHARDS[0]
    print(f"\n| | a run of {SHARDS[0]} shards | of {SHARDS[1]} | each shard more |\n|---|--:|--:|--:|")
    print(f"| requests | {few.requests} | {many.requests} | {more.requests / n:.1f} |")
    for table, name in TABLES.items():
        print(f"| {table} ({name}) | {few.rows[table]} | {many.rows[table]} | {more.rows[table] / n:.1f} |")
    total = [sum(load.rows.values()) for load in (few, many, more)]
    print(f"| all rows | {total[0]} | {total[1]} | {total[2] / n:.1f} |")
    print(f"\nan idle worker: {idle.requests / IDLE_SECONDS * 60:.0f} requests per minute")
    print(f"the server answers {_answers_per_second(cluster):.0f} requests per second, {AT_ONCE} at a time")


def _cost_of_run(cluster: Cluster, shards: int, scenes: int) -> Load:
    from examples.digits.demo import CONFIG
    from valflow import prefect_api
    from valflow.config import load_config

    settings = [
        "dataset=digits",
        f"label_field=of_{shards}",
        f"shard_size={-(-scenes // shards)}",
        "batch_size=4",
        "review.required=false",
    ]
    # What runs write goes beside their configuration.
    path = Path(shutil.copy(CONFIG, cluster.shared / CONFIG.name))
    before = _so_far(cluster)
    flow_run = prefect_api.trigger(load_config(path, settings), name=f"{shards} shards")
    prefect_api.wait_for(flow_run, ["Completed"], timeout=PATIENCE, poll=2.0)
    return _so_far(cluster).less(before)


def _cost_of_waiting(cluster: Cluster) -> Load:
    before = _so_far(cluster)
    time.sleep(IDLE_SECONDS)
    return Load(_requests(cluster), before.rows).less(before)


def _answers_per_second(cluster: Cluster) -> float:
    import httpx

    user, _, secret = cluster.login.partition(":")
    # One client: to make one takes longer than an answer.
    with httpx.Client(auth=(user, secret), timeout=60.0) as client, ThreadPoolExecutor(AT_ONCE) as askers:

        def ask(_: int) -> None:
            answer = client.post(f"{cluster.api_url}/flow_runs/filter", json={"limit": 1})
            answer.raise_for_status()

        begin = time.monotonic()
        list(askers.map(ask, range(ASKED)))
        return ASKED / (time.monotonic() - begin)


def _so_far(cluster: Cluster) -> Load:
    time.sleep(SETTLE)
    return Load(_requests(cluster), asyncio.run(rows_of(cluster.postgres.url)))


def _requests(cluster: Cluster) -> int:
    log = Path(cluster.server.log).read_text(errors="replace")
    return len(re.findall(r'"(?:GET|POST|PATCH|PUT|DELETE) /api/\S* HTTP/1\.1"', log))


if __name__ == "__main__":
    main()
