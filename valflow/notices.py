"""What a notification says: a subject and a few lines of plain text about a run.

Channels read different markup (Slack's, Markdown, HTML, templates of webhooks), so text that comes from data, such as
names of runs and classes or the words of an error, is made plain for all of them.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

from valflow import runs
from valflow.review_app import address_of

What = Literal["waiting", "reminder", "failed", "finalized", "discarded"]

TITLES: dict[What, str] = {
    "waiting": "Review waiting",
    "reminder": "Review still waiting",
    "failed": "Run failed",
    "finalized": "Finalized",
    "discarded": "Discarded",
}
MOST_CHARACTERS = 300
# Look-alikes without a meaning: of HTML and Slack, of mentions, of Markdown, of templates.
_HARMLESS = str.maketrans(
    {"<": "‹", ">": "›", "&": "＆", "@": "＠", "*": "∗", "`": "'", "~": "∼", "|": "¦"}
    | {"[": "(", "]": ")", "{": "(", "}": ")"}
)


@dataclass(frozen=True)
class Notice:
    """One message."""

    subject: str
    text: str


def notice(what: What, record: runs.Record, facts: dict[str, Any]) -> Notice:
    """Say what became of a run, with the links to its pages.

    Args:
        what: see ``TITLES``.
        record: the run.
        facts: the counts of the run; for a failure its ``reason``, for a reminder its ``number``.
    """
    headline = f"{TITLES[what]}: {plain(record['name'])}"
    lines = [headline, *_LINES[what](record, facts)]
    lines.append(
        f"dataset {plain(record['dataset'])}, label field {record['label_field']}, run {record['run']}"
        + (f", round {record['round']}" if record["round"] > 1 else "")
    )
    review = address_of(record)
    if review is not None:
        lines.append(f"{'Review' if what in ('waiting', 'reminder') else 'In the App'}: {review}")
    if record.get("prefect_url"):
        lines.append(f"Prefect: {record['prefect_url']}")
    return Notice(f"valflow: {headline}", "\n".join(lines))


def notice_without_run(config: Any, reason: str, prefect_url: str | None) -> Notice:
    """Say that a run failed before it had a record."""
    subject = f"{TITLES['failed']}: {plain(config.run_name or config.dataset)}"
    lines = [
        subject,
        f"It could not start: {plain(reason)}",
        f"dataset {plain(config.dataset)}, label field {plain(config.label_field)}",
    ]
    if prefect_url:
        lines.append(f"Prefect: {prefect_url}")
    return Notice(f"valflow: {subject}", "\n".join(lines))


def plain(text: object) -> str:
    """Text from data on one line, which no channel takes for a link, a mention, markup or a placeholder."""
    visible = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in str(text))
    line = " ".join(visible.split()).translate(_HARMLESS).replace("://", ": //")
    return line if len(line) <= MOST_CHARACTERS else line[: MOST_CHARACTERS - 1] + "…"


def _waiting(record: runs.Record, counts: dict[str, Any]) -> list[str]:
    lines = [
        f"{_number(counts, 'undecided')} of {_number(counts, 'predicted')} labels on {_number(counts, 'samples')} "
        f"samples wait for a person; {_number(counts, 'approved')} are approved, {_number(counts, 'invalid')} "
        "fail a check."
    ]
    last = record["history"][-1]
    if last["event"] == "reopen":
        lines.append(f"Reopened: {plain(last['note'])}")
    note = record["config"]["review"]["note"]
    return [*lines, plain(note)] if note else lines


def _reminder(record: runs.Record, facts: dict[str, Any]) -> list[str]:
    return [*_waiting(record, facts), f"Reminder {facts['number']}, every {facts['every']}."]


def _failed(record: runs.Record, facts: dict[str, Any]) -> list[str]:
    return [f"{facts['stage']} failed: {plain(facts['reason'])}"]


def _ended(record: runs.Record, counts: dict[str, Any]) -> list[str]:
    decided_by = (record["decision"] or {}).get("reviewer")
    return [
        f"{_number(counts, 'finalized')} labels final, {_number(counts, 'discarded')} discarded, of "
        f"{_number(counts, 'predicted')} predicted on {_number(counts, 'samples')} samples"
        + (f"; decided by {plain(decided_by)}." if decided_by else ".")
    ]


def _number(counts: dict[str, Any], name: str) -> int:
    return int(counts.get(name) or 0)


_LINES = {
    "waiting": _waiting,
    "reminder": _reminder,
    "failed": _failed,
    "finalized": _ended,
    "discarded": _ended,
}
