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
_AT_WORK = {
    State.CREATED: "infer",
    State.PREDICTED: "triage",
    State.IN_REVIEW: "review",
    State.REVIEWED: "validate",
    State.VALIDATED: "finalize",
    State.FINALIZING: "finalize",
}


def steps_of(record: Record) -> list[Step]:
    """One step per stage."""
    timings = record.get("timings") or {}
    return [
        Step(
            stage,
            progress := _progress(record, stage),
            *(_figures(record, stage) if progress in ("done", "now") else _why_not(record, stage, progress)),
            time=_time(record, stage, timings),
        )
        for stage in STAGES
    ]


def _progress(record: Record, stage: str) -> Progress:
    state = _known(record.get("state"))
    place = STAGES.index(stage)
    if state is State.FINALIZED:
        return _afterwards(record, stage) if place > STAGES.index("finalize") else "done"
    if state is State.DISCARDED:
        before = _known(_entered_from(record, State.DISCARDED)) or State.IN_REVIEW
        reached = STAGES.index(_AT_WORK.get(before, "review"))
        return "done" if place < reached or stage == "review" == STAGES[reached] else "skipped"
    if state is State.FAILED:
        before = _known(record.get("failed_from") or _entered_from(record, State.FAILED)) or State.CREATED
        reached = STAGES.index(_AT_WORK.get(before, "infer"))
        return "done" if place < reached else "failed" if place == reached else "ahead"
    reached = STAGES.index(_AT_WORK[state]) if state in _AT_WORK else 0
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


def _why_not(record: Record, stage: str, progress: Progress) -> tuple[str, str]:
    if progress == "failed":
        return "stopped here", ""
    if progress == "ahead":
        return "not yet", ""
    return ("not run" if record.get("state") == State.DISCARDED else "not asked for"), ""


def _figures(record: Record, stage: str) -> tuple[str, str]:
    """(figure, note) of a stage that was reached."""
    counts = record.get("counts") or {}
    if stage == "infer":
        if not formats.whole(counts.get("samples")):
            return "", ""
        return formats.counted(counts.get("predicted"), "label"), formats.counted(counts["samples"], "sample")
    if stage == "triage":
        return _triage(record)
    if stage == "review":
        return _review(record)
    if stage == "validate":
        rounds = (record.get("validation") or {}).get("rounds") or []
        if not rounds:
            return "", ""
        failed = len(rounds[-1].get("failed_checks") or ())
        figure = formats.counted(rounds[-1].get("checks"), "check")
        return figure, (f"{failed} failed" if failed else "all passed")
    if stage == "finalize":
        written = (record.get("verification") or {}).get("written", counts.get("finalized"))
        return (f"{formats.counted(written, 'label')}", "written") if formats.number(written) is not None else ("", "")
    if stage == "evaluate":
        approved = ((record.get("metrics") or {}).get("run") or {}).get("approved") or {}
        return f"precision {formats.percent(approved.get('precision'))}", "of the approved labels"
    if stage == "export":
        exports = record.get("exports") or []
        return formats.counted(len(exports), "export"), formats.joined([str(e.get("format")) for e in exports])
    return "this page", ""


def _triage(record: Record) -> tuple[str, str]:
    entries = [h for h in record.get("history") or [] if h.get("event") == "triage"]
    approved = ((entries[-1].get("figures") or {}) if entries else {}).get("approved")
    chosen = (record.get("thresholds") or {}).get("default")
    note = f"at {formats.threshold(chosen)}" if formats.number(chosen) is not None else "all for review"
    if formats.number(approved) is None:
        return note, ""
    return f"{formats.count(approved)} approved", note


def _review(record: Record) -> tuple[str, str]:
    decision = record.get("decision") or {}
    again = f"round {record['round']}" if formats.whole(record.get("round")) > 1 else ""
    if not decision:
        return "waits for a person", again
    words = {"finalize": "finalize", "discard": "discard"}.get(str(decision.get("decision")), "decided")
    return words, f"by {decision.get('reviewer') or 'policy'}" + (f", {again}" if again else "")


def _time(record: Record, stage: str, timings: Mapping[str, Any]) -> str:
    seconds = timings.get(stage)
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
