"""What audits of the past say about a model: verdicts on labels drawn at random, by fingerprint.

The audits themselves are the store, so that nothing is kept twice and every verdict can be traced to its draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from valflow import database, runs
from valflow.certify import CORRECT, fingerprint
from valflow.config import CertifiedApproval, LabelingConfig
from valflow.errors import AuditError
from valflow.models import open_model

Floats = NDArray[np.float64]

# Scores of an earlier run, for a comparison of distributions: more would not change the verdict.
_MOST_SAMPLES = 4000


@dataclass(frozen=True)
class History:
    """Verdicts on labels that were drawn at random and had a confidence.

    Attributes:
        confidence: (M,) in [0, 1].
        classes: (M,) as predicted.
        correct: (M,) bool; ``unsure`` counts as wrong.
        features: (M,) each, by name; NaN where a label has none.
        runs: keys of the runs that they come from, the latest first.
    """

    confidence: Floats
    classes: NDArray[np.str_]
    correct: NDArray[np.bool_]
    features: Mapping[str, Floats]
    runs: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.confidence)


def fingerprint_of(record: runs.Record, dataset: Any) -> str:
    """What gives the scores of a run their meaning, as one digest.

    Classes and kept ones, weights, version and settings of the model, the dataset and the rule for boxes: a
    change of any of them makes another fingerprint, so that the history starts cold.
    """
    config = LabelingConfig.model_validate(record["config"])
    model = record["model"]
    # The classes that a field of predictions happens to hold grow with it; they are no property of the model.
    known = open_model(config.model).classes(dataset) if model["kind"] != "field" else None
    return fingerprint(
        {
            "model": [
                model["kind"],
                model["name"],
                model.get("path") or model.get("field") or model.get("source"),
                model.get("version"),
            ],
            "weights": model.get("weights_digest"),
            "label_map": config.classes,
            "processing": [model.get("kwargs"), config.min_confidence],
            "dataset": record["dataset_id"],
            "classes": known,
            "iou": 0.5 if config.evaluation is None else config.evaluation.iou,
        }
    )


def history(fingerprint: str, features: Sequence[str] = (), *, without: str | None = None) -> History:
    """Verdicts of all audits of a fingerprint, since the last drift and but for those that were forgotten.

    Args:
        fingerprint: whose.
        features: names of features that are wanted.
        without: a run whose own verdicts are left out.
    """
    rows: list[tuple[float, str, bool, list[float]]] = []
    sources: dict[str, None] = {}
    for audit in _audits(fingerprint, without):
        for item in audit["items"]:
            if item["verdict"] is not None and item["confidence"] is not None:
                known = item.get("features") or {}
                values = [_number(known.get(name)) for name in features]
                rows.append((item["confidence"], item["label"], item["verdict"] == CORRECT, values))
                sources[audit["run"]] = None
    confidence, classes, correct, extra = zip(*rows, strict=True) if rows else ((), (), (), ())
    table = np.array(extra, float).reshape(len(rows), len(features))
    return History(
        np.array(confidence, float),
        np.array(classes, dtype=str),
        np.array(correct, bool),
        {name: table[:, i] for i, name in enumerate(features)},
        tuple(sources),
    )


def scores_before(fingerprint: str, run: str) -> dict[str, Floats]:
    """Confidences by class of the last earlier run of a fingerprint, of at most 4,000 samples."""
    last = database.runs().find_one(
        {"certificate.fingerprint": fingerprint, "run": {"$ne": run}}, {"run": 1}, sort=[("created_at", -1)]
    )
    if last is None:
        return {}
    cursor = database.ledger().find(
        {"run": last["run"], "labels.0": {"$exists": True}},
        {"_id": 0, "labels.label": 1, "labels.confidence": 1},
        limit=_MOST_SAMPLES,
        batch_size=1000,
    )
    by_class: dict[str, list[float]] = {}
    for document in cursor:
        for entry in document["labels"]:
            by_class.setdefault(str(entry["label"]), []).append(_number(entry["confidence"]))
    return {label: np.array(values, float) for label, values in by_class.items()}


def overview() -> list[dict[str, Any]]:
    """One row per fingerprint: model, dataset, runs, verdicts, share of correct ones, when last; latest first."""
    rows: dict[str, dict[str, Any]] = {}
    audits = database.audits().find({"fingerprint": {"$ne": None}}).sort("drawn_at", -1)
    for audit in audits:
        row = rows.setdefault(
            audit["fingerprint"],
            {
                "fingerprint": audit["fingerprint"],
                "model": audit["model"],
                "dataset": audit["dataset"],
                "runs": [],
                "verdicts": 0,
                "correct": 0,
                "forgotten": 0,
                "last": audit["drawn_at"],
            },
        )
        judged = [i["verdict"] for i in audit["items"] if i["verdict"] is not None]
        if audit.get("forgotten"):
            row["forgotten"] += len(judged)
            continue
        if audit["run"] not in row["runs"]:
            row["runs"].append(audit["run"])
        row["verdicts"] += len(judged)
        row["correct"] += sum(v == CORRECT for v in judged)
    return list(rows.values())


def verdicts(fingerprint: str) -> list[dict[str, Any]]:
    """Every verdict of a fingerprint with its draw, one row each, in order of time."""
    return [
        {
            "run": audit["run"],
            "kind": audit["kind"],
            "seed": audit["seed"],
            "position": item["number"],
            "probability": item["probability"],
            "label_id": item["label_id"],
            "sample_id": item["sample_id"],
            "class": item["label"],
            "confidence": item["confidence"],
            **(item.get("features") or {}),
            "verdict": item["verdict"],
            "reviewer": item["reviewer"],
            "time": item["time"],
            "fingerprint": audit["fingerprint"],
            "forgotten": bool(audit.get("forgotten")),
        }
        for audit in database.audits().find({"fingerprint": fingerprint}).sort("drawn_at", 1)
        for item in audit["items"]
        if item["verdict"] is not None
    ]


def full_fingerprint(start: str) -> str:
    """The fingerprint that begins so.

    Raises:
        AuditError: none does, or several.
    """
    known = [f for f in database.audits().distinct("fingerprint") if f and f.startswith(start)]
    if len(known) != 1:
        listed = ", ".join(sorted(f[:12] for f in known or database.audits().distinct("fingerprint") if f))
        found = f"several begin with {start!r}" if known else f"none begins with {start!r}"
        raise AuditError(f"expected the beginning of one fingerprint, {found}; there are: {listed or 'none'}")
    return known[0]


def forget(fingerprint: str, who: str) -> int:
    """Leave all verdicts so far out of future scores; they stay on record. Returns their number."""
    open_ = {"fingerprint": fingerprint, "forgotten": None}
    count = sum(i["verdict"] is not None for a in database.audits().find(open_) for i in a["items"])
    database.audits().update_many(open_, {"$set": {"forgotten": {"by": who, "at": database.now()}}})
    return count


def features_of(config: CertifiedApproval) -> list[str]:
    """Names of the features that a run looks at beside the confidence."""
    agreement = ["agreement", "disagreement"] if config.second_opinion else []
    return ["log_area", "log_aspect", "overlap", *config.features, *agreement]


def _audits(fingerprint: str, without: str | None) -> list[dict[str, Any]]:
    """Audits that count, the latest first, back to the last one that did not fit the ones before it."""
    query = {"fingerprint": fingerprint, "forgotten": None, "run": {"$ne": without}}
    counted = []
    for audit in database.audits().find(query).sort("drawn_at", -1):
        counted.append(audit)
        if audit.get("drift_suspected"):
            break
    return counted


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)
