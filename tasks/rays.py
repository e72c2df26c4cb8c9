"""Ray for one run: started for it on this machine, closed to everybody else and ended with it; or one that is there."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray
from prefect_ray import RayTaskRunner
from ray._private import ray_constants

LOOPBACK = "127.0.0.1"
# The least that Ray accepts: nothing but numbers goes through it.
OBJECT_STORE_BYTES = ray_constants.OBJECT_STORE_MINIMUM_MEMORY_BYTES
# One per process, because Ray reads it once.
_TOKEN = secrets.token_hex(32)


@contextmanager
def ray_at(address: str) -> Iterator[RayTaskRunner]:
    """Prefect's runner on a cluster that is there.

    Args:
        address: ``HOST:PORT`` from a machine of the cluster, ``ray://HOST:PORT`` from any other.

    Raises:
        ConnectionError: no Ray answers there.
    """
    _expect_answer(address)
    with ExitStack() as stack:
        stack.callback(ray.shutdown)  # of a client (ray://) the runner does not take leave
        yield _entered(RayTaskRunner(address=address), stack)


@contextmanager
def ray_here(workers: int) -> Iterator[RayTaskRunner]:
    """Prefect's runner on a Ray of so many processes, which end with the block, or with this process.

    Raises:
        RuntimeError: Ray would listen to other machines.
    """
    options: dict[str, Any] = {
        "address": "local",  # never one that happens to run here
        "num_cpus": workers,
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        "logging_level": logging.ERROR,  # what its workers print is printed here in any case
    }
    with ExitStack() as stack:
        stack.enter_context(_on_loopback())
        folder = stack.enter_context(_short_folder())
        runner = _entered(RayTaskRunner(init_kwargs={**options, "_temp_dir": str(folder)}), stack)
        [node] = ray.nodes()
        if node["NodeManagerAddress"] != LOOPBACK:
            raise RuntimeError(
                f"expected Ray to listen on {LOOPBACK} only, found {node['NodeManagerAddress']} with ray "
                f"{ray.__version__}; install the version of constraints.txt, or take another runner.kind"
            )
        yield runner


def _expect_answer(address: str) -> None:
    """Ask before Ray does, which takes minutes to give up and may take the process with it."""
    host, port = address.removeprefix("ray://").rsplit(":", 1)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(
            f"runner.address: expected a Ray at {address}, nothing answers ({error}); `ray start --head` prints "
            "the address for machines of the cluster, ray://HOST:10001 is for others"
        ) from error


def _entered(runner: RayTaskRunner, stack: ExitStack) -> RayTaskRunner:
    """Start it, and leave the signal that ends a run to Prefect, from which ``ray.init`` takes it."""
    if threading.current_thread() is not threading.main_thread():
        return stack.enter_context(runner)
    before = signal.getsignal(signal.SIGTERM)
    try:
        return stack.enter_context(runner)
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Have Ray listen on 127.0.0.1 only, and give it its token; by itself it offers its ports to the network.

    Its switch for machines that cannot be part of a cluster does it, on any system. It asks for a token unless
    ``RAY_AUTH_MODE`` says otherwise, and would write one into the user's home, readable for others.
    """
    names = {
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
        "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN", _TOKEN),
    }
    before = {name: os.environ.get(name) for name in (*names, "RAY_AUTH_MODE")}
    read = ray_constants.ENABLE_RAY_CLUSTER
    os.environ.update(names)
    ray_constants.ENABLE_RAY_CLUSTER = False  # this process has read the variable when it imported Ray
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = read
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _short_folder() -> Iterator[Path]:
    """Where Ray's sockets and logs stand; the paths of its sockets may have 107 characters, 70 of them its own."""
    base = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir=base if len(base) <= 24 else "/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
