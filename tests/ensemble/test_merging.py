"""Several runs become the predictions of one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.builders import bring_to, edit_label, entries, ids_where, labels_in, make_config, make_run
from valflow import preflight, reviewing, runs
from valflow.config import config_from_mapping
from valflow.ensemble.merging import merge_config
from valflow.errors import ConfigError
from valflow.selections import Selection
from valflow.states import State


def labelled(dataset: Any, field: str, state: State = State.IN_REVIEW, **changes: Any) -> str:
    return make_run(
        dataset, state, label_field=f"auto_{field}", model={"kind": "field", "field": field}, **changes
    )


@pytest.fixture
def both(dataset: Any) -> list[str]:
    return [labelled(dataset, "a"), labelled(dataset, "b")]


def merged(dataset: Any, keys: list[str], state: State = State.IN_REVIEW, **settings: Any) -> str:
    return make_run(dataset, state, label_field="merged", model={"kind": "merge", "runs": keys, **settings})


def found(run: str) -> list[tuple[str, float]]:
    """Class and confidence of every label of a run, in the order of the samples."""
    return [(e["label"], round(e["confidence"], 3)) for e in entries(run).values()]


STRATEGIES = [
    pytest.param({}, [("cat", 0.7), ("dog", 0.7), ("dog", 0.6)], id="agreement of all"),
    pytest.param(
        {"strategy": "union"},
        [("cat", 0.7), ("dog", 0.7), ("cat", 0.7), ("dog", 0.9), ("cat", 0.9), ("cat", 0.6), ("dog", 0.6)],
        id="union",
    ),
    pytest.param(
        {"strategy": "best", "ground_truth": "truth"},
        [("cat", 0.9), ("dog", 0.8), ("cat", 0.7), ("cat", 0.9), ("dog", 0.4)],
        id="best per class",
    ),
]


@pytest.mark.parametrize(("settings", "expected"), STRATEGIES)
def test_strategies(dataset: Any, both: list[str], settings: dict[str, Any], expected: list[Any]) -> None:
    assert sorted(found(merged(dataset, both, **settings))) == sorted(expected)


def test_a_majority_of_three(dataset: Any, both: list[str]) -> None:
    dataset.clone_sample_field("a", "c")
    three = [*both, labelled(dataset, "c")]
    assert len(found(merged(dataset, three, least_votes=2))) == 5


def test_where_a_label_comes_from(dataset: Any, both: list[str]) -> None:
    run = merged(dataset, both, State.FINALIZED, strategy="union")
    record = runs.load(run)
    assert record["model"]["name"] == "union: a + b"
    assert record["counts"]["finalized"] == record["counts"]["approved"] == 5  # at or above 0.7
    known = {f"{key}/{label}" for key in both for label in entries(key)}
    final = labels_in(dataset, "merged")
    assert len(final) == 5
    assert {source for label in final.values() for source in label["merged_from"]} <= known
    assert sorted(label["votes"] for label in final.values()) == [1, 1, 1, 2, 2]
    # The runs that were merged are as they were.
    assert [runs.load(key)["state"] for key in both] == ["IN_REVIEW", "IN_REVIEW"]


def test_rejected_labels_do_not_come_back(dataset: Any, both: list[str]) -> None:
    reviewing.reject(both[0], Selection(classes=("cat",)), "ann")
    assert sorted(found(merged(dataset, both))) == [("dog", 0.6), ("dog", 0.7)]


def test_approved_labels_come_as_people_left_them(dataset: Any) -> None:
    a = labelled(dataset, "a")
    [dog] = ids_where(a, label="dog", state="undecided")
    edit_label(dataset, "auto_a_in_review", dog, label="bird")
    reviewing.approve(a, Selection(label_ids=(dog,)), "ann")
    bring_to(a, dataset, State.FINALIZED)
    b = labelled(dataset, "b", State.FINALIZED)
    run = merged(dataset, [a, b], strategy="union", labels="approved")
    assert "bird" in {label for label, _ in found(run)}


def test_only_what_a_run_has_seen_is_a_target(dataset: Any) -> None:
    ids = dataset.values("id")
    keys = [labelled(dataset, f, target={"ids": ids[n : n + 2]}) for n, f in enumerate(("a", "b"))]
    run = merged(dataset, keys, strategy="union")
    assert runs.load(run)["target"]["samples"] == 3


BAD_SETTINGS = [
    pytest.param({"runs": ["x"]}, "at least 2 items", id="one run"),
    pytest.param({"runs": ["x", "y"], "least_votes": 3}, "expected 2 to 2", id="more votes than runs"),
    pytest.param({"runs": ["x", "y"], "least_votes": 1}, "strategy union keeps", id="one vote"),
    pytest.param(
        {"runs": ["x", "y"], "strategy": "union", "least_votes": 2},
        "belongs to strategy agreement",
        id="votes of a union",
    ),
    pytest.param(
        {"runs": ["x", "y"], "ground_truth": "t"}, "belongs to strategy best", id="truth of agreement"
    ),
    pytest.param({"runs": ["x", "y"], "iou": 0.0}, "greater than 0", id="no overlap"),
]


@pytest.mark.parametrize(("settings", "words"), BAD_SETTINGS)
def test_settings_that_cannot_work(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config_from_mapping({"dataset": "d", "label_field": "f", "model": {"kind": "merge", **settings}})


def refused(dataset: Any, **model: Any) -> str:
    config = make_config(dataset, label_field="merged", model={"kind": "merge", **model})
    with pytest.raises(ConfigError) as refusal:
        preflight.check(config)
    return str(refusal.value)


def test_what_is_told_before_anything_is_written(dataset: Any, both: list[str], tmp_path: Any) -> None:
    from tests.builders import make_dataset

    assert "no labeling run is named 'nobody'" in refused(dataset, runs=[both[0], "nobody"])
    assert "found none on samples" in refused(dataset, runs=both, strategy="best")
    (tmp_path / "other").mkdir()
    other = make_dataset(tmp_path / "other")
    assert f"expected runs of {other.name!r}" in refused(other, runs=both)


def test_the_configuration_of_a_merge(dataset: Any) -> None:
    a = labelled(dataset, "a", evaluation={"ground_truth": "truth"}, approval={"threshold": 0.8})
    b = labelled(dataset, "b")
    config = merge_config(
        [a, b],
        "merged",
        strategy="union",
        which="predicted",
        iou=0.6,
        least_votes=None,
        ground_truth=None,
        overrides=["approval.threshold=0.65"],
    )
    assert config.model.model_dump() == {
        "kind": "merge",
        "runs": [a, b],
        "strategy": "union",
        "labels": "predicted",
        "iou": 0.6,
        "least_votes": None,
        "ground_truth": None,
    }
    assert (config.label_field, config.run_key, config.approval.mode) == ("merged", None, "fixed")
    assert config.evaluation is not None
    assert config.evaluation.eval_key == "merged_eval"
    assert config.approval.model_dump()["threshold"] == 0.65
    with pytest.raises(ConfigError, match="is the field of run"):
        merge_config(
            [a, b],
            "auto_a",
            strategy="union",
            which="predicted",
            iou=0.5,
            least_votes=None,
            ground_truth=None,
        )
