"""The flow in this process: what each start does, and that nothing is done twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.label_dataset import label_dataset
from tests.kinds import BY_KIND, kind_config, make_kind
from tests.pets import add_pets, make_pets, set_class
from valflow import actions, audits, decisions, ledger, rolling_back, runs
from valflow.config import LabelingConfig, config_from_mapping
from valflow.errors import ConfigError, InferenceFailed
from valflow.resuming import ask_again
from valflow.selections import Selection

Configure = Callable[..., LabelingConfig]


@pytest.fixture
def pets(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    import fiftyone as fo

    dataset = make_pets(f"flow-{request.node.name}"[:90], tmp_path, 6)
    yield dataset
    fo.delete_dataset(dataset.name)


@pytest.fixture
def configure(pets: Any, tmp_path: Path) -> Configure:
    def build(**changes: Any) -> LabelingConfig:
        values = {
            "dataset": pets.name,
            "label_field": "pets",
            "model": {"kind": "field", "field": "predictions"},
            "output_dir": str(tmp_path / "runs"),
        }
        return config_from_mapping({**values, **changes})

    return build


def start(config: LabelingConfig) -> Any:
    """Run the flow as a person would; the outcome is in the final state's data."""
    state: Any = label_dataset(config, return_state=True)
    return state.result(raise_on_failure=True)


def judge_all_correct(run: str) -> None:
    audit = audits.draw(run, "ann", seed=1)
    audits.judge(run, {item["number"]: "correct" for item in audit["items"]}, "ann")


def events(run: str) -> list[str]:
    return [entry["event"] for entry in runs.load(run)["history"]]


def test_two_starts_around_a_review_finish_a_run(configure: Configure, pets: Any) -> None:
    outcome = start(configure())
    run = outcome["run"]
    assert outcome["outcome"] == "awaiting_review"
    judge_all_correct(run)
    decisions.submit(run, decisions.Decision("finalize", "ann"))
    outcome = start(configure(run_key=run))
    assert outcome["outcome"] == "finalized"
    assert outcome["counts"]["finalized"] == 12
    pets.reload()
    assert pets.count("pets.detections") == 12
    assert events(run) == ["create", "infer", "triage", "submit", "validate", "begin_finalize", "finalize"]
    assert Path(runs.load(run)["artifacts"]["report"]).is_file()


def test_a_run_that_was_reopened_goes_on_with_its_next_decision(configure: Configure, pets: Any) -> None:
    run = start(configure(review={"checklist": []}))["run"]
    decisions.submit(run, decisions.Decision("finalize", "ann"))
    assert start(configure(run_key=run))["counts"]["finalized"] == 12
    record = rolling_back.roll_back(run, "ann", reopen=True)
    assert "valflow finalize" in ask_again(record)
    assert start(configure(run_key=run))["outcome"] == "awaiting_review"
    actions.approve(run, Selection(min_confidence=0.5), "ann")
    decisions.submit(run, decisions.Decision("finalize", "ann"))
    assert start(configure(run_key=run))["counts"]["finalized"] == 18
    pets.reload()
    assert pets.count("pets.detections") == 18
    assert runs.load(run)["completed_at"]


def test_a_start_that_meets_a_review_is_skipped_and_recorded(configure: Configure) -> None:
    run = start(configure())["run"]
    state: Any = label_dataset(configure(), return_state=True)
    assert state.name == "Skipped"
    assert state.is_completed()
    assert events(run)[-1] == "skip"


def test_nothing_new_ends_well_and_new_samples_alone_are_labelled(
    configure: Configure, pets: Any, tmp_path: Path
) -> None:
    policy = configure(review={"required": False})
    assert start(policy)["counts"]["samples"] == 6
    state: Any = label_dataset(policy, return_state=True)
    assert state.name == "NothingNew"
    add_pets(pets, tmp_path, 2)
    assert start(policy)["counts"]["samples"] == 2
    pets.reload()
    assert pets.count("pets.detections") == 16


def test_a_discarded_run_leaves_the_dataset_as_it_was(configure: Configure, pets: Any) -> None:
    run = start(configure())["run"]
    decisions.submit(run, decisions.Decision("discard", "ann", note="wrong model"))
    pets.reload()
    assert set(pets.get_field_schema()) == {
        "id",
        "filepath",
        "tags",
        "metadata",
        "created_at",
        "last_modified_at",
        "predictions",
    }
    assert ledger.count_labels(run, {"state": "approved"}) == 12
    assert start(configure())["outcome"] == "awaiting_review"


def test_a_refused_validation_reopens_the_review_with_the_failing_label(
    configure: Configure, pets: Any
) -> None:
    run = start(configure())["run"]
    judge_all_correct(run)
    label_id = str(next(iter(ledger.approved_ids(run)))[0])
    set_class(pets, "pets_in_review", label_id, "unicorn")
    decisions.submit(run, decisions.Decision("finalize", "ann"))
    assert start(configure(run_key=run))["outcome"] == "awaiting_review"
    record = runs.load(run)
    assert (record["state"], record["round"]) == ("IN_REVIEW", 2)
    pets.reload()
    assert pets.count_label_tags("pets_in_review")["invalid"] == 1
    assert ledger.count_labels(run, {"state": "approved"}) == 11
    set_class(pets, "pets_in_review", label_id, "dog")
    actions.approve(run, Selection(label_ids=(label_id,)), "ann")
    decisions.submit(run, decisions.Decision("finalize", "ann", override="one label mended by hand"))
    assert start(configure(run_key=run))["counts"]["finalized"] == 12
    pets.reload()
    assert pets.count_label_tags("pets") == {}


def test_a_failed_stage_is_retried_from_where_it_failed(configure: Configure, pets: Any) -> None:
    for sample in pets[:3]:
        Path(sample.filepath).unlink()
    config = configure(model={"kind": "python", "path": "tests.models:Corner"})
    with pytest.raises(InferenceFailed, match="3 of 6 samples"):
        start(config)
    run = runs.load("latest")["run"]
    assert runs.load(run)["state"] == "FAILED"
    for sample in pets[3:].limit(1):
        for missing in pets[:3]:
            Path(missing.filepath).write_bytes(Path(sample.filepath).read_bytes())
    outcome = start(config)
    assert (outcome["run"], outcome["outcome"]) == (run, "awaiting_review")
    assert "retry" in events(run)


def test_bad_input_fails_before_a_run_exists(configure: Configure) -> None:
    with pytest.raises(ConfigError, match="no label field 'nothing'"):
        start(configure(model={"kind": "field", "field": "nothing"}))
    assert runs.list_runs(configure().dataset) == []


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("instances", "coco"),
        ("classifications", "fiftyone_classifications"),
        ("classification", "classification_tree"),
    ],
)
def test_every_label_type_comes_to_its_end(name: str, form: str, tmp_path: Path) -> None:
    kind = BY_KIND[name]
    dataset = make_kind(kind, tmp_path)
    export = [{"format": form, "dir": str(tmp_path / "exports")}]
    config = kind_config(kind, dataset, review={"required": False}, export=export)
    outcome = start(config)
    assert outcome["outcome"] == "finalized"
    assert outcome["counts"]["finalized"] == kind.labels // 2
    record = runs.load(outcome["run"])
    assert record["metrics"]["run"]["approved"]["precision"] == 1.0
    assert [e["verified"] for e in record["exports"]] == [True]
    assert Path(record["artifacts"]["report"]).is_file()
