"""A Prefect server that answers 503 for a while, or for ever: the work stops in words, and goes on without a loss.

A real server, a proxy before it, and the processes that a worker would start.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from tests.deployed import expected_labels, final_labels, work
from tests.refusing import Refusing, refusing
from valflow import database, new_runs, prefect_api, recovery, runs
from valflow.cli import main as valflow
from valflow.config import LabelingConfig, load_config


@pytest.fixture
def proxy(deployed_on: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Refusing]:
    with refusing(deployed_on) as (proxy, api):
        monkeypatch.setenv("PREFECT_API_URL", api)
        # What other tests left behind would be recovered, too; and nobody waits for minutes here.
        database.runs().delete_many({})
        for pause in ("STARTING", "SETTLED", "LONGEST_START", "PAUSE"):
            monkeypatch.setattr(recovery, pause, timedelta(0))
        monkeypatch.setattr(prefect_api, "BACK_OFF", (0.1, 0.2))
        yield proxy


def mend() -> list[str]:
    """What `valflow up` does when its pauses are over."""
    return list(recovery.mend(prefect_api.api_url()))


def given(*arguments: str) -> int:
    return valflow([*arguments, "--reviewer", "ann", "--yes", "--no-wait"])


@pytest.mark.slow
def test_a_run_goes_on_when_the_server_answers_again(
    proxy: Refusing, config: LabelingConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """503 while a flow is at work for some seconds, at a decision for ever, at work for ever."""
    flow_run = prefect_api.trigger(config, name="refused")
    proxy.begin("valflow-inference", seconds=3)
    work(flow_run)
    assert proxy.has_begun
    assert prefect_api.flow_run_state(flow_run).name == "Suspended", "its own patience was enough"
    run = runs.find_by_flow_run(flow_run)["run"]  # type: ignore[index]

    proxy.begin()
    assert given("finalize", run) == 1
    said = capsys.readouterr().err
    assert "the decision is recorded, but Prefect could not be told" in said
    assert "answers 503 (Service Unavailable)" in said
    assert f"`valflow finalize {run}` again only resumes" in said
    assert "Traceback" not in said
    decided = runs.load(run)["decision"]
    proxy.end()
    assert prefect_api.flow_run_state(flow_run).name == "Suspended"
    assert given("finalize", run) == 0
    assert runs.load(run)["decision"] == decided

    proxy.begin("valflow-validation")
    work(flow_run, PREFECT_CLIENT_MAX_RETRIES="0")
    proxy.end()
    failed = runs.load(run)
    assert (failed["state"], failed["failed_stage"], failed["failure"]) == ("FAILED", "finalize", "outage")
    assert "503 Service Unavailable" in failed["error"]
    assert "`valflow up` goes on with it by itself" in failed["error"]
    [line] = mend()
    assert f"run {run}: finalize failed in an outage; its flow run starts again" in line
    work(flow_run)
    assert prefect_api.flow_run_state(flow_run).name == "Completed"
    done = runs.load(run)
    assert (done["state"], done["decision"]) == ("FINALIZED", decided)
    assert final_labels(config.dataset) == expected_labels(config.dataset)
    assert mend() == []


@pytest.mark.slow
def test_a_flow_run_that_was_suspended_without_its_form_asks_again(
    proxy: Refusing, config: LabelingConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    flow_run = prefect_api.trigger(config, name="refused")
    proxy.begin("POST .*/input .*-schema")
    work(flow_run, PREFECT_CLIENT_MAX_RETRIES="0")
    assert proxy.has_begun
    proxy.end()
    assert prefect_api.flow_run_state(flow_run).name == "Suspended"
    answer = {"decision": "finalize", "reviewer": "ann"}
    refused = prefect_api.resume(flow_run, answer)
    assert (refused.status, refused.reason) == ("REJECT", "Run input schema not found.")

    [line] = mend()
    assert "its flow run waits without the form; its flow run starts again" in line
    work(flow_run)
    assert prefect_api.flow_run_state(flow_run).name == "Suspended"
    assert mend() == []
    assert prefect_api.resume(flow_run, answer).is_accepted


@pytest.mark.slow
def test_a_decision_does_not_need_the_form(proxy: Refusing, config: LabelingConfig) -> None:
    flow_run = prefect_api.trigger(config, name="refused")
    work(flow_run)
    run = runs.find_by_flow_run(flow_run)["run"]  # type: ignore[index]
    prefect_api.call("DELETE", f"/flow_runs/{flow_run}/input/suspended-review-1-r1-schema")
    assert given("finalize", run) == 0
    assert prefect_api.flow_run_state(flow_run).kind == "SCHEDULED"
    work(flow_run)
    assert prefect_api.flow_run_state(flow_run).name == "Completed"
    assert final_labels(config.dataset) == expected_labels(config.dataset)


class TestTrigger:
    """A start that Prefect does not take: nothing has begun, and the message says what to do."""

    def test_by_the_command_line(
        self,
        proxy: Refusing,
        config: LabelingConfig,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        path = tmp_path / "pets.yaml"
        path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
        before = flow_runs()
        proxy.begin()
        assert valflow(["run", str(path), "--deploy"]) == 1
        said = capsys.readouterr().err
        assert "answers 503 (Service Unavailable)" in said
        assert "give the same command again" in said
        assert "Traceback" not in said
        proxy.end()
        assert flow_runs() == before
        assert runs.list_runs(config.dataset) == []
        assert valflow(["run", str(path), "--deploy"]) == 0
        assert len(flow_runs()) == len(before) + 1

    def test_by_the_panel(
        self, proxy: Refusing, config: LabelingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("VALFLOW_HOME", str(tmp_path))
        before = flow_runs()
        proxy.begin()
        started = new_runs.start(config)
        proxy.end()
        assert started.flow_run is None
        assert "answers 503" in started.message
        [kept] = tmp_path.glob("*.yaml")
        assert f"`valflow run {kept.name}` runs them without a server" in started.message
        assert load_config(kept) == config
        assert flow_runs() == before

    @pytest.mark.parametrize("at", ["create_flow_run", ""], ids=["the-request-itself", "from-the-start"])
    def test_an_answer_that_is_lost_makes_no_second_run(
        self, at: str, proxy: Refusing, config: LabelingConfig
    ) -> None:
        before = flow_runs()
        proxy.begin(at, seconds=0.05, mode="lose")
        flow_run = prefect_api.trigger(config)
        proxy.end()
        assert proxy.has_begun
        assert flow_runs() - before == {flow_run}


def flow_runs() -> set[str]:
    """Ids of all that Prefect knows of."""
    body = {"flows": {"name": {"any_": [prefect_api.FLOW]}}}
    return {run["id"] for run in prefect_api.call("POST", "/flow_runs/filter", body).json()}
