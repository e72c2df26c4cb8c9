"""Before a run: how many labels will a person have to look at, under its settings and what is known of its model?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bson import ObjectId

from valflow import calibration, database, preflight
from valflow.audits import CONFIDENCE, MAX_ERROR
from valflow.certify import Forecast, Promise, forecast, smallest_sample
from valflow.certify.certificate import allowed_wrong, hypergeometric_cdf
from valflow.choosing_types import chosen_type
from valflow.config import CertifiedApproval, FieldModelConfig, FixedApproval, LabelingConfig
from valflow.errors import ConfigError
from valflow.inference import find_targets
from valflow.models import open_model
from valflow.promotion import finalized_runs_into
from valflow.states import Event

SECONDS_PER_LOOK = 4.0
# Where nothing is known: so much of a batch is proposed to skip the review, with these errors in it.
ASSUMED_SHARE = 0.6
ASSUMED_ERRORS = (0.1, 1 / 3, 0.6)
# Batches beside the expected one.
_SIZES = (0.25, 1.0, 4.0)
_SAMPLES_AT_ONCE = 10_000


@dataclass(frozen=True)
class Expected:
    """Something that a plan rests on, and where it comes from."""

    value: float
    source: str


def make_forecast(config: LabelingConfig, labels: int | None = None) -> dict[str, Any]:
    """What reviewing a run will cost. Writes nothing.

    Args:
        config: of the run to come.
        labels: in the batch; by default counted in the field of predictions, or estimated from earlier runs.

    Returns:
        JSON: ``dataset, mode, samples, labels, labels_source``; with ``approval.mode: certified`` also ``promise,
        share, share_source, error, error_source, rows`` (``error`` is None where nothing is known); otherwise
        ``looks, looks_source, minutes``.

    Raises:
        ConfigError: the configuration cannot work, or nothing tells how many labels to expect.
    """
    if labels is not None and labels < 1:
        raise ConfigError([f"--labels: expected 1 or more, found {labels}"])
    dataset = preflight.check(config)
    targets = find_targets(dataset, config, finalized_runs_into(dataset, config.label_field))
    expected = Expected(labels, "as given") if labels else _labels(config, dataset, targets)
    total = max(1, round(expected.value))
    plan = {
        "dataset": config.dataset,
        "mode": config.approval.mode,
        "samples": len(targets),
        "labels": total,
        "labels_source": expected.source,
    }
    if isinstance(config.approval, CertifiedApproval):
        return {**plan, **_certified(config, config.approval, dataset, total)}
    return {**plan, **_uncertified(config, dataset, targets, total)}


def rows_for(plan: dict[str, Any], errors: Sequence[float], totals: Sequence[int]) -> list[Forecast]:
    """Forecasts under the promise of a certified plan; errors are multiples of the allowed one."""
    promise = Promise(**plan["promise"])
    return [
        _forecast(n, plan["share"], e * promise.max_error, promise, plan["audit"])
        for n in totals
        for e in errors
    ]


def minutes(looks: float) -> float:
    """Time that so many looks take."""
    return looks * SECONDS_PER_LOOK / 60


def _certified(
    config: LabelingConfig, approval: CertifiedApproval, dataset: Any, total: int
) -> dict[str, Any]:
    fingerprint = calibration.fingerprint_of(_record_to_come(config, dataset), dataset)
    share, error = _proposed_share(fingerprint), _expected_error(fingerprint)
    plan: dict[str, Any] = {
        "promise": {
            "max_error": approval.max_error,
            "confidence": approval.confidence,
            "miss_rate": approval.reviewer_miss_rate,
        },
        "audit": approval.audit,
        "fingerprint": fingerprint,
        "share": share.value,
        "share_source": share.source,
        "error": error.value if error else None,
        "error_source": error.source if error else "nothing is known about this model yet: assumed values",
    }
    known = [error.value / approval.max_error] if error and error.value < 1 else []
    multiples = sorted({*known, *ASSUMED_ERRORS})
    totals = sorted({max(1, round(size * total)) for size in _SIZES})
    plan["rows"] = [
        {
            **asdict(row),
            "multiple": multiple,
            "known": multiple in known,
            "looks_per_1000": 1000 * row.looks / row.total,
            "minutes": minutes(row.looks),
        }
        for row, multiple in zip(rows_for(plan, multiples, totals), multiples * len(totals), strict=True)
    ]
    return plan


def _forecast(total: int, share: float, error: float, promise: Promise, audit: int | None) -> Forecast:
    """As ``certify.forecast``, but with the audit's size where the settings fix it."""
    if audit is None:
        return forecast(total, share, error, promise)
    region = max(1, round(share * total))
    allowed = int(allowed_wrong(region, audit, promise)) if audit < region else -1
    if allowed < 0:
        return Forecast(total, region, error, None, 0, 0.0, float(total))
    power = float(hypergeometric_cdf(allowed, region, round(error * region), audit))
    return Forecast(total, region, error, audit, allowed, power, total - power * (region - audit))


def _record_to_come(config: LabelingConfig, dataset: Any) -> dict[str, Any]:
    """As much of a run record as its fingerprint is made of."""
    return {
        "config": config.model_dump(mode="json"),
        "model": open_model(config.model).describe(),
        "dataset_id": str(dataset._doc.id),
    }


def _proposed_share(fingerprint: str) -> Expected:
    """Which part of a batch the scores propose, as in the last certified run of the fingerprint."""
    last = database.runs().find_one(
        {"certificate.fingerprint": fingerprint, "certificate.audit": {"$gt": 0}},
        {"run": 1, "certificate": 1},
        sort=[("created_at", -1)],
    )
    if last is None:
        return Expected(ASSUMED_SHARE, "assumed")
    certificate = last["certificate"]
    proposed = sum(g["drawn_from"] for g in certificate["groups"])
    return Expected(proposed / certificate["labels"], f"as in run {last['run']}")


def _expected_error(fingerprint: str) -> Expected | None:
    """Share of wrong labels among those that were judged before; None where none were."""
    past = calibration.history(fingerprint)
    if not len(past):
        return None
    wrong = int((~past.correct).sum())
    runs = f"{len(past.runs)} run{'' if len(past.runs) == 1 else 's'}"
    source = f"{wrong} wrong of {len(past)} verdicts on fingerprint {fingerprint[:12]} ({runs})"
    return Expected(wrong / len(past), source)


def _uncertified(
    config: LabelingConfig, dataset: Any, targets: Sequence[ObjectId], total: int
) -> dict[str, Any]:
    if not isinstance(config.approval, FixedApproval):
        return {"looks": total, "looks_source": "every label waits for a person", "minutes": minutes(total)}
    spot_check = smallest_sample(MAX_ERROR, CONFIDENCE)
    share = _share_below(config, dataset, targets)
    if share is None:
        why = "nothing tells yet which part the thresholds approve; `valflow run --dry-run` tries it"
        return {"looks": None, "looks_source": why, "minutes": None, "spot_check": spot_check}
    queue = round(share.value * total)
    looks = queue + min(spot_check, total - queue)
    why = f"{queue} below the thresholds ({share.source}), and a spot-check of {looks - queue}"
    return {"looks": looks, "looks_source": why, "minutes": minutes(looks), "spot_check": spot_check}


def _share_below(config: LabelingConfig, dataset: Any, targets: Sequence[ObjectId]) -> Expected | None:
    """Which part of the labels the thresholds leave to a person."""
    assert isinstance(config.approval, FixedApproval)
    if isinstance(config.model, FieldModelConfig):
        total = _count(config, dataset, targets)
        if total:
            approved = _count(config, dataset, targets, _passes(config.approval))
            return Expected(1 - approved / total, f"counted in {config.model.field}")
        return None
    for record in _earlier(config, dataset):
        approval = record["config"]["approval"]
        if approval == config.approval.model_dump(mode="json"):
            figures = [h["figures"] for h in record["history"] if h["event"] == Event.TRIAGE.value]
            if figures and figures[-1].get("predicted"):
                part = 1 - figures[-1]["approved"] / figures[-1]["predicted"]
                return Expected(part, f"as in run {record['run']}")
    return None


def _labels(config: LabelingConfig, dataset: Any, targets: Sequence[ObjectId]) -> Expected:
    if not targets:
        raise ConfigError(
            [
                f"nothing to label in {config.dataset} (target.only: {config.target.only}); plan with --labels N"
            ]
        )
    if isinstance(config.model, FieldModelConfig):
        counted = _count(config, dataset, targets)
        if not counted:
            raise ConfigError(
                [
                    f"model.field: {config.model.field!r} holds no prediction for the {len(targets)} samples to label"
                ]
            )
        return Expected(counted, f"counted in {config.model.field}, on {len(targets)} samples")
    for record in _earlier(config, dataset):
        samples, predicted = record["counts"]["samples"], record["counts"]["predicted"]
        estimate = len(targets) * predicted / samples
        return Expected(
            estimate,
            f"{len(targets)} samples, {predicted / samples:.2g} labels each as in run {record['run']}",
        )
    raise ConfigError(
        [
            "no earlier run of this model on this dataset tells how many labels to expect; plan with --labels N, "
            "or try it with `valflow run CONFIG --dry-run`"
        ]
    )


def _earlier(config: LabelingConfig, dataset: Any) -> list[dict[str, Any]]:
    """Runs that predicted with the same model and floor on this dataset, the latest first."""
    return list(
        database.runs()
        .find(
            {
                "dataset_id": str(dataset._doc.id),
                "config.model": config.model.model_dump(mode="json"),
                "config.min_confidence": config.min_confidence,
                "config.classes": config.classes,
                "counts.samples": {"$gt": 0},
                "counts.predicted": {"$gt": 0},
            }
        )
        .sort("created_at", -1)
        .limit(20)
    )


def _count(
    config: LabelingConfig, dataset: Any, targets: Sequence[ObjectId], also: dict[str, Any] | None = None
) -> int:
    """Labels that would enter the review, counted by the database."""
    assert isinstance(config.model, FieldModelConfig)
    # A label without a usable confidence stays, as in a run; NaN is below every number.
    above = {"$gte": ["$$l.confidence", config.min_confidence]}
    unscored = {
        "$or": [{"$not": [{"$isNumber": "$$l.confidence"}]}, {"$not": [{"$gte": ["$$l.confidence", -1e308]}]}]
    }
    conditions: list[dict[str, Any]] = [{"$or": [above, unscored]}]
    if config.classes is not None:
        conditions.append({"$in": ["$$l.label", {"$literal": config.classes}]})
    if also is not None:
        conditions.append(also)
    label_type = chosen_type(config, dataset)
    labels = {"$ifNull": [label_type.labels_in(f"${config.model.field}"), []]}
    size = {"$size": {"$filter": {"input": labels, "as": "l", "cond": {"$and": conditions}}}}
    total = 0
    for start in range(0, len(targets), _SAMPLES_AT_ONCE):
        part = list(targets[start : start + _SAMPLES_AT_ONCE])
        groups = database.samples_of(dataset).aggregate(
            [{"$match": {"_id": {"$in": part}}}, {"$group": {"_id": None, "n": {"$sum": size}}}]
        )
        total += sum(g["n"] for g in groups)
    return total


def _passes(approval: FixedApproval) -> dict[str, Any]:
    """Whether a label ``$$l`` is at or above the threshold of its class."""
    branches = [
        {"case": {"$eq": ["$$l.label", {"$literal": label}]}, "then": threshold}
        for label, threshold in approval.per_class.items()
    ]
    threshold: Any = approval.threshold
    if branches:
        threshold = {"$switch": {"branches": branches, "default": approval.threshold}}
    return {"$and": [{"$isNumber": "$$l.confidence"}, {"$gte": ["$$l.confidence", threshold]}]}
