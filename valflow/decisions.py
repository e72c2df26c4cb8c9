"""The decision that ends a review: frozen, bound to a digest, taken once."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any, Literal

from pymongo import ReturnDocument

from valflow import (
    actions,
    app_edits,
    audits,
    certifying,
    checklist,
    completeness,
    database,
    ledger,
    problem_tags,
    runs,
    schema_changes,
    trail,
)
from valflow.errors import DatabaseError, DecisionRefused, IllegalTransition
from valflow.freezing import check_room, digest_of, freeze_labels, frozen_counts
from valflow.label_types import APPROVED, REJECTED
from valflow.states import Event, State

# Fewer characters of a digest confirm nothing.
SHORTEST_DIGEST = 8


@dataclass(frozen=True)
class Decision:
    """What a person decided about a run.

    Attributes:
        decision: whether to finalize the approved labels or to discard the run.
        reviewer: the person's name.
        note: kept with the record.
        override: why finalization may go on although evidence is missing.
        digest: the approval set that the person saw; None accepts the one there is.
        via: where the decision came from.
    """

    decision: Literal["finalize", "discard"]
    reviewer: str
    note: str | None = None
    override: str | None = None
    digest: str | None = None
    via: str = "cli"


@dataclass(frozen=True)
class Preview:
    """What finalization would do now.

    ``tagged`` are the problem tags on labels that would become final.
    """

    run: str
    label_field: str
    labels: int
    samples: int
    per_class: dict[str, int]
    by_source: dict[str, int]
    tagged: dict[str, int]
    rejected: int
    undecided: int
    digest: str
    token: str
    checklist: list[dict[str, Any]]
    missing: list[str]
    class_table: list[dict[str, Any]]


def preview(run: str, reviewer: str) -> Preview:
    """Freeze the approval set as it is now and describe it; nothing is decided.

    Raises:
        IllegalTransition: the run is not in review.
        LabelsVanished: labels are gone from the review field without a recorded rejection.
        CertificateError: the run's certificate does not follow from its verdicts.
        SelectionError: the name is the machine's; labels drawn by hand are taken over under it.
        DecisionRefused: it is not one of ``review.reviewers``.
    """
    actions.check_reviewer(runs.load(run), reviewer)
    record = certifying.conclude(run)
    _read_app_edits(record, reviewer)
    claimed = _claim_freeze(record, reviewer)
    try:
        return _freeze(claimed, reviewer)
    finally:
        _release_freeze(claimed)


def submit(run: str, decision: Decision) -> runs.Record:
    """Decide a run: the first decision wins, and what it covers can no longer change.

    Raises:
        IllegalTransition: the run is not in review; the message says who decided.
        DecisionRefused: no reviewer, one who may not decide, evidence missing without an override, nothing
            approved, or an approval set that differs from the one the person saw.
        LabelsVanished: labels are gone from the review field without a recorded rejection.
        CertificateError: the run's certificate does not follow from its verdicts.
    """
    record = runs.load(run)
    _check_reviewer(record, decision)
    if decision.decision == "discard":
        _check_overruled(record, decision)
        return discard(run, decision, condition={"decision": record["decision"]})
    record = certifying.conclude(run)
    _read_app_edits(record, decision.reviewer)
    claimed = _claim_freeze(record, decision.reviewer)
    try:
        frozen = _freeze(claimed, decision.reviewer)
        _check_decision(claimed, decision, frozen)
        check_room(claimed, database.dataset_of(claimed), frozen.token)
        return _accept(claimed, decision, frozen)
    finally:
        _release_freeze(claimed)


def submit_by_policy(run: str) -> runs.Record:
    """Decide a run whose configuration asks for no review: what the thresholds approved becomes final.

    A run in which they approved nothing is discarded.
    """
    anything = ledger.count_labels(run, {"state": APPROVED})
    decision: Literal["finalize", "discard"] = "finalize" if anything else "discard"
    note = "review.required is false" + ("" if anything else ", and nothing was approved")
    return submit(run, Decision(decision, actions.POLICY, note, via=actions.POLICY))


def discard(run: str, decision: Decision, condition: dict[str, Any] | None = None) -> runs.Record:
    """End a run without labels; its predictions stay in the ledger.

    Args:
        run: its key.
        decision: who ends it, and why.
        condition: what must still hold of its record.

    Raises:
        IllegalTransition: the run has ended, or is already being finalized.
    """
    record = runs.load(run)
    try:
        record = runs.transition(
            record,
            Event.DISCARD,
            actor=decision.reviewer,
            note=decision.note or decision.override,
            condition=condition,
            changes={
                "decision": _as_document(decision, record),
                "heartbeat_at": None,
                "is_cleared": False,
                **_figures_at_the_end(record),
            },
        )
    except IllegalTransition as refusal:
        raise IllegalTransition(f"{refusal}{actions.who_decided(runs.load(run))}") from None
    return clear(record)


def clear(record: runs.Record) -> runs.Record:
    """Take the rest of a discarded run out of its dataset; already gone is fine."""
    drop_staging(record)
    database.runs().update_one({"run": record["run"]}, {"$set": {"is_cleared": True}})
    return {**record, "is_cleared": True}


def _figures_at_the_end(record: runs.Record) -> dict[str, Any]:
    """Class table and counts as the reviewers left them, for a run that comes to nothing."""
    if "thresholds" not in record:  # not triaged yet
        return {}
    table = ledger.class_table(record["run"], record["thresholds"])
    counts = {**record["counts"], **ledger.label_counts(table)}
    return {"class_table": table, "counts": {**counts, "discarded": counts["predicted"]}}


def drop_staging(record: runs.Record) -> None:
    """Remove the review field of a run that has ended; already gone is fine, and so is another run that uses it."""
    try:
        dataset = database.dataset_of(record)
    except DatabaseError:
        return
    if not schema_changes.is_declared(dataset, record["staging_field"]):
        return
    with schema_changes.changing(dataset):
        # Looked at while no run can declare its own.
        now = runs.find_open(record["dataset_id"], record["label_field"])
        is_used = now is not None and now["run"] != record["run"]
        if not is_used and dataset.has_field(record["staging_field"]):
            dataset.delete_sample_field(record["staging_field"])


def reopen(
    record: runs.Record, *, reason: str, actor: str = actions.POLICY, changes: dict[str, Any] | None = None
) -> runs.Record:
    """Send a run back into its review, in a new round with a fresh form."""
    return runs.transition(
        record,
        Event.REOPEN,
        actor=actor,
        note=reason,
        changes={**(changes or {}), "round": record["round"] + 1, "decision": None, "frozen": None},
    )


def _read_app_edits(record: runs.Record, reviewer: str) -> None:
    """What people only tagged in the App belongs to what is confirmed."""
    if record["state"] == State.IN_REVIEW.value and reviewer.strip().lower() not in actions.MACHINE:
        app_edits.read_edits(record["run"])


def _check_reviewer(record: runs.Record, decision: Decision) -> None:
    reviewer = decision.reviewer.strip()
    if decision.via != actions.POLICY and reviewer.lower() in actions.MACHINE:
        raise DecisionRefused(
            f"{reviewer!r} is the name of the machine in every record; give a person's name"
        )
    if not reviewer:
        raise DecisionRefused(
            "a decision needs the name of its reviewer: --reviewer NAME or VALFLOW_REVIEWER"
        )
    if decision.via != actions.POLICY:
        actions.check_reviewer(record, reviewer)


def _check_overruled(record: runs.Record, decision: Decision) -> None:
    """Whoever throws away what a colleague has just confirmed must know it."""
    is_decided = record["state"] in (State.REVIEWED.value, State.VALIDATED.value)
    if is_decided and not (decision.override or "").strip():
        raise DecisionRefused(
            f"run {record['run']} is {record['state']}{actions.who_decided(record)}; "
            "to throw that away all the same, give a reason with --override"
        )


def _check_decision(record: runs.Record, decision: Decision, frozen: Preview) -> None:
    if decision.digest is not None and len(decision.digest.strip()) < SHORTEST_DIGEST:
        raise DecisionRefused(
            f"expected at least {SHORTEST_DIGEST} characters of the digest, found {decision.digest!r}"
        )
    if decision.digest is not None and not frozen.digest.startswith(decision.digest.strip()):
        raise DecisionRefused(
            f"the approval set has changed since you saw it: you confirmed {decision.digest[:12]}, it is "
            f"{frozen.digest[:12]} now ({frozen.labels} labels); look again and confirm what is there"
        )
    if frozen.labels == 0:
        raise DecisionRefused(f"run {record['run']} has no approved labels; approve some, or discard the run")
    if frozen.missing and not (decision.override or "").strip():
        raise DecisionRefused(
            "evidence is missing: "
            + "; ".join(frozen.missing)
            + ". Supply it, or give a reason with --override",
            frozen.missing,
        )


def _accept(record: runs.Record, decision: Decision, frozen: Preview) -> runs.Record:
    time = database.now()
    opened = runs.aware(record["review"]["opened_at"])
    audit = audits.latest(record["run"])
    document = _as_document(decision, record, frozen.digest)
    counts = {
        **record["counts"],
        **ledger.label_counts(frozen.class_table),
        "edited": frozen.by_source.get("edited", 0),
    }
    return runs.transition(
        record,
        Event.SUBMIT,
        actor=decision.reviewer,
        note=decision.note,
        figures={
            "labels": frozen.labels,
            "samples": frozen.samples,
            "digest": frozen.digest,
            "sealed": {
                **trail.seal(actions.history_of(record["run"]), record["action_seq"]),
                **trail.seal_decision(record, document, audits.all_of(record["run"])),
            },
        },
        condition={"freezing.token": record["freezing"]["token"]},
        changes={
            "freezing": None,
            "decision": document,
            "frozen": {
                "token": frozen.token,
                "digest": frozen.digest,
                "round": record["round"],
                "labels": frozen.labels,
                "samples": frozen.samples,
                "per_class": frozen.per_class,
                "at": time,
            },
            "counts": counts,
            "class_table": frozen.class_table,
            "checklist": frozen.checklist,
            "audit": audits.summary(audit) if audit else None,
            "completeness": completeness.summary_of(record["run"]),
            "problem_tags": ledger.problem_tag_counts(record["run"]),
            "issues": checklist.issue_notes(record["run"]),
            "review": {
                **record["review"],
                "decided_at": time,
                "seconds": max((time - opened).total_seconds(), 0.0),
                "reviewers": checklist.reviewer_statistics(record["run"]),
            },
        },
    )


def _as_document(decision: Decision, record: runs.Record, digest: str | None = None) -> dict[str, Any]:
    return {
        "decision": decision.decision,
        "reviewer": decision.reviewer.strip(),
        "note": decision.note,
        "override": decision.override,
        "digest": digest,
        "via": decision.via,
        "time": database.now(),
        "round": record["round"],
    }


def _claim_freeze(record: runs.Record, reviewer: str) -> runs.Record:
    """Hold off actions and other decisions while the approval set is copied."""
    claimed: Any = database.runs().find_one_and_update(
        {
            "run": record["run"],
            "state": State.IN_REVIEW.value,
            **actions.not_being_confirmed(),
        },
        {
            "$set": {"freezing": {"token": uuid.uuid4().hex, "by": reviewer, "at": database.now()}},
            "$inc": {"action_seq": 1},  # the number of the drawing action, should there be one
        },
        return_document=ReturnDocument.AFTER,
    )
    if claimed is not None:
        return claimed
    current = runs.load(record["run"])
    if current["state"] == State.IN_REVIEW.value:
        who = (current.get("freezing") or {}).get("by", "somebody")  # who may have finished by now
        raise IllegalTransition(
            f"run {current['run']} is being confirmed by {who} just now; try again in a moment"
        )
    raise IllegalTransition(
        f"run {current['run']} is not waiting for a decision, it is {current['state']}"
        f"{actions.who_decided(current)}"
    )


def _release_freeze(record: runs.Record) -> None:
    database.runs().update_one(
        {"run": record["run"], "freezing.token": record["freezing"]["token"]}, {"$set": {"freezing": None}}
    )


def _freeze(record: runs.Record, reviewer: str) -> Preview:
    token = record["freezing"]["token"]
    certifying.check(record)
    dataset = database.dataset_of(record)
    problem_tags.finish(record, dataset)
    freeze_labels(record, dataset, token, reviewer)
    run = record["run"]
    (digest, labels, samples), table, tagged, per_class, by_source = database.side_by_side(
        lambda: digest_of(record, token),
        lambda: ledger.class_table(run, record["thresholds"]),
        lambda: ledger.problem_tag_counts(run, APPROVED),
        lambda: frozen_counts(run, token, "label"),
        lambda: frozen_counts(run, token, "source"),
    )
    items = checklist.evidence(record, table)
    return Preview(
        run=run,
        label_field=record["label_field"],
        labels=labels,
        samples=samples,
        per_class=per_class,
        by_source=by_source,
        tagged=tagged,
        rejected=sum(r[REJECTED] for r in table),
        undecided=sum(r[ledger.UNDECIDED] for r in table),
        digest=digest,
        token=token,
        checklist=items,
        missing=checklist.missing(items) if record["config"]["review"]["required"] else [],
        class_table=table,
    )
