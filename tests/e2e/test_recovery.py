"""A run through the real server and worker whose process is killed, and whose decision nobody tells Prefect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pets import make_pets
from tests.waiting import wait_until
from valflow import database, decisions, prefect_api, recovery, runs
from valflow.cli import main as valflow
from valflow.config import config_from_mapping
from valflow.stack import Stack

# A model at work for as long as the file of its gate is not there.
MODEL = """
import time
from pathlib import Path
import fiftyone as fo
from fiftyone.core.models import Model

class Gated(Model):
    def __init__(self, gate): self.gate = Path(gate)
    def __enter__(self): return self
    def __exit__(self, *a): pass
    media_type = "image"
    label_class = "Detections"  # or it is asked, before the run is on record
    def predict(self, image):
        while not self.gate.exists():
            time.sleep(0.1)
        return fo.Detections(detections=[fo.Detection(label="cat", bounding_box=[.1, .1, .5, .5], confidence=.9)])
    def predict_all(self, images): return [self.predict(i) for i in images]
"""


@pytest.fixture
def pets(tmp_path: Path) -> Iterator[Any]:
    import fiftyone as fo

    # What other tests left behind would be recovered, too.
    database.runs().delete_many({})
    dataset = make_pets("recovered-pets", tmp_path, 6)
    yield dataset
    fo.delete_dataset(dataset.name)


@pytest.mark.stack
@pytest.mark.slow
@pytest.mark.long
def test_a_run_goes_on_after_its_process_was_killed_and_its_decision_was_not_passed_on(
    in_stack: Stack,
    pets: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (in_stack.home / "gated_model.py").write_text(MODEL)
    gate = tmp_path / "gate"
    model = {"kind": "python", "path": "gated_model:Gated", "kwargs": {"gate": str(gate)}}
    config = config_from_mapping(
        {
            "dataset": pets.name,
            "label_field": "pets",
            "model": model,
            "shard_size": 2,
            "batch_size": 2,
            "review": {"checklist": []},
            "output_dir": str(tmp_path / "runs"),
        }
    )
    flow_run = prefect_api.trigger(config, name="recovered")
    run = wait_until(lambda: runs.find_by_flow_run(flow_run))["run"]
    wait_until(lambda: runs.load(run).get("target"))

    in_stack.children["worker"].kill()
    assert prefect_api.flow_run_state(flow_run).kind == "RUNNING", (
        "nobody tells Prefect that the machine died"
    )
    # It has given a sign of life, so nobody waits for it to start.
    [step] = recovery.look(database.runs(), in_stack.api_url)
    assert (step.run, step.kind, step.flow_run) == (run, "go_on", flow_run)
    capsys.readouterr()
    assert valflow(["doctor"]) == 1
    assert f"run {run}: its flow run is Running" in capsys.readouterr().out

    gate.touch()
    in_stack.children["worker"].start()
    assert valflow(["doctor", "--fix"]) in (0, 1)
    assert f"run {run}" in capsys.readouterr().out
    prefect_api.wait_for(flow_run, ["Suspended"], timeout=240)
    assert runs.load(run)["counts"]["predicted"] == 6

    decisions.submit(run, decisions.Decision("finalize", "ann"))
    settled = database.now() - 2 * recovery.SETTLED
    database.runs().update_one({"run": run}, {"$set": {"updated_at": settled}})
    lines: list[str] = []
    monkeypatch.setattr(in_stack, "say", lines.append)
    assert in_stack.reaper().look()
    assert any(f"run {run}: it is decided, but its flow run was not told" in line for line in lines), lines
    prefect_api.wait_for(flow_run, ["Completed"], timeout=240)

    done = runs.load(run)
    assert done["state"] == "FINALIZED"
    assert done["counts"]["finalized"] == 6
    assert [h["event"] for h in done["history"]].count("recover") == 2
    assert not in_stack.reaper().look()
