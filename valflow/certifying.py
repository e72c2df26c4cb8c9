"""A run's certificate: proposed and drawn for at triage, computed when the last verdict is there, checked ever after.

The statistics are in ``valflow.certify``; here they meet the ledger, the audits and the people.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from bson import ObjectId
from numpy.typing import NDArray
from pymongo import UpdateOne

from valflow import actions, audits, batches, calibration, database, label_states, mirroring, runs
from valflow.batches import Batch, object_id
from valflow.certificates import (
    ABSTAINED,
    AUDIT,
    CERTIFIED,
    Certificate,
    drift_entry,
    is_certified,
    plain,
    planned_group,
    proven_group,
)
from valflow.certify import (
    CORRECT,
    Draw,
    Drift,
    Promise,
    Proposal,
    Result,
    certify,
    check_first,
    compare_errors,
    compare_scores,
    draw_audit,
    fit_scores,
    propose,
)
from valflow.config import CertifiedApproval, LabelingConfig
from valflow.errors import CertificateError
from valflow.label_states import map_labels, state_change
from valflow.label_types import APPROVED
from valflow.ledger import UNDECIDED
from valflow.states import State
from valflow.truth import verdicts_by_truth

# An audit is one document in the database; nobody judges more labels than this.
MOST_DRAWN = 30_000
_SAMPLES_AT_ONCE = 1000


def approval_of(record: runs.Record) -> CertifiedApproval | None:
    """The run's settings for certificates, None where its approval is another."""
    approval = LabelingConfig.model_validate(record["config"]).approval
    return approval if isinstance(approval, CertifiedApproval) else None


def open_audit(record: runs.Record, dataset: Any, fingerprint: str) -> Certificate:
    """Propose which labels may skip the review, and draw the audit that is to prove it.

    Repeated after a crash it replaces what it left: nobody has seen the draw before the review is open.

    Returns:
        The certificate as the run record keeps it.
    """
    approval = approval_of(record)
    if approval is None:
        raise CertificateError(f"run {record['run']} is not one with approval.mode: certified")
    batch = batches.read_batch(record, dataset, approval.features, approval.second_opinion)
    certificate, quality = _scored(record, batch, approval, fingerprint)
    batches.store_batch(record["run"], batch, quality)
    database.audits().delete_many({"run": record["run"], "kind": audits.CERTIFICATE})
    if not len(batch):
        return {**certificate, "state": ABSTAINED, "reason": "no label could be certified: there is none"}
    proposal = _propose(certificate, batch, quality)
    certificate |= {
        "proposal": proposal.digest,
        "batch": proposal.batch,
        "audit": proposal.audit,
        "groups": [planned_group(g) for g in proposal.groups],
        "looks": len(batch),
        "queue": len(batch),
    }
    reason = _why_not(record, proposal)
    if reason:
        return {**certificate, "state": ABSTAINED, "reason": reason, "audit": 0}
    seed = secrets.randbits(32) if approval.seed is None else approval.seed
    draw = draw_audit(proposal, seed)
    audits.insert_certificate_audit(
        record, seed, len(batch), _drawn(batch, draw, proposal, certificate, quality)
    )
    return {**certificate, "state": AUDIT, "seed": seed}


def conclude(run: str) -> runs.Record:
    """Compute the certificate once the last verdict is there, and approve by policy what it covers.

    Until then, and where the run has none, nothing happens. Safe to repeat after a crash.

    Raises:
        CertificateError: the labels or their scores are not those that were drawn for.
    """
    record = runs.load(run)
    certificate = record.get("certificate") or {}
    if certificate.get("state") != AUDIT or record["state"] != State.IN_REVIEW.value:
        return record
    audit = audits.certificate_audit(record["run"])
    if audit is None or any(i["verdict"] is None for i in audit["items"]):
        return record
    batch, quality = batches.load_batch(record["run"])
    result = _result(certificate, audit, batch, quality)
    record = actions.begin(record["run"])
    seq = record["action_seq"]
    actions.record_action(
        record, "certify", actions.POLICY, {"digest": result.digest, "labels": len(result.approved)}
    )
    _approve(record, batch, result.approved, seq)
    drift = _compare_errors(audit)
    suspected = drift.suspected or any(d["suspected"] for d in certificate["drift"])
    if suspected:
        database.audits().update_one({"_id": audit["_id"]}, {"$set": {"drift_suspected": True}})
    changes = {
        "state": CERTIFIED,
        "digest": result.digest,
        "action": seq,
        "groups": [proven_group(g, Promise(**certificate["promise"])) for g in result.groups],
        "approved": len(result.approved),
        "audited": len(audit["items"]),
        "wrong": sum(i["verdict"] != CORRECT for i in audit["items"]),
        "queue": len(result.review),
        "looks": result.looks,
        "drift": [*certificate["drift"], drift_entry(drift)],
        "drift_suspected": suspected,
        "verdicts_from": _verdicts_from(audit),
        "certified_at": database.now(),
    }
    proven = {f"certificate.{name}": value for name, value in changes.items()}
    database.runs().update_one({"run": record["run"], "certificate.state": AUDIT}, {"$set": proven})
    return runs.load(record["run"])


def judge_from_ground_truth(run: str) -> int:
    """Give the verdicts that the ground truth of a run's settings can give; returns their number.

    A drawn label on a sample that has ground truth is judged by the evaluation's own matching, the others by people.
    """
    record = runs.load(run)
    approval = approval_of(record)
    if approval is None or approval.ground_truth is None or not is_open(record):
        return 0
    audit = audits.certificate_audit(record["run"])
    waiting = [i for i in audit["items"] if i["verdict"] is None] if audit else []
    verdicts = verdicts_by_truth(record, waiting, approval.ground_truth)
    if verdicts:
        audits.judge(record["run"], verdicts, f"ground truth ({approval.ground_truth})")
    return len(verdicts)


def is_open(record: runs.Record) -> bool:
    """Whether the run is in review and its certificate waits for verdicts."""
    is_in_review = record["state"] == State.IN_REVIEW.value
    return is_in_review and (record.get("certificate") or {}).get("state") == AUDIT


def withdraw(record: runs.Record, why: str) -> None:
    """Take a certificate back, because what it rests on is about to change; its approvals go with it."""
    if not is_certified(record):
        return
    certificate = record["certificate"]
    # First the record: were it the last, a crash would leave a certificate without its approvals.
    database.runs().update_one(
        {"run": record["run"]},
        {
            "$set": {"certificate.state": AUDIT, "certificate.digest": None},
            "$inc": {"certificate.withdrawn": 1},
        },
    )
    own = [a["seq"] for a in actions.history_of(record["run"]) if a["event"] == "certify"]
    record = actions.begin(record["run"])
    seq = record["action_seq"]
    actions.record_action(
        record, "withdraw", actions.POLICY, {"certificate": certificate["digest"], "why": why}
    )
    for action in own:
        label_states.restore(record["run"], action, seq)
        label_states.take_out_below(record["run"], action, seq)
    mirroring.mirror_soon(record, database.dataset_of(record))
    database.actions().update_many(
        {"run": record["run"], "seq": {"$in": own}, "undone_by": None}, {"$set": {"undone_by": seq}}
    )


def check(record: runs.Record) -> None:
    """Refuse a certificate that does not follow from its verdicts (any more).

    Raises:
        CertificateError: labels, draw or verdicts are not those that it was computed from.
    """
    if is_certified(record):
        groups_by_verdicts(record)


def groups_by_verdicts(record: runs.Record) -> list[dict[str, Any]]:
    """The groups of a certificate as they follow from what is stored now: labels, draw and verdicts.

    Raises:
        CertificateError: these are not those that it was computed from.
    """
    certificate = record["certificate"]
    audit = audits.certificate_audit(record["run"])
    if audit is None:
        raise CertificateError(
            f"the audit behind certificate {certificate['digest'][:12]} is gone; it proves nothing any more"
        )
    result = _result(certificate, audit, *batches.load_batch(record["run"]))
    if result.digest != certificate["digest"]:
        raise CertificateError(
            f"certificate {certificate['digest'][:12]} does not follow from the verdicts that are on record now; "
            f"take the last verdicts back with `valflow undo {record['run']}` and judge again"
        )
    return [proven_group(g, Promise(**certificate["promise"])) for g in result.groups]


def _scored(
    record: runs.Record, batch: Batch, approval: CertifiedApproval, fingerprint: str
) -> tuple[Certificate, NDArray[np.float64]]:
    """The beginning of a certificate, and how likely each label is right: learned where there is a history."""
    past = calibration.history(fingerprint, calibration.features_of(approval), without=record["run"])
    drift: tuple[Drift, ...] = ()
    if len(past):
        drift = compare_scores(_by_class(batch), calibration.scores_before(fingerprint, record["run"]))
    trusted = len(past) if not any(d.suspected for d in drift) else 0
    quality = batch.confidence
    if trusted:
        model = fit_scores(past.confidence, past.classes, past.correct, past.features)
        quality = model.quality(batch.confidence, batch.classes, batch.features)
    # To the last bit as it will be read back.
    quality = np.asarray(quality, "<f8")
    begun = {
        "promise": {
            "max_error": approval.max_error,
            "confidence": approval.confidence,
            "miss_rate": approval.reviewer_miss_rate,
        },
        "scope": approval.scope,
        "min_group": approval.min_group,
        "audit_size": approval.audit,
        "fingerprint": fingerprint,
        "history": trusted,
        "history_runs": list(past.runs) if trusted else [],
        "history_dropped": len(past) - trusted,
        "features": list(past.features) if trusted else [],
        "labels": len(batch),
        "audit": 0,
        "groups": [],
        "approved": 0,
        "queue": 0,
        "looks": 0,
        "digest": None,
        "withdrawn": 0,
        "drift": [drift_entry(d) for d in drift if d.suspected],
        "drift_suspected": any(d.suspected for d in drift),
    }
    return begun, quality


def _propose(certificate: Certificate, batch: Batch, quality: NDArray[np.float64]) -> Proposal:
    """What follows from the stored batch and terms alone, so that it can be repeated."""
    return propose(
        quality,
        batch.classes,
        Promise(**certificate["promise"]),
        history=certificate["history"],
        scope=certificate["scope"],
        audit=certificate["audit_size"],
        min_group=certificate["min_group"],
        label_ids=batch.identities(),
    )


def _why_not(record: runs.Record, proposal: Proposal) -> str:
    """Why nothing is drawn, empty where it is."""
    if not proposal.audit:
        return "; ".join(f"{g.group.name}: {g.reason}" for g in proposal.groups)
    if proposal.audit > MOST_DRAWN:
        return (
            f"the audit would be {proposal.audit} looks, more than {MOST_DRAWN}; "
            "choose approval.scope: pooled, or a larger min_group"
        )
    drawn_before = {"certificate.batch": proposal.batch, "certificate.seed": {"$ne": None}}
    earlier = database.runs().find_one({**drawn_before, "run": {"$ne": record["run"]}}, {"run": 1})
    try:
        check_first(proposal, [proposal.batch] if earlier else [])
    except ValueError as refusal:
        return f"{refusal} (run {earlier['run']})" if earlier else str(refusal)
    return ""


def _drawn(
    batch: Batch, draw: Draw, proposal: Proposal, certificate: Certificate, quality: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """The items of the audit, in random order."""
    rows = zip(draw.positions.tolist(), draw.group.tolist(), draw.probability.tolist(), strict=True)
    return [
        {
            "label_id": object_id(batch.label_ids[at]),
            "sample_id": object_id(batch.sample_ids[at]),
            "label": str(batch.classes[at]),
            "confidence": plain(batch.confidence[at]),
            "features": {name: plain(values[at]) for name, values in batch.features.items()},
            "predicted_error": float(1 - quality[at]) if certificate["history"] else None,
            "group": proposal.groups[group].group.name,
            "probability": probability,
        }
        for at, group, probability in rows
    ]


def _result(
    certificate: Certificate, audit: audits.Audit, batch: Batch, quality: NDArray[np.float64]
) -> Result:
    """What the verdicts on record prove.

    Raises:
        CertificateError: labels, scores, terms or draw have changed since the draw.
    """
    try:
        proposal = _propose(certificate, batch, quality)
        if proposal.digest != certificate["proposal"]:
            raise CertificateError(
                f"expected the labels and scores of proposal {certificate['proposal'][:12]}, found others; they were "
                "changed since the draw, which proves nothing about them. Discard the run and start anew"
            )
        draw = draw_audit(proposal, audit["seed"])
        drawn = [object_id(batch.label_ids[at]) for at in draw.positions.tolist()]
        if drawn != [i["label_id"] for i in audit["items"]]:
            raise CertificateError(
                f"expected the {len(drawn)} labels that seed {audit['seed']} draws, found others in the audit; "
                "only labels drawn at random can certify. Discard the run and start anew"
            )
        return certify(proposal, draw, [i["verdict"] for i in audit["items"]])
    except ValueError as error:
        raise CertificateError(
            f"the certificate of run {audit['run']} cannot be computed: {error}"
        ) from error


def _approve(
    record: runs.Record, batch: Batch, positions: Sequence[int] | NDArray[np.int64], seq: int
) -> None:
    """The policy's action: approve what is certified, where nobody has decided otherwise meanwhile."""
    by_sample: dict[ObjectId, list[ObjectId]] = defaultdict(list)
    for at in np.asarray(positions).tolist():
        by_sample[object_id(batch.sample_ids[at])].append(object_id(batch.label_ids[at]))
    change = state_change(APPROVED, seq)
    updates = [
        UpdateOne(
            {"run": record["run"], "sample_id": sample},
            [
                map_labels({"$and": [{"$in": ["$$l._id", ids]}, {"$eq": ["$$l.state", UNDECIDED]}]}, change),
                {"$set": {"dirty": seq}},
            ],
        )
        for sample, ids in by_sample.items()
    ]
    for start in range(0, len(updates), _SAMPLES_AT_ONCE):
        database.ledger().bulk_write(updates[start : start + _SAMPLES_AT_ONCE], ordered=False)
    mirroring.mirror_soon(record, database.dataset_of(record))


def _compare_errors(audit: audits.Audit) -> Drift:
    """Was more wrong than the history predicted?"""
    predicted = [i["predicted_error"] for i in audit["items"] if i["predicted_error"] is not None]
    wrong = sum(i["verdict"] != CORRECT for i in audit["items"] if i["predicted_error"] is not None)
    return compare_errors(wrong, len(predicted), float(np.mean(predicted)) if predicted else 0.0)


def _verdicts_from(audit: audits.Audit) -> dict[str, int]:
    """Number of verdicts by who gave them."""
    counts: dict[str, int] = defaultdict(int)
    for item in audit["items"]:
        counts[item["reviewer"]] += 1
    return dict(counts)


def _by_class(batch: Batch) -> dict[str, NDArray[np.float64]]:
    return {str(name): batch.confidence[batch.classes == name] for name in np.unique(batch.classes)}
