"""Certified approval through the real server and worker: wait in a lot, judge, certify, confirm, resume, finish."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.certified import SETTINGS, grow, honest_verdicts, make_large_dataset, right_labels
from valflow import database, prefect_api, runs
from valflow.config import config_from_mapping
from valflow.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.slow]


@pytest.fixture
def dataset(tmp_path: Path) -> Iterator[Any]:
    import fiftyone as fo

    dataset = make_large_dataset(tmp_path, name="certified-pets")
    yield dataset
    fo.delete_dataset(dataset.name)


def valflow(*arguments: str) -> dict[str, Any]:
    """A command in a process of its own; returns its JSON document."""
    command = [sys.executable, "-m", "valflow.cli", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_what_waits_in_a_lot_is_certified_together(in_stack: Stack, dataset: Any, tmp_path: Path) -> None:
    config = config_from_mapping(
        {
            "dataset": dataset.name,
            "label_field": "pets",
            "model": {"kind": "field", "field": "pred"},
            "approval": {**SETTINGS, "lot": {"min_labels": 1200, "max_wait": "7d"}},
            "evaluation": {"ground_truth": "ground_truth"},
            "output_dir": str(tmp_path / "runs"),
        }
    )
    first = prefect_api.trigger(config)
    assert prefect_api.wait_for(first, timeout=240).name == "WaitingForMore"
    grow(dataset, tmp_path, 60, seed=1)
    second = prefect_api.trigger(config)
    prefect_api.wait_for(second, ["Suspended"], timeout=240)
    record = runs.find_by_flow_run(second)
    assert record is not None
    run = record["run"]
    assert (record["lot"]["closed"], record["certificate"]["labels"]) == ("full", 1300)

    file = tmp_path / "verdicts.csv"
    with file.open("w", newline="") as lines:
        csv.writer(lines).writerows([("number", "verdict"), *honest_verdicts(run, dataset).items()])
    judged = valflow("audit", run, "--verdicts", str(file), "--reviewer", "ann")
    certificate = runs.load(run)["certificate"]
    assert judged["judged"] == judged["drawn"] == certificate["audited"]
    assert certificate["approved"] > 100

    ended = valflow("finalize", run, "--yes", "--reviewer", "ann")
    assert ended["state"] == "FINALIZED"
    prefect_api.wait_for(second, ["Completed"], timeout=240)
    confirmed = certificate["audited"] - certificate["wrong"]
    assert ended["counts"]["finalized"] == certificate["approved"] + confirmed
    final = [
        label
        for sample in database.samples_of(dataset).find({"pets": {"$ne": None}}, {"pets": 1})
        for label in sample["pets"]["detections"]
    ]
    right = right_labels(run, dataset)
    wrong = [label for label in final if label["_id"] not in right]
    assert {label["source"] for label in final} == {"auto", "human"}
    assert all(label["source"] == "auto" for label in wrong)
    assert len(wrong) <= sum(group["most_wrong"] or 0 for group in certificate["groups"])
    assert Path(ended["artifacts"]["report"]).is_file()
