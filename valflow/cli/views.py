"""Commands that only look: runs, show, why."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from valflow.cli.result import Result, text_table
from valflow.errors import SelectionError

COUNTS = (
    "samples",
    "predicted",
    "approved",
    "rejected",
    "undecided",
    "finalized",
    "discarded",
    "failed_samples",
)

MOST_ROWS = 200


def runs(options: Any) -> Result:
    """`valflow runs`."""
    from valflow import runs as records

    found = records.list_runs(options.dataset, options.limit)
    if not found:
        return Result("no labeling run yet; start one with `valflow run CONFIG`", {"runs": []})
    rows = [
        {
            "run": r["run"],
            "state": _state(r),
            "model": (r.get("model") or {}).get("name", "–"),
            "label field": f"{r['dataset']}.{r['label_field']}",
            "predicted": r["counts"].get("predicted", "–"),
            "approved": r["counts"].get("approved", "–"),
            "finalized": r["counts"].get("finalized", "–"),
            "age": age(r["created_at"]),
        }
        for r in found
    ]
    return Result(text_table(rows), {"runs": [document_of(r) for r in found]})


def show(options: Any) -> Result:
    """`valflow show`."""
    from valflow import runs as records
    from valflow import safety_copies
    from valflow.reporting import current_view

    view = current_view(records.load(options.run))
    copies = safety_copies.of_run(view["run"])
    lines = [f"  safety copy {safety_copies.in_words(copy)}" for copy in copies]
    document = {**document_of(view), "safety_copies": [safety_copies.as_document(c) for c in copies]}
    return Result("\n".join([describe(view), *([""] if lines else []), *lines]), document)


def why(options: Any) -> Result:
    """`valflow why`."""
    from valflow.explaining import explain, in_words

    facts = explain(options.label)
    return Result(in_words(facts), facts)


def queue(options: Any) -> Result:
    """`valflow queue`."""
    from valflow import actions, review_order
    from valflow import runs as records

    if options.limit < 1:
        raise SelectionError(f"--limit: expected 1 or more, found {options.limit}")
    record = records.load(options.run)
    actions.require_review(record)
    found = review_order.queue(record["run"], options.limit)
    if not found["labels"]:
        return Result("nothing is left to review: every label is decided", found)
    rows = [
        {
            "label": row["label_id"],
            "sample": row["sample_id"],
            "class": row["class"],
            "confidence": _shown(row["confidence"]),
            "score": _shown(row["score"]),
            "why": row["why"],
        }
        for row in found["labels"]
    ]
    left = found["undecided"] - len(rows)
    return Result(text_table(rows) + (f"\nand {left} more (--limit)" if left else ""), found)


def _shown(number: float | None) -> str:
    return "–" if number is None else f"{number:.3f}"


def document_of(record: dict[str, Any]) -> dict[str, Any]:
    """The JSON form of a run that other tools build on."""
    from valflow.runs import as_json

    plain = as_json(record)
    document: dict[str, Any] = {
        "run": plain["run"],
        "name": plain["name"],
        "dataset": plain["dataset"],
        "label_field": plain["label_field"],
        "state": plain["state"],
        "round": plain["round"],
        "config": plain["config"],
        "counts": {**dict.fromkeys(COUNTS, 0), **plain["counts"]},
        "history": plain["history"],
        "artifacts": plain["artifacts"],
        "metrics": plain["metrics"] or {},
    }
    for key in (
        "class_table",
        "checklist",
        "audit",
        "certificate",
        "lot",
        "completeness",
        "decision",
        "validation",
        "verification",
        "exports",
        "timings",
        "failed",
        "intake",
        "model",
        "prefect_url",
    ):
        document[key] = plain.get(key)
    return document


def document_without_run(config: Any) -> dict[str, Any]:
    """The same keys where there was nothing to do, so no run was made."""
    return {
        "run": None,
        "dataset": config.dataset,
        "label_field": config.label_field,
        "state": None,
        "config": config.model_dump(mode="json"),
        "counts": dict.fromkeys(COUNTS, 0),
        "history": [],
        "artifacts": {},
        "metrics": {},
    }


def describe(record: dict[str, Any]) -> str:
    """A run in a few lines, for a terminal."""
    from valflow import intake
    from valflow.review_page import class_rows

    counts = {**dict.fromkeys(COUNTS, 0), **record["counts"]}
    lines = [
        f"{record['run']}  {_state(record)}"
        + (f"  (round {record['round']})" if record["round"] > 1 else ""),
        f"  {record['dataset']}.{record['label_field']}: "
        + ", ".join(
            f"{counts[c]} {c.replace('_', ' ')}" for c in COUNTS if counts[c] or c in ("samples", "predicted")
        ),
    ]
    if record["class_table"]:
        lines += ["", _indented(text_table(class_rows(record)[:MOST_ROWS]))]
        if len(record["class_table"]) > MOST_ROWS:
            lines.append(f"  … and {len(record['class_table']) - MOST_ROWS:,} more classes; --json has all")
    lines += [f"  note: {odd}" for odd in intake.sentences_of(record)]
    lines += _certificate(record)
    if record.get("checklist"):
        lines.append("")
        lines += [
            f"  [{'x' if i['ok'] else ' '}] {i['title']}"
            f"{' (required)' if i['required'] and not i['ok'] else ''}: {i['evidence']}"
            for i in record["checklist"]
        ]
    lines.append("")
    lines += [f"  {_moment(h)}" for h in record["history"][-8:]]
    lines += [f"  {name}: {path}" for name, path in sorted(record["artifacts"].items())]
    step = _next_step(record)
    return "\n".join([*lines, "", f"  {step}"] if step else lines)


def age(time: datetime) -> str:
    """How long ago, in the largest fitting unit."""
    from valflow.runs import aware

    seconds = (datetime.now(UTC) - aware(time)).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _state(record: dict[str, Any]) -> str:
    from valflow.lots import is_waiting
    from valflow.states import SHOWN_AS, WAITING_FOR_MORE, State

    return WAITING_FOR_MORE if is_waiting(record) else SHOWN_AS[State(record["state"])]


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _moment(entry: dict[str, Any]) -> str:
    from valflow.runs import aware

    note = f": {entry['note']}" if entry["note"] else ""
    return f"{aware(entry['time']):%Y-%m-%d %H:%M:%S}  {entry['event']} by {entry['actor']}{note}"


def _certificate(record: dict[str, Any]) -> list[str]:
    """What is proven, or why it is not."""
    from valflow.certificates import in_words, sentences

    certificate = record.get("certificate")
    if not certificate:
        return []
    return ["", f"  certificate: {in_words(certificate)}", *(f"    {s}" for s in sentences(certificate))]


def _next_step(record: dict[str, Any]) -> str:
    from valflow import lots
    from valflow.certifying import is_open

    run, state = record["run"], record["state"]
    if lots.is_waiting(record):
        return lots.in_words(record)
    if is_open(record):
        return f"next: judge what was drawn for the certificate, in the App or with `valflow audit {run}`"
    if state == "IN_REVIEW":
        return (
            f"next: valflow approve|reject|tag {run} …, then valflow audit {run}, then valflow finalize {run}"
        )
    if state == "FAILED":
        return f"{record.get('failed_stage')} failed: {record.get('error')}\n  run the same command again to continue"
    return ""
