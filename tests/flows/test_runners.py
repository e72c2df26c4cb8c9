"""Shards on threads, processes, Dask and Ray: the same labels, also where a worker dies in the middle."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.label_dataset import label_dataset
from tests.pets import make_pets
from valflow import database, decisions, ledger, preflight
from valflow.config import LabelingConfig, config_from_mapping
from valflow.errors import ConfigError
from valflow.processes import Child, free_port

ROOT = Path(__file__).resolve().parents[2]
Configure = Callable[..., LabelingConfig]
HAS_DASK = importlib.util.find_spec("prefect_dask") is not None
HAS_RAY = importlib.util.find_spec("prefect_ray") is not None
needs_dask = pytest.mark.skipif(not HAS_DASK, reason="the extra dask is not installed")
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="the extra ray is not installed")
CLUSTERS = [pytest.param("dask", marks=needs_dask), pytest.param("ray", marks=needs_ray)]
pytestmark = [
    pytest.mark.slow,
    # Dask's and Ray's own, when a cluster of processes is taken down.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning", "ignore::UserWarning"),
    # Great Expectations imports what Ray brings of Google's, and that misses a part nobody needs.
    pytest.mark.filterwarnings("ignore:Please install grpcio-status:ImportWarning"),
]


@pytest.fixture
def pets(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    import fiftyone as fo

    dataset = make_pets(f"runner-{request.node.name}"[:90], tmp_path, 12)
    yield dataset
    fo.delete_dataset(dataset.name)


@pytest.fixture
def configure(pets: Any, tmp_path: Path) -> Configure:
    def build(field: str, **changes: Any) -> LabelingConfig:
        values = {
            "dataset": pets.name,
            "label_field": field,
            "run_key": f"{field}_run_of_{pets.name.replace('-', '_').replace('[', '_').replace(']', '')}",
            "model": {"kind": "field", "field": "predictions"},
            "shard_size": 3,
            "batch_size": 3,
            "output_dir": str(tmp_path / "runs"),
        }
        return config_from_mapping({**values, **changes})

    return build


def labels_of(config: LabelingConfig) -> list[Any]:
    """What a run predicts, and what is final then, sample by sample; ids come from the run's key, not compared."""
    import fiftyone as fo

    outcome: Any = label_dataset(config, return_state=True).result()  # type: ignore[union-attr]
    assert outcome["outcome"] == "awaiting_review"
    found = list(database.ledger().find({"run": config.run_key}).sort("sample_id", 1))
    decisions.submit(
        str(config.run_key), decisions.Decision("finalize", "ann", override="runners are compared")
    )
    outcome = label_dataset(config, return_state=True).result()  # type: ignore[union-attr]
    assert outcome["outcome"] == "finalized"
    final = dict(zip(*fo.load_dataset(config.dataset).values(["id", config.label_field]), strict=True))
    assert any(final.values())
    return [
        (
            d["sample_id"],
            [(p["label"], p["confidence"], p["bounding_box"]) for p in d["predicted"]],
            [(f.label, f.confidence, f.bounding_box) for f in final[str(d["sample_id"])].detections],
        )
        for d in found
    ]


@pytest.mark.parametrize(
    "runner",
    [
        pytest.param({"kind": "thread", "workers": 3}, id="threads"),
        pytest.param(
            {"kind": "thread", "beside": "process", "readers": 2}, id="threads_and_processes_beside"
        ),
        pytest.param({"kind": "process", "workers": 2}, id="processes"),
        pytest.param({"kind": "process", "beside": "process", "readers": 1}, id="processes_and_one_beside"),
        pytest.param({"kind": "dask", "workers": 2}, id="dask", marks=needs_dask),
        pytest.param({"kind": "ray", "workers": 2}, id="ray", marks=needs_ray),
    ],
)
def test_every_runner_finds_the_same(configure: Configure, runner: dict[str, Any]) -> None:
    one_by_one = labels_of(configure("one_by_one"))
    assert len(one_by_one) == 12
    assert labels_of(configure("several", runner=runner)) == one_by_one


@pytest.mark.parametrize("kind", CLUSTERS)
def test_a_shard_whose_worker_is_killed_is_taken_up_again(
    configure: Configure, tmp_path: Path, kind: str
) -> None:
    mark = tmp_path / "died"
    model = {"kind": "python", "path": "tests.models:DiesOnce", "kwargs": {"mark": str(mark), "on": 40}}
    found = labels_of(configure("killed", model=model, runner={"kind": kind, "workers": 2}))
    assert int(mark.read_text()) != os.getpid()
    undisturbed = labels_of(configure("undisturbed", model={"kind": "python", "path": "tests.models:Corner"}))
    assert found == undisturbed
    [run] = {d["run"] for d in database.ledger().find({"run": {"$regex": f"^killed_run.*_{kind}$"}})}
    assert ledger.total(run) == 12
    assert len(database.ledger().distinct("labels._id", {"run": run})) == 12


@needs_dask
def test_a_cluster_by_its_address(configure: Configure) -> None:
    from distributed import LocalCluster

    one_by_one = labels_of(configure("one_by_one"))
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        runner = {"kind": "dask", "address": cluster.scheduler_address}
        assert labels_of(configure("there", runner=runner)) == one_by_one


@pytest.fixture
def ray_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A Ray as ``ray start --head`` makes it, but on 127.0.0.1: its addresses, by who uses them."""
    from ray._private import ray_constants

    # Has this process take 127.0.0.1 for what it says, as the variable below has the cluster.
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)
    ports = [free_port(), free_port()]
    where = ["--node-ip-address=127.0.0.1", f"--port={ports[0]}", f"--ray-client-server-port={ports[1]}"]
    size = ["--num-cpus=1", "--object-store-memory=78643200", "--include-dashboard=false"]
    env = {
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
        "RAY_TMPDIR": tempfile.mkdtemp(prefix="ray-"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *where, *size]
    answers = partial(all_answer, ports)
    ray = Child("ray", command, tmp_path / "ray.log", answers, env=env, cwd=tmp_path)
    ray.start()
    try:
        yield {"member": f"127.0.0.1:{ports[0]}", "client": f"ray://127.0.0.1:{ports[1]}"}
    finally:
        ray.stop()
        shutil.rmtree(env["RAY_TMPDIR"], ignore_errors=True)


def all_answer(ports: list[int]) -> bool:
    with ExitStack() as stack:
        try:
            for port in ports:
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=1))
        except OSError:
            return False
    return True


@needs_ray
def test_a_ray_by_its_address(configure: Configure, ray_there: dict[str, str]) -> None:
    one_by_one = labels_of(configure("one_by_one"))
    for who, address in ray_there.items():
        assert labels_of(configure(who, runner={"kind": "ray", "address": address})) == one_by_one


@needs_ray
def test_a_ray_that_is_not_there() -> None:
    from tasks.rays import ray_at

    with pytest.raises(ConnectionError, match=r"expected a Ray at ray://127.0.0.1:1, nothing answers"):
        ray_at("ray://127.0.0.1:1").__enter__()


@needs_ray
def test_a_ray_of_a_run_is_closed_to_other_machines_and_leaves_nothing() -> None:
    from tasks.rays import ray_here

    def children() -> set[psutil.Process]:
        return set(psutil.Process().children(recursive=True))

    before, handler, environment = children(), signal.getsignal(signal.SIGTERM), set(os.environ)
    with ray_here(1):
        started = children() - before
        ports = [
            c.laddr for p in (psutil.Process(), *started) for c in p.net_connections() if c.status == "LISTEN"
        ]
        assert signal.getsignal(signal.SIGTERM) == handler
    assert started
    assert len(ports) > 3
    assert {ip for ip, _ in ports} <= {"127.0.0.1", "::ffff:127.0.0.1"}
    _, alive = psutil.wait_procs(started, timeout=30)
    assert not alive
    assert {n for n in os.environ if n.startswith("RAY_")} <= {*environment, "RAY_USAGE_STATS_ENABLED"}


@needs_ray
def test_a_ray_ends_with_a_run_that_is_killed() -> None:
    code = (
        "import psutil, sys\nfrom tasks.rays import ray_here\n"
        "with ray_here(1):\n"
        "    print(*(p.pid for p in psutil.Process().children(recursive=True)), flush=True)\n"
        "    sys.stdin.read()\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": tempfile.mkdtemp(prefix="killed-")}
    run = subprocess.Popen(
        [sys.executable, "-c", code], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert run.stdout
    assert run.stdin
    with run, run.stdin, run.stdout:
        started = [psutil.Process(int(pid)) for pid in run.stdout.readline().split()]
        run.kill()
    assert len(started) > 3
    # Its two agents notice within ten seconds, and then wait for the rest of it, which is gone.
    _, alive = psutil.wait_procs(started, timeout=120)
    assert not alive
    shutil.rmtree(env["TMPDIR"])


@pytest.mark.parametrize(
    ("runner", "problem"),
    [
        ({"kind": "process", "address": "tcp://127.0.0.1:1"}, "say kind: dask or kind: ray"),
        (
            {"kind": "ray", "address": "tcp://127.0.0.1:1"},
            "expected the address of a Ray, HOST:PORT or ray://",
        ),
        ({"kind": "ray", "address": "auto"}, "found auto"),
    ],
)
def test_an_address_of_something_else(configure: Configure, runner: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        configure("pets", runner=runner)


@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_a_cluster_that_is_not_installed(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"pip install 'valflow\[{kind}\]'"):
        preflight.check(configure("pets", runner={"kind": kind}))
