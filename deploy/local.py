"""The deployment of several machines, for real on this one: `make deployed-demo`.

Starts PostgreSQL, a MongoDB replica set, a Prefect server and two workers, each in homes of its own; deploys what
prefect.yaml says; runs the digits demo twice at the same time, with a scripted reviewer who has a machine of their
own; and reads the result on one more, which has nothing but the database. Leaves nothing behind.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy.cluster import OURS, ROOT, Cluster, Machine
from valflow.errors import StackError
from valflow.processes import marked_processes

DATASETS = {"north": 51, "south": 52}  # with the seed of their scenes
WORKERS = ("worker-1", "worker-2")
SCENES = 150
PATIENCE = 300.0  # seconds for a worker to pick a run up and work on it, on a busy machine
TABLES = {
    "flow_run": "flow runs",
    "flow_run_state": "their states",
    "task_run": "task runs",
    "task_run_state": "their states",
    "log": "log lines",
    "events": "events",
    "event_resources": "names in events",
}


class CheckFailed(Exception):
    """The deployment ran, and something is not as it must be."""


def main(arguments: list[str] | None = None) -> int:
    """Run it; 0 when everything is as it must be."""
    parser = argparse.ArgumentParser("deploy.local", description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=SCENES, help="pictures per dataset (%(default)s)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    forget_settings()
    start = time.monotonic()

    from valflow import database

    def say(line: str) -> None:
        print(line, flush=True)

    try:
        with own_folder() as folder:
            cluster = Cluster(folder, WORKERS, say)
            try:
                _walk(cluster, options.scenes, say)
            finally:
                database.disconnect()
                cluster.stop()
            _check("processes that are left", [], marked_processes(cluster.token))
    except (StackError, CheckFailed) as error:
        print(f"deployed-demo: {error}", file=sys.stderr)
        return 1
    say(f"stopped   all processes ended, nothing left  ({time.monotonic() - start:.0f} s)")
    return 0


def forget_settings() -> None:
    """Before anything of FiftyOne is imported: nothing of the user's may be reached."""
    for name in [name for name in os.environ if name.startswith(OURS)]:
        del os.environ[name]


def become(machine: Machine, cluster: Cluster) -> None:
    """Let this process work as somebody on that machine."""
    os.environ.update({**machine.environment, **cluster.database_environment, **cluster.prefect_environment})
    os.environ.update({"FIFTYONE_SHOW_PROGRESS_BARS": "false", "MPLBACKEND": "Agg"})


def _walk(cluster: Cluster, scenes: int, say: Callable[[str], None]) -> None:
    cluster.start()
    become(cluster.machine("reviewer"), cluster)
    _build_datasets(cluster.shared, scenes, say)  # while Prefect makes its tables
    cluster.deploy()
    cluster.start_workers()

    flow_runs = _start_runs(cluster.shared)
    runs = _review_runs(flow_runs, say)
    before = {name: _worker_of(flow_run) for name, flow_run in flow_runs.items()}
    _check("workers that took a run", sorted(WORKERS), sorted(before.values()))
    for name, flow_run in flow_runs.items():
        runs[name] = _finish(runs[name], flow_run)
        say(f"{name:<9} {before[name]} up to the review, {_worker_of(flow_run)} after it")
        _check_run(runs[name], cluster.shared)
        _tell(name, runs[name], say)
    _check_reader(cluster, [run["run"] for run in runs.values()], say)
    _check_prefect(cluster, say)
    _check_mongodb(say)
    _check_logins(cluster, say)


def _build_datasets(shared: Path, scenes: int, say: Callable[[str], None]) -> None:
    from examples.digits.scenes import build_dataset

    for name, seed in DATASETS.items():
        dataset = build_dataset(name, shared / "images" / name, scenes, seed)
        digits = dataset.count("ground_truth.detections")
        say(f"{name:<9} {len(dataset)} pictures with {digits} digits")


def _start_runs(shared: Path) -> dict[str, str]:
    """Trigger one run per dataset, at once; their flow-run ids by dataset."""
    from examples.digits.demo import CONFIG
    from valflow import prefect_api
    from valflow.config import load_config

    # In the folder that all machines see under the same path: results go beside the configuration.
    path = Path(shutil.copy(CONFIG, shared / CONFIG.name))
    configs = {name: load_config(path, [f"dataset={name}", f"run_name={name}"]) for name in DATASETS}
    return {name: prefect_api.trigger(config, name=name) for name, config in configs.items()}


def _review_runs(flow_runs: dict[str, str], say: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """Wait for all runs, then decide; their records by dataset."""
    import fiftyone as fo

    from examples.digits.reviewer import review, valflow
    from valflow import prefect_api

    for flow_run in flow_runs.values():
        prefect_api.wait_for(flow_run, ["Suspended"], timeout=PATIENCE)
    found = {}
    for entry in valflow("runs")["runs"]:
        record = valflow("show", entry["run"])
        found[record["dataset"]] = record
    _check("datasets with a run in review", sorted(flow_runs), sorted(found))
    for name, record in found.items():
        counts = record["counts"]
        say(
            f"{name:<9} {counts['predicted']} labels predicted, {counts['approved']} approved by threshold, "
            f"{counts['undecided']} wait for a person"
        )
        review(fo.load_dataset(name), record, lambda line: None)
    return found


def _finish(run: dict[str, Any], flow_run: str) -> dict[str, Any]:
    from examples.digits.reviewer import valflow
    from valflow import prefect_api

    valflow("finalize", run["run"], "--yes", "--note", "scripted demo")
    prefect_api.wait_for(flow_run, ["Completed"], timeout=PATIENCE)
    return valflow("show", run["run"])


def _worker_of(flow_run: str) -> str:
    """The worker that Prefect gave the flow run to last."""
    from valflow import prefect_api

    labels = prefect_api.call("GET", f"/flow_runs/{flow_run}").json()["labels"]
    return str(labels["prefect.worker.name"])


def _tell(name: str, run: dict[str, Any], say: Callable[[str], None]) -> None:
    counts, precision = run["counts"], run["metrics"]["run"]["approved"]["precision"]
    checks = [c["status"] for c in run["validation"]["checks"] if c["status"] != "skipped"]
    say(
        f"{name:<9} {counts['finalized']} labels final, {counts['discarded']} discarded, "
        f"{checks.count('passed')} of {len(checks)} checks passed, precision {precision:.3f}"
    )


# -- what must be so


def _check(what: str, expected: Any, found: Any) -> None:
    if found != expected:
        raise CheckFailed(f"{what}: expected {expected}, found {found}")


def _check_run(run: dict[str, Any], shared: Path) -> None:
    name = run["run"]
    _check(f"state of {name}", "FINALIZED", run["state"])
    _check(f"validation of {name}", True, run["validation"]["passed"])
    if not run["counts"]["finalized"]:
        raise CheckFailed(f"labels of {name}: expected some that are final, found none")
    # Written by one machine, there for all.
    for path in (Path(run["artifacts"]["report"]), *(Path(e["dir"]) for e in run["exports"])):
        _check(f"{path} in the shared folder", (True, True), (path.exists(), path.is_relative_to(shared)))


def _check_reader(cluster: Cluster, runs: list[str], say: Callable[[str], None]) -> None:
    """On one more machine, with no address but the database's."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(OURS)}
    env |= cluster.machine("reader").environment | cluster.database_environment
    command = [sys.executable, "-m", "deploy.reader", *runs]
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode != 0:
        raise CheckFailed(f"reading on another machine: {done.stderr[-2000:]}")
    seen = json.loads(done.stdout.splitlines()[-1])
    for entry in seen:
        _check(f"state of {entry['run']} for a reader", "FINALIZED", entry["state"])
        _check(f"labels of {entry['run']} for a reader", entry["finalized"], entry["labels"])
        _check(f"different labels of {entry['run']}", entry["labels"], entry["different_labels"])
        _check(f"labels of others beside {entry['run']}", 0, entry["labels_of_others"])
        _check(f"fields in review after {entry['run']}", [], entry["fields_in_review"])
    labels = sum(entry["labels"] for entry in seen)
    say(f"reader    {labels} final labels of {len(seen)} runs, as their records say")


def _check_prefect(cluster: Cluster, say: Callable[[str], None]) -> None:
    rows = asyncio.run(rows_of(cluster.postgres.url))
    _check("flow runs in PostgreSQL", len(DATASETS), rows["flow_run"])
    sqlite = [str(path) for path in (cluster.folder / "machines").rglob("prefect.db")]
    _check("SQLite databases of Prefect", [], sqlite)
    told = ", ".join(f"{rows[table]} {name}" for table, name in TABLES.items())
    say(f"postgres  rows of both runs: {told}")


async def rows_of(url: str) -> dict[str, int]:
    """Rows of Prefect's tables that grow with runs, by table."""
    import asyncpg

    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        return {table: await connection.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES}
    finally:
        await connection.close()


def _check_logins(cluster: Cluster, say: Callable[[str], None]) -> None:
    """Who comes without a login is refused by all three."""
    import asyncpg
    import httpx
    from pymongo import MongoClient
    from pymongo.errors import OperationFailure

    _check(
        "Prefect without a login", 401, httpx.post(f"{cluster.api_url}/flow_runs/filter", json={}).status_code
    )
    client: MongoClient[dict[str, Any]]
    with MongoClient("127.0.0.1", cluster.database.port, directConnection=True) as client:
        try:
            found: Any = client.list_database_names()
        except OperationFailure as error:
            found = (error.details or {}).get("codeName")
        _check("MongoDB without a login", "Unauthorized", found)
    try:
        asyncio.run(rows_of(f"postgresql://prefect:guess@127.0.0.1:{cluster.postgres.port}/prefect"))
    except asyncpg.InvalidPasswordError:
        pass
    else:
        raise CheckFailed("PostgreSQL with a wrong password: expected to be refused, found the tables")
    say("logins    asked for by Prefect, MongoDB and PostgreSQL")


def _check_mongodb(say: Callable[[str], None]) -> None:
    """What is final is what most members of the replica set have."""
    from pymongo.read_concern import ReadConcern

    from valflow import database

    hello = database.connection().client.admin.command("hello")
    ledger = database.ledger()
    safe = ledger.with_options(read_concern=ReadConcern("majority")).count_documents({})
    _check("ledger entries that most members have", ledger.count_documents({}), safe)
    say(f"mongod    replica set {hello['setName']}, {safe} ledger entries on most of its members")


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder that goes again, through which other users may pass."""
    folder = Path(tempfile.mkdtemp(prefix="valflow-deployed-"))
    folder.chmod(0o755)  # PostgreSQL may run as another user
    try:
        yield folder
    finally:
        os.chdir(ROOT)
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
