"""Every kind of model with every kind of label, each run for real with weights made on the spot.

A cell of the table either runs to its review or is refused with its reason; a new label type adds cells.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bson import ObjectId

from tests import side_work
from tests.builders import labels_in, make_run
from valflow import beside, calibration, opening, runs
from valflow.config import RunnerConfig, config_from_mapping
from valflow.errors import ConfigError
from valflow.models import device_batches, open_model

pytestmark = pytest.mark.torch

LOW = {"confidence_thresh": 0.0001}
# Kind and what the model finds -> settings of the model. {name} is the place of weights.
MODELS: dict[tuple[str, str], dict[str, Any]] = {
    ("zoo", "Detections"): {"kind": "zoo", "name": "digit-grid-torch"},
    ("huggingface", "Detections"): {"kind": "huggingface", "id": "{detector}"},
    ("huggingface", "Classification"): {"kind": "huggingface", "id": "{classifier}"},
    ("huggingface", "Segmentation"): {"kind": "huggingface", "id": "{segmenter}"},
    ("ultralytics", "Detections"): {"kind": "ultralytics", "weights": "{yolo}", "params": LOW},
    ("python", "Detections"): {"kind": "python", "path": "tests.model_kinds.functions:find_ink"},
    ("python", "Classification"): {"kind": "python", "path": "tests.model_kinds.functions:name_it"},
    ("python", "Polylines"): {"kind": "python", "path": "tests.model_kinds.functions:outline"},
    ("field", "Detections"): {"kind": "field", "field": "ground_truth"},
}
DETECTORS = [
    cell for cell in MODELS if cell[0] in ("zoo", "huggingface", "ultralytics") and cell[1] == "Detections"
]
# What has no review, and a part of the reason that is given.
REFUSED = {
    "Classification": "expected one that finds Detections, this one gives Classification",
    "Segmentation": "one mask of a whole image has no labels that could be approved one by one",
    "Polylines": "lines have no box to compare with others",
}


def settings_of(cell: tuple[str, str], weights: dict[str, Path]) -> dict[str, Any]:
    places = {name: str(path) for name, path in weights.items()}
    return {k: v.format(**places) if isinstance(v, str) else v for k, v in MODELS[cell].items()}


def source_of(cell: tuple[str, str], weights: dict[str, Path]) -> Any:
    model = settings_of(cell, weights)
    return open_model(config_from_mapping({"dataset": "d", "label_field": "auto", "model": model}).model)


@pytest.fixture(params=MODELS, ids=lambda cell: "-".join(cell))
def cell(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.mark.usefixtures("zoo")
def test_a_model_of_each_kind_with_each_label_type(
    cell: tuple[str, str], weights: dict[str, Path], digits: Any
) -> None:
    model = settings_of(cell, weights)
    if cell[1] in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[cell[1]]):
            make_run(digits, model=model)
        assert runs.find_open(str(digits._doc.id), "auto") is None
        assert not digits.has_field("auto_in_review")
        return
    run = make_run(digits, "IN_REVIEW", model=model, min_confidence=0.0, batch_size=5)
    record = runs.load(run)
    staged = labels_in(digits, "auto_in_review").values()
    assert record["counts"]["failed_samples"] == 0
    assert len(staged) > 0
    assert all(len(d["bounding_box"]) == 4 for d in staged)
    assert record["model"]["kind"] == cell[0]
    assert record["model"]["name"]
    digits.reload()
    assert digits.count("auto_in_review.detections") == len(staged)


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize("cell", DETECTORS, ids=lambda cell: cell[0])
def test_processes_beside_a_model_read_what_threads_read(
    cell: tuple[str, str], weights: dict[str, Path], digits: Any
) -> None:
    source = source_of(cell, weights)
    ids = [ObjectId(i) for i in digits.values("id")]
    processes = beside.processes_for(source, RunnerConfig(beside="process", readers=1))
    assert processes is not None
    side_work.wait_until_up(processes._reading)
    batch = source.prepare(processes.fetch(digits, ids))
    plain = source.prepare(source.fetch(digits, ids))
    processes.close()
    beside._processes.cache_clear()
    assert [part.places for part in batch.parts] == [part.places for part in plain.parts]
    for one, other in zip(batch.parts, plain.parts, strict=True):
        assert _same(one.images, other.images)
    found, expected = source.predict_prepared(batch), source.predict_prepared(plain)
    assert [len(one.detections) for one in found] == [len(one.detections) for one in expected]


def _same(one: Any, other: Any) -> bool:
    import torch

    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if hasattr(one, "items"):
        return all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return all(_same(a, b) for a, b in zip(one, other, strict=True))
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))


class TestTensorsBesideEachOther:
    """Images that were read together are one tensor already."""

    @pytest.mark.parametrize(
        ("pick", "copied"),
        [
            pytest.param(lambda whole: list(whole), False, id="all of them"),
            pytest.param(lambda whole: list(whole)[2:5], False, id="some in a row"),
            pytest.param(lambda whole: [whole[1]], False, id="one"),
            pytest.param(lambda whole: [whole[2], whole[1]], True, id="in another order"),
            pytest.param(lambda whole: [whole[0], whole[2]], True, id="with a gap"),
            pytest.param(lambda whole: [whole[0], whole[1].clone()], True, id="from elsewhere"),
            pytest.param(lambda whole: [one.transpose(0, 2) for one in whole], True, id="turned"),
        ],
    )
    def test_are_not_copied(self, pick: Any, copied: bool) -> None:
        import torch

        whole = torch.arange(6 * 3 * 4 * 5, dtype=torch.float32).reshape(6, 3, 4, 5)
        images = pick(whole)
        joined = device_batches._joined(images)
        assert torch.equal(joined, torch.stack(images))
        assert (joined.untyped_storage().data_ptr() != whole.untyped_storage().data_ptr()) == copied


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize("cell", DETECTORS, ids=lambda cell: cell[0])
def test_batches_find_what_fiftyone_finds_one_by_one(
    cell: tuple[str, str], weights: dict[str, Path], digits: Any
) -> None:
    source = source_of(cell, weights)
    ours = source.predict(source.fetch(digits, [ObjectId(i) for i in digits.values("id")]))
    source.model.preprocess = True
    digits.apply_model(source.model, "theirs", batch_size=1, num_workers=0)
    source.model.preprocess = False
    for mine, sample in zip(ours, digits, strict=True):
        expected = sample.theirs.detections
        assert [d.label for d in mine.detections] == [d.label for d in expected]
        for one, other in zip(mine.detections, expected, strict=True):
            assert one.confidence == pytest.approx(other.confidence, abs=1e-3)
            assert one.bounding_box == pytest.approx(other.bounding_box, abs=1e-3)


@pytest.mark.usefixtures("zoo")
def test_the_detector_of_the_zoo_knows_its_digits(weights: dict[str, Path], digits: Any) -> None:
    run = make_run(digits, "IN_REVIEW", model=settings_of(("zoo", "Detections"), weights), min_confidence=0.5)
    digits.reload()
    results = digits.evaluate_detections("auto_in_review", gt_field="ground_truth", iou=0.4)
    assert results.metrics()["recall"] > 0.3
    assert runs.load(run)["model"]["version"] == "1.0"


class TestIdentity:
    def test_other_weights_are_another_model(
        self, weights: dict[str, Path], digits: Any, tmp_path: Path
    ) -> None:
        import shutil

        import torch
        from safetensors.torch import load_file, save_file

        copy = tmp_path / "digit-yolos"
        shutil.copytree(weights["detector"], copy)
        tensors = load_file(copy / "model.safetensors")
        with torch.no_grad():
            next(iter(tensors.values())).add_(0.01)
        save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
        same, other = (self._model(path) for path in (weights["detector"], copy))
        assert same["name"] == other["name"] == "digit-yolos"
        assert same["weights_digest"] != other["weights_digest"]
        assert (
            len({self._fingerprint(m, digits, p) for m, p in ((same, weights["detector"]), (other, copy))})
            == 2
        )

    def test_parameters_tell_models_apart(self, weights: dict[str, Path], digits: Any) -> None:
        plain, changed = self._model(weights["detector"]), self._model(weights["detector"], params=LOW)
        assert plain["weights_digest"] == changed["weights_digest"]
        assert plain != changed
        assert self._fingerprint(plain, digits, weights["detector"]) != self._fingerprint(
            changed, digits, weights["detector"], params=LOW
        )

    @staticmethod
    def _config(path: Path, **more: Any) -> dict[str, Any]:
        return {
            "dataset": "d",
            "label_field": "auto",
            "model": {"kind": "huggingface", "id": str(path), **more},
        }

    def _model(self, path: Path, **more: Any) -> dict[str, Any]:
        return open_model(config_from_mapping(self._config(path, **more)).model).describe()

    def _fingerprint(self, model: dict[str, Any], dataset: Any, path: Path, **more: Any) -> str:
        config = config_from_mapping(self._config(path, **more)).model_dump(mode="json")
        return calibration.fingerprint_of({"config": config, "model": model, "dataset_id": "1"}, dataset)


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        pytest.param(
            {"kind": "zoo", "name": "digit-gird-torch"}, "did you mean 'digit-grid-torch", id="name"
        ),
        pytest.param(
            {"kind": "zoo", "name": "digit-elsewhere"},
            "needs no_such_package, not installed here; install it with: pip install no_such_package",
            id="package",
        ),
        pytest.param({"kind": "huggingface", "id": "/no/such/folder"}, "there is no folder", id="folder"),
        pytest.param({"kind": "ultralytics", "weights": "/no/such.pt"}, "there is no file", id="file"),
        pytest.param(
            {"kind": "huggingface", "id": "{detector}", "device": "cuda:99"},
            "torch .* sees . GPUs",
            id="device",
        ),
        pytest.param(
            {"kind": "huggingface", "id": "{detector}", "device": "cpu", "precision": "mixed"},
            "'mixed' pays on a GPU only",
            id="precision",
        ),
        pytest.param(
            {"kind": "huggingface", "id": "{detector}", "params": {"device": 3}},
            "cannot be loaded",
            id="params",
        ),
    ],
)
def test_what_cannot_be_loaded_is_refused(
    model: dict[str, Any], expected: str, weights: dict[str, Path], digits: Any
) -> None:
    places = {name: str(path) for name, path in weights.items()}
    filled = {k: v.format(**places) if isinstance(v, str) else v for k, v in model.items()}
    config = config_from_mapping({"dataset": digits.name, "label_field": "auto", "model": filled})
    with pytest.raises(ConfigError, match=expected):
        opening.open_run(config)
    assert not digits.has_field("auto_in_review")


class TestExamples:
    def test_a_hugging_face_detector(self, tmp_path: Path) -> None:
        from examples.huggingface import label
        from valflow.inference import find_targets

        folder = label.train(tmp_path / "digit-yolos", steps=2)
        import fiftyone as fo

        dataset = fo.load_dataset(label.write_dataset(tmp_path / "scenes", 4))
        config = label.configure(dataset.name, folder)
        source = open_model(config.model)
        found = source.predict(source.fetch(dataset, find_targets(dataset, config, [])))
        assert [type(one).__name__ for one in found] == ["Detections"] * 4

    def test_a_zero_shot_model_as_far_as_it_goes_without_the_internet(
        self, tmp_path: Path, digits: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import fiftyone as fo

        from examples.zero_shot import label
        from tests.model_kinds.weights import save_zero_shot, write_zero_shot_manifest

        manifest = write_zero_shot_manifest(tmp_path, save_zero_shot(tmp_path))
        monkeypatch.setattr(fo.config, "model_zoo_manifest_paths", [str(manifest)])
        config = label.configure(digits.name, ["an eight", "a seven"], model="tiny-owl-torch")
        source = open_model(config.model)
        assert source.classes(digits) == ["an eight", "a seven"]
        assert source.describe()["kwargs"]["classes"] == ["an eight", "a seven"]
        assert source.label_class(digits) == "Detections"
