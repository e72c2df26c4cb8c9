"""`run --dry-run`: what a run would do, told before it does anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.builders import add_samples, everything_stored, make_config, make_dataset, make_run
from valflow.errors import ConfigError
from valflow.planning import make_plan, plan_in_words
from valflow.states import State

MODEL = {"kind": "python", "path": "tests.models:Corner"}
ODD = {"kind": "python", "path": "tests.models:Odd", "kwargs": {"on": [16]}}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Five samples with cat 0.95, dog 0.8, cat 0.6, dog 0.3 each, and one without labels."""
    dataset = make_dataset(tmp_path_factory.mktemp("plans"), samples=6)
    dataset.tag_samples("tagged")
    dataset.save_view("two", dataset.limit(2))
    return dataset


class TestFigures:
    @pytest.mark.parametrize(
        ("changes", "samples", "trial", "estimate"),
        [
            ({}, 6, (6, 20, 0), (20, 10, 10)),
            ({"approval": {"threshold": 0.9}}, 6, (6, 20, 0), (20, 5, 15)),
            ({"approval": {"threshold": 0.9, "per_class": {"dog": 0.8}}}, 6, (6, 20, 0), (20, 10, 10)),
            ({"approval": {"mode": "review_all"}}, 6, (6, 20, 0), (20, 0, 20)),
            ({"min_confidence": 0.6}, 6, (6, 15, 0), (15, 10, 5)),
            ({"classes": ["cat"]}, 6, (6, 10, 0), (10, 5, 5)),
            ({"target": {"limit": 2}}, 2, (2, 8, 0), (8, 4, 4)),
            ({"target": {"view": "two"}}, 2, (2, 8, 0), (8, 4, 4)),
            ({"target": {"tags": ["tagged"]}}, 6, (6, 20, 0), (20, 10, 10)),
            # The first, third and fifth sample stand for all six.
            ({"batch_size": 1}, 6, (3, 12, 0), (24, 12, 12)),
            ({"model": MODEL}, 6, (6, 6, 0), (6, 6, 0)),
            ({"model": ODD}, 6, (6, 5, 1), (5, 5, 0)),
        ],
        ids=[
            "defaults",
            "higher threshold",
            "threshold of a class",
            "review all",
            "floor",
            "classes",
            "limit",
            "view",
            "tags",
            "a part of the samples",
            "model",
            "model that fails on one",
        ],
    )
    def test_are_those_of_the_run(
        self,
        dataset: Any,
        changes: dict[str, Any],
        samples: int,
        trial: tuple[int, int, int],
        estimate: tuple[int, int, int],
    ) -> None:
        plan = make_plan(make_config(dataset, **changes))
        assert (plan["dataset"], plan["label_field"], plan["open_run"]) == (dataset.name, "auto", None)
        assert plan["samples"] == samples
        assert tuple(plan["trial"][k] for k in ("samples", "labels", "failed")) == trial
        assert tuple(plan["estimate"][k] for k in ("labels", "approved", "to_review")) == estimate
        assert plan["estimate"]["seconds"] >= plan["trial"]["seconds"] > 0.0
        json.dumps(plan, allow_nan=False)

    @pytest.mark.parametrize(("shard_size", "shards"), [(None, 1), (4, 2), (1, 6)])
    def test_shards(self, dataset: Any, shard_size: int | None, shards: int) -> None:
        assert make_plan(make_config(dataset, shard_size=shard_size))["shards"] == shards

    def test_labels_without_confidence_are_to_review(self, tmp_path: Path) -> None:
        dataset = make_dataset(tmp_path, predictions=[[("cat", None), ("cat", 0.9), ("cat", float("nan"))]])
        estimate = make_plan(make_config(dataset))["estimate"]
        assert (estimate["approved"], estimate["to_review"]) == (1, 2)

    def test_in_words(self, dataset: Any) -> None:
        text = plan_in_words(make_plan(make_config(dataset, model=ODD)))
        assert f"6 samples of {dataset.name} would be labelled into auto; nothing was written" in text
        assert "a trial of 6 samples found 5 labels" in text
        assert "1 samples failed" in text
        assert "5 labels, of which about 5 approved by threshold and 0 to review" in text


class TestBesideOtherRuns:
    def test_only_what_is_new_counts(self, tmp_path: Path) -> None:
        dataset = make_dataset(tmp_path, samples=2, empty=0)
        make_run(dataset, State.FINALIZED)
        plan = make_plan(make_config(dataset))
        assert (plan["samples"], plan["shards"], plan["trial"], plan["estimate"]) == (0, 0, None, None)
        assert plan_in_words(plan).endswith("nothing to do")
        add_samples(dataset, tmp_path, [[("cat", 0.9)]])
        assert make_plan(make_config(dataset))["estimate"]["labels"] == 1

    @pytest.mark.parametrize(
        ("state", "says"),
        [
            ("IN_REVIEW", "is open; until it is decided, a start is skipped"),
            ("FAILED", "is open; a start goes on with it"),
        ],
        ids=["in review", "failed"],
    )
    def test_an_open_run_is_named(self, tmp_path: Path, state: str, says: str) -> None:
        dataset = make_dataset(tmp_path, samples=1, empty=0)
        run = make_run(dataset, state)
        plan = make_plan(make_config(dataset))
        assert plan["open_run"] == run
        assert f"run {run} {says}" in plan_in_words(plan)


class TestNothingIsWritten:
    @pytest.mark.parametrize("model", [{"kind": "field", "field": "pred"}, MODEL, ODD], ids=str)
    def test_neither_into_the_database_nor_into_folders(self, dataset: Any, model: dict[str, Any]) -> None:
        folder = Path(dataset.first().filepath).parent
        config = make_config(dataset, model=model, export=[{"format": "coco", "dir": str(folder / "out")}])
        before, files = everything_stored(), sorted(folder.rglob("*"))
        make_plan(config)
        assert everything_stored() == before
        assert sorted(folder.rglob("*")) == files

    def test_a_configuration_that_cannot_work_is_told_as_at_a_start(self, dataset: Any) -> None:
        before = everything_stored()
        with pytest.raises(ConfigError) as refused:
            make_plan(make_config(dataset, target={"view": "best"}), ["a suite is missing"])
        assert len(refused.value.problems) == 2
        assert everything_stored() == before
