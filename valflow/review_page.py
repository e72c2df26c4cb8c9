"""The Markdown that a person reads where a run waits: on the Prefect page and at the prompt."""

from __future__ import annotations

from typing import Any

from valflow import intake, runs, trail
from valflow.certificates import in_words, promise_in_words, sentences
from valflow.certifying import is_open
from valflow.class_names import shortened
from valflow.markup import markdown_code
from valflow.markup import markdown_text as markdown_text
from valflow.states import SHOWN_AS, State

MAX_ROWS = 30
MOST_OF_A_NAME = 80


def class_rows(record: runs.Record) -> list[dict[str, Any]]:
    """The class table as rows for people."""
    return [
        {
            "class": shortened(row["label"], MOST_OF_A_NAME),
            "labels": row["total"],
            "approved": row["approved"],
            "undecided": row["undecided"],
            "rejected": row["rejected"],
            "invalid": row["invalid"],
            "mean confidence": "–" if row["mean_confidence"] is None else f"{row['mean_confidence']:.2f}",
            "threshold": "–" if row["threshold"] is None else f"{row['threshold']:.2f}",
        }
        for row in record["class_table"]
    ]


def waiting_markdown(record: runs.Record, address: str | None = None) -> str:
    """What waits, why, and what to do; text from data is escaped, because Prefect renders inline HTML.

    Args:
        record: the run.
        address: where the App shows it; None where no App is known.
    """
    counts = record["counts"]
    parts = [
        f"## {markdown_text(record['name'])}",
        f"**{SHOWN_AS[State(record['state'])]}** · dataset {markdown_code(record['dataset'])} · "
        f"label field `{record['label_field']}` · round {record['round']}",
        f"{counts['samples']} samples, **{counts['predicted']} labels**: {counts['approved']} approved"
        f"{' by threshold' if record['round'] == 1 and not record.get('certificate') else ''}, "
        f"**{counts['undecided']} wait for a person**, {counts['invalid']} fail a check.",
    ]
    if address is not None:
        parts.append(f"**[Review it in the FiftyOne App]({address})**")
    last = record["history"][-1]
    if last["event"] == "reopen":
        parts.append(f"> **Reopened:** {markdown_text(last['note'])}")
    note = record["config"]["review"]["note"]
    if note:
        parts.append(f"> {markdown_text(note)}")
    parts.append(markdown_table(class_rows(record)[:MAX_ROWS]))
    if len(record["class_table"]) > MAX_ROWS:
        parts.append(f"… and {len(record['class_table']) - MAX_ROWS} more classes.")
    parts += [f"> **Note:** {markdown_text(odd)}" for odd in intake.sentences_of(record)]
    parts += _certificate_markdown(record)
    parts.append(
        "These figures are from the start of this round. To see the state as of now, decide and check:\n\n"
        f"```\n{_commands(record)}\n```\n\n"
        "Approved labels go through validation into the label field; undecided and rejected ones are discarded, "
        "and kept in the ledger."
    )
    return "\n\n".join(parts)


def _commands(record: runs.Record) -> str:
    run = record["run"]
    approve = [] if is_open(record) else [f"valflow approve {run} --class NAME --min-confidence 0.5"]
    return "\n".join([f"valflow show {run}", *approve, f"valflow audit {run}", f"valflow finalize {run}"])


def _certificate_markdown(record: runs.Record) -> list[str]:
    """What a certificate asks for, or what it proves."""
    certificate, run = record.get("certificate"), record["run"]
    if not certificate:
        return []
    promise = promise_in_words(certificate).removeprefix("certified: ")
    parts = [f"**Promise:** {markdown_text(promise)}."]
    if is_open(record):
        parts.append(
            f"**First judge the {certificate['audit']} labels that were drawn for the certificate**, in the App or "
            f"with `valflow audit {run}`. Nothing is approved before the last verdict is there; what the verdicts "
            "prove is approved then, and only the rest is left to look at."
        )
    else:
        parts.append(f"**Certificate:** {markdown_text(in_words(certificate))}.")
        parts += [f"- {markdown_text(s)}" for s in sentences(certificate)]
    return parts


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    if not rows:
        return "_No labels._"
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(markdown_text(str(row[h])) for h in head) + " |" for row in rows]
    return "\n".join(lines)


def report_markdown(record: runs.Record) -> str:
    """The end of a run in a few lines, for its Prefect page."""
    counts, decision = record["counts"], record["decision"] or {}
    parts = [
        f"## {markdown_text(record['name'])}: {SHOWN_AS[State(record['state'])]}",
        f"**{counts.get('finalized', 0)} labels** in {markdown_code(record['dataset'] + '.' + record['label_field'])}, "
        f"{counts.get('discarded', 0)} discarded, of {counts.get('predicted', 0)} predicted "
        f"on {counts['samples']} samples.",
    ]
    if decision:
        parts.append(f"Decided by **{markdown_text(decision['reviewer'])}** ({decision['via']}).")
    parts.append(markdown_table(class_rows(record)[:MAX_ROWS]))
    parts += [
        f"- {markdown_text(name)}: {markdown_code(path)}"
        for name, path in sorted(record["artifacts"].items())
    ]
    parts.append(f"Audit trail: {len(record['history'])} entries, head `{trail.head(record)}`")
    return "\n\n".join(parts)
