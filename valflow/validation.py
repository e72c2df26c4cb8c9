"""What the gate's verdict does to a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bson import ObjectId

from valflow import actions, database, decisions, runs
from valflow.config import LabelingConfig
from valflow.label_types import label_type_of
from valflow.models import open_model
from valflow.places import inside, write_inside
from valflow.states import Event, State


def suite_parameters(record: runs.Record, dataset: Any) -> dict[str, Any]:
    """What suites may refer to as ``$PARAMETER``: classes, bounds, and the class mix of the run before."""
    config = LabelingConfig.model_validate(record["config"])
    return {
        # No list restricts nothing; an empty one would allow nothing.
        "classes": allowed_classes(record, dataset) or None,
        "max_labels_per_sample": 1
        if label_type_of(record).is_single
        else config.validation.max_labels_per_sample,
        "min_confidence": config.min_confidence,
        "previous_class_mix": previous_class_mix(record),
    }


def allowed_classes(record: runs.Record, dataset: Any) -> list[str]:
    """Classes that a label may have: those configured, else what the model and the dataset know.

    A reviewer may correct a label to a class that the dataset's ground truth has and the model has not. Empty
    where neither says: what happens to be annotated is no list of what a model may find.
    """
    config = LabelingConfig.model_validate(record["config"])
    if config.classes is not None:
        return list(config.classes)
    known = set(open_model(config.model).classes(dataset)) | set(dataset.default_classes or [])
    if known and config.evaluation is not None:
        path = label_type_of(record).path(config.evaluation.ground_truth)
        known |= set(dataset.distinct(f"{path}.label"))
    return sorted(known)


def previous_class_mix(record: runs.Record) -> dict[str, float] | None:
    """Share of each class among the labels of the last finalized run into the same field."""
    last = database.runs().find_one(
        {
            "dataset_id": record["dataset_id"],
            "label_field": record["label_field"],
            "state": State.FINALIZED.value,
            "run": {"$ne": record["run"]},
        },
        sort=[("created_at", -1)],
    )
    counts = (last or {}).get("verification", {}).get("labels_per_class") or {}
    total = sum(counts.values())
    return {label: n / total for label, n in counts.items()} if total else None


def conclude(
    record: runs.Record, result: dict[str, Any], page: str, refused: dict[ObjectId, dict[ObjectId, list[str]]]
) -> runs.Record:
    """Keep the result as files, and move the run on to VALIDATED, or back into its review.

    Args:
        record: a decided run.
        result: the gate's outcome as JSON.
        page: the same for people, as HTML.
        refused: why single labels failed, by sample and label; they are marked and wait for a person again.
    """
    folder = output_folder(record)
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"validation-r{record['round']}"
    document = json.dumps(result, indent=2, ensure_ascii=False)
    write_inside(stem.with_suffix(".json"), document.encode("utf-8", "replace"))
    write_inside(stem.with_suffix(".html"), page.encode("utf-8", "replace"))
    failed = [c for c in result["checks"] if c["status"] in ("failed", "error")]
    earlier = (record.get("validation") or {}).get("rounds", [])
    this_round = {
        "round": record["round"],
        "passed": result["passed"],
        "checks": len(result["checks"]),
        "failed_checks": [c["title"] for c in failed],
        "failing_labels": sum(len(labels) for labels in refused.values()),
    }
    changes: dict[str, Any] = {
        "validation": {
            "passed": result["passed"],
            "checks": result["checks"],
            "rounds": [*earlier, this_round],
        },
        "artifacts": {
            **record["artifacts"],
            "validation": str(stem.with_suffix(".html")),
            "validation_json": str(stem.with_suffix(".json")),
        },
    }
    if result["passed"]:
        return runs.transition(
            record, Event.VALIDATE, actor=actions.POLICY, figures=this_round, changes=changes
        )
    reason = "validation refused: " + "; ".join(_in_words(c) for c in failed if c["blocks"])
    changes["action_seq"] = actions.withdraw_failing(record, refused)
    return decisions.reopen(record, reason=reason, changes=changes)


def output_folder(record: runs.Record) -> Path:
    """Where the run's files go.

    Raises:
        OutsideFolder: a link, or the run's key, leads elsewhere.
    """
    return inside(Path(record["config"]["output_dir"]), record["run"])


def _in_words(check: dict[str, Any]) -> str:
    return (
        f"{check['title']} ({check.get('error') or check.get('observed') or check.get('unexpected_count')})"
    )
