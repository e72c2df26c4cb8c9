"""Every check of a configuration against the real world, before anything is written."""

from __future__ import annotations

import difflib
import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from valflow import database
from valflow.choosing_types import chosen_type, field_kind, noted_type
from valflow.config import (
    CertifiedApproval,
    FieldModelConfig,
    FixedApproval,
    LabelingConfig,
    MergeModelConfig,
)
from valflow.errors import ConfigError, EvaluationError
from valflow.label_types import BY_FIELD_CLASS, DETECTIONS, LabelType
from valflow.models import open_model
from valflow.models.probing import REASONS, lacks_masks
from valflow.promotion import field_identity

Check = Callable[[LabelingConfig, Any], list[str]]

_UNSUPPORTED_MEDIA = {
    "video": "frame labels live in a collection of their own, which no stage reads",
    "group": "its samples come in slices, and FiftyOne reads and saves only the active one",
    "3d": "detections in space have no box in an image",
    "point-cloud": "detections in space have no box in an image",
    "unknown": "FiftyOne does not know images by these file names; give the files their usual endings",
}

_UNSUPPORTED_KINDS = {
    "Detection": "a single box has no list to review it in; put it into Detections",
    "Polyline": "nothing here judges or compares outlines",
    "Polylines": "nothing here judges or compares outlines",
    "Keypoint": "nothing here judges or compares points",
    "Keypoints": "nothing here judges or compares points",
    "Segmentation": "a map of pixels has no single labels to approve; as instances it has",
    "Heatmap": "a map of values has no labels to approve",
    "TemporalDetection": "spans of time belong to videos, whose frames no stage reads",
    "TemporalDetections": "spans of time belong to videos, whose frames no stage reads",
    "Regression": "a number has no class to approve",
    "GeoLocation": "a place has no class to approve",
    "GeoLocations": "places have no class to approve",
}


def check(config: LabelingConfig, more_problems: Sequence[str] = ()) -> Any:
    """Check a configuration against dataset, model and folders.

    Args:
        config: what a run would do.
        more_problems: what other parts found wrong, to be told in the same error.

    Returns:
        The FiftyOne dataset.

    Raises:
        ConfigError: lists all problems at once.
    """
    import fiftyone as fo

    problems = [*_folder_problems(config), *_runner_problems(config), *more_problems]
    database.connection()
    if not fo.dataset_exists(config.dataset):
        raise ConfigError([f"dataset: {_unknown('dataset', config.dataset, fo.list_datasets())}", *problems])
    dataset = fo.load_dataset(config.dataset)
    dataset.reload()
    if dataset.media_type not in ("image", None):
        reason = _UNSUPPORTED_MEDIA.get(dataset.media_type, "only images can be labelled")
        problems.insert(
            0,
            f"dataset: expected images, {config.dataset!r} holds media of type {dataset.media_type!r}: {reason}",
        )
        raise ConfigError(problems)
    for part in (
        _target_problems,
        _label_field_problems,
        _run_key_problems,
        _model_problems,
        _merge_problems,
        _approval_field_problems,
        _ground_truth_problems,
        _export_problems,
    ):
        problems += part(config, dataset)
    if problems:
        raise ConfigError(problems)
    return dataset


def _unknown(what: str, name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    listed = ", ".join(list(known)[:20]) or "none"
    return (
        f"there is no {what} {name!r}"
        + (f"; did you mean {close[0]!r}?" if close else "")
        + f" (there are: {listed})"
    )


def _label_fields(dataset: Any) -> list[str]:
    return [n for n in dataset.get_field_schema() if field_kind(dataset, n) in BY_FIELD_CLASS]


def type_problem(key: str, dataset: Any, name: str, wanted: LabelType | None = None) -> list[str]:
    """What is wrong with a field that should hold labels (of a type); empty where nothing is."""
    if not dataset.has_field(name):
        return [f"{key}: {_unknown('label field', name, _label_fields(dataset))}"]
    kind = field_kind(dataset, name)
    if kind not in BY_FIELD_CLASS:
        found = kind or type(dataset.get_field(name)).__name__
        reason = _UNSUPPORTED_KINDS.get(found)
        return [
            f"{key}: expected a field of {' or '.join(BY_FIELD_CLASS)}, {name!r} holds {found}"
            + (f": {reason}" if reason else "")
        ]
    if wanted is not None and kind != wanted.field_class:
        return [
            f"{key}: expected a field of {wanted.field_class}, because the run makes labels of the type "
            f"{wanted.name!r}; {name!r} holds {kind}. Name another field, or set label_type"
        ]
    return []


def _target_problems(config: LabelingConfig, dataset: Any) -> list[str]:
    from bson import ObjectId

    target, problems = config.target, []
    if target.view is not None and not dataset.has_saved_view(target.view):
        problems.append(f"target.view: {_unknown('saved view', target.view, dataset.list_saved_views())}")
    if target.tags:
        known = set(dataset.distinct("tags"))
        problems += [
            f"target.tags: {_unknown('sample tag', t, sorted(known))}" for t in target.tags if t not in known
        ]
    if target.ids:
        ids = [ObjectId(i) for i in target.ids]
        found = {d["_id"] for d in database.samples_of(dataset).find({"_id": {"$in": ids}}, {"_id": 1})}
        lost = [str(i) for i in ids if i not in found]
        if lost:
            problems.append(
                f"target.ids: {len(lost)} of {len(ids)} samples are not in the dataset: {', '.join(lost[:3])}"
            )
    return problems


def _label_field_problems(config: LabelingConfig, dataset: Any) -> list[str]:
    problems = []
    name, staging = config.label_field, config.staging_field
    if dataset.has_field(name):
        wanted = chosen_type(config, dataset)
        problems += type_problem("label_field", dataset, name, wanted)
        noted = noted_type(dataset, name)
        if not problems and noted not in (None, wanted):
            problems.append(
                f"label_field: {name!r} was made for labels of the type {noted.name!r}, the run would make "
                f"{wanted.name!r}; choose another label_field, or set label_type"
            )
        identity = field_identity(dataset, name)
        created_by_us = identity is not None and identity["created"]
        if not problems and not created_by_us and not config.append:
            problems.append(
                f"label_field: {name!r} exists and was not created by valflow; "
                "set `append: true` to add labels to it, or choose another name"
            )
    if dataset.has_field(staging) and not database.runs().count_documents(
        {"dataset_id": str(dataset._doc.id), "staging_field": staging}, limit=1
    ):
        problems.append(
            f"label_field: the review would need the field {staging!r}, which exists already and is not valflow's; "
            "rename it, or choose another label_field"
        )
    return problems


def _run_key_problems(config: LabelingConfig, dataset: Any) -> list[str]:
    if config.run_key is None:
        return []
    record = database.runs().find_one(
        {"run": config.run_key}, {"dataset_id": 1, "dataset": 1, "label_field": 1}
    )
    if record is None or (record["dataset_id"], record["label_field"]) == (
        str(dataset._doc.id),
        config.label_field,
    ):
        return []
    return [
        f"run_key: {config.run_key!r} is a run into {record['dataset']}.{record['label_field']}; choose another key"
    ]


def _model_problems(config: LabelingConfig, dataset: Any) -> list[str]:
    if isinstance(config.model, FieldModelConfig):
        wanted = chosen_type(config, dataset)
        problems = type_problem("model.field", dataset, config.model.field, wanted)
        if not problems and wanted.needs_masks and not _holds_masks(dataset, config.model.field, wanted):
            problems.append(
                f"model.field: label_type: instances needs masks, but no label in {config.model.field!r} has one"
            )
        if problems:
            return problems
    try:
        source = open_model(config.model)
    except ConfigError as error:
        return error.problems
    wanted = chosen_type(config, dataset)
    problems = _output_problems(source.label_class(dataset), wanted)
    if (
        not problems
        and wanted.needs_masks
        and not isinstance(config.model, FieldModelConfig | MergeModelConfig)
    ):
        problems += ["model: label_type: instances needs masks, this one finds boxes alone"] * lacks_masks(
            source, dataset
        )
    return problems or _class_problems(config, source.classes(dataset))


def _output_problems(found: str | None, wanted: LabelType) -> list[str]:
    if found is None or found == wanted.field_class:
        return []
    other = BY_FIELD_CLASS.get(found)
    reason = (
        f"label_type: {other.name} takes that"
        if other
        else REASONS.get(found, "there is no review of such labels")
    )
    return [f"model: expected one that finds {wanted.field_class}, this one gives {found}: {reason}"]


def _merge_problems(config: LabelingConfig, dataset: Any) -> list[str]:
    wanted = chosen_type(config, dataset)
    if not isinstance(config.model, MergeModelConfig) or wanted is DETECTIONS:
        return []
    return [f"model.kind: merge makes labels of the type 'detections', the run would make {wanted.name!r}"]


def _holds_masks(dataset: Any, field: str, label_type: LabelType) -> bool:
    path = label_type.path(field)
    either = {"$or": [{f"{path}.{name}": {"$exists": True, "$ne": None}} for name in ("mask", "mask_path")]}
    return database.samples_of(dataset).count_documents(either, limit=1) > 0


def _class_problems(config: LabelingConfig, known: Sequence[str]) -> list[str]:
    if not known:
        return []
    problems = [f"classes: {_unknown('class', c, known)}" for c in config.classes or [] if c not in known]
    if isinstance(config.approval, FixedApproval):
        problems += [
            f"approval.per_class: {_unknown('class', c, known)}"
            for c in config.approval.per_class
            if c not in known
        ]
    return problems


def _approval_field_problems(config: LabelingConfig, dataset: Any) -> list[str]:
    if not isinstance(config.approval, CertifiedApproval):
        return []
    named = {key: getattr(config.approval, key) for key in ("second_opinion", "ground_truth")}
    wanted = chosen_type(config, dataset)
    return [
        p
        for key, name in named.items()
        if name
        for p in type_problem(f"approval.{key}", dataset, name, wanted)
    ]


def _ground_truth_problems(config: LabelingConfig, dataset: Any) -> list[str]:
    if config.evaluation is None:
        return []
    from valflow.evaluation.storing import check_key

    evaluation = config.evaluation
    problems = type_problem(
        "evaluation.ground_truth", dataset, evaluation.ground_truth, chosen_type(config, dataset)
    )
    try:
        check_key(
            dataset,
            config.label_field,
            evaluation.ground_truth,
            evaluation.eval_key,
            chosen_type(config, dataset),
        )
    except EvaluationError as error:
        problems.append(f"evaluation.eval_key: {error}")
    return problems


def _folder_problems(config: LabelingConfig) -> list[str]:
    folders = [
        ("output_dir", config.output_dir),
        *([("mask_dir", config.mask_dir)] if config.mask_dir else []),
        *((f"export.{i}.dir", e.dir) for i, e in enumerate(config.export)),
    ]
    return [f"{key}: {problem}" for key, folder in folders if (problem := unwritable(Path(folder)))]


def unwritable(folder: Path) -> str | None:
    """Why nothing can be written into a folder that may not exist yet, or None."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        return f"expected a folder, {place} is a file"
    return None if os.access(place, os.W_OK | os.X_OK) else f"no right to write into {place}"


def _runner_problems(config: LabelingConfig) -> list[str]:
    kind = config.runner.kind
    if kind not in ("dask", "ray") or importlib.util.find_spec(f"prefect_{kind}") is not None:
        return []
    return [
        f"runner.kind: {kind} needs the extra `{kind}`, which is not installed: pip install 'valflow[{kind}]'"
    ]


def _export_problems(config: LabelingConfig, dataset: Any) -> list[str]:
    if not config.export:
        return []
    from valflow.exporting import FORMATS
    from valflow.exporting.formats import refusal

    unknown = [
        f"export.{i}.format: {_unknown('format', e.format, sorted(FORMATS))}"
        for i, e in enumerate(config.export)
        if e.format not in FORMATS
    ]
    without_media = [
        f"export.{i}.media: {e.format!r} cannot be read without its images; choose copy or symlink"
        for i, e in enumerate(config.export)
        if e.media == "none" and e.format in FORMATS and FORMATS[e.format].needs_media
    ]
    label_type = chosen_type(config, dataset)
    refused = [
        f"export.{i}.format: {reason}"
        for i, e in enumerate(config.export)
        if e.format in FORMATS and (reason := refusal(FORMATS[e.format], label_type))
    ]
    return unknown + without_media + refused
