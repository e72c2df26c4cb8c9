"""`valflow up --secure` for real: who has no login gets nowhere, who works in the home notices nothing of it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.pets import make_pets
from valflow import database, homes, prefect_api, runs
from valflow.config import config_from_mapping, with_absolute_paths
from valflow.login import login_file
from valflow.review_app import PLUGIN
from valflow.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("secured"), database="default", secure=True) as stack:
        yield stack


@pytest.fixture(scope="module")
def secret(secured: Stack) -> str:
    return login_file(secured.folder).read_text().strip().partition(":")[2]


def command(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command as somebody gives it in the home of the stack: nothing but the folder tells it where to go."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "VALFLOW_"))}
    env["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [sys.executable, "-m", "valflow.cli", *arguments],
        env=env,
        cwd=stack.home,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def start_run(stack: Stack, name: str, folder: Path) -> Any:
    dataset = make_pets(name, folder, 3)
    values = {
        "dataset": name,
        "label_field": "pets",
        "model": {"kind": "field", "field": "predictions"},
        "review": {"checklist": []},
    }
    config = with_absolute_paths(config_from_mapping(values), stack.home)
    flow_run = prefect_api.trigger(config, api=stack.api_url)
    prefect_api.wait_for(flow_run, ["Suspended"], timeout=240, api=stack.api_url)
    return dataset, flow_run


def open_to_all(stack: Stack) -> list[tuple[str, str, Any]]:
    return [
        ("POST", f"{stack.api_url}/flow_runs/filter", {}),
        ("POST", f"{stack.api_url}/deployments/filter", {}),
        ("GET", f"{stack.api_url}/admin/settings", None),
        ("GET", f"{stack.app_url}/", None),
        ("GET", f"{stack.app_url}/media?filepath={login_file(stack.folder)}", None),
        ("POST", f"{stack.app_url}/operators/execute", {"operator_uri": f"{PLUGIN}/approve_labels"}),
    ]


def test_without_the_login_nobody_gets_in(secured: Stack, secret: str) -> None:
    for auth in (None, ("valflow", "guessed"), ("valflow", ""), ("", secret)):
        for method, url, body in open_to_all(secured):
            answer = httpx.request(method, url, json=body, auth=auth)
            assert answer.status_code == 401, (url, auth)
            assert secret not in answer.text
    assert httpx.get(f"{secured.app_url}/", auth=("valflow", secret)).status_code == 200


def test_the_secret_is_for_its_owner_only(secured: Stack) -> None:
    assert stat.S_IMODE(login_file(secured.folder).stat().st_mode) == 0o600
    assert homes.read_record(secured.home).is_secure


def test_a_run_is_decided_and_resumed_and_the_secret_shows_nowhere(
    secured: Stack, secret: str, tmp_path: Path
) -> None:
    dataset, flow_run = start_run(secured, "secured-pets", tmp_path)
    (tmp_path / "again.yaml").write_text(
        "dataset: secured-pets\nlabel_field: pets\nmodel: {kind: field, field: predictions}\n"
    )
    schedule = ("schedule", str(tmp_path / "again.yaml"), "--cron", "0 2 * * *", "--name", "again")
    said = [command(secured, *schedule), command(secured, "notify"), command(secured, "runs")]
    assert [done.returncode for done in said] == [0, 0, 0], said
    shown = " ".join(" ".join(p.cmdline()) for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"])
    assert "valflow.serving" in shown  # so that the search below sees what it must

    run = runs.find_by_flow_run(flow_run)
    assert run is not None
    said.append(command(secured, "finalize", run["run"], "--reviewer", "ann", "--yes"))
    assert said[-1].returncode == 0, said[-1]
    assert "resumed the Prefect run" in said[-1].stderr
    assert runs.load(run["run"])["state"] == "FINALIZED"
    said += [
        command(secured, "show", "latest", "--json"),
        command(secured, "doctor", "--json"),
        command(secured, "report", "latest"),
    ]
    [found] = [f for f in json.loads(said[-2].stdout)["findings"] if f["check"] == "login"]
    assert found["ok"]

    assert secret not in shown
    for done in said:
        assert secret not in done.stdout + done.stderr, done.args
    assert files_with(secret, secured.home) == []
    for collection in (database.runs(), database.actions(), database.ledger()):
        assert secret not in json.dumps(list(collection.find({})), default=str)
    dataset.delete()


def files_with(secret: str, folder: Path) -> list[str]:
    """Files of the home that hold the secret, Prefect's database and all logs among them."""
    files = [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink() and p.name != "login"]
    names = {p.name for p in files}
    assert {"server.log", "worker.log", "app.log", "stack.json", "prefect.db"} <= names
    return [str(p) for p in files if secret.encode() in p.read_bytes()]


def test_the_panel_resumes_too(secured: Stack, secret: str, tmp_path: Path) -> None:
    dataset, flow_run = start_run(secured, "secured-panel", tmp_path)
    run = runs.find_by_flow_run(flow_run)
    assert run is not None
    from valflow import decisions

    digest = decisions.preview(run["run"], "ann").digest
    body = {
        "operator_uri": f"{PLUGIN}/finalize_labels",
        "params": {"run": run["run"], "reviewer": "ann", "digest": digest},
        "dataset_name": dataset.name,
        "view": [],
    }
    answer = httpx.post(
        f"{secured.app_url}/operators/execute", json=body, auth=("valflow", secret), timeout=60
    )
    assert "resumed the Prefect run" in answer.json()["result"]["done"], answer.text
    prefect_api.wait_for(flow_run, ["Completed"], timeout=240, api=secured.api_url)
    assert runs.load(run["run"])["state"] == "FINALIZED"
    dataset.delete()
