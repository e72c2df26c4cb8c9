"""Plain functions as models, and what is said where a package is missing. Kinds on torch: tests/model_kinds."""

from __future__ import annotations

import importlib.util
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import documents, labels_in, make_config, make_dataset, make_run
from valflow import opening, runs
from valflow.config import PythonModelConfig, config_from_mapping, load_config
from valflow.errors import ConfigError
from valflow.models import open_model
from valflow.models import python as python_models
from valflow.models.documents import document_of, documents_in
from valflow.models.plain import labels_of
from valflow.models.source import class_of

FUNCTIONS = "tests.model_kinds.functions"
BOX = [0.1, 0.2, 0.3, 0.4]


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    return make_dataset(tmp_path, samples=6, empty=0)


def function(name: str, **kwargs: Any) -> dict[str, Any]:
    return {"kind": "python", "path": f"{FUNCTIONS}:{name}", "kwargs": kwargs}


class TestFunctions:
    def test_of_images_are_models(self, dataset: Any) -> None:
        run = make_run(dataset, "IN_REVIEW", model=function("find_ink"), min_confidence=0.0)
        staged = labels_in(dataset, "auto_in_review").values()
        assert len(staged) == 6  # all pictures are brighter than 100
        assert {d["label"] for d in staged} == {"ink"}
        assert {d["dots"] for d in staged} == {7}
        assert runs.load(run)["model"]["name"] == "find_ink"

    def test_take_their_arguments(self, dataset: Any) -> None:
        run = make_run(dataset, "PREDICTED", model=function("find_ink", level=254), min_confidence=0.0)
        assert runs.load(run)["counts"]["empty_samples"] == 6
        assert all("auto_in_review" not in d for d in documents(dataset).values())

    def test_may_find_nothing_whatever_they_look_for(self, dataset: Any) -> None:
        model = function("name_all", least=48)  # their red is 0, 16, 32, 48, 64 and 80
        run = make_run(dataset, "IN_REVIEW", model=model, label_type="classifications", min_confidence=0.0)
        counts = runs.load(run)["counts"]
        assert (counts["failed_samples"], counts["empty_samples"]) == (0, 3)

    @pytest.mark.parametrize(
        ("model", "reason"),
        [
            pytest.param(
                function("odd_box"), "bounding_box: expected [x, y, width, height], found", id="box"
            ),
            pytest.param(
                function("one_too_many"), "expected one prediction for one image, found 2", id="number"
            ),
        ],
    )
    def test_that_give_something_odd_fail_the_sample(
        self, dataset: Any, model: dict[str, Any], reason: str
    ) -> None:
        run = make_run(dataset, "PREDICTED", model=model, max_failed_share=1.0)
        failed = runs.load(run)["failed"]
        assert len(failed) == 6
        assert reason in failed[0]["reason"]

    @pytest.mark.parametrize(
        ("model", "expected"),
        [
            pytest.param(function("find_ink", size=3), "model.kwargs: .* does not take them", id="arguments"),
            pytest.param(function("outline"), "gives Polylines: lines have no box", id="label-type"),
        ],
    )
    def test_that_cannot_work_are_refused(self, dataset: Any, model: dict[str, Any], expected: str) -> None:
        with pytest.raises(ConfigError, match=expected):
            opening.open_run(make_config(dataset, model=model))
        assert not dataset.has_field("auto_in_review")


class TestPlainPredictions:
    @pytest.mark.parametrize(
        ("prediction", "expected"),
        [
            pytest.param(None, None, id="none"),
            pytest.param([], None, id="nothing-found"),
            pytest.param([{"label": "a", "bounding_box": BOX, "confidence": 0.5}], "Detections", id="boxes"),
            pytest.param({"label": "a", "confidence": 0.5}, "Classification", id="class"),
            pytest.param([{"label": "a"}, {"label": "b"}], "Classifications", id="classes"),
        ],
    )
    def test_are_told_apart_by_their_shape(self, prediction: Any, expected: str | None) -> None:
        assert class_of(labels_of(prediction)) == expected

    def test_may_hold_numbers_of_numpy(self) -> None:
        one = {"label": "a", "bounding_box": np.array(BOX, np.float32), "confidence": np.float32(0.5)}
        [detection] = labels_of([one]).labels
        assert (detection["confidence"], type(detection["confidence"])) == (0.5, float)
        assert [type(side) for side in detection["bounding_box"]] == [float] * 4

    @pytest.mark.parametrize(
        "more",
        [
            pytest.param({}, id="nothing-more"),
            pytest.param({"confidence": 1, "dots": 7, "lost": None, "shown": True}, id="plain"),
            pytest.param({"confidence": np.float32(0.25), "dots": np.int64(7)}, id="numpy"),
            pytest.param({"confidence": float("nan"), "label": None}, id="unknown"),
            pytest.param({"mask": np.eye(4, dtype=bool)}, id="mask"),
            pytest.param({"tags": ["a"], "index": 3, "mask_path": "m.png"}, id="fields-of-fiftyone"),
            pytest.param({"scores": [0.1, 0.9], "of": {"a": 1}, "vector": np.arange(3)}, id="nested"),
            pytest.param({"id": "6b0a862b7c3c7bfacc349a56"}, id="id"),
        ],
    )
    @pytest.mark.parametrize("boxed", [True, False], ids=["box", "class"])
    def test_are_stored_as_fiftyone_would_store_them(self, more: dict[str, Any], boxed: bool) -> None:
        import fiftyone as fo

        if not boxed:  # a class of an image has no such fields, and what has none is just an attribute
            more = {k: v for k, v in more.items() if k not in ("mask", "mask_path")}
        plain = {"label": "a", "confidence": 0.5, **({"bounding_box": BOX} if boxed else {}), **more}
        numbers = {k: v.item() if isinstance(v, np.generic) else v for k, v in plain.items()}
        label = (fo.Detection if boxed else fo.Classification)(**numbers)
        expected = {k: v for k, v in label.to_dict().items() if v is not None and k != "_id"}
        [stored] = labels_of([plain]).labels
        assert repr(sorted(stored.items())) == repr(sorted(expected.items()))

    @pytest.mark.parametrize(
        ("prediction", "error", "expected"),
        [
            pytest.param("cat", TypeError, "expected a list of .* found str", id="text"),
            pytest.param(3, TypeError, "expected a list of .* found int", id="number"),
            pytest.param([3], TypeError, "expected a dict with label, bounding_box, found int", id="list"),
            pytest.param([{"label": 3, "bounding_box": BOX}], Exception, "only accepts string", id="label"),
            pytest.param({"label": "a", "confidence": "high"}, Exception, "float", id="confidence"),
            pytest.param([{"bounding_box": BOX}], ValueError, r"\['label'\] not in", id="no-class"),
            pytest.param(
                [{"label": "a", "bounding_box": BOX}, {"label": "a"}],
                ValueError,
                "bounding_box",
                id="one-without",
            ),
            pytest.param(
                [{"label": "a", "bounding_box": BOX[:3]}], ValueError, "expected .x, y", id="three-sides"
            ),
        ],
    )
    def test_of_another_shape_say_what_was_expected(
        self, prediction: Any, error: type[Exception], expected: str
    ) -> None:
        with pytest.raises(error, match=expected):
            labels_of(prediction)


def _fiftyone(name: str, **values: Any) -> Any:
    import fiftyone as fo

    return getattr(fo, name)(**values)


class TestDocuments:
    @pytest.mark.parametrize(
        ("name", "values"),
        [
            pytest.param("Detection", {"label": "a", "bounding_box": BOX, "confidence": 0.5}, id="box"),
            pytest.param("Detection", {}, id="empty"),
            pytest.param("Classification", {"label": "a", "confidence": 1}, id="class"),
            pytest.param(
                "Detection",
                {"label": "a", "bounding_box": np.array(BOX, np.float32), "confidence": np.float32(0.5)},
                id="numpy",
            ),
            pytest.param("Detection", {"label": "a", "tags": ["x"], "index": 3, "dots": 7}, id="attributes"),
            pytest.param("Detection", {"label": "a", "mask": np.eye(3, dtype=bool)}, id="mask"),
            pytest.param("Detection", {"label": "a", "of": {"b": [1, 2]}, "many": [[1], [2]]}, id="nested"),
            pytest.param("Classification", {"label": "a", "logits": [0.1, 0.2]}, id="logits"),
        ],
    )
    def test_are_those_that_fiftyone_makes(self, name: str, values: dict[str, Any]) -> None:
        label = _fiftyone(name, **values)
        expected = {k: v for k, v in label.to_dict().items() if v is not None and k != "_id"}
        assert repr(sorted(document_of(label).items())) == repr(sorted(expected.items()))

    def test_of_plain_labels_do_not_go_the_long_way(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import fiftyone as fo

        one = fo.Detection(label="a", bounding_box=BOX, confidence=0.5, tags=["x"])
        expected = [{k: v for k, v in one.to_dict().items() if v is not None and k != "_id"}]
        monkeypatch.setattr(fo.Detection, "to_dict", lambda _: pytest.fail("a walk over all fields"))
        assert documents_in(fo.Detections(detections=[one]), "detections") == expected

    def test_share_nothing_with_the_label(self) -> None:
        label = _fiftyone("Detection", label="a", bounding_box=BOX, tags=["x"])
        document_of(label)["tags"].append("y")
        assert label.tags == ["x"]

    def test_know_attributes_that_came_later(self) -> None:
        label = _fiftyone("Detection", label="a")
        label["dots"], label.instance = 7, _fiftyone("Instance")
        expected = {k: v for k, v in label.to_dict().items() if v is not None and k != "_id"}
        assert document_of(label) == expected


def test_two_shards_at_a_time_share_one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def open_slowly(config: Any) -> Any:
        time.sleep(0.2)
        made.append(object())
        return made[-1]

    monkeypatch.setattr(python_models, "open_source", open_slowly)
    config = PythonModelConfig(path="tests.models:Corner", kwargs={"of": "two shards"})
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(open_model, [config, config])
    assert one is other
    assert len(made) == 1


class TestMissingPackages:
    @pytest.mark.parametrize(
        ("model", "gone", "extra"),
        [
            pytest.param(
                {"kind": "huggingface", "id": "a/b"}, "transformers", "huggingface", id="huggingface"
            ),
            pytest.param(
                {"kind": "ultralytics", "weights": "a.pt"}, "ultralytics", "ultralytics", id="ultralytics"
            ),
            pytest.param(
                {"kind": "zoo", "name": "faster-rcnn-resnet50-fpn-coco-torch"}, "torch", "torch", id="zoo"
            ),
        ],
    )
    def test_are_named_with_the_command_that_installs_them(
        self, dataset: Any, model: dict[str, Any], gone: str, extra: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = importlib.util.find_spec
        # Only this one is missing, whatever this machine has.
        there = {"torch", "torchvision", "transformers", "ultralytics"} - {gone}
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *a: None if name == gone else name in there or real(name, *a),
        )
        with pytest.raises(ConfigError, match=rf"needs {gone}, .*pip install 'valflow\[{extra}\]'"):
            opening.open_run(make_config(dataset, model=model))
        assert not dataset.has_field("auto_in_review")


def test_weights_beside_the_configuration_are_found_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "yolo.pt").touch()
    path = tmp_path / "c.yaml"
    text = "dataset: d\nlabel_field: a\nmodel: {kind: ultralytics, weights: %s}\n"
    path.write_text(text % "yolo.pt")
    assert load_config(path).model.weights == str(tmp_path / "yolo.pt")
    path.write_text(text % "yolov8n.pt")
    assert load_config(path).model.weights == "yolov8n.pt"


def test_a_model_is_loaded_once_per_process() -> None:
    settings = {"dataset": "d", "label_field": "a", "model": function("find_ink")}
    assert open_model(config_from_mapping(settings).model) is open_model(config_from_mapping(settings).model)
