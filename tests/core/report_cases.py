"""Run records and pictures for the tests of the report."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from bson import ObjectId
from PIL import Image

START = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)


def make_class(label: str = "cat", total: int = 100, **changes: Any) -> dict[str, Any]:
    """A row of the class table."""
    histogram = [0] * 20
    histogram[12], histogram[18] = total // 2, total - total // 2
    return {
        "label": label,
        "total": total,
        "approved": total // 2,
        "rejected": total // 4,
        "undecided": total - total // 2 - total // 4,
        "invalid": 0,
        "without_confidence": 0,
        "mean_confidence": 0.77,
        "histogram": histogram,
        "threshold": 0.7,
        **changes,
    }


def make_metrics() -> dict[str, Any]:
    """Figures of the evaluate stage."""
    figures = {"tp": 90, "fp": 2, "fn": 10, "labels": 92, "precision": 0.978, "recall": 0.9, "f1": 0.937}
    every = {"tp": 95, "fp": 25, "fn": 5, "labels": 120, "precision": 0.7917, "recall": 0.95, "f1": 0.864}
    thrown = {"tp": 5, "fp": 23, "fn": 95, "labels": 28, "precision": 0.178, "recall": 0.05, "f1": None}
    curve = {"recall": [0.1, 0.5, 0.9], "precision": [1.0, 0.99, 0.978], "confidence": [0.9, 0.8, 0.7]}
    return {
        "eval_key": "val_eval",
        "ground_truth": "ground_truth",
        "iou": 0.5,
        "run": {
            "images": 40,
            "images_without_ground_truth": 2,
            "ground_truth_labels": 100,
            "approved": {**figures, "mAP": 0.71, "mAP50": 0.88},
            "discarded": {**thrown, "mAP": 0.02, "mAP50": 0.05},
            "all": {**every, "mAP": 0.75, "mAP50": 0.9},
            "per_class": [{"label": "cat", "support": 100, "ap": 0.71, **figures}],
            "pr_curve": {"approved": curve, "all": curve},
        },
        "dataset": {"images": 80, "images_without_ground_truth": 0, "approved": figures, "per_class": []},
        "worst": [
            {
                "filepath": "/nowhere.png",
                "bounding_box": [0.1, 0.1, 0.2, 0.2],
                "label": "cat",
                "confidence": 0.99,
            }
            | {"kind": "false_positive", "cause": "wrong_class", "true_label": "dog"},
            {"filepath": None, "bounding_box": None, "label": "dog", "confidence": None, "kind": "missed"},
        ],
    }


def make_record(**changes: Any) -> dict[str, Any]:
    """A finalized run with everything in it; ``changes`` replace top-level keys."""
    steps = [
        ("create", None, "CREATED"),
        ("infer", "CREATED", "PREDICTED"),
        ("triage", "PREDICTED", "IN_REVIEW"),
        ("submit", "IN_REVIEW", "REVIEWED"),
        ("validate", "REVIEWED", "VALIDATED"),
        ("begin_finalize", "VALIDATED", "FINALIZING"),
        ("finalize", "FINALIZING", "FINALIZED"),
    ]
    history = [
        {"time": START + timedelta(minutes=i), "actor": "ana", "event": event, "from": before, "to": after}
        | {"note": None, "figures": {"approved": 70} if event == "triage" else {}}
        for i, (event, before, after) in enumerate(steps)
    ]
    return {
        "_id": ObjectId(),
        "schema_version": 1,
        "run": "digits_run",
        "name": "Nightly digits",
        "dataset": "digits",
        "label_field": "auto",
        "staging_field": "auto_in_review",
        "state": "FINALIZED",
        "round": 1,
        "attempt": 1,
        "flow_run_id": "2c4f",
        "prefect_url": "http://127.0.0.1:4200/runs/flow-run/2c4f",
        "config": {
            "dataset": "digits",
            "evaluation": {"ground_truth": "ground_truth"},
            "export": [{"format": "coco"}],
        },
        "model": {"kind": "python", "name": "DigitDetector"},
        "created_at": START,
        "updated_at": START + timedelta(hours=1),
        "counts": {"samples": 40, "predicted": 120, "approved": 92, "rejected": 20, "undecided": 8}
        | {"finalized": 92, "discarded": 28, "failed_samples": 1, "empty_samples": 3},
        "failed": [
            {"sample_id": ObjectId(), "filepath": "/broken.png", "reason": "cannot identify image file"}
        ],
        "class_table": [make_class("cat"), make_class("dog", 20, threshold=None)],
        "thresholds": {"default": 0.7, "per_class": {"cat": 0.85}},
        "checklist": [
            {
                "item": "spot_check",
                "title": "A sample was judged",
                "ok": True,
                "evidence": "0 of 59",
                "required": True,
            },
            {
                "item": "issues",
                "title": "Issues were noted",
                "ok": False,
                "evidence": "none",
                "required": False,
            },
        ],
        "audit": {
            "drawn": 59,
            "population": 92,
            "judged": 59,
            "wrong": 1,
            "upper_bound": 0.0778,
            "confidence": 0.95,
        }
        | {"seed": 7, "verdicts": {"correct": 58, "wrong_class": 1}, "reviewers": ["ana"]},
        "decision": {
            "decision": "finalize",
            "reviewer": "ana",
            "note": "fine",
            "override": None,
            "digest": "9f2c",
        }
        | {"via": "cli", "time": START + timedelta(minutes=50), "round": 1},
        "review": {"opened_at": START, "decided_at": START + timedelta(minutes=50), "seconds": 3000.0}
        | {"reviewers": {"ana": {"approved": 22, "rejected": 20, "tagged": 3, "judged": 59}}},
        "problem_tags": {"needs_correction": 3, "poor_bbox": 1},
        "issues": {"dog": ["often a wolf (ana, wrong_class)"]},
        "validation": {
            "passed": True,
            "checks": [
                {"title": "ids are unique", "severity": "critical", "success": True, "observed": "all 92"}
            ],
            "rounds": [
                {"round": 1, "passed": True, "checks": 19, "failed_checks": [], "failing_labels": 0},
            ],
        },
        "verification": {
            "schema": {"auto": "Detections"},
            "samples_with_labels": 38,
            "labels_per_class": {"cat": 80, "dog": 12},
            "announced": 92,
            "written": 92,
            "changed_elsewhere": [],
        },
        "metrics": make_metrics(),
        "exports": [
            {"format": "coco", "dir": "/exports/digits_run", "scope": "run", "samples": 38, "labels": 92}
        ],
        "artifacts": {"validation": "validation-r1.html"},
        "timings": {"infer": 12.4, "triage": 1.2, "finalize": 0.4},
        "history": history,
        **changes,
    }


def waiting(**changes: Any) -> dict[str, Any]:
    """A run that awaits its review."""
    history = make_record()["history"][:3]
    later = dict.fromkeys(("audit", "decision", "validation", "verification", "metrics", "checklist"))
    counts = {"samples": 40, "predicted": 120, "approved": 70, "rejected": 0, "undecided": 50}
    return make_record(
        state="IN_REVIEW", history=history, counts=counts, exports=[], artifacts={}, **later, **changes
    )


def failed(stage_state: str) -> dict[str, Any]:
    """A run whose stage raised."""
    entry = {"time": START, "actor": "system", "event": "fail", "from": stage_state, "to": "FAILED"}
    record = waiting(failed_from=stage_state)
    return {
        **record,
        "state": "FAILED",
        "history": [*record["history"], entry | {"note": "disk is full", "figures": {}}],
    }


def save_image(path: Path, size: tuple[int, int] = (64, 48), mode: str = "RGB") -> str:
    """A picture with something to see in it."""
    values = np.linspace(0, 65535 if mode == "I;16" else 255, size[0] * size[1]).reshape(size[1], size[0])
    kind = {"I;16": np.uint16, "F": np.float32}.get(mode, np.uint8)
    image = Image.fromarray(values.astype(kind))
    (image if mode in ("I;16", "F", "L") else image.convert(mode)).save(path)
    return str(path)
