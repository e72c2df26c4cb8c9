"""The configuration of a labeling run: one pydantic model, the flow's only parameter."""

from __future__ import annotations

import difflib
import keyword
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from valflow.approval_config import ApprovalConfig, ReviewAll, approval_problems
from valflow.approval_config import CertifiedApproval as CertifiedApproval
from valflow.approval_config import FixedApproval as FixedApproval
from valflow.approval_config import LotConfig as LotConfig
from valflow.config_types import LONGEST_DURATION as LONGEST_DURATION
from valflow.config_types import Count, Flag, Section, Share
from valflow.config_types import Duration as Duration
from valflow.config_types import duration as duration
from valflow.errors import ConfigError
from valflow.model_config import MODEL_KINDS
from valflow.model_config import FieldModelConfig as FieldModelConfig
from valflow.model_config import HuggingFaceModelConfig as HuggingFaceModelConfig
from valflow.model_config import MergeModelConfig as MergeModelConfig
from valflow.model_config import ModelConfig as ModelConfig
from valflow.model_config import PythonModelConfig as PythonModelConfig
from valflow.model_config import UltralyticsModelConfig as UltralyticsModelConfig
from valflow.model_config import ZooModelConfig as ZooModelConfig

DEFAULT_ATTEMPTS = 3
LARGEST_BATCH = 4096


def _check_batch_size(value: object) -> object:
    if value == "auto" or (type(value) is int and 1 <= value <= LARGEST_BATCH):
        return value
    raise ValueError(f"expected a whole number from 1 to {LARGEST_BATCH}, or 'auto', found {value!r}")


BatchSize = Annotated[
    Annotated[int, Field(ge=1, le=LARGEST_BATCH)] | Literal["auto"], BeforeValidator(_check_batch_size)
]
ChecklistItem = Literal["reviewed", "problems", "spot_check", "thresholds", "issues", "completeness"]


class TargetConfig(Section):
    """Which samples are labelled."""

    only: Literal["new", "remaining", "all"] = Field(
        "new",
        description="new: not seen by an earlier run into this field; remaining: no final label yet; all",
    )
    view: str | None = Field(None, description="Name of a saved view of the dataset")
    tags: list[str] = Field(default_factory=list, description="Only samples with one of these tags")
    ids: list[str] = Field(default_factory=list, description="Only these sample ids")
    limit: Count | None = Field(None, description="At most this many samples, in the dataset's order")

    @field_validator("ids")
    @classmethod
    def _object_ids(cls, ids: list[str]) -> list[str]:
        bad = [i for i in ids if len(i) != 24 or not all(c in "0123456789abcdef" for c in i.lower())]
        if bad:
            raise ValueError(f"expected sample ids of 24 hexadecimal digits, found {bad[:3]}")
        return ids


class RunnerConfig(Section):
    """Where shards are predicted, and how many at a time."""

    kind: Literal["thread", "process", "dask", "ray"] = Field(
        "thread",
        description="thread: in the run's process; process: in several here; dask, ray: on a cluster",
    )
    workers: Count | None = Field(
        None,
        le=256,
        description="Shards at a time; threads share the model, which answers one at a time, processes have one "
        "each; empty: 2 threads, so that one reads while the other predicts, or 1 process",
    )
    beside: Literal["auto", "thread", "process"] = Field(
        "auto",
        description="What reads images and writes labels beside a model; auto: processes where it is on a GPU",
    )
    readers: Count | None = Field(None, le=64, description="Processes that read beside a model")
    address: str | None = Field(
        None,
        min_length=1,
        description="Of a Dask scheduler or a Ray; empty starts a cluster of processes here",
    )

    @property
    def shards_at_a_time(self) -> int:
        """``workers``, or what is meant where they are left out."""
        return self.workers or (2 if self.kind == "thread" else 1)

    @model_validator(mode="after")
    def _consistent(self) -> RunnerConfig:
        if self.address is None or self.kind == "dask":
            return self
        if self.kind != "ray":
            raise ValueError(
                f"address is that of a cluster, but kind is {self.kind}; say kind: dask or kind: ray"
            )
        if re.fullmatch(r"(ray://)?[^/\s]+:\d{1,5}", self.address) is None:
            raise ValueError(
                f"expected the address of a Ray, HOST:PORT or ray://HOST:PORT, found {self.address}"
            )
        return self


class CompletenessConfig(Section):
    """Whole images, drawn at random, on which a person looks for objects without a label."""

    images: Count = Field(
        60, le=10_000, description="Images to draw; none incomplete of 60 proves at most 3.8 % at 90 %"
    )


class ReviewConfig(Section):
    """Who decides, and on what evidence."""

    required: Flag = Field(
        True, description="Without review the run decides by policy, once evidence allows it"
    )
    reviewers: list[str] = Field(
        default_factory=list, description="Who may act on the run; empty: anybody with a name"
    )
    note: str | None = Field(None, description="Shown to the reviewer")
    remind_after: Duration | None = Field(
        None, description="Tell again that the run waits, each time after this long (2d, 12h); empty: never"
    )
    discard_after: Duration | None = Field(
        None, description="Discard the run when nobody worked on its review for this long (30d); empty: never"
    )
    checklist: list[ChecklistItem] = Field(["spot_check"], description="Evidence that finalization demands")
    completeness: CompletenessConfig | None = Field(
        None, description="Random images to be searched for missing objects; empty asks for none"
    )

    @model_validator(mode="after")
    def _can_be_supplied(self) -> ReviewConfig:
        if "completeness" in self.checklist and self.completeness is None:
            raise ValueError(
                "checklist demands `completeness`, but no images are drawn for it; say completeness: {images: 60}"
            )
        return self


class ValidationConfig(Section):
    """The Great Expectations gate between review and finalization."""

    suites: list[str] = Field(
        default_factory=lambda: ["labels", "samples"],
        description="Shipped suites by name, your own by path",
    )
    max_labels_per_sample: Count = Field(1000, description="Upper bound of labels per sample")


class EvaluationConfig(Section):
    """Comparison with ground truth after finalization."""

    ground_truth: str = Field(..., min_length=1, description="Field of true labels")
    iou: float = Field(0.5, gt=0.0, le=1.0, strict=True, description="Least overlap of a match")
    eval_key: str = Field("val_eval", description="Name of the evaluation in FiftyOne")

    @field_validator("eval_key")
    @classmethod
    def _identifier(cls, key: str) -> str:
        return _check_identifier(key)


class ExportConfig(Section):
    """One export of the finalized labels."""

    format: str = Field(..., description="coco, yolov5, voc, cvat, fiftyone, …")
    dir: str = Field("exports", description="Folder; the run's key is appended")
    scope: Literal["run", "field"] = Field("run", description="This run's labels, or the whole label field")
    media: Literal["copy", "symlink", "none"] = Field(
        "copy", description="Copy or link the images, or leave them out"
    )


class SafetyCopies(Section):
    """Copies of label field and tags of the samples concerned, made before each finalization and rollback."""

    keep: int = Field(
        5, ge=0, le=1000, strict=True, description="So many of the latest per label field; 0 makes none"
    )
    max_age: Duration = Field("30d", description="Older ones go, too (30d, 12h)")


class LabelingConfig(Section):
    """Everything that one labeling run needs to know."""

    dataset: str = Field(
        ..., min_length=1, description="An existing FiftyOne dataset", json_schema_extra={"position": 0}
    )
    label_field: str = Field(
        ...,
        description="New, or created by valflow before (then continued)",
        json_schema_extra={"position": 1},
    )
    model: ModelConfig = Field(
        ..., description="Where predictions come from", json_schema_extra={"position": 2}
    )
    label_type: Literal["auto", "detections", "instances", "classifications", "classification"] = Field(
        "auto", description="auto: the type of existing predictions or of the label field, else boxes"
    )
    mask_dir: str | None = Field(
        None, min_length=1, description="Folder for the masks of instances; empty keeps them in the database"
    )
    append: Flag = Field(False, description="Add to a label field that valflow did not create")
    run_key: str | None = Field(None, description="Continue this run; a Python identifier")
    run_name: str | None = Field(None, max_length=200, description="Readable name")
    target: TargetConfig = Field(default_factory=TargetConfig, description="Which samples are labelled")
    classes: list[str] | None = Field(None, min_length=1, description="Keep only these classes")
    min_confidence: Share = Field(0.15, description="Candidate floor: predictions below it are not kept")
    batch_size: BatchSize = Field(
        64, description="Images per call of the model; auto finds out what is fastest"
    )
    shard_size: Count | None = Field(None, description="Samples per shard; empty chooses")
    runner: RunnerConfig = Field(default_factory=RunnerConfig, description="Where shards are predicted")
    max_failed_share: Share = Field(
        0.05, description="More failed samples than this stop the run before the review"
    )
    max_attempts: Count = Field(
        DEFAULT_ATTEMPTS, le=100, description="Times that a stage whose process died is continued by itself"
    )
    approval: ApprovalConfig = Field(
        default_factory=FixedApproval, description="Which labels skip the review"
    )
    review: ReviewConfig = Field(default_factory=ReviewConfig, description="Who decides, on what evidence")
    validation: ValidationConfig = Field(default_factory=ValidationConfig, description="The quality gate")
    evaluation: EvaluationConfig | None = Field(None, description="Comparison with ground truth")
    export: list[ExportConfig] = Field(default_factory=list, description="Exports of the finalized labels")
    safety_copies: SafetyCopies = Field(
        default_factory=SafetyCopies, description="What is kept to bring a label field back"
    )
    output_dir: str = Field("valflow_runs", description="Folder of reports and run records")

    @field_validator("approval", mode="before")
    @classmethod
    def _fixed_by_default(cls, approval: Any) -> Any:
        # `--set approval.threshold=0.8` alone means the default mode.
        return {"mode": "fixed", **approval} if isinstance(approval, dict) else approval

    @field_validator("label_field")
    @classmethod
    def _plain_field(cls, name: str) -> str:
        return _check_identifier(name)

    @field_validator("run_key")
    @classmethod
    def _identifier(cls, key: str | None) -> str | None:
        if key == "latest":
            raise ValueError("'latest' means the newest run everywhere; choose another key")
        return None if key is None else _check_identifier(key)

    @model_validator(mode="after")
    def _consistent(self) -> LabelingConfig:
        problems = []
        if isinstance(self.approval, FixedApproval) and self.classes is not None:
            unknown = sorted(set(self.approval.per_class) - set(self.classes))
            if unknown:
                problems.append(
                    f"approval.per_class names {unknown}, which `classes` leaves out: {self.classes}"
                )
        if isinstance(self.model, FieldModelConfig) and self.model.field == self.label_field:
            problems.append(
                f"model.field and label_field are both {self.label_field!r}; give the result a field of its own"
            )
        if self.evaluation is not None and self.evaluation.ground_truth == self.label_field:
            problems.append(
                f"evaluation.ground_truth and label_field are both {self.label_field!r}; "
                "labels cannot be compared with themselves"
            )
        if self.mask_dir is not None and self.label_type != "instances":
            problems.append(
                f"mask_dir: only label_type: instances has masks, found label_type: {self.label_type}"
            )
        if isinstance(self.approval, CertifiedApproval):
            problems += approval_problems(self.approval, self.label_field)
            if not self.review.required and self.approval.ground_truth is None:
                problems.append(
                    "review.required: false, but approval.mode: certified rests on a person's verdicts; drop one of "
                    "the two, or name approval.ground_truth"
                )
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def staging_field(self) -> str:
        """Where predictions wait for their review."""
        return f"{self.label_field}_in_review"


def _check_identifier(text: str) -> str:
    if not text.isidentifier() or keyword.iskeyword(text) or text.startswith("_"):
        raise ValueError(f"expected a Python identifier (letters, digits, underscores), found {text!r}")
    return text


def config_from_mapping(values: Any, source: str | None = None) -> LabelingConfig:
    """Build a configuration from plain values.

    Raises:
        ConfigError: lists every problem, an unknown key with the nearest known one.
    """
    if not isinstance(values, dict):
        raise ConfigError([f"expected a mapping of settings, found {type(values).__name__}"], source)
    try:
        return LabelingConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError([_problem(dict(e)) for e in error.errors()], source) from None


def load_config(path: str | Path, overrides: list[str] | None = None) -> LabelingConfig:
    """Read a YAML file; relative folders in it are meant from the file's own folder.

    Args:
        path: the YAML file.
        overrides: ``key.sub=value`` settings that win over the file; values are YAML.

    Raises:
        ConfigError: the file cannot be read, or its content cannot work.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"cannot read the configuration {path}: {error}"]) from None
    try:
        values = yaml.load(text, _StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigError([f"not valid YAML: {' '.join(str(error).split())}"], str(path)) from None
    if values is None:
        values = {}
    problems = []
    if isinstance(values, dict):
        problems = [problem for override in overrides or [] if (problem := _set(values, override))]
    try:
        config = config_from_mapping(values, str(path))
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems, str(path))
    return with_absolute_paths(config, path.resolve().parent)


def with_absolute_paths(config: LabelingConfig, base: Path) -> LabelingConfig:
    """The same configuration, every folder and suite file absolute, seen from ``base``."""
    exports = [e.model_copy(update={"dir": _seen_from(base, e.dir)}) for e in config.export]
    suites = [_seen_from(base, s) if _is_suite_path(s) else s for s in config.validation.suites]
    return config.model_copy(
        update={
            "export": exports,
            "output_dir": _seen_from(base, config.output_dir),
            "mask_dir": None if config.mask_dir is None else _seen_from(base, config.mask_dir),
            "validation": config.validation.model_copy(update={"suites": suites}),
            "model": _with_local_weights(config.model, base),
        }
    )


def _seen_from(base: Path, path: str) -> str:
    return str(base / Path(path).expanduser())


def _with_local_weights(model: ModelConfig, base: Path) -> ModelConfig:
    """Weights that lie beside the configuration by their full path; any other name is the hub's."""
    key = {"huggingface": "id", "ultralytics": "weights"}.get(model.kind)
    if key is None:
        return model
    local = Path(_seen_from(base, getattr(model, key)))
    return model.model_copy(update={key: str(local)}) if local.exists() else model


def _is_suite_path(reference: str) -> bool:
    return "/" in reference or reference.endswith((".yaml", ".yml"))


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice; plain YAML keeps the last one in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def with_settings(config: LabelingConfig, overrides: Sequence[str]) -> LabelingConfig:
    """The configuration with ``key.sub=value`` settings that win over it; values are YAML.

    Raises:
        ConfigError: a setting cannot be read, or the result cannot work.
    """
    values = config.model_dump(mode="json", exclude_unset=True)
    problems = [problem for override in overrides if (problem := _set(values, override))]
    if problems:
        raise ConfigError(problems)
    return config_from_mapping(values)


def _set(values: dict[str, Any], override: str) -> str | None:
    """Put one ``KEY=VALUE`` into the settings; returns what is wrong with it."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        return f"--set expects KEY=VALUE, e.g. approval.threshold=0.8; found {override!r}"
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        return f"--set {key}: not a YAML value: {' '.join(str(error).split())}"
    *parents, last = key.split(".")
    place = values
    for parent in parents:
        if place.get(parent) is None:
            place[parent] = {}
        if not isinstance(place[parent], dict):
            return f"--set {key}: {parent!r} holds {place[parent]!r}, not a section"
        place = place[parent]
    place[last] = value
    return None


def _problem(error: dict[str, Any]) -> str:
    # Tags of the unions (fixed, python, …) are pydantic's, not the user's keys.
    location = [str(p) for p in error["loc"] if p != "[key]"]
    kind = None
    if location[0:1] and location[0] in _KIND_KEYS and len(location) > 2:
        kind = location.pop(1)
    where = ".".join(location) or "configuration"
    if error["type"] == "union_tag_not_found":
        expected = ", ".join(f"{k!r}" for k in _KINDS[location[0]])
        return f"{where}.{_KIND_KEYS[location[0]]}: required, but missing; one of {expected}"
    if error["type"] == "union_tag_invalid":
        expected, found = error["ctx"]["expected_tags"], error["ctx"]["tag"]
        return f"{where}.{_KIND_KEYS[location[0]]}: expected one of {expected}, found {found!r}"
    if error["type"] == "extra_forbidden":
        known = _known_keys(location[:-1], kind)
        if location[-1] in _known_keys(location[:-1]):
            return f"{where}: not a key of {_KIND_KEYS[location[0]]} {kind!r}; its keys: {', '.join(known)}"
        close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys here: {', '.join(sorted(known))}"
        return f"{where}: unknown key; {hint}"
    if error["type"] == "missing":
        return f"{where}: required, but missing"
    if error["type"] == "value_error":
        return f"{where}: {error['ctx']['error']}"
    found = error.get("input")
    # YAML reads 3 as a number; a class of that name needs quotes.
    quote = (
        f'; quote it: "{found}"' if error["type"] == "string_type" and isinstance(found, int | float) else ""
    )
    return f"{where}: {error['msg'][0].lower()}{error['msg'][1:]}, found {found!r}{quote}"


_KIND_KEYS = {"model": "kind", "approval": "mode"}
_KINDS: dict[str, dict[str, type[BaseModel]]] = {
    "model": MODEL_KINDS,
    "approval": {"fixed": FixedApproval, "certified": CertifiedApproval, "review_all": ReviewAll},
}
_SECTIONS: dict[str, type[BaseModel]] = {
    "": LabelingConfig,
    "target": TargetConfig,
    "runner": RunnerConfig,
    "review": ReviewConfig,
    "validation": ValidationConfig,
    "evaluation": EvaluationConfig,
    "export": ExportConfig,
    "safety_copies": SafetyCopies,
    "approval.lot": LotConfig,
}


def _known_keys(location: list[str], kind: str | None = None) -> list[str]:
    """Keys of the section at a place; of all its kinds where none is given."""
    section = ".".join(location) if ".".join(location) in _SECTIONS else (location or [""])[0]
    if section in _KINDS:
        models = [model for name, model in _KINDS[section].items() if kind in (None, name)]
    else:
        models = [_SECTIONS[section]]
    return sorted({name for model in models for name in model.model_fields})
