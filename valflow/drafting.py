"""A first configuration, written from what a dataset holds."""

from __future__ import annotations

import json
from typing import Any

import yaml

from valflow import database
from valflow.choosing_types import field_kind, type_of_field
from valflow.errors import ConfigError
from valflow.label_types import BY_FIELD_CLASS, DETECTIONS
from valflow.promotion import field_identity

_TRUTH_NAMES = ("ground_truth", "gt", "truth", "annotations")


def draft_config(dataset_name: str) -> str:
    """A commented configuration for a dataset: its fields, classes and ground truth filled in.

    Raises:
        ConfigError: the dataset does not exist, or holds no images.
    """
    import fiftyone as fo

    database.connection()
    if not fo.dataset_exists(dataset_name):
        raise ConfigError(
            [f"there is no dataset {dataset_name!r} (there are: {', '.join(fo.list_datasets()) or 'none'})"]
        )
    dataset = fo.load_dataset(dataset_name)
    if dataset.media_type not in (None, "image"):
        raise ConfigError([f"expected a dataset of images, {dataset_name!r} holds {dataset.media_type!r}"])
    fields = [n for n in dataset.get_field_schema() if field_kind(dataset, n) in BY_FIELD_CLASS]
    # A field of ours is where a run's labels go, not where they come from.
    usable = [n for n in fields if not _is_ours(dataset, n) and _has_any(dataset, n, "label")]
    predictions = [n for n in usable if _has_any(dataset, n, "confidence")]
    truth = [n for n in usable if n in _TRUTH_NAMES] or [n for n in usable if n not in predictions]
    label_type = type_of_field(dataset, [*predictions, *truth, ""][0]) or DETECTIONS
    # Labels are compared with those of their own type.
    truth = [n for n in truth if field_kind(dataset, n) == label_type.field_class]
    classes = list(dataset.default_classes or []) or _classes(dataset, [*truth, *predictions])
    return _TEMPLATE.format(
        summary=_one_line(
            f"{dataset_name}: {len(dataset)} samples; label fields: {', '.join(fields) or 'none'}"
        ),
        dataset=_quoted(dataset_name),
        label_field=_free_name(dataset, f"auto_{label_type.name}"),
        label_type="auto" if predictions else label_type.name,
        export="coco" if label_type.has_boxes else "fiftyone_classifications",
        model=_model_lines(predictions),
        classes=_one_line(
            f": {', '.join(classes[:20])}{' …' if len(classes) > 20 else ''}" if classes else ""
        ),
        evaluation=_evaluation_lines(truth),
    )


def _quoted(text: str) -> str:
    # JSON strings are YAML strings; `yes`, `null` and their like would become something else.
    is_plain = text.isidentifier() and yaml.safe_load(text) == text
    return text if is_plain else json.dumps(text, ensure_ascii=False)


def _one_line(text: str) -> str:
    # Inside a comment, a line break would end it.
    return " ".join(text.split())


def _has_any(dataset: Any, field: str, attribute: str) -> bool:
    label_type = type_of_field(dataset, field)
    return label_type is not None and dataset.count(f"{label_type.path(field)}.{attribute}") > 0


def _is_ours(dataset: Any, field: str) -> bool:
    """Whether valflow made the field, as a label field or for a review."""
    identity = field_identity(dataset, field)
    if identity is not None:
        return bool(identity["created"])
    query = {"dataset_id": str(dataset._doc.id), "staging_field": field}
    return database.runs().count_documents(query, limit=1) > 0


def _classes(dataset: Any, fields: list[str]) -> list[str]:
    label_type = type_of_field(dataset, fields[0]) if fields else None
    return list(dataset.distinct(f"{label_type.path(fields[0])}.label")) if label_type else []


def _free_name(dataset: Any, first: str) -> str:
    name, number = first, 2
    while any(dataset.has_field(n) and not _is_ours(dataset, n) for n in (name, f"{name}_in_review")):
        name, number = f"{first}_{number}", number + 1
    return name


_OWN_MODEL = """\
kind: python
  path: "my_models:MyDetector"         # a fiftyone.core.models.Model, found from the folder you start in
  kwargs: {}"""


def _model_lines(predictions: list[str]) -> str:
    own = f"model:\n  {_OWN_MODEL}"
    if not predictions:
        return own
    field = _quoted(predictions[0])
    existing = f"model: {{kind: field, field: {field}}}    # existing predictions; or a model of your own:"
    return "\n".join([existing, *(f"# {line}" for line in own.splitlines())])


def _evaluation_lines(truth: list[str]) -> str:
    if truth:
        return f"evaluation: {{ground_truth: {_quoted(truth[0])}, iou: 0.5, eval_key: val_eval}}"
    return "evaluation: null                     # {ground_truth: FIELD} where there is ground truth"


_TEMPLATE = """\
# {summary}
dataset: {dataset}
label_field: {label_field}         # new, or created by valflow before (then continued)
{model}
label_type: {label_type}                     # auto | detections | instances | classifications | classification

target: {{only: new}}                  # new | remaining | all; also view, tags, ids, limit
classes: null                        # keep only some of them{classes}
min_confidence: 0.15                 # predictions below it are not kept
# At or above its threshold a label needs no person; {{mode: review_all}} shows all of them to one.
approval: {{mode: fixed, threshold: 0.7, per_class: {{}}}}
review: {{required: true, reviewers: [], note: null}}
validation: {{suites: [labels, samples]}}
{evaluation}
export:
  - {{format: {export}, dir: exports, scope: run}}
output_dir: valflow_runs
"""
