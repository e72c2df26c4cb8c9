"""One recurring run after another on a real stack: new samples each time, every other one decided by a person."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil

from tests.pets import add_pets, make_pets
from valflow import actions, decisions, ledger, prefect_api, runs
from valflow.config import LabelingConfig, config_from_mapping
from valflow.leash import family_of
from valflow.resuming import resume_decided
from valflow.selections import Selection
from valflow.stack import Stack

NEW_SAMPLES = 4
PATIENCE = 300.0  # seconds that a run may take on a busy machine


class Rounds:
    """The runs of one dataset.

    Args:
        stack: a stack that runs.
        folder: where images, exports and reports go.
        name: of the dataset; it must be free.
    """

    def __init__(self, stack: Stack, folder: Path, name: str) -> None:
        self.stack, self.folder = stack, folder
        self.dataset: Any = make_pets(name, folder, 0)
        self.done = 0

    def play(self) -> float:
        """One run on new samples, from its request to its end and the end of its process; returns its seconds."""
        self.done += 1
        add_pets(self.dataset, self.folder, NEW_SAMPLES)
        if self.done == 1:
            self.dataset.clone_sample_field("predictions", "truth")
        else:
            new = self.dataset.match_tags("seen", bool=False)
            new.set_values("truth", new.values("predictions"))
        self.dataset.tag_samples("seen")
        by_person = self.done % 2 == 0
        begun = time.monotonic()
        flow_run = prefect_api.trigger(self._config(by_person), name=f"soak-{self.done}")
        if by_person:
            state = prefect_api.wait_for(flow_run, ["Suspended"], timeout=PATIENCE)
            assert state.name == "Suspended", state
            self._decide(flow_run)
        state = prefect_api.wait_for(flow_run, ["Completed"], timeout=PATIENCE)
        assert state.name == "Completed", state
        seconds = time.monotonic() - begun
        record = runs.find_by_flow_run(flow_run)
        assert record is not None
        assert record["counts"]["samples"] == NEW_SAMPLES, record["counts"]
        assert record["counts"]["finalized"], record["counts"]
        self._wait_until_its_process_has_ended()
        return seconds

    def _config(self, by_person: bool) -> LabelingConfig:
        return config_from_mapping(
            {
                "dataset": self.dataset.name,
                "label_field": "pets",
                "model": {"kind": "field", "field": "predictions"},
                "shard_size": 2,
                "batch_size": 2,
                "review": {"required": by_person, "checklist": []},
                "evaluation": {"ground_truth": "truth"},
                "export": [
                    {"format": name, "dir": str(self.folder / "exports"), "media": "symlink"}
                    for name in ("coco", "yolov5")
                ],
                "output_dir": str(self.folder / "runs"),
            }
        )

    def _decide(self, flow_run: str) -> None:
        record = runs.find_by_flow_run(flow_run)
        assert record is not None
        run = record["run"]
        first = str(next(iter(ledger.approved_ids(run)))[0])
        actions.tag(run, "poor_bbox", Selection(label_ids=(first,)), "ann", note="a little wide")
        actions.approve(run, Selection(classes=("cat",)), "ann")
        resumed = resume_decided(decisions.submit(run, decisions.Decision("finalize", "ann")))
        assert resumed.outcome == "resumed", resumed

    def _wait_until_its_process_has_ended(self) -> None:
        pid = self.stack.children["worker"].pid
        assert pid is not None
        deadline = time.monotonic() + 60.0
        # The leash and the worker itself.
        while len(family_of(psutil.Process(pid))) > 2 and time.monotonic() < deadline:
            time.sleep(0.2)
