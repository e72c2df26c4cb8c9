"""The strip of stages: how far the run came, each stage with its figure and its time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from valflow.report import formats
from valflow.report.blocks import Progress, Step
from valflow.states import State

Record = Mapping[str, Any]

STAGES = ("infer", "triage", "review", "validate", "finalize", "evaluate", "export", "report")
# The stage that is at work (or waited for) in each state.
AT_WORK = {
    State.CREATED: "infer",
    State.PREDICTED: "triage",
    State.IN_REVIEW: "review",
    State.REVIEWED: "validate",
    State.VALIDATED: "finalize",
    State.FINALIZING: "finalize",
}


def steps_of(record: Record) -> list[Step]:
    """One step per stage."""
    steps = []
    for stage in STAGES:
        progress = _progress(record, stage)
        reached = progress in ("done", "now")
        figure, note = _figures(record, stage) if reached else (_why_not(record, progress), "")
        steps.append(Step(stage, progress, figure, note, _time(record, stage)))
    return steps


def stage_of(state: Any) -> str:
    """The stage that is at work in a state; empty for a state in which none is."""
    return AT_WORK.get(known, "") if (known := _known(state)) else ""


def is_waiting(record: Record) -> bool:
    """Whether the run waits for more labels, so that they can be audited together."""
    lot = record.get("lot") or {}
    return bool(lot) and not lot.get("closed") and record.get("state") == State.PREDICTED


def failed_in(record: Record) -> str:
    """The stage in which a failed run failed; empty where nobody wrote it down."""
    return stage_of(record.get("failed_from") or _entered_from(record, State.FAILED))


def _progress(record: Record, stage: str) -> Progress:
    state = _known(record.get("state"))
    place = STAGES.index(stage)
    if state is State.FINALIZED:
        return _afterwards(record, stage) if place > STAGES.index("finalize") else "done"
    if state is State.DISCARDED:
        reached = STAGES.index(stage_of(_entered_from(record, State.DISCARDED)) or "review")
        return "done" if place < reached or place == reached == STAGES.index("review") else "skipped"
    if state is State.FAILED:
        reached = STAGES.index(failed_in(record) or "infer")
        return "done" if place < reached else "failed" if place == reached else "ahead"
    reached = STAGES.index(stage_of(state) or "infer")
    return "done" if place < reached else "now" if place == reached else "ahead"


def _afterwards(record: Record, stage: str) -> Progress:
    config = record.get("config") or {}
    if stage == "report":
        return "done"
    made, wanted = {
        "evaluate": (record.get("metrics"), config.get("evaluation")),
        "export": (record.get("exports"), config.get("export")),
    }[stage]
    return "done" if made else "ahead" if wanted else "skipped"


def _why_not(record: Record, progress: Progress) -> str:
    if progress == "failed":
        return "stopped here"
    if progress == "ahead":
        return "not yet"
    return "not run" if record.get("state") == State.DISCARDED else "not asked for"


def _figures(record: Record, stage: str) -> tuple[str, str]:
    """(figure, note) of a stage that was reached."""
    counts = record.get("counts") or {}
    if stage == "infer":
        if not formats.whole(counts.get("samples")):
            return "", ""
        return formats.counted(counts.get("predicted"), "label"), formats.counted(counts["samples"], "sample")
    if stage == "triage":
        return ("waits", "for more labels") if is_waiting(record) else _triage(record)
    if stage == "review":
        return _review(record)
    if stage == "validate":
        rounds = (record.get("validation") or {}).get("rounds") or []
        if not rounds:
            return "", ""
        failed = len(rounds[-1].get("failed_checks") or ())
        figure = formats.counted(rounds[-1].get("checks"), "check")
        noticed = formats.counted(failed, "warning") if rounds[-1].get("passed") else f"{failed} failed"
        return figure, noticed if failed else "all passed"
    if stage == "finalize":
        written = (record.get("verification") or {}).get("written", counts.get("finalized"))
        return (
            (f"{formats.counted(written, 'label')}", "written")
            if formats.number(written) is not None
            else ("", "")
        )
    if stage == "evaluate":
        approved = ((record.get("metrics") or {}).get("run") or {}).get("approved") or {}
        return f"{formats.percent(approved.get('precision'))} precise", "approved labels"
    if stage == "export":
        exports = record.get("exports") or []
        return formats.counted(len(exports), "export"), formats.joined(
            [str(e.get("format")) for e in exports]
        )
    return "this page", ""


def _triage(record: Record) -> tuple[str, str]:
    entries = [h for h in record.get("history") or [] if h.get("event") == "triage"]
    approved = ((entries[-1].get("figures") or {}) if entries else {}).get("approved")
    certificate = record.get("certificate") or {}
    if certificate:
        drawn = formats.whole(certificate.get("audit"))
        return (
            (f"{formats.count(drawn)} drawn", "for the certificate")
            if drawn
            else ("nothing drawn", "all for review")
        )
    chosen = (record.get("thresholds") or {}).get("default")
    note = f"at {formats.threshold(chosen)}" if formats.number(chosen) is not None else "all for review"
    if formats.number(approved) is None:
        return note, ""
    return f"{formats.count(approved)} approved", note


def _review(record: Record) -> tuple[str, str]:
    decision = record.get("decision") or {}
    again = f"round {record['round']}" if formats.whole(record.get("round")) > 1 else ""
    if not decision:
        return ("waits for a person" if record.get("state") == State.IN_REVIEW else ""), again
    words = str(decision.get("decision") or "decided")
    return words, f"by {decision.get('reviewer') or 'policy'}" + (f", {again}" if again else "")


def _time(record: Record, stage: str) -> str:
    seconds = (record.get("timings") or {}).get(stage)
    if stage == "review":
        seconds = (record.get("review") or {}).get("seconds", seconds)
    return "" if formats.number(seconds) is None else formats.duration(seconds)


def _entered_from(record: Record, state: State) -> Any:
    entries = [h for h in record.get("history") or [] if h.get("to") == state]
    return entries[-1].get("from") if entries else None


def _known(value: Any) -> State | None:
    try:
        return State(value)
    except ValueError:
        return None
