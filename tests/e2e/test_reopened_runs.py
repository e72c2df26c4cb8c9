"""A deployed run that was final comes back into review: a new flow run waits for the decision and goes on with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pets import make_pets
from tests.waiting import wait_until
from valflow import actions, prefect_api, runs
from valflow.cli import main as valflow
from valflow.config import config_from_mapping
from valflow.selections import Selection
from valflow.stack import Stack


@pytest.fixture
def pets(tmp_path: Path) -> Iterator[Any]:
    import fiftyone as fo

    dataset = make_pets("reopened-pets", tmp_path, 3)
    yield dataset
    fo.delete_dataset(dataset.name)


@pytest.mark.stack
@pytest.mark.slow
def test_it_waits_in_prefect_again(
    in_stack: Stack, pets: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_from_mapping(
        {
            "dataset": pets.name,
            "label_field": "pets",
            "model": {"kind": "field", "field": "predictions"},
            "review": {"checklist": []},
            "evaluation": None,
            "output_dir": str(tmp_path / "runs"),
        }
    )
    first = prefect_api.trigger(config, name="reopened")
    prefect_api.wait_for(first, ["Suspended"], timeout=240)
    run = runs.find_by_flow_run(first)["run"]  # type: ignore[index]
    assert valflow(["finalize", run, "--yes", "--reviewer", "ann"]) == 0
    assert runs.load(run)["counts"]["finalized"] == 6

    capsys.readouterr()
    assert valflow(["rollback", run, "--reopen", "--yes", "--reviewer", "ann"]) == 0
    assert "A new Prefect run waits for the decision: http" in capsys.readouterr().out
    record = wait_until(lambda: (r := runs.load(run)).get("suspended_in") and r)
    second = record["suspended_in"]
    assert second != first
    prefect_api.wait_for(second, ["Suspended"], timeout=240)
    assert (runs.load(run)["state"], runs.load(run)["round"]) == ("IN_REVIEW", 2)

    assert actions.approve(run, Selection(min_confidence=0.5), "ann").changed == 3
    assert valflow(["finalize", run, "--yes", "--reviewer", "ann"]) == 0
    done = runs.load(run)
    assert (done["state"], done["counts"]["finalized"]) == ("FINALIZED", 9)
    assert done["completed_at"]
    assert prefect_api.flow_run_state(second).kind == "COMPLETED"
    pets.reload()
    assert pets.count("pets.detections") == 9
