"""Triage: what the thresholds decide, what waits for a person, and that it happens once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from tests.builders import (
    bring_to,
    counts,
    documents,
    entries,
    ids_where,
    labels_in,
    make_config,
    make_dataset,
    make_run,
)
from valflow import actions, label_states, runs, triage
from valflow.selections import Selection
from valflow.states import State

FIXED = {"mode": "fixed", "threshold": 0.7}


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    """One sample with cat 0.95, dog 0.8, cat 0.6, dog 0.3, one with a cat without confidence, one empty."""
    return make_dataset(
        tmp_path, predictions=[[("cat", 0.95), ("dog", 0.8), ("cat", 0.6), ("dog", 0.3)], [("cat", None)], []]
    )


@pytest.mark.parametrize(
    ("approval", "expected"),
    [
        ({}, {"default": 0.7, "per_class": {}}),
        (
            {"threshold": 0.8, "per_class": {"dog": 0.9}},
            {"default": 0.8, "per_class": {"dog": 0.9}},
        ),
        ({"mode": "review_all"}, {"default": None, "per_class": {}}),
    ],
    ids=["default", "fixed", "review all"],
)
def test_thresholds_in_force(dataset: Any, approval: dict[str, Any], expected: dict[str, Any]) -> None:
    assert triage.thresholds_of(make_config(dataset, approval=approval)) == expected


@pytest.mark.parametrize(
    ("approval", "approved"),
    [
        (FIXED, [0.95, 0.8]),
        ({"threshold": 0.8}, [0.95, 0.8]),
        ({"threshold": 0.0}, [0.95, 0.8, 0.6, 0.3]),
        ({"threshold": 1.0}, []),
        ({"threshold": 0.9, "per_class": {"dog": 0.3}}, [0.95, 0.8, 0.3]),
        ({"mode": "review_all"}, []),
    ],
    ids=["usual", "exactly at it", "everything with a confidence", "nothing", "of a class", "review all"],
)
def test_what_is_approved(dataset: Any, approval: dict[str, Any], approved: list[float]) -> None:
    run = make_run(dataset, approval=approval)
    record, found = runs.load(run), entries(run)
    assert (
        sorted((e["confidence"] for e in found.values() if e["state"] == "approved"), reverse=True)
        == approved
    )
    expected = {"approved": len(approved), "rejected": 0, "undecided": 5 - len(approved)}
    assert counts(run) == expected
    figures = {"predicted": 5, **expected, "invalid": 0}
    assert {k: record["counts"][k] for k in figures} == figures
    assert record["history"][-1]["figures"] == figures
    assert (record["history"][-1]["event"], record["history"][-1]["actor"]) == ("triage", "policy")
    assert (record["state"], record["action_seq"]) == ("IN_REVIEW", 1)
    assert record["review"].keys() == {"opened_at"}
    tagged = [d for d in labels_in(dataset, "auto_in_review").values() if "approved" in d["tags"]]
    assert len(tagged) == len(approved)
    policy = [] if approval.get("mode") == "review_all" else [("policy", "approve")]
    assert [(a["actor"], a["event"]) for a in actions.history_of(run)] == policy


def test_the_class_table(dataset: Any) -> None:
    record = runs.load(make_run(dataset, approval={"per_class": {"dog": 0.9}}))
    rows = {r["label"]: r for r in record["class_table"]}
    assert {label: r["threshold"] for label, r in rows.items()} == {"cat": 0.7, "dog": 0.9}
    assert (rows["cat"]["total"], rows["cat"]["approved"], rows["cat"]["without_confidence"]) == (3, 1, 1)
    assert (rows["dog"]["total"], rows["dog"]["undecided"]) == (2, 2)
    assert rows["dog"]["mean_confidence"] == pytest.approx(0.55)
    assert [n for r in rows.values() for n in r["histogram"] if n] == [1, 1, 1, 1]
    json.dumps(runs.as_json(record), allow_nan=False)


def test_a_label_that_fails_a_check_waits_for_a_person(dataset: Any) -> None:
    run = make_run(dataset, State.PREDICTED)
    (label_id,) = ids_where(run, confidence=0.95)
    sample_id = entries(run)[label_id]["sample_id"]
    triage.begin_triage(runs.load(run), dataset)
    label_states.mark_invalid(run, {ObjectId(sample_id): {ObjectId(label_id): ["no area"]}})
    record = triage.finish_triage(runs.load(run), dataset)
    assert (record["counts"]["approved"], record["counts"]["invalid"]) == (1, 1)
    assert entries(run)[label_id]["state"] == "undecided"
    assert labels_in(dataset, "auto_in_review")[label_id]["tags"] == ["invalid"]


def test_a_run_in_which_nothing_was_found_is_reviewed_too(tmp_path: Path) -> None:
    record = runs.load(make_run(make_dataset(tmp_path, samples=1)))
    assert (record["state"], record["counts"]["predicted"], record["class_table"]) == ("IN_REVIEW", 0, [])


@pytest.mark.parametrize("state", ["IN_REVIEW", "REVIEWED", "DISCARDED"])
def test_it_happens_once(dataset: Any, state: str) -> None:
    run = make_run(dataset)
    actions.reject(run, Selection(classes=("cat",)), "ann")
    if state != "IN_REVIEW":
        bring_to(run, dataset, state)
    record, labels, samples = runs.load(run), entries(run), documents(dataset)
    triage.begin_triage(record, dataset)
    assert triage.finish_triage(record, dataset) == record
    assert (runs.load(run), entries(run), documents(dataset)) == (record, labels, samples)


def test_one_that_died_half_way_is_repeated(dataset: Any) -> None:
    run = make_run(dataset, State.PREDICTED)
    record = runs.load(run)
    triage.begin_triage(record, dataset)
    # Killed between the approval and the opening of the review; the thresholds were others by mistake.
    label_states.approve_by_threshold(run, 0.0, {})
    triage.begin_triage(record, dataset)
    assert triage.finish_triage(record, dataset)["counts"]["approved"] == 2
    assert counts(run)["approved"] == 2
