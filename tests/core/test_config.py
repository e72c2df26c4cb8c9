"""The configuration by itself: what it accepts, and how it says no."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from valflow.config import LabelingConfig, config_from_mapping, duration, load_config, with_absolute_paths
from valflow.errors import ConfigError

LEAST = {"dataset": "digits", "label_field": "auto", "model": {"kind": "field", "field": "pred"}}
PYTHON = {"kind": "python", "path": "models:Detector"}
LONG = "x" * 201


def problems_of(values: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config_from_mapping(values)
    return caught.value.problems


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


LEAST_YAML = "dataset: digits\nlabel_field: auto\nmodel: {kind: field, field: pred}\n"


def test_three_keys_are_enough() -> None:
    config = config_from_mapping(LEAST)
    assert config.target.only == "new"
    assert (config.approval.mode, config.approval.threshold) == ("fixed", 0.7)
    assert config.validation.suites == ["labels", "samples"]
    assert config.review.checklist == ["spot_check"]
    assert config.staging_field == "auto_in_review"


def test_a_stored_configuration_loads_again() -> None:
    config = config_from_mapping(
        {
            **LEAST,
            "model": {**PYTHON, "kwargs": {"size": 3}},
            "approval": {"per_class": {"$cash": 0.5, "a.b": 1}},
            "evaluation": {"ground_truth": "truth"},
            "export": [{"format": "coco"}],
        }
    )
    assert LabelingConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # A key that does not exist names the nearest one.
        pytest.param({"label_feild": "x"}, "label_feild: unknown key; did you mean 'label_field'?", id="key"),
        pytest.param(
            {"approval": {"threshhold": 0.8}},
            "approval.threshhold: unknown key; did you mean 'threshold'?",
            id="key-in-section",
        ),
        pytest.param(
            {"export": [{"format": "coco", "directory": "x"}]},
            "export.0.directory: unknown key; did you mean 'dir'?",
            id="key-in-list",
        ),
        pytest.param(
            {"zzz": 1}, "zzz: unknown key; known keys here: append, approval", id="key-like-no-other"
        ),
        pytest.param({7: 1}, "7: keys should be strings", id="key-number"),
        # A key of the other kind is not answered with itself.
        pytest.param(
            {"approval": {"mode": "review_all", "threshold": 0.7}},
            "approval.threshold: not a key of mode 'review_all'",
            id="key-of-other-mode",
        ),
        pytest.param(
            {"model": {**PYTHON, "field": "pred"}},
            "model.field: not a key of kind 'python'",
            id="key-of-other-kind",
        ),
        # The sections that come in kinds.
        pytest.param(
            {"model": {}}, "model.kind: required, but missing; one of 'python', 'field'", id="no-kind"
        ),
        pytest.param(
            {"model": {"kind": "zo"}},
            "model.kind: expected one of 'python', 'field', 'zoo', 'huggingface', 'ultralytics', 'merge', found 'zo'",
            id="kind",
        ),
        pytest.param(
            {"approval": {"mode": "guessed"}},
            "approval.mode: expected one of 'fixed', 'certified', 'review_all', found 'guessed'",
            id="mode",
        ),
        pytest.param({"model": {"kind": "python"}}, "model.path: required, but missing", id="no-path"),
        pytest.param(
            {"model": {"kind": "python", "path": "a.b"}}, "model.path: string should match", id="path"
        ),
        pytest.param({"model": "pred"}, "model: input should be a valid dictionary", id="model-text"),
        # Ranges.
        pytest.param(
            {"approval": {"threshold": 1.5}}, "approval.threshold: input should be less", id="threshold"
        ),
        pytest.param({"approval": {"threshold": float("nan")}}, "approval.threshold: ", id="threshold-nan"),
        pytest.param(
            {"approval": {"per_class": {"3": 2}}}, "approval.per_class.3: ", id="threshold-of-class"
        ),
        pytest.param(
            {"min_confidence": -0.1}, "min_confidence: input should be greater", id="min-confidence"
        ),
        pytest.param({"max_failed_share": 5}, "max_failed_share: input should be less", id="failed-share"),
        pytest.param(
            {"batch_size": 0}, "batch_size: expected a whole number from 1 to 4096", id="batch-size"
        ),
        pytest.param({"shard_size": 0}, "shard_size: input should be greater", id="shard-size"),
        pytest.param({"target": {"limit": 0}}, "target.limit: input should be greater", id="limit"),
        pytest.param({"target": {"only": "fresh"}}, "target.only: input should be 'new'", id="only"),
        pytest.param({"target": {"ids": ["abc"]}}, "target.ids: expected sample ids of 24", id="sample-id"),
        pytest.param({"evaluation": {"ground_truth": "t", "iou": 0}}, "evaluation.iou: ", id="iou"),
        pytest.param({"run_name": LONG}, "run_name: string should have at most 200", id="long-name"),
        pytest.param({"classes": []}, "classes: list should have at least 1", id="no-classes"),
        pytest.param({"review": {"checklist": ["audit"]}}, "review.checklist.0: ", id="checklist"),
        pytest.param({"export": [{"format": "coco", "scope": "all"}]}, "export.0.scope: ", id="scope"),
        # Types. What YAML reads as another type than it looks like is refused, not guessed.
        pytest.param({"approval": {"threshold": True}}, "approval.threshold: ", id="threshold-yes"),
        pytest.param({"approval": {"threshold": "0.7"}}, "approval.threshold: ", id="threshold-text"),
        pytest.param({"batch_size": True}, "batch_size: ", id="batch-size-yes"),
        pytest.param({"batch_size": "64"}, "batch_size: ", id="batch-size-text"),
        pytest.param({"append": "yes"}, "append: ", id="append-text"),
        pytest.param({"classes": "cat"}, "classes: input should be a valid list", id="classes-text"),
        pytest.param(
            {"classes": [3]},
            'classes.0: input should be a valid string, found 3; quote it: "3"',
            id="class-number",
        ),
        pytest.param(
            {"approval": {"per_class": {3: 0.85}}},
            'approval.per_class.3: input should be a valid string, found 3; quote it: "3"',
            id="class-number-as-key",
        ),
        pytest.param(
            {"export": {"format": "coco"}}, "export: input should be a valid list", id="export-section"
        ),
        pytest.param(
            {"evaluation": "truth"}, "evaluation: input should be a valid dictionary", id="evaluation-text"
        ),
        pytest.param(
            {"evaluation": {}}, "evaluation.ground_truth: required, but missing", id="no-ground-truth"
        ),
        # Names.
        pytest.param({"dataset": ""}, "dataset: string should have at least 1", id="dataset-empty"),
        pytest.param(
            {"label_field": "a b"}, "label_field: expected a Python identifier", id="field-with-space"
        ),
        pytest.param(
            {"label_field": "class"}, "label_field: expected a Python identifier", id="field-keyword"
        ),
        pytest.param({"label_field": "_x"}, "label_field: expected a Python identifier", id="field-private"),
        pytest.param({"run_key": "1x"}, "run_key: expected a Python identifier", id="run-key"),
        pytest.param({"run_key": "latest"}, "run_key: 'latest' means the newest run", id="run-key-latest"),
        pytest.param(
            {"evaluation": {"ground_truth": "t", "eval_key": "a b"}},
            "evaluation.eval_key: expected",
            id="eval-key",
        ),
        # Settings that contradict each other.
        pytest.param(
            {"model": {"kind": "field", "field": "auto"}},
            "model.field and label_field are both",
            id="same-field",
        ),
        pytest.param(
            {"evaluation": {"ground_truth": "auto"}},
            "evaluation.ground_truth and label_field are both",
            id="same-truth",
        ),
        pytest.param(
            {"classes": ["a"], "approval": {"per_class": {"b": 0.5}}},
            "approval.per_class names ['b']",
            id="left-out",
        ),
    ],
)
def test_one_bad_setting_is_told_with_its_place(changes: dict, expected: str) -> None:
    problems = problems_of({**LEAST, **changes})
    assert len(problems) == 1, problems
    assert expected in problems[0]


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("7d", timedelta(days=7)),
        ("12h", timedelta(hours=12)),
        ("30m", timedelta(minutes=30)),
        ("90s", timedelta(seconds=90)),
        ("3650d", timedelta(days=3650)),  # the longest
    ],
)
def test_a_duration_is_understood_and_kept_as_written(text: str, length: timedelta) -> None:
    config = config_from_mapping({**LEAST, "review": {"remind_after": text}})
    assert config.model_dump(mode="json")["review"]["remind_after"] == text
    assert duration(config.review.remind_after) == length
    assert LabelingConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("2 days", "expected a duration such as 7d, 12h, 30m or 90s, found '2 days'"),
        ("2w", "found '2w'"),
        ("0d", "found '0d'"),
        ("-1h", "found '-1h'"),
        ("1.5h", "found '1.5h'"),
        ("1d12h", "found '1d12h'"),
        ("12H", "found '12H'"),
        ("٣d", "found '٣d'"),  # a digit, but not one of ours
        ("", "found ''"),
        (90, "found 90"),  # of what?
        (True, "found True"),
        ("3651d", "at most 3650d, found '3651d'"),
        ("9" * 40 + "d", "at most 3650d"),  # more than Python can hold
    ],
)
def test_what_is_no_duration_is_refused(value: object, why: str) -> None:
    [problem] = problems_of({**LEAST, "review": {"remind_after": value}})
    assert problem.startswith("review.remind_after: expected a duration")
    assert why in problem


@pytest.mark.parametrize("values", [None, [], "digits", 3], ids=["nothing", "list", "text", "number"])
def test_what_is_no_mapping_is_refused(values: object) -> None:
    assert "expected a mapping of settings" in problems_of(values)[0]


def test_all_problems_are_told_in_one_error() -> None:
    problems = problems_of(
        {
            "datset": "digits",
            "label_field": "a b",
            "approval": {"threshold": 2},
            "export": [{"formt": "coco"}],
        }
    )
    told = "\n".join(problems)
    for place in (
        "dataset: required",
        "datset: unknown",
        "label_field:",
        "model: required",
        "approval.threshold:",
    ):
        assert place in told
    assert len(problems) == 7
    error = ConfigError(problems, "x.yaml")
    assert str(error).startswith("7 problems in x.yaml; nothing was written:\n  - ")
    assert str(ConfigError(problems[:1])).startswith("1 problem;")


def test_contradictions_are_told_together() -> None:
    problems = problems_of(
        {
            **LEAST,
            "model": {"kind": "field", "field": "auto"},
            "classes": ["a"],
            "approval": {"per_class": {"b": 0.5}},
            "evaluation": {"ground_truth": "auto"},
        }
    )
    assert "model.field" in problems[0]
    assert "approval.per_class" in problems[0]
    assert "evaluation.ground_truth" in problems[0]


@pytest.mark.parametrize(
    ("overrides", "path", "expected"),
    [
        pytest.param(
            ["approval.threshold=0.8"], ("approval", "threshold"), 0.8, id="section-that-is-not-there"
        ),
        pytest.param(["approval.threshold=1"], ("approval", "threshold"), 1.0, id="whole-number"),
        pytest.param(["target.only=all"], ("target", "only"), "all", id="text"),
        pytest.param(["target.tags=[a, b]"], ("target", "tags"), ["a", "b"], id="list"),
        pytest.param(["classes=null"], ("classes",), None, id="null"),
        pytest.param(["review.note=a=b"], ("review", "note"), "a=b", id="equals-in-value"),
        pytest.param(["min_confidence=0.2", "min_confidence=0.3"], ("min_confidence",), 0.3, id="last-wins"),
        pytest.param(
            ['approval.per_class={"3": 0.85}'], ("approval", "per_class"), {"3": 0.85}, id="mapping"
        ),
        pytest.param(
            ["evaluation.ground_truth=truth"],
            ("evaluation", "ground_truth"),
            "truth",
            id="section-that-is-null",
        ),
    ],
)
def test_settings_of_the_command_line_win(
    tmp_path: Path, overrides: list, path: tuple, expected: object
) -> None:
    value: object = load_config(write(tmp_path, LEAST_YAML + "evaluation: null\n"), overrides)
    for name in path:
        value = getattr(value, name)
    assert value == expected


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        pytest.param("approval.threshold", "--set expects KEY=VALUE", id="no-equals"),
        pytest.param("=3", "--set expects KEY=VALUE", id="no-key"),
        pytest.param("dataset.name=x", "'dataset' holds 'digits', not a section", id="not-a-section"),
        pytest.param("classes=[a", "--set classes: not a YAML value", id="not-yaml"),
        pytest.param("approval.threshhold=0.8", "did you mean 'threshold'", id="unknown-key"),
        pytest.param("approval.threshold=high", "approval.threshold", id="wrong-type"),
    ],
)
def test_bad_settings_of_the_command_line(tmp_path: Path, override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, LEAST_YAML), [override])
    assert len(caught.value.problems) == 1
    assert expected in caught.value.problems[0]


def test_bad_settings_and_a_bad_file_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, LEAST_YAML + "zzz: 1\n"), ["nothing", "dataset.x=1", "min_confidence=2"])
    told = "\n".join(caught.value.problems)
    for part in ("KEY=VALUE", "dataset", "min_confidence", "zzz"):
        assert part in told


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("dataset: [", "not valid YAML", id="broken"),
        pytest.param("a: b: c", "not valid YAML", id="two-colons"),
        pytest.param("\tdataset: x", "not valid YAML", id="tab"),
        pytest.param("dataset: !!python/object:os.system x", "not valid YAML", id="python-tag"),
        pytest.param("- dataset", "expected a mapping", id="list"),
        pytest.param("", "dataset: required", id="empty"),
        pytest.param(LEAST_YAML + "dataset: other\n", "the key 'dataset' is given twice", id="key-twice"),
        pytest.param(
            LEAST_YAML + "approval: {threshold: 0.5, threshold: 0.9}\n",
            "the key 'threshold' is given twice",
            id="key-twice-in-section",
        ),
    ],
)
def test_bad_files(tmp_path: Path, text: str, expected: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=expected) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", ["missing", "folder", "binary"])
def test_files_that_cannot_be_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "config.yaml"
    if kind == "folder":
        path.mkdir()
    if kind == "binary":
        path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load_config(path)


def test_folders_are_meant_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    text = LEAST_YAML + (
        "output_dir: out\nexport: [{format: coco}, {format: voc, dir: /data/voc}, {format: cvat, dir: ~/cvat}]\n"
        "validation: {suites: [labels, ./mine.yaml]}\n"
    )
    folder = tmp_path / "team"
    folder.mkdir()
    config = load_config(write(folder, text))
    assert config.output_dir == str(folder / "out")
    assert [e.dir for e in config.export] == [str(folder / "exports"), "/data/voc", "/home/ann/cvat"]
    assert config.validation.suites == ["labels", str(folder / "mine.yaml")]
    assert with_absolute_paths(config, tmp_path) == config


def test_a_schema_for_the_form_has_every_setting_described() -> None:
    schema = LabelingConfig.model_json_schema()
    undescribed = [
        f"{name}.{key}"
        for name, section in {**schema["$defs"], "LabelingConfig": schema}.items()
        for key, field in section["properties"].items()
        if "description" not in field and key not in ("kind", "mode")
    ]
    assert undescribed == []
