"""Ten nights of a scheduled configuration, on the real server, scheduler and worker; only the clock is moved."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pets import add_pets, make_pets
from valflow import prefect_api, runs
from valflow.config import load_config
from valflow.schedules import schedule, unschedule
from valflow.stack import Stack

FIRST_NIGHT, EVERY_NIGHT = 6, 2


@pytest.fixture
def pets(tmp_path: Path) -> Iterator[Any]:
    import fiftyone as fo

    dataset = make_pets("nightly-pets", tmp_path, FIRST_NIGHT)
    yield dataset
    fo.delete_dataset(dataset.name)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "nightly.yaml"
    values = {
        "dataset": "nightly-pets",
        "label_field": "pets",
        "model": {"kind": "field", "field": "predictions"},
        "review": {"required": False},
    }
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def nights(in_stack: Stack, pets: Any, config_file: Path) -> Iterator[list[str]]:
    """Flow runs that Prefect's scheduler planned for the coming nights, earliest first."""
    made = schedule(config_file, "0 2 * * *", "Europe/Berlin")
    yield planned(10)
    unschedule(made.name)


def planned(count: int) -> list[str]:
    """Ids of the next scheduled flow runs, once the scheduler has made them."""
    deployment = prefect_api.find_deployment()["id"]
    body = {
        "deployments": {"id": {"any_": [deployment]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
        "sort": "EXPECTED_START_TIME_ASC",
        "limit": count,
    }
    deadline = datetime.now(UTC).timestamp() + 90
    while datetime.now(UTC).timestamp() < deadline:
        found = prefect_api.call("POST", "/flow_runs/filter", body).json()
        if len(found) == count:
            return [str(f["id"]) for f in found]
    raise AssertionError(f"the scheduler planned fewer than {count} runs")


def let_night_fall(flow_run: str) -> prefect_api.FlowRunState:
    """Move one planned run to the present, and wait for its end."""
    state = {"type": "SCHEDULED", "state_details": {"scheduled_time": datetime.now(UTC).isoformat()}}
    prefect_api.call("POST", f"/flow_runs/{flow_run}/set_state", {"state": state, "force": True})
    return prefect_api.wait_for(flow_run, timeout=240)


@pytest.mark.stack
@pytest.mark.slow
def test_ten_nights_label_only_what_is_new(
    nights: list[str], pets: Any, config_file: Path, tmp_path: Path
) -> None:
    ended: list[tuple[str, int | None]] = []

    def night(number: int) -> None:
        state = let_night_fall(nights[number - 1])
        record = runs.find_by_flow_run(nights[number - 1])
        ended.append((state.name, record["counts"]["samples"] if record else None))

    night(1)
    for number in (2, 3):
        add_pets(pets, tmp_path, EVERY_NIGHT)
        night(number)
    night(4)

    add_pets(pets, tmp_path, EVERY_NIGHT)
    by_hand = prefect_api.trigger(load_config(config_file, ["review.required=true"]))
    prefect_api.wait_for(by_hand, ["Suspended"], timeout=240)
    night(5)
    answer = {"decision": "finalize", "reviewer": "ann", "override": "not what this test is about"}
    assert prefect_api.resume(by_hand, answer).is_accepted
    prefect_api.wait_for(by_hand, ["Completed"], timeout=240)

    add_pets(pets, tmp_path, EVERY_NIGHT)
    night(6)
    pets.reload()
    pets.delete_sample_field("pets")
    night(7)
    for number in (8, 9, 10):
        add_pets(pets, tmp_path, EVERY_NIGHT)
        night(number)

    so_far = FIRST_NIGHT + 4 * EVERY_NIGHT
    assert ended == [
        ("Completed", FIRST_NIGHT),
        ("Completed", EVERY_NIGHT),
        ("Completed", EVERY_NIGHT),
        ("NothingNew", None),
        ("Skipped", None),
        ("Completed", EVERY_NIGHT),
        ("Completed", so_far),  # the label field was deleted by hand, so every sample is new again
        ("Completed", EVERY_NIGHT),
        ("Completed", EVERY_NIGHT),
        ("Completed", EVERY_NIGHT),
    ]
    skipped = runs.find_by_flow_run(by_hand)
    assert skipped is not None
    assert [e["event"] for e in skipped["history"]].count("skip") == 1
    pets.reload()
    assert pets.count("pets.detections") == 2 * len(pets)
    assert len(pets.distinct("pets.detections.id")) == 2 * len(pets)
