"""Runs at a glance: where each stands, and who waits for whom."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from valflow import audits, ledger, lots, reviewing, runs, undoing
from valflow.states import SHOWN_AS, State

# States in which a process works.
_MOVING = frozenset(
    s.value for s in (State.CREATED, State.PREDICTED, State.REVIEWED, State.VALIDATED, State.FINALIZING)
)


def is_moving(record: runs.Record) -> bool:
    """Whether the pipeline has something to do, so that a screen looks again by itself."""
    if lots.is_waiting(record):
        return False
    finishing = record["state"] == State.FINALIZED.value and not record.get("completed_at")
    return record["state"] in _MOVING or (finishing and runs.is_alive(record))


def run_rows(dataset: str, limit: int = 50) -> list[dict[str, Any]]:
    """The runs of a dataset, latest first, as rows for people; counts of a run in review are of this moment.

    Returns:
        Rows with ``run, name, state, model, field, predicted, approved, finalized, age, waits``, and ``moves``: whether
        the pipeline is at work on it.
    """
    return [_row(record) for record in runs.list_runs(dataset, limit)]


def waits_for(record: runs.Record) -> str:
    """Who or what has to act next, in a few words."""
    state = State(record["state"])
    if state is State.IN_REVIEW:
        freezing = (record.get("freezing") or {}).get("by")
        reviewers = record["config"]["review"]["reviewers"]
        return f"{freezing} is confirming" if freezing else ", ".join(reviewers) or "a reviewer"
    if state is State.FAILED:
        return f"a retry of {record.get('failed_stage')}"
    if lots.is_waiting(record):
        return "more labels"
    if state in (State.ROLLING_BACK, State.REOPENING):
        return "`valflow rollback`"
    if state is State.ROLLED_BACK:
        return f"nobody; taken back by {record['rollback']['reviewer']}"
    if state in (State.FINALIZED, State.DISCARDED):
        decision = record.get("decision") or {}
        return f"nobody; decided by {decision['reviewer']}" if decision else "nobody"
    if runs.is_alive(record):
        return "the pipeline"
    return "a Prefect worker" if record.get("suspended_in") else "`valflow finalize`"


def model_name(record: runs.Record) -> str:
    """The model in one word."""
    model = record.get("model") or {}
    return str(
        model.get("name") or record["config"]["model"].get("path") or record["config"]["model"]["field"]
    )


def age(time: datetime) -> str:
    """How long ago, in the largest fitting unit."""
    seconds = (datetime.now(UTC) - runs.aware(time)).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _row(record: runs.Record) -> dict[str, Any]:
    counts = record["counts"]
    if record["state"] == State.IN_REVIEW.value:
        counts = {**counts, **ledger.label_counts(ledger.class_table(record["run"]))}
    return {
        "run": record["run"],
        "name": record["name"],
        "state": SHOWN_AS[State(record["state"])],
        "model": model_name(record),
        "field": record["label_field"],
        "predicted": counts.get("predicted", "–"),
        "approved": counts.get("approved", "–"),
        "finalized": counts.get("finalized", "–"),
        "age": age(record["created_at"]),
        "waits": waits_for(record),
        "moves": is_moving(record),
    }


def review_figures(
    record: runs.Record, shown: reviewing.Shown, table: Sequence[dict[str, Any]], reviewer: str
) -> dict[str, Any]:
    """What the screen of a review shows beside the pictures, as plain JSON.

    Args:
        record: a run in review.
        shown: what the screen shows.
        table: its ``reviewing.table``.
        reviewer: who looks at it; empty for nobody.

    Returns:
        ``rows`` (one per class: ``label, current, total, mean``), the totals ``current, predicted, approved, rejected,
        undecided, invalid, without_confidence``, and ``undo``: the reviewer's last action, None without one.
    """
    chosen = set(shown.classes)
    rows = [
        {"label": r["label"], "current": r["current"], "total": r["total"], "mean": r["mean_confidence"]}
        for r in table
    ]
    names = ("approved", "rejected", "undecided", "invalid", "without_confidence")
    return {
        "rows": rows,
        "current": sum(r["current"] for r in table if not chosen or r["label"] in chosen),
        "predicted": sum(r["total"] for r in table),
        **{name: sum(r[name] for r in table) for name in names},
        "undo": undoable(record["run"], reviewer) if reviewer else None,
    }


def undoable(run: str, reviewer: str) -> dict[str, Any] | None:
    """The reviewer's last action, ``seq`` and ``text``, as plain JSON; None without one."""
    last = undoing.last_undoable(run, reviewer)
    return None if last is None else {"seq": last["seq"], "text": action_in_words(last)}


def action_in_words(action: dict[str, Any]) -> str:
    """An action of a person, short enough for a button."""
    selector = action["selector"]
    if action["event"] == "tag":
        return f"tag {selector['tag']}"
    classes = ", ".join(selector.get("classes", [])[:3])
    return f"{action['event']} {classes}".strip()


def result_figures(record: runs.Record) -> dict[str, Any]:
    """What a finished run brought, as plain JSON.

    Returns:
        ``labels, samples, discarded, edited, field, reviewer, per_class, quality`` (sentences), ``links`` (pages and
        files) and ``folders``.
    """
    counts, frozen, decision = record["counts"], record.get("frozen") or {}, record.get("decision") or {}
    reports = {k: v for k, v in record["artifacts"].items() if str(v).endswith(".html")}
    page = record.get("prefect_url")
    return {
        "labels": counts.get("finalized", 0),
        "samples": frozen.get("samples", 0),
        "discarded": counts.get("discarded", 0),
        "edited": counts.get("edited", 0),
        "field": record["label_field"],
        "reviewer": decision.get("reviewer", "nobody"),
        "per_class": frozen.get("per_class", {}),
        "quality": _quality(record),
        "links": {**reports, **({"Prefect page": page} if page else {})},
        "folders": {f"export ({e['format']})": e["dir"] for e in record["exports"]},
    }


def work_lists(record: runs.Record, dataset: Any) -> list[dict[str, Any]]:
    """The saved views of problem tags that this run has used, with their numbers of samples."""
    saved = set(dataset.list_saved_views())
    tagged = dataset.count_sample_tags()
    names = record.get("problem_tags") or {}
    return [{"name": n, "samples": tagged.get(n, 0)} for n in names if n in saved]


def _quality(record: runs.Record) -> list[str]:
    lines = []
    checks = (record.get("validation") or {}).get("checks", [])
    applied = [c for c in checks if c["status"] != "skipped"]
    if applied:
        passed = sum(c["status"] == "passed" for c in applied)
        lines.append(f"validation: {passed} of {len(applied)} checks passed")
    approved = ((record.get("metrics") or {}).get("run") or {}).get("approved")
    if approved:
        figures = {key: approved.get(key) for key in ("precision", "recall", "mAP")}
        told = ", ".join(f"{key} {value:.3f}" for key, value in figures.items() if value is not None)
        lines.append(f"evaluation: {told or 'nothing to measure'}")
    audit = record.get("audit")
    if audit:
        lines.append(f"audit: {audits.sentence(audit)}")
    return lines
