"""One run through the real server and worker, with both killed in the middle of its review."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pets import make_pets, set_class
from valflow import actions, ledger, prefect_api, runs
from valflow.config import LabelingConfig, config_from_mapping
from valflow.selections import Selection
from valflow.stack import Stack

SAMPLES = 30


@pytest.fixture
def pets(tmp_path: Path) -> Iterator[Any]:
    import fiftyone as fo

    dataset = make_pets("killed-stack-pets", tmp_path, SAMPLES)
    yield dataset
    fo.delete_dataset(dataset.name)


@pytest.fixture
def config(tmp_path: Path) -> LabelingConfig:
    return config_from_mapping(
        {
            "dataset": "killed-stack-pets",
            "label_field": "pets",
            "model": {"kind": "field", "field": "predictions"},
            "shard_size": 10,
            "review": {"reviewers": ["ann", "bob"]},
            "output_dir": str(tmp_path / "runs"),
            "export": [{"format": "coco", "dir": str(tmp_path / "exports")}],
        }
    )


def task_runs(flow_run: str) -> Counter[str]:
    """How often each stage ran in a flow run, by the name of its task."""
    body = {"flow_runs": {"id": {"any_": [flow_run]}}, "limit": 200}
    names = [t["name"].rsplit("-", 1)[0] for t in prefect_api.call("POST", "/task_runs/filter", body).json()]
    return Counter(names)


def answer(flow_run: str, **values: Any) -> None:
    outcome = prefect_api.resume(flow_run, {"decision": "finalize", "reviewer": "ann", **values})
    assert outcome.is_accepted, outcome


def form_of(flow_run: str) -> str:
    """The Markdown above the form that a suspended run shows."""
    state = prefect_api.call("GET", f"/flow_runs/{flow_run}").json()["state"]
    keyset = state["state_details"]["run_input_keyset"]
    return str(prefect_api.call("GET", f"/flow_runs/{flow_run}/input/{keyset['description']}").json())


@pytest.mark.stack
@pytest.mark.slow
def test_a_run_survives_the_death_of_server_and_worker_and_a_refused_validation(
    in_stack: Stack, pets: Any, config: LabelingConfig
) -> None:
    flow_run = prefect_api.trigger(config, name="killed-stack")
    prefect_api.wait_for(flow_run, ["Suspended"], timeout=240)
    run = runs.load("latest")["run"]
    before_review = task_runs(flow_run)
    assert before_review == {"infer-shard": 3, "finish-inference": 1, "triage": 1}
    first_form = form_of(flow_run)

    for name in ("worker", "server"):
        in_stack.children[name].kill()
    for name in ("server", "worker"):
        in_stack.children[name].start()

    label_id = str(next(iter(ledger.approved_ids(run)))[0])
    set_class(pets, "pets_in_review", label_id, "unicorn")
    answer(flow_run, override="the audit is not what this test is about")
    prefect_api.wait_for(flow_run, ["Suspended"], timeout=240)
    refused = runs.load(run)
    assert (refused["state"], refused["round"]) == ("IN_REVIEW", 2)
    assert refused["validation"]["rounds"][0]["failing_labels"] == 1
    assert "unicorn" in str(refused["validation"]["checks"])
    second_form = form_of(flow_run)
    assert "Reopened" in second_form
    assert second_form != first_form

    set_class(pets, "pets_in_review", label_id, "dog")
    actions.approve(run, Selection(label_ids=(label_id,)), "bob")
    answer(flow_run, override="still not", note="class mended")
    prefect_api.wait_for(flow_run, ["Completed"], timeout=240)

    done = runs.load(run)
    assert done["state"] == "FINALIZED"
    expected = SAMPLES * 2
    assert (done["counts"]["finalized"], done["counts"]["discarded"]) == (expected, expected)
    assert done["decision"]["note"] == "class mended"
    pets.reload()
    assert pets.count("pets.detections") == expected
    assert pets.count_values("pets.detections.source").get("edited", 0) == 1
    assert not pets.has_field("pets_in_review")
    after = task_runs(flow_run)
    assert {stage: after[stage] for stage in before_review} == before_review
    assert (after["validate"], after["finalize"]) == (2, 1)
    events = [entry["event"] for entry in done["history"]]
    assert events == [
        "create", "infer", "triage", "submit", "reopen", "submit", "validate", "begin_finalize", "finalize",
    ]  # fmt: skip
