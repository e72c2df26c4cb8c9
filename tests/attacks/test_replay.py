"""Answers sent to Prefect by hand: the decision that is in the record is the one that counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pets import make_pets
from valflow import decisions, prefect_api, runs
from valflow.config import config_from_mapping, with_absolute_paths
from valflow.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.slow]


@pytest.fixture
def pets(tmp_path: Path) -> Iterator[Any]:
    dataset = make_pets(f"replayed-{tmp_path.name}"[:60], tmp_path, 2)
    yield dataset
    dataset.delete()


def test_a_replayed_answer_changes_no_decision(in_stack: Stack, pets: Any) -> None:
    values = {
        "dataset": pets.name,
        "label_field": "pets",
        "model": {"kind": "field", "field": "predictions"},
        "review": {"checklist": [], "reviewers": ["ann"]},
    }
    flow_run = prefect_api.trigger(with_absolute_paths(config_from_mapping(values), in_stack.home))
    prefect_api.wait_for(flow_run, ["Suspended"], timeout=240)
    record = runs.find_by_flow_run(flow_run)
    assert record is not None

    # Somebody who is not on the list: nothing is decided, the review opens again.
    stranger = {"decision": "finalize", "reviewer": "eve"}
    assert prefect_api.resume(flow_run, stranger).is_accepted
    waits_again(record["run"], flow_run, 2)
    refused = runs.load(record["run"])
    assert "'eve' may not decide this run; its reviewers are ann" in refused["history"][-1]["note"]

    # The same name, with a digest of another approval set.
    stale = {"decision": "finalize", "reviewer": "ann", "digest": "0" * 64}
    assert prefect_api.resume(flow_run, stale).is_accepted
    waits_again(record["run"], flow_run, 3)
    assert "has changed since you saw it" in runs.load(record["run"])["history"][-1]["note"]

    # Decided in the record; whatever Prefect is told afterwards is no decision any more.
    decisions.submit(record["run"], decisions.Decision("finalize", "ann"))
    assert prefect_api.resume(flow_run, {"decision": "discard", "reviewer": "eve"}).is_accepted
    prefect_api.wait_for(flow_run, ["Completed"], timeout=240)
    assert not prefect_api.resume(flow_run, {"decision": "discard", "reviewer": "eve"}).is_accepted
    final = runs.load(record["run"])
    assert final["state"] == "FINALIZED"
    assert (final["decision"]["decision"], final["decision"]["reviewer"]) == ("finalize", "ann")


def waits_again(run: str, flow_run: str, number: int) -> None:
    import time

    deadline = time.monotonic() + 240
    while runs.load(run)["round"] < number or prefect_api.flow_run_state(flow_run).name != "Suspended":
        assert time.monotonic() < deadline, "the review did not open again"
        time.sleep(0.5)
    assert runs.load(run)["decision"] is None
