"""The deployment and its schedules, on a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from valflow import prefect_api
from valflow.config import load_config
from valflow.errors import ConfigError, StackError
from valflow.schedules import (
    DEPLOYMENTS,
    POOL,
    Deployment,
    ensure_deployment,
    schedule,
    schedules,
    unschedule,
)
from valflow.stack import Stack

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {"dataset": "digits", "label_field": "auto", "model": {"kind": "field", "field": "predictions"}}


def write_config(folder: Path, name: str = "nightly.yaml", **changes: Any) -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump({**CONFIG, **changes}))
    return path


@pytest.mark.parametrize(
    ("cron", "timezone", "changes", "problem"),
    [
        ("0 2 * *", "UTC", {}, "cron: expected five fields"),
        ("0 25 * * *", "UTC", {}, "cron: .*'0 25 \\* \\* \\*'"),  # no such hour
        ("* * * * noday", "UTC", {}, "cron: .*noday"),
        ("@daily", "UTC", {}, "cron: expected five fields"),
        ("0 2 * * *", "Europe/Berln", {}, "timezone: .*did you mean 'Europe/Berlin'"),
        ("0 2 * * *", "", {}, "timezone: expected an IANA name, found ''"),
        ("0 2 * * *", "UTC", {"datset": "x"}, "datset: unknown key"),  # the configuration itself
        ("0 2 * * *", "UTC", {"run_key": "mine"}, "run_key is 'mine'"),  # one run for ever
    ],
)
def test_a_schedule_that_cannot_work_is_refused(
    tmp_path: Path, cron: str, timezone: str, changes: dict[str, Any], problem: str
) -> None:
    # No server is needed to say so.
    with pytest.raises(ConfigError, match=problem):
        schedule(write_config(tmp_path, **changes), cron, timezone)


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        schedule(tmp_path / "missing.yaml", "often", "Mars")
    assert len(refused.value.problems) == 3


def test_without_a_server_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="valflow up"):
        schedule(write_config(tmp_path), "0 2 * * *")


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment.name)
def test_prefect_yaml_says_what_valflow_deploys(deployment: Deployment) -> None:
    everything = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert len(everything) == len(DEPLOYMENTS)
    [written] = [entry for entry in everything if entry["name"] == deployment.name]
    assert written["entrypoint"] == deployment.entrypoint
    assert written["description"] == deployment.description
    assert tuple(written["tags"]) == deployment.tags
    assert written["work_pool"] == {"name": POOL}
    assert tuple(written["pull"]) == deployment.pull_steps
    assert written["concurrency_limit"]["limit"] == deployment.concurrency_limit


# -- on the server


@pytest.fixture
def server(in_stack: Stack) -> Iterator[Stack]:
    yield in_stack
    for entry in schedules():
        unschedule(entry.name)


def planned_runs() -> list[dict[str, Any]]:
    body = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}, "sort": "EXPECTED_START_TIME_ASC"}
    found: list[dict[str, Any]] = prefect_api.call("POST", "/flow_runs/filter", body).json()
    return [run for run in found if run["auto_scheduled"]]


@pytest.mark.stack
def test_each_configuration_has_a_schedule_of_its_own(server: Stack, tmp_path: Path) -> None:
    nightly = write_config(tmp_path)
    hourly = write_config(tmp_path, "hourly.yaml", label_field="quick")
    schedule(nightly, "0 2 * * *", "Europe/Berlin")
    schedule(hourly, "30 * * * *")
    first, second = schedules()
    assert (first.name, first.cron, first.timezone, first.is_active) == ("hourly", "30 * * * *", "UTC", True)
    assert (second.name, second.timezone, second.target) == ("nightly", "Europe/Berlin", ("digits", "auto"))
    assert second.config == load_config(nightly).model_dump(mode="json")
    assert Path(second.config["output_dir"]).is_absolute()
    assert unschedule("hourly").name == "hourly"
    assert [entry.name for entry in schedules()] == ["nightly"]


@pytest.mark.stack
def test_scheduling_again_changes_and_never_doubles(server: Stack, tmp_path: Path) -> None:
    schedule(write_config(tmp_path), "0 2 * * *")
    schedule(write_config(tmp_path, batch_size=8), "0 3 * * *", "Asia/Tokyo")
    [entry] = schedules()
    assert (entry.cron, entry.timezone, entry.config["batch_size"]) == ("0 3 * * *", "Asia/Tokyo", 8)


@pytest.mark.stack
def test_a_file_of_the_same_name_does_not_replace_another_teams_schedule(
    server: Stack, tmp_path: Path
) -> None:
    schedule(write_config(tmp_path), "0 2 * * *")
    (tmp_path / "other").mkdir()
    other = write_config(tmp_path / "other", dataset="letters")
    with pytest.raises(ConfigError, match=r"'nightly' labels .*'digits'.* already; choose another name"):
        schedule(other, "0 4 * * *")
    schedule(other, "0 4 * * *", name="letters")
    assert [entry.target[0] for entry in schedules()] == ["letters", "digits"]


@pytest.mark.stack
def test_an_unknown_schedule_is_named_with_those_there_are(server: Stack, tmp_path: Path) -> None:
    schedule(write_config(tmp_path), "0 2 * * *")
    with pytest.raises(ConfigError, match="found 'weekly'; there are: nightly"):
        unschedule("weekly")


@pytest.mark.stack
def test_the_ticks_carry_the_configuration_and_go_with_the_schedule(server: Stack, tmp_path: Path) -> None:
    schedule(write_config(tmp_path), "0 2 * * *", "Europe/Berlin")
    deployment = prefect_api.find_deployment()
    prefect_api.call(
        "POST", f"/deployments/{deployment['id']}/schedule", {"min_runs": 3}
    )  # the scheduler's own code
    runs = planned_runs()
    assert len(runs) >= 3
    assert {run["parameters"]["config"]["dataset"] for run in runs} == {"digits"}
    assert all(
        "T01:00:00" in run["expected_start_time"] or "T00:00:00" in run["expected_start_time"] for run in runs
    )
    unschedule("nightly")
    assert planned_runs() == []


@pytest.mark.stack
def test_deploying_again_keeps_schedules_and_a_limit_that_somebody_changed(
    server: Stack, tmp_path: Path
) -> None:
    schedule(write_config(tmp_path), "0 2 * * *")
    before = prefect_api.find_deployment()
    prefect_api.call("PATCH", f"/deployments/{before['id']}", {"concurrency_limit": 7})
    assert ensure_deployment() == before["id"]
    after = prefect_api.find_deployment()
    assert [entry["slug"] for entry in after["schedules"]] == ["nightly"]
    assert after["global_concurrency_limit"]["limit"] == 7
    assert after["parameter_openapi_schema"]["required"] == ["config"]


@pytest.mark.stack
@pytest.mark.slow
def test_prefect_deploy_makes_the_same_deployment(server: Stack, tmp_path: Path) -> None:
    schedule(write_config(tmp_path), "0 2 * * *")
    before = prefect_api.find_deployment()
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    after = prefect_api.find_deployment()
    for key in (
        "id",
        "entrypoint",
        "pull_steps",
        "description",
        "tags",
        "work_pool_name",
        "parameter_openapi_schema",
    ):
        assert after[key] == before[key], key
    assert [entry["slug"] for entry in after["schedules"]] == ["nightly"]
