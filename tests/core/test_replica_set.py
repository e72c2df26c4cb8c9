"""A run on a MongoDB replica set with users: every write waits until most members have it on their disks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from deploy.replica_set import NAME, ReplicaSet

ROOT = Path(__file__).resolve().parents[2]

# A whole run and its rollback, and the write concern of every write, by collection.
A_RUN = """
import collections, json, sys
from pathlib import Path
from pymongo import monitoring

found = collections.defaultdict(set)

class Writes(monitoring.CommandListener):
    def started(self, event):
        command = event.command
        stages = [next(iter(stage)) for stage in command.get("pipeline", []) if isinstance(stage, dict)]
        writes = {"insert", "update", "delete", "findAndModify", "$merge", "$out"}
        if writes & {event.command_name, *stages}:
            concern = json.dumps(command.get("writeConcern"), sort_keys=True)
            found[str(command[event.command_name]).split(".")[0]].add(concern)
    def succeeded(self, event): pass
    def failed(self, event): pass

monitoring.register(Writes())
from tests import builders
from valflow import database, rolling_back, runs

dataset = builders.make_dataset(Path(sys.argv[1]))
found.clear()  # what the test's own dataset was written with
run = builders.make_run(dataset, "FINALIZED")
labels = sum(len(s["auto"]["detections"]) for s in database.samples_of(dataset).find({"auto": {"$ne": None}}))
counts = runs.load(run)["counts"]
rolling_back.roll_back(run, "ann")
print(json.dumps({
    "labels": labels, "finalized": counts["finalized"], "state": runs.load(run)["state"],
    "concerns": {name: sorted(concerns) for name, concerns in found.items()},
}))
database.disconnect()
"""


@pytest.fixture(scope="module")
def replica_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    folder = tmp_path_factory.mktemp("replica-set")
    with ReplicaSet(folder / "db", folder / "mongod.log", cache_gb=0.25) as started:
        yield started


def test_it_is_a_replica_set_that_asks_for_a_login(replica_set: ReplicaSet) -> None:
    client: MongoClient[dict[str, Any]]
    with MongoClient(replica_set.uri) as client:
        assert client.admin.command("hello")["setName"] == NAME
    with (
        MongoClient("127.0.0.1", replica_set.port, directConnection=True) as client,
        pytest.raises(OperationFailure, match="requires authentication"),
    ):
        client.list_database_names()


def test_started_again_it_has_what_it_had(replica_set: ReplicaSet) -> None:
    client: MongoClient[dict[str, Any]]
    with MongoClient(replica_set.uri) as client:
        client["a"]["b"].insert_one({"_id": 1})
    replica_set.stop()
    replica_set.start()
    with MongoClient(replica_set.uri) as client:
        assert client["a"]["b"].find_one() == {"_id": 1}


@pytest.mark.slow
def test_a_run_works_and_every_write_of_ours_is_on_most_members(
    replica_set: ReplicaSet, tmp_path: Path
) -> None:
    env = {**os.environ, **replica_set.environment}
    done = subprocess.run(
        [sys.executable, "-c", A_RUN, str(tmp_path)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["labels"] == found["finalized"] > 0
    assert found["state"] == "ROLLED_BACK"
    concerns = found["concerns"]
    majority = json.dumps({"j": True, "w": "majority"})
    ours = {name: of for name, of in concerns.items() if name.startswith("valflow_")}
    assert len(ours) >= 4
    assert ours == {name: [majority] for name in ours}
    # FiftyOne's own writes, of fields and their like, name none: a replica set then takes its default, majority.
    assert {concern for of in concerns.values() for concern in of} <= {majority, "null"}
    assert majority in concerns["samples"]
