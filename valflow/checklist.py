"""The pre-finalization checklist: questions, each answered by recorded evidence instead of a tick."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from valflow import actions, audits, certificates, completeness, ledger, runs
from valflow.label_types import APPROVED, INVALID, PROBLEM_TAGS, REJECTED

DECIDING = ("approve", "reject", "reset", "judge")


class _Answer(NamedTuple):
    """Whether it is so, what was found, and what a person can do about it in a terminal."""

    ok: bool
    found: str
    command: str = ""


def evidence(record: runs.Record, table: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items, each with ``item, title, ok, required, found, evidence``: what was found, and with the command.

    Args:
        record: the run.
        table: its classes as of now, each with its ``label`` and the number of labels in each state.
    """
    required = record["config"]["review"]["checklist"]
    answers = {
        "reviewed": ("Labels were reviewed", _reviewed(record, table)),
        "problems": ("Problems were tagged", _problems(record, table)),
        "spot_check": ("A random sample of approved labels was judged", _spot_check(record, table)),
        "thresholds": ("Thresholds are written down", _thresholds(record)),
        "issues": ("Systematic issues were noted per class", _issues(record, table)),
    }
    if completeness.is_wanted(record):
        answers["completeness"] = ("Random images were searched for missing objects", _completeness(record))
    return [
        {
            "item": item,
            "title": title,
            "ok": answer.ok,
            "required": item in required,
            "found": answer.found,
            "evidence": "; ".join(filter(None, (answer.found, answer.command))),
        }
        for item, (title, answer) in answers.items()
    ]


def missing(items: Sequence[dict[str, Any]], *, told: str = "evidence") -> list[str]:
    """What is required and not there, in words; with ``told="found"`` without commands."""
    return [f"{i['title']}: {i[told]}" for i in items if i["required"] and not i["ok"]]


def reviewer_statistics(run: str) -> dict[str, dict[str, int]]:
    """Per reviewer, how many labels each kind of action changed that was not taken back."""
    statistics: dict[str, Counter[str]] = defaultdict(Counter)
    changed = ledger.labels_by_action(run)
    for action in actions.history_of(run):
        if action["actor"] == actions.POLICY or action["undone_by"] is not None:
            continue
        tagged = changed.get(("tag", action["seq"]), 0)
        if action["event"] == "tag" and tagged:  # all of them may have had it before
            statistics[action["actor"]]["tagged"] += tagged
        elif action["event"] in DECIDING:
            for state in (APPROVED, REJECTED, ledger.UNDECIDED):
                count = changed.get((state, action["seq"]), 0)
                if count:
                    statistics[action["actor"]][state] += count
    audit = audits.latest(run)
    for item in audit["items"] if audit else []:
        if item["reviewer"]:
            statistics[item["reviewer"]]["judged"] += 1
    return {name: dict(counts) for name, counts in statistics.items()}


def issue_notes(run: str) -> dict[str, list[str]]:
    """Notes that reviewers left on problems, per class (``all`` where no class was named)."""
    notes: dict[str, list[str]] = defaultdict(list)
    for action in actions.history_of(run):
        selector = action["selector"]
        if action["event"] == "tag" and selector.get("note") and action["undone_by"] is None:
            for label in selector.get("classes") or ["all"]:
                notes[label].append(f"{selector['note']} ({action['actor']}, {selector['tag']})")
    # A command that died and was given again left its note twice.
    return {label: list(dict.fromkeys(texts)) for label, texts in notes.items()}


def _reviewed(record: runs.Record, table: Sequence[dict[str, Any]]) -> _Answer:
    undecided = sum(r[ledger.UNDECIDED] for r in table)
    people = reviewer_statistics(record["run"])
    by = "; ".join(
        f"{name}: " + ", ".join(f"{n} {what}" for what, n in counts.items())
        for name, counts in people.items()
    )
    return _Answer(
        undecided == 0, f"{undecided} labels undecided; {by or 'no person has decided a label yet'}"
    )


def _problems(record: runs.Record, table: Sequence[dict[str, Any]]) -> _Answer:
    tags = ledger.problem_tag_counts(record["run"])
    bad = sum(r[REJECTED] + r[INVALID] for r in table)
    text = ", ".join(f"{n} {tag}" for tag, n in tags.items()) or "no label carries a problem tag"
    return _Answer(bool(tags) or bad == 0, f"{text}; {bad} labels rejected or invalid")


def _spot_check(record: runs.Record, table: Sequence[dict[str, Any]]) -> _Answer:
    run, certificate = record["run"], record.get("certificate") or {}
    if certificate.get("state") != certificates.AUDIT and not sum(r[APPROVED] for r in table):
        return _Answer(True, "nothing is approved, so there is nothing to check")
    audit = audits.latest(run)
    if audit is None:
        return _Answer(False, "none was drawn", f"draw one with `valflow audit {run}`")
    result = audits.summary(audit)
    if result["judged"] < result["drawn"]:
        return _Answer(
            False,
            f"{result['judged']} of {result['drawn']} verdicts are there",
            f"give them with `valflow audit {run}`",
        )
    since = audits.uncovered(record, audit)
    if since:
        return _Answer(
            False,
            f"{since} approved labels are not covered by the draw",
            f"draw again with `valflow audit {run}`",
        )
    if audit["kind"] == audits.CERTIFICATE:
        return _Answer(True, certificates.in_words(certificate))
    return _Answer(
        True,
        f"{audits.sentence(result)}, seed {result['seed']}, judged by {', '.join(result['reviewers'])}"
        f"{_earlier_draws(run, audit)}",
    )


def _earlier_draws(run: str, last: dict[str, Any]) -> str:
    """What was drawn and judged before the last draw: to draw until the result is good would not go unseen."""
    before = [
        audits.sentence(audits.summary(a))
        for a in audits.all_of(run)
        if a["kind"] == audits.SPOT_CHECK
        and a["_id"] != last["_id"]
        and any(i["verdict"] for i in a["items"])
    ]
    return "".join(f"; an earlier draw: {sentence}" for sentence in before)


def _completeness(record: runs.Record) -> _Answer:
    result = completeness.summary_of(record["run"])
    if result is None:
        return _Answer(True, "the run has no images to look at")
    if result["upper_bound"] is None:
        return _Answer(
            False, result["sentence"], f"judge them with `valflow audit {record['run']} --completeness`"
        )
    return _Answer(
        True, f"{result['sentence']}, seed {result['seed']}, judged by {', '.join(result['reviewers'])}"
    )


def _thresholds(record: runs.Record) -> _Answer:
    thresholds = record["thresholds"]
    certificate = record.get("certificate")
    if certificate:
        return _Answer(True, certificates.promise_in_words(certificate))
    if thresholds["default"] is None:
        return _Answer(True, "review_all: no label was approved without a person")
    special = "".join(f", {label}: {value:g}" for label, value in thresholds["per_class"].items())
    return _Answer(True, f"fixed at {thresholds['default']:g}{special}")


def _issues(record: runs.Record, table: Sequence[dict[str, Any]]) -> _Answer:
    notes = issue_notes(record["run"])
    if notes:
        return _Answer(True, "; ".join(f"{label}: {' / '.join(texts)}" for label, texts in notes.items()))
    rejected = [f"{r['label']} ({r[REJECTED]} rejected)" for r in table if r[REJECTED]]
    if not rejected:
        return _Answer(True, "no class has rejected labels")
    return _Answer(
        False,
        f"no note yet on {', '.join(rejected[:10])}",
        f"leave one with `valflow tag {record['run']} {PROBLEM_TAGS[0]} --class CLASS --note TEXT`",
    )
