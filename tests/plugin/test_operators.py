"""The operators as the operator browser and programs call them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders import bring_to, counts, ids_where, judge_all, make_dataset
from tests.plugin.screens import call, form
from valflow import actions, new_runs, runs
from valflow.config import config_from_mapping
from valflow.errors import ConfigError

ON_RUNS = ("approve_labels", "reject_labels", "undo_action", "tag_labels", "finalize_labels")
NEW = {"target": "all", "model": "pred", "label_field": "fresh", "name": "Fresh"}


def test_all_are_registered() -> None:
    import fiftyone.operators as foo

    for name in (*ON_RUNS, "new_run", "roll_back_run"):
        assert foo.operator_exists(f"@valflow/auto-labeling/{name}")


def test_every_file_of_the_plugin_can_be_loaded() -> None:
    from fiftyone.plugins.context import build_plugin_contexts

    [ours] = [c for c in build_plugin_contexts() if c.name == "@valflow/auto-labeling"]
    assert ours.errors == []
    assert len(ours.instances) == 9


@pytest.mark.parametrize("name", ON_RUNS)
def test_without_a_run_in_review_they_say_why(name: str, dataset: Any, tmp_path: Path) -> None:
    shown = form(name, make_dataset(tmp_path))
    assert "No run is in review" in str(shown)


@pytest.mark.parametrize("name", ON_RUNS)
def test_the_form_names_the_run(name: str, dataset: Any, run: str) -> None:
    assert run in str(form(name, dataset))


@pytest.mark.parametrize("name", ON_RUNS)
def test_nobody_acts_without_a_name(name: str, dataset: Any, run: str) -> None:
    before = counts(run)
    answer = call(name, dataset, run=run, reviewer="", tag="ambiguous", digest="0" * 64)
    assert answer["refused"]
    assert counts(run) == before


@pytest.mark.parametrize("name", ON_RUNS)
def test_a_run_that_is_not_in_review_is_left_alone(name: str, dataset: Any, run: str) -> None:
    bring_to(run, dataset, "REVIEWED")
    answer = call(name, dataset, run=run, reviewer="ann", tag="ambiguous", digest="0" * 64)
    assert "REVIEWED" in answer["refused"]


@pytest.mark.parametrize(
    ("name", "params", "expected"),
    [
        pytest.param("approve_labels", {}, (12, 0, 0), id="approve-all"),
        pytest.param("approve_labels", {"class": "cat"}, (9, 0, 3), id="approve-a-class"),
        pytest.param(
            "approve_labels", {"min_confidence": 0.5, "max_confidence": 1.0}, (9, 0, 3), id="approve-a-range"
        ),
        pytest.param("reject_labels", {"class": "dog"}, (6, 3, 3), id="reject-a-class"),
        pytest.param("tag_labels", {"tag": "ambiguous", "class": "dog"}, (6, 0, 6), id="tag-decides-nothing"),
    ],
)
def test_they_do_what_the_form_says(
    dataset: Any, run: str, name: str, params: dict[str, Any], expected: tuple[int, ...]
) -> None:
    assert call(name, dataset, run=run, reviewer="ann", **params)["done"]
    assert tuple(counts(run).values()) == expected


def test_selected_patches_come_first(dataset: Any, run: str) -> None:
    one = ids_where(run, state="undecided")[0]
    call("approve_labels", dataset, (one,), run=run, reviewer="ann")
    assert counts(run)["approved"] == 7


def test_an_unknown_class_is_refused(dataset: Any, run: str) -> None:
    assert (
        "no labels of class cow"
        in call("approve_labels", dataset, run=run, reviewer="ann", **{"class": "cow"})["refused"]
    )


def test_tags_count_for_every_state(dataset: Any, run: str) -> None:
    call("tag_labels", dataset, run=run, reviewer="ann", tag="ambiguous", **{"class": "dog"})
    assert actions.history_of(run)[-1]["event"] == "tag"
    assert len(dataset.match_tags("ambiguous")) == 3


def test_undo(dataset: Any, run: str) -> None:
    call("approve_labels", dataset, run=run, reviewer="ann")
    assert call("undo_action", dataset, run=run, reviewer="bob")["refused"]
    call("undo_action", dataset, run=run, reviewer="ann")
    assert counts(run)["approved"] == 6


def test_finalize_from_the_operator_browser(dataset: Any, run: str) -> None:
    judge_all(run)
    call("tag_labels", dataset, run=run, reviewer="ann", tag="ambiguous")
    shown = form("finalize_labels", dataset, run=run, reviewer="ann")
    digest = shown["type"]["properties"]["digest"]["default"]
    assert len(digest) == 64
    assert "Labels to be added" in str(shown)
    assert "| Problem tags on them | 6 ambiguous |" in str(shown)
    call("finalize_labels", dataset, run=run, reviewer="ann", digest=digest)
    assert runs.load(run)["state"] == "REVIEWED"


def test_the_dialog_asks_for_a_reason_where_evidence_is_missing(dataset: Any, run: str) -> None:
    assert "Why to finalize all the same" in str(form("finalize_labels", dataset, run=run, reviewer="ann"))


class TestNewRun:
    @pytest.fixture(autouse=True)
    def _no_prefect(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
        monkeypatch.setenv("VALFLOW_HOME", str(tmp_path))

    def test_the_form_asks_for_the_settings(self, dataset: Any) -> None:
        asked = form("new_run", dataset)["type"]["properties"]
        assert set(asked) == {"target", "model", "label_field", "classes", "min_confidence", "name"}

    @pytest.mark.parametrize(
        ("filled_in", "expected"),
        [
            pytest.param({**NEW, "label_field": "my labels"}, "Python identifier", id="bad-field"),
            pytest.param({"label_field": "my labels"}, None, id="no-model-yet"),
            pytest.param({**NEW, "target": "selection"}, None, id="good"),
        ],
    )
    def test_the_form_says_what_is_wrong(
        self, dataset: Any, filled_in: dict[str, Any], expected: str | None
    ) -> None:
        asked = form("new_run", dataset, **filled_in)["type"]["properties"]
        assert asked["label_field"]["default"] == filled_in["label_field"]
        assert ("problem" in asked) == (expected is not None)
        assert expected is None or expected in str(asked["problem"])

    def test_without_prefect_the_settings_are_kept(self, dataset: Any, tmp_path: Path) -> None:
        answer = call("new_run", dataset, **NEW)
        assert answer["flow_run"] is None
        [path] = tmp_path.glob("*-fresh.yaml")
        assert f"valflow run {path.name}" in answer["said"]
        config = config_from_mapping(yaml.safe_load(path.read_text()))
        assert (config.target.only, config.label_field, config.run_name) == ("all", "fresh", "Fresh")

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            pytest.param({"label_field": "not a field"}, "Python identifier", id="bad-field"),
            pytest.param({"model": "nothing_like_it"}, "nothing_like_it", id="no-such-field"),
            pytest.param({"target": "selection"}, "holds no sample", id="nothing-selected"),
            pytest.param({"label_field": "ground_truth"}, "ground_truth", id="field-of-others"),
        ],
    )
    def test_what_cannot_work_is_told(
        self, dataset: Any, tmp_path: Path, changes: dict[str, Any], expected: str
    ) -> None:
        assert expected in call("new_run", dataset, **{**NEW, **changes})["refused"]
        assert not list(tmp_path.glob("*.yaml"))

    @pytest.mark.parametrize(
        ("target", "only", "ids"),
        [
            ("new", "new", []),
            ("all", "all", []),
            ("view", "all", ["a" * 24]),
            ("selection", "all", ["b" * 24]),
        ],
    )
    def test_targets(self, target: str, only: str, ids: list[str]) -> None:
        form = {**NEW, "target": target, "classes": " cat , dog "}
        config = new_runs.config_from_form("pets", form, ["a" * 24], ["b" * 24])
        assert (config.target.only, config.target.ids, config.classes) == (only, ids, ["cat", "dog"])

    def test_too_many_ids_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="save the view"):
            new_runs.config_from_form("pets", {**NEW, "target": "view"}, ["a" * 24] * 10_001)

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [({"model": ""}, "model"), ({"min_confidence": 2}, "less than or equal to 1")],
        ids=["no-model", "out-of-range"],
    )
    def test_what_the_form_itself_would_refuse(self, changes: dict[str, Any], expected: str) -> None:
        with pytest.raises(ConfigError, match=expected):
            new_runs.config_from_form("pets", {**NEW, **changes})

    @pytest.mark.parametrize(
        ("text", "model"),
        [
            ("tests.models:Corner", {"kind": "python", "path": "tests.models:Corner"}),
            ("zoo:yolo11n-coco-torch", {"kind": "zoo", "name": "yolo11n-coco-torch"}),
            ("huggingface:hustvl/yolos-tiny", {"kind": "huggingface", "id": "hustvl/yolos-tiny"}),
            ("ultralytics:best.pt", {"kind": "ultralytics", "weights": "best.pt"}),
            ("predictions", {"kind": "field", "field": "predictions"}),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_models(self, text: str, model: dict[str, str]) -> None:
        config = new_runs.config_from_form("pets", {**NEW, "model": text})
        assert config.model.model_dump(include=set(model)) == model
