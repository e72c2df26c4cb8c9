"""The top of a report: what became of the run, in one look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from valflow.certificates import is_certified
from valflow.report import formats
from valflow.report.blocks import Code, Headline, Inline, Link, Paragraph, Strong, Text, Tone
from valflow.report.certificate import proven_groups
from valflow.report.steps import failed_in, is_waiting
from valflow.states import SHOWN_AS, WAITING_FOR_MORE, State

Record = Mapping[str, Any]

_TONES: dict[State, Tone] = {
    State.FINALIZED: "good",
    State.FAILED: "bad",
    State.DISCARDED: "neutral",
    State.ROLLING_BACK: "waiting",
    State.ROLLED_BACK: "neutral",
    State.REOPENING: "waiting",
    State.IN_REVIEW: "waiting",
    State.REVIEWED: "waiting",
    State.VALIDATED: "waiting",
}


def status_of(record: Record) -> tuple[str, Tone]:
    """The state in the words of the App, and its tone; a state of a later version is shown as it is."""
    try:
        state = State(record["state"])
    except (KeyError, ValueError):
        return str(record.get("state", "unknown")), "neutral"
    if is_waiting(record):
        return WAITING_FOR_MORE, "waiting"
    return SHOWN_AS[state], _TONES.get(state, "neutral")


def subtitle_of(record: Record) -> Text:
    """Dataset, label field, model, start, and the page of the run in Prefect."""
    pieces: list[Inline] = ["Dataset ", Code(str(record.get("dataset", formats.NOTHING)))]
    pieces += [" → label field ", Code(str(record.get("label_field", formats.NOTHING)))]
    model = model_name(record)
    if model:
        pieces += [" · model ", Code(model)]
    if record.get("created_at"):
        pieces.append(f" · started {formats.when(record['created_at'])}")
    if record.get("prefect_url"):
        pieces += [" · ", Link("run in Prefect", str(record["prefect_url"]))]
    return pieces


def model_name(record: Record) -> str:
    """What made the predictions."""
    config = record.get("config") or {}
    model = record.get("model") or config.get("model") or {}
    if not isinstance(model, Mapping):
        return str(model)
    return str(model.get("name") or model.get("path") or model.get("field") or model.get("kind") or "")


def summary_of(record: Record) -> list[Paragraph]:
    """The outcome in sentences."""
    state = record.get("state")
    counts = record.get("counts") or {}
    decision = record.get("decision") or {}
    predicted = formats.counted(counts.get("predicted"), "predicted label")
    field = Code(str(record.get("label_field", "")))
    who = str(decision.get("reviewer") or "policy")
    if state == State.FAILED:
        return [Paragraph(_failure(record), "bad")]
    if state == State.FINALIZED:
        verification = record.get("verification") or {}
        placed = verification.get("samples_with_labels")
        on = f", on {formats.counted(placed, 'sample')}" if formats.number(placed) is not None else ""
        finalized = formats.count(counts.get("finalized"))
        pieces: list[Inline] = [Strong(f"{finalized} of {predicted}"), " are now in ", field, f"{on}. "]
        pieces.append(f"Decided by {who} on {formats.when(decision.get('time'))}.")
        proven = spot_check_sentence(record)
        paragraphs = [Paragraph(pieces), *_certified(record)]
        return [*paragraphs, *([Paragraph(f"A random spot-check found {proven}.")] if proven else [])]
    if state in (State.ROLLING_BACK, State.ROLLED_BACK):
        return [Paragraph(_rolled_back(record, field))]
    if state == State.DISCARDED:
        note = f": {decision['note']}" if decision.get("note") else "."
        return [Paragraph(["The run was discarded by ", who, "; nothing entered ", field, note])]
    if state == State.IN_REVIEW:
        return _waiting(record, predicted)
    if is_waiting(record):
        lot = record["lot"]
        held = f"{formats.count(lot.get('labels'))} of {formats.count(lot.get('min_labels'))} labels"
        until = f"Its review opens when there are enough, or on {formats.when(lot.get('due'))}."
        return [Paragraph([Strong(f"The run waits for more: {held}"), f" for a certificate. {until}"])]
    words: dict[str, str] = {
        State.CREATED: "The model is still at work; nothing has been decided.",
        State.PREDICTED: "The predictions are there and are being sorted for the review.",
        State.REVIEWED: f"{who} decided; the labels are frozen and wait for the validation.",
        State.VALIDATED: "The frozen labels passed the validation and wait to be written.",
        State.FINALIZING: "The approved labels are being written; a retry completes an interrupted write.",
        State.REOPENING: "The run was taken back, and its labels are coming back into review.",
    }
    return [Paragraph(words.get(str(state), "Nothing is known about this state."))]


def _rolled_back(record: Record, field: Code) -> list[Inline]:
    rollback = record.get("rollback") or {}
    labels = formats.counted(rollback.get("announced"), "label")
    by = f"{rollback.get('reviewer')} on {formats.when(rollback.get('time'))}"
    pieces: list[Inline] = [Strong(f"Taken back: {labels}"), " of this run left ", field, f", by {by}"]
    pieces.append(f": {rollback['note']}." if rollback.get("note") else ".")
    if formats.whole(rollback.get("left")):
        pieces.append(f" {formats.counted(rollback['left'], 'label')} that somebody had edited since stayed.")
    return pieces


def _certified(record: Record) -> list[Paragraph]:
    """What the certificate lets through, and what it says about that; nothing without one."""
    if not is_certified(record):
        return []
    certificate = record["certificate"]
    approved, looks = (formats.counted(certificate.get(k), "label") for k in ("approved", "looks"))
    proven = proven_groups(certificate)
    if not proven:
        return [Paragraph("The certificate proves nothing: every label needs a look.", "waiting")]
    bound = formats.percent_at_most(max(formats.number(g.get("bound")) or 0.0 for g in proven))
    sure = formats.level((certificate.get("promise") or {}).get("confidence"))
    within = "" if len(proven) == 1 else f" in any of the {len(proven)} groups"
    needed = "needed" if record.get("state") == State.FINALIZED else "need"
    words = f" by the certificate: at most {bound} of them are wrong{within} ({sure} confidence per group). "
    return [Paragraph([Strong(f"{approved} were approved without a look"), words, f"{looks} {needed} one."])]


def spot_check_sentence(record: Record) -> str:
    """``k wrong of n: at most x % wrong (95 %)``, the bound rounded up; empty where nothing is proven."""
    audit = record.get("audit") or {}
    if formats.number(audit.get("upper_bound")) is None:
        return ""
    found = f"{formats.count(audit.get('wrong'))} wrong of {formats.count(audit.get('judged'))}"
    bound, level = formats.percent_at_most(audit["upper_bound"]), formats.level(audit.get("confidence"))
    return f"{found}: at most {bound} wrong ({level})"


def headlines_of(record: Record) -> list[Headline]:
    """At most six figures, those that say most about the run as it stands."""
    counts = record.get("counts") or {}
    if not any(formats.number(v) is not None for v in counts.values()):
        return []
    predicted = formats.whole(counts.get("predicted"))
    asides = [("empty_samples", "empty"), ("failed_samples", "failed")]
    aside = ", ".join(
        f"{formats.count(counts[k])} {word}" for k, word in asides if formats.whole(counts.get(k))
    )
    found = [
        Headline(formats.count(counts.get("samples")), "samples", aside),
        Headline(formats.count(counts.get("predicted")), "predicted labels", _per_sample(counts)),
    ]
    return [*found, *_decided(record, counts, predicted), *_proven(record)][:6]


def _decided(record: Record, counts: Mapping[str, Any], predicted: int) -> list[Headline]:
    tones: list[tuple[str, Tone]] = [("approved", "good"), ("undecided", "waiting"), ("rejected", "neutral")]
    if record.get("state") == State.FINALIZED:
        tones = [("finalized", "good"), ("discarded", "neutral")]
    found = []
    for name, tone in tones:
        if formats.number(counts.get(name)) is not None:
            amount = formats.whole(counts[name])
            note = f"{formats.percent(amount / predicted)} of all" if predicted else ""
            found.append(Headline(formats.count(amount), name, note, tone if amount else "neutral"))
    return found


def _proven(record: Record) -> list[Headline]:
    found = _proven_by_certificate(record)
    audit = record.get("audit") or {}
    if formats.number(audit.get("upper_bound")) is not None:
        drawn = f"{formats.count(audit.get('wrong'))} of {formats.count(audit.get('judged'))} drawn"
        bound = f"≤ {formats.percent_at_most(audit['upper_bound'])}"
        note = f"{drawn}, {formats.level(audit.get('confidence'))} sure"
        found.append(Headline(bound, "wrong among approved", note))
    precision = (((record.get("metrics") or {}).get("run") or {}).get("approved") or {}).get("precision")
    if formats.number(precision) is not None:
        found.append(Headline(formats.percent(precision), "precision of approved", "against ground truth"))
    return found


def _proven_by_certificate(record: Record) -> list[Headline]:
    if not is_certified(record):
        return []
    certificate = record["certificate"]
    found = [
        Headline(
            formats.count(certificate.get("looks")),
            "labels to look at",
            f"of {formats.count(certificate.get('labels'))}",
        )
    ]
    proven = proven_groups(certificate)
    if proven:
        worst = max(formats.number(g.get("bound")) or 0.0 for g in proven)
        sure = f"{formats.level((certificate.get('promise') or {}).get('confidence'))} sure"
        note = sure if len(proven) == 1 else f"in each of {len(proven)} groups, {sure} per group"
        found.insert(
            0, Headline(f"≤ {formats.percent_at_most(worst)}", "wrong among those not looked at", note)
        )
    return found


def _failure(record: Record) -> list[Inline]:
    failures = [h for h in record.get("history") or [] if h.get("to") == State.FAILED]
    stage = failed_in(record)
    stopped = f"The run stopped in the stage {stage}." if stage else "The run stopped."
    why = str((failures[-1] if failures else {}).get("note") or "The history below says more.")
    end = "" if why.rstrip().endswith((".", "!", "?")) else "."
    return [Strong(stopped), f" {why.rstrip()}{end} It continues there when it is started again."]


def _waiting(record: Record, predicted: str) -> list[Paragraph]:
    counts = record.get("counts") or {}
    parts = [
        f"{formats.count(counts.get('approved'))} approved",
        f"{formats.count(counts.get('undecided'))} undecided",
        f"{formats.count(counts.get('rejected'))} rejected",
    ]
    run = str(record.get("run", "RUN"))
    found = [Paragraph([Strong(f"{predicted} await a decision"), f": {formats.joined(parts)}."])]
    certificate = record.get("certificate") or {}
    if certificate.get("state") == "audit":
        drawn = formats.counted(certificate.get("audit"), "label")
        todo: list[Inline] = [
            "First judge the ",
            f"{drawn} drawn for the certificate, in the App or with ",
            Code(f"valflow audit {run}"),
        ]
        found.append(Paragraph([*todo, "; what they prove is then approved."]))
    else:
        found += _certified(record)
        found.append(Paragraph(["Decide with ", Code(f"valflow finalize {run}"), ", or discard the run."]))
    if formats.whole(record.get("round")) > 1:
        again = f"Round {record['round']}: the review was opened again; the history below says why."
        found.append(Paragraph(again, "waiting"))
    return found


def _per_sample(counts: Mapping[str, Any]) -> str:
    samples = formats.whole(counts.get("samples"))
    return f"{formats.whole(counts.get('predicted')) / samples:.1f} per sample" if samples else ""
