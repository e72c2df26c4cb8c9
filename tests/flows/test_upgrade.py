"""A flow run that was suspended under one version of the record, and is resumed by a valflow of another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bson import json_util

from tests.deployed import expected_labels, final_labels, work
from valflow import database, prefect_api, runs, schema, trail
from valflow.config import LabelingConfig

pytestmark = pytest.mark.slow

VERSION_1: dict[str, Any] = json_util.loads(
    (Path(__file__).parents[1] / "core" / "record_version_1.json").read_text()
)
# What a run has that waits in Prefect, then as now; the stored one did not.
OF_PREFECT = {"flow_run_id", "suspended_in", "workspace", "told"}
ANSWER = {"decision": "finalize", "reviewer": "ann", "note": "through the form"}


@pytest.fixture
def suspended(deployed_on: str, config: LabelingConfig, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Flow run and run."""
    monkeypatch.setenv("PREFECT_API_URL", deployed_on)
    flow_run = prefect_api.trigger(config)
    work(flow_run)
    assert prefect_api.flow_run_state(flow_run).name == "Suspended"
    record = runs.find_by_flow_run(flow_run)
    assert record is not None
    return flow_run, record["run"]


def stored(run: str) -> dict[str, Any]:
    """The record as it lies in the database; to load it would bring it up to date."""
    record = database.runs().find_one({"run": run})
    assert record is not None
    return record


def make_version_1(run: str) -> set[str]:
    """Put the record of a run into the form of version 1; returns what that did not know."""
    record = stored(run)
    unknown = record.keys() - VERSION_1.keys() - OF_PREFECT - {"_id"}
    old = {k: v for k, v in record.items() if k not in unknown} | {"schema_version": 1}
    old["config"] = {k: v for k, v in record["config"].items() if k in VERSION_1["config"]}
    old["config"]["review"] = {
        k: v for k, v in record["config"]["review"].items() if k in VERSION_1["config"]["review"]
    }
    old["history"] = [
        {k: v for k, v in entry.items() if k in VERSION_1["history"][0]} for entry in record["history"]
    ]
    database.runs().replace_one({"run": run}, old)
    return unknown


def test_a_suspended_flow_of_the_older_version_goes_on_to_its_end(
    suspended: tuple[str, str], config: LabelingConfig
) -> None:
    flow_run, run = suspended
    assert "has_form" in make_version_1(run)
    assert "digest" not in stored(run)["history"][0]
    assert prefect_api.resume(flow_run, ANSWER).is_accepted
    work(flow_run)
    assert prefect_api.flow_run_state(flow_run).name == "Completed"
    done = stored(run)
    assert (done["state"], done["schema_version"]) == ("FINALIZED", schema.VERSION)
    assert (done["decision"]["reviewer"], done["decision"]["note"]) == ("ann", "through the form")
    assert [e["event"] for e in done["history"]] == [
        "create",
        "infer",
        "triage",
        "submit",
        "validate",
        "begin_finalize",
        "finalize",
    ]
    assert trail.problems(done) == []
    assert final_labels(config.dataset) == expected_labels(config.dataset)


def test_a_suspended_flow_of_a_newer_version_is_refused_and_goes_on_with_the_newer(
    suspended: tuple[str, str], config: LabelingConfig
) -> None:
    flow_run, run = suspended
    ours = stored(run)
    database.runs().update_one({"run": run}, {"$set": {"schema_version": schema.VERSION + 1}})
    before = stored(run)
    assert prefect_api.resume(flow_run, ANSWER).is_accepted
    work(flow_run)
    state = prefect_api.flow_run_state(flow_run)
    assert state.name == "Failed"
    message = state.message or ""
    assert f"its record has version {schema.VERSION + 1}" in message
    assert f"knows versions up to {schema.VERSION}. Nothing was changed. Update valflow here" in message
    assert stored(run) == before

    # The valflow that wrote it.
    database.runs().replace_one({"run": run}, ours)
    prefect_api.retry(flow_run)
    work(flow_run)
    assert prefect_api.flow_run_state(flow_run).name == "Suspended", "the answer is not in the record"
    assert prefect_api.resume(flow_run, ANSWER).is_accepted
    work(flow_run)
    assert stored(run)["state"] == "FINALIZED"
    assert final_labels(config.dataset) == expected_labels(config.dataset)
