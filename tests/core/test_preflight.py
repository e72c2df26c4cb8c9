"""Every bad input of a configuration: its message, exit code 2, and nothing written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders import everything_stored, make_dataset
from valflow import database
from valflow.cli import main as valflow


@dataclass(frozen=True)
class Bad:
    """A change to a good configuration, and what the message must say."""

    says: tuple[str, ...]
    changes: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Any, Path], None] | None = None


def _media(kind: str) -> Callable[[Any, Path], None]:
    def change(dataset: Any, folder: Path) -> None:
        # A dataset says its media type in one place; the pipeline must look there before it looks at samples.
        database.connection().datasets.update_one({"name": dataset.name}, {"$set": {"media_type": kind}})
        dataset.reload()

    return change


def _field_of_others(dataset: Any, folder: Path) -> None:
    dataset.clone_sample_field("ground_truth", "theirs")


def _classification(dataset: Any, folder: Path) -> None:
    import fiftyone as fo

    dataset.add_sample_field("weather", fo.EmbeddedDocumentField, embedded_doc_type=fo.Classification)


def _foreign_staging(dataset: Any, folder: Path) -> None:
    dataset.clone_sample_field("pred", "auto_in_review")


def _foreign_evaluation(dataset: Any, folder: Path) -> None:
    dataset.evaluate_detections("pred", gt_field="ground_truth", eval_key="val_eval")


def _file_in_the_way(dataset: Any, folder: Path) -> None:
    (folder / "taken").write_text("a file")


CASES = {
    "unknown key": Bad(("min_confidnce", "did you mean 'min_confidence'"), {"min_confidnce": 0.2}),
    "second opinion missing": Bad(
        ("approval.second_opinion: there is no label field 'pref'", "did you mean 'pred'"),
        {"approval": {"mode": "certified", "second_opinion": "pref"}},
    ),
    "verdicts from a field of another type": Bad(
        ("approval.ground_truth: expected a field of Detections", "holds Classification"),
        {"approval": {"mode": "certified", "ground_truth": "weather"}},
        _classification,
    ),
    "nobody to ask for verdicts": Bad(
        ("approval.mode: certified rests on a person's verdicts",),
        {"approval": {"mode": "certified"}, "review": {"required": False}},
    ),
    "unknown key in a section": Bad(("target.onyl", "did you mean 'only'"), {"target": {"onyl": "new"}}),
    "required key missing": Bad(("model: required, but missing",), {"model": None}),
    "wrong type": Bad(("batch_size", "'many'"), {"batch_size": "many"}),
    "out of range": Bad(("min_confidence", "less than or equal to 1"), {"min_confidence": 1.5}),
    "threshold out of range": Bad(("approval.threshold",), {"approval": {"threshold": 2}}),
    "label field no identifier": Bad(("label_field", "Python identifier"), {"label_field": "my field"}),
    "run key no identifier": Bad(("run_key", "Python identifier"), {"run_key": "a-b"}),
    "dataset missing": Bad(("there is no dataset 'nothing'",), {"dataset": "nothing"}),
    "saved view missing": Bad(("target.view", "no saved view 'best'"), {"target": {"view": "best"}}),
    "sample tag missing": Bad(("target.tags", "no sample tag 'gold'"), {"target": {"tags": ["gold"]}}),
    "sample ids missing": Bad(("target.ids", "not in the dataset"), {"target": {"ids": ["0" * 24]}}),
    "sample ids malformed": Bad(("target.ids", "24 hexadecimal digits"), {"target": {"ids": ["x"]}}),
    "prediction field missing": Bad(
        ("model.field", "no label field 'prd'", "did you mean 'pred'"),
        {"model": {"kind": "field", "field": "prd"}},
    ),
    "prediction field of another type": Bad(
        ("model.field", "expected a field of Detections", "Classification"),
        {"model": {"kind": "field", "field": "weather"}, "label_type": "detections"},
        _classification,
    ),
    "label field of others": Bad(
        ("label_field", "append: true"), {"label_field": "theirs"}, _field_of_others
    ),
    "label field of another type": Bad(
        ("label_field", "Classification"), {"label_field": "weather", "append": True}, _classification
    ),
    "review field of others": Bad(("auto_in_review", "not valflow's"), {}, _foreign_staging),
    "model does not import": Bad(
        ("model.path", "ModuleNotFoundError"), {"model": {"kind": "python", "path": "no_such_module:Model"}}
    ),
    "model class missing": Bad(
        ("model.path", "AttributeError"), {"model": {"kind": "python", "path": "tests.models:Nobody"}}
    ),
    "model of the wrong kind": Bad(
        ("model.path", "expected a fiftyone.core.models.Model"),
        {"model": {"kind": "python", "path": "builtins:dict"}},
    ),
    "model path malformed": Bad(("model.path",), {"model": {"kind": "python", "path": "just_a_name"}}),
    "video": Bad(("media of type 'video'", "frame labels"), {}, _media("video")),
    "groups": Bad(("media of type 'group'", "slices"), {}, _media("group")),
    "ground truth missing": Bad(
        ("evaluation.ground_truth", "no label field 'truth'"), {"evaluation": {"ground_truth": "truth"}}
    ),
    "ground truth of another type": Bad(
        ("evaluation.ground_truth", "Classification"),
        {"evaluation": {"ground_truth": "weather"}},
        _classification,
    ),
    "evaluation of others": Bad(
        ("evaluation.eval_key", "val_eval"),
        {"evaluation": {"ground_truth": "ground_truth"}},
        _foreign_evaluation,
    ),
    "threshold of an unknown class": Bad(
        ("approval.per_class", "no class 'cta'", "did you mean 'cat'"),
        {"approval": {"per_class": {"cta": 0.9}}},
    ),
    "unknown class": Bad(("classes", "no class 'horse'"), {"classes": ["horse"]}),
    "output folder is a file": Bad(("output_dir", "is a file"), {"output_dir": "taken"}, _file_in_the_way),
    "export folder is a file": Bad(
        ("export.0.dir", "is a file"), {"export": [{"format": "coco", "dir": "taken"}]}, _file_in_the_way
    ),
    "unknown export format": Bad(
        ("export.0.format", "no format 'cocoo'", "did you mean 'coco'"), {"export": [{"format": "cocoo"}]}
    ),
    "export without the images that it needs": Bad(
        ("export.0.media", "'voc' cannot be read without its images"),
        {"export": [{"format": "voc", "media": "none"}]},
    ),
    "unknown suite": Bad(("labls",), {"validation": {"suites": ["labls"]}}),
    "suite file missing": Bad(("mine.yaml",), {"validation": {"suites": ["./mine.yaml"]}}),
    "several at once": Bad(
        ("2 problems", "target.view", "evaluation.ground_truth"),
        {"target": {"view": "best"}, "evaluation": {"ground_truth": "truth"}},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input_is_told_before_anything_is_written(
    case: Bad, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import fiftyone as fo

    dataset = make_dataset(tmp_path, samples=2, empty=0)
    if case.prepare is not None:
        case.prepare(dataset, tmp_path)
    good = {"dataset": dataset.name, "label_field": "auto", "model": {"kind": "field", "field": "pred"}}
    values = {k: v for k, v in {**good, **case.changes}.items() if v is not None}
    config = tmp_path / "bad.yaml"
    config.write_text(yaml.safe_dump(values))
    before, files = everything_stored(), sorted(tmp_path.rglob("*"))
    exit_code = valflow(["run", str(config)])
    message = capsys.readouterr().err
    assert exit_code == 2, message
    assert [part for part in case.says if part not in message] == [], message
    assert everything_stored() == before
    assert sorted(tmp_path.rglob("*")) == files
    database.connection().datasets.update_one({"name": dataset.name}, {"$set": {"media_type": "image"}})
    fo.delete_dataset(dataset.name)
