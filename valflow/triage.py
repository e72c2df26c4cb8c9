"""Triage: from raw predictions to a review in which the easy part is already decided."""

from __future__ import annotations

from typing import Any

from valflow import calibration, certifying, completeness, database, label_states, ledger, mirroring, runs
from valflow.config import CertifiedApproval, FixedApproval, LabelingConfig
from valflow.fingerprints import take_fingerprints
from valflow.states import Event, State, is_past


def thresholds_of(config: LabelingConfig) -> dict[str, Any]:
    """The thresholds in force, as run records keep them; ``default`` is None where a person sees everything."""
    if isinstance(config.approval, FixedApproval):
        return {"default": config.approval.threshold, "per_class": config.approval.per_class}
    return {"default": None, "per_class": {}}


def begin_triage(record: runs.Record, dataset: Any) -> None:
    """Take back what a triage that died had decided, and remember what everything else looks like."""
    if not is_past(record["state"], State.IN_REVIEW):
        runs.require(runs.fence_of(record), State.PREDICTED)
        label_states.undecide_all(record["run"])
        take_fingerprints(record, dataset)


def finish_triage(record: runs.Record, dataset: Any) -> runs.Record:
    """Approve by policy, mirror the tags, and open the review."""
    if is_past(record["state"], State.IN_REVIEW):
        return record
    from valflow.actions import record_policy_action

    config = LabelingConfig.model_validate(record["config"])
    thresholds = thresholds_of(config)
    if thresholds["default"] is not None:
        record_policy_action(record["run"], thresholds)
        label_states.approve_by_threshold(record["run"], thresholds["default"], thresholds["per_class"])
    fingerprint = calibration.fingerprint_of(record, dataset)
    certificate = None
    if isinstance(config.approval, CertifiedApproval):
        certificate = certifying.open_audit({**record, "fingerprint": fingerprint}, dataset, fingerprint)
    if config.review.completeness is not None:
        completeness.draw(record, config.review.completeness.images)
    mirroring.mirror_tags(record, dataset)
    table = ledger.class_table(record["run"], thresholds)
    counts = {**record["counts"], **ledger.label_counts(table)}
    return runs.transition(
        record,
        Event.TRIAGE,
        actor="policy",
        figures=ledger.label_counts(table),
        changes={
            "counts": counts,
            "class_table": table,
            "thresholds": thresholds,
            "fingerprint": fingerprint,
            "certificate": certificate,
            "action_seq": ledger.POLICY_ACTION,
            "review": {"opened_at": database.now()},
        },
    )
