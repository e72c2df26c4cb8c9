"""`valflow init`: a first configuration that works, whatever the dataset looks like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.builders import box, make_dataset, make_run
from valflow import preflight
from valflow.cli import main as valflow
from valflow.config import FieldModelConfig, LabelingConfig, PythonModelConfig, load_config
from valflow.drafting import draft_config
from valflow.errors import ConfigError
from valflow.states import State


@dataclass(frozen=True)
class Shape:
    """How a dataset is made, and what its configuration must say; None stands for a model of one's own."""

    make: Callable[[Path], Any]
    model: str | None = "pred"
    truth: str | None = "ground_truth"
    label_field: str = "auto_detections"
    comments: tuple[str, ...] = ()


def _pets(name: str | None = None, **options: Any) -> Callable[[Path], Any]:
    return lambda folder: make_dataset(folder, samples=1, empty=0, name=name, **options)


def _changed(change: Callable[[Any], object], **options: Any) -> Callable[[Path], Any]:
    def make(folder: Path) -> Any:
        dataset = _pets(**options)(folder)
        change(dataset)
        dataset.reload()
        return dataset

    return make


def _without_labels(dataset: Any) -> None:
    dataset.delete_sample_fields(["pred", "ground_truth"])


def _only_classifications(dataset: Any) -> None:
    import fiftyone as fo

    _without_labels(dataset)
    dataset.set_values("weather", [fo.Classification(label="sunny", confidence=0.9)])


def _true_classifications(dataset: Any) -> None:
    import fiftyone as fo

    _without_labels(dataset)
    dataset.set_values("weather", [fo.Classification(label="sunny")])


def _only_keypoints(dataset: Any) -> None:
    import fiftyone as fo

    _without_labels(dataset)
    points = fo.Keypoints(keypoints=[fo.Keypoint(label="eye", points=[(0.5, 0.5)])])
    dataset.set_values("eyes", [points])


def _second_model(dataset: Any) -> None:
    dataset.clone_sample_field("pred", "another")


def _renamed(old: str, new: str) -> Callable[[Any], None]:
    return lambda dataset: dataset.rename_sample_field(old, new)


def _empty_field(dataset: Any) -> None:
    import fiftyone as fo

    dataset.delete_sample_field("ground_truth")
    dataset.add_sample_field("planned", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)


def _odd_classes(dataset: Any) -> None:
    import fiftyone as fo

    names = ["two\nlines: [", "# hash", "{brace}", "12"]
    found = [fo.Detection(label=n, bounding_box=box(i), confidence=0.9) for i, n in enumerate(names)]
    dataset.set_values("pred", [fo.Detections(detections=found)])
    dataset.delete_sample_field("ground_truth")


def _many_classes(dataset: Any) -> None:
    dataset.default_classes = [f"class {n}" for n in range(30)]
    dataset.save()


def _run_of_a_model(state: State) -> Callable[[Any], None]:
    def change(dataset: Any) -> None:
        make_run(dataset, state, label_field="auto_detections")
        dataset.delete_sample_field("pred")  # as if a model had made them

    return change


def _appended(dataset: Any) -> None:
    dataset.clone_sample_field("ground_truth", "auto_detections")
    make_run(dataset, State.FINALIZED, label_field="auto_detections", append=True)


SHAPES = {
    "ground truth and predictions": Shape(_pets(), comments=("1 samples", "pred, ground_truth", "bird, cat")),
    "no ground truth": Shape(_pets(with_truth=False), truth=None),
    "ground truth alone": Shape(_changed(lambda d: d.delete_sample_field("pred")), model=None),
    "ground truth by another name": Shape(_changed(_renamed("ground_truth", "boxes")), truth="boxes"),
    "two fields of predictions": Shape(_changed(_second_model), model="pred", comments=("another",)),
    "no labels at all": Shape(_changed(_without_labels), model=None, truth=None, comments=("none",)),
    "classes of whole images": Shape(
        _changed(_only_classifications), model="weather", truth=None, label_field="auto_classification"
    ),
    "true classes of whole images": Shape(
        _changed(_true_classifications), model=None, truth="weather", label_field="auto_classification"
    ),
    "labels of other types": Shape(_changed(_only_keypoints), model=None, truth=None),
    "a field that is still empty": Shape(_changed(_empty_field), truth=None),
    "no samples": Shape(
        _changed(lambda d: d.delete_samples(d.values("id"))), model=None, truth=None, comments=("0 samples",)
    ),
    "a name that YAML reads as nothing": Shape(_pets("null")),
    "a name that YAML reads as true": Shape(_pets("yes")),
    "a name that is a number": Shape(_pets("2024")),
    "a name with signs": Shape(_pets('my "best": #1 {set} ü')),
    "fields that YAML reads as true and false": Shape(
        _changed(lambda d: (_renamed("pred", "on")(d), _renamed("ground_truth", "no")(d))),
        model="on",
        truth="no",
    ),
    "classes with odd names": Shape(_changed(_odd_classes), truth=None, comments=("{brace}",)),
    "many classes": Shape(_changed(_many_classes), comments=("class 19 …",)),
    "a finalized run": Shape(_changed(_run_of_a_model(State.FINALIZED)), model=None),
    "a run in review": Shape(_changed(_run_of_a_model(State.IN_REVIEW)), model=None),
    "a field of others by the usual name": Shape(
        _changed(_renamed("pred", "auto_detections")),
        model="auto_detections",
        label_field="auto_detections_2",
    ),
    "a review field of others": Shape(
        _changed(_renamed("pred", "auto_detections_in_review")),
        model="auto_detections_in_review",
        label_field="auto_detections_2",
    ),
    "a field of others that was added to": Shape(_changed(_appended), label_field="auto_detections_2"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def drafted(name: str, folder: Path) -> LabelingConfig:
    path = folder / "drafted.yaml"
    path.write_text(draft_config(name), encoding="utf-8")
    return load_config(path)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_draft_loads_and_fits_its_dataset(shape: Shape, folder: Path) -> None:
    dataset = shape.make(folder)
    try:
        config = drafted(dataset.name, folder)
        text = (folder / "drafted.yaml").read_text(encoding="utf-8")
        assert (config.dataset, config.label_field) == (dataset.name, shape.label_field)
        assert (config.evaluation.ground_truth if config.evaluation else None) == shape.truth
        assert [c for c in shape.comments if c not in text] == []
        if shape.model is None:
            # The line to be filled in is an example; everything else must already fit.
            assert 'path: "my_models:MyDetector"' in text
            config = config.model_copy(update={"model": _finder(config)})
        else:
            assert isinstance(config.model, FieldModelConfig)
            assert config.model.field == shape.model
        preflight.check(config)
    finally:
        dataset.delete()


def _finder(config: LabelingConfig) -> PythonModelConfig:
    """A model of the label type that the draft asks for."""
    name = "detections" if config.label_type == "auto" else config.label_type
    return PythonModelConfig(path="tests.kinds:Finder", kwargs={"name": name})


@pytest.mark.parametrize(
    ("name", "media_type", "says"),
    [
        ("nothing-of-this-name", None, "there is no dataset"),
        ("films", "video", "expected a dataset of images"),
    ],
    ids=["missing dataset", "videos"],
)
def test_what_cannot_be_drafted(name: str, media_type: str | None, says: str, folder: Path) -> None:
    import fiftyone as fo

    if media_type is not None:
        fo.Dataset(name, persistent=True).media_type = media_type
    with pytest.raises(ConfigError, match=says):
        draft_config(name)
    assert valflow(["init", name]) == 2
    assert list(folder.glob("*.yaml")) == []


class TestTheFile:
    @pytest.fixture
    def name(self, folder: Path) -> str:
        return str(make_dataset(folder, samples=1).name)

    def test_is_never_replaced_in_silence(
        self, name: str, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert valflow(["init", name]) == 0
        path = folder / "valflow.yaml"
        path.write_text("mine")
        assert valflow(["init", name]) == 2
        assert "valflow.yaml is there already" in capsys.readouterr().err
        assert path.read_text() == "mine"
        assert valflow(["init", name, "--force"]) == 0
        assert load_config(path).dataset == name

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (["-o", "no/such/folder/x.yaml"], "no/such/folder"),
            (["-o", "taken", "--force"], "taken"),
            (["-o", "taken"], "there already"),
        ],
        ids=["folder missing", "a folder, by force", "a folder"],
    )
    def test_that_cannot_be_written(
        self, name: str, folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
    ) -> None:
        (folder / "taken").mkdir()
        assert valflow(["init", name, *options]) == 2
        assert says in capsys.readouterr().err
