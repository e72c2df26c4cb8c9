"""The audit trail of a run: its history as a chain of digests, so that no entry is changed in silence.

Every entry holds its number ``n``, the digest of the entry before it (``after``) and its own: the SHA-256 of its JSON
with sorted keys. Whoever can write to the database can also write a new chain; so the last digest, the *head*, is
printed in every report, and a chain that does not hold the head of a report is not the one that was reported.
The entry of a decision seals what it rests on: actions, verdicts, certificate, the decision itself, approved labels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from valflow.plain import as_json

if TYPE_CHECKING:
    from pymongo.database import Database

Entry = dict[str, Any]
Record = Mapping[str, Any]

_OF_ACTION = ("run", "seq", "actor", "event", "selector", "time")
_OF_RUN = ("run", "state", "history", "artifacts", "decision", "frozen", "certificate")
_OF_DRAW = ("kind", "seed", "population", "drawn_by", "drawn_at", "items")


def next_entry(record: Record, entry: Entry) -> Entry:
    """The entry as the next link of the chain of a record."""
    linked = {"n": len(record["history"]) + 1, **entry, "after": head(record)}
    return {**linked, "digest": _digest(linked)}


def head(record: Record) -> str:
    """Digest of the last entry; it stands for the whole history."""
    history = record.get("history") or []
    return str(history[-1]["digest"]) if history and "digest" in history[-1] else _root(record)


def seal(actions: Iterable[Record], up_to: int) -> dict[str, Any]:
    """What an entry keeps about the actions up to a number, so that none of them is changed afterwards."""
    return {"up_to": up_to, "digest": _digest_of_actions(actions, up_to)}


def seal_decision(record: Record, decision: Record, audits: Iterable[Record]) -> dict[str, str]:
    """What the entry of a decision keeps of all that it rests on: the decision, verdicts, certificate."""
    return {
        "decision": _digest(decision),
        "verdicts": _digest_of_audits(audits),
        "certificate": _digest(record.get("certificate")),
    }


def problems(
    record: Record,
    actions: Sequence[Record] | None = None,
    audits: Sequence[Record] | None = None,
    approved: str | None = None,
) -> list[str]:
    """What is wrong with the trail of a run; empty where every link holds.

    Args:
        record: the run record, or a ``run.json``.
        actions: the actions of reviewers on it; None does not look at what seals them.
        audits: its draws with their verdicts; None does not look at them.
        approved: digest of the approval set that is stored; None does not compare it.
    """
    history = record.get("history") or []
    found = list(_broken_links(record, history))
    found += [] if actions is None else _broken_seals(history, actions)
    found += _broken_decision(record, history, audits, approved)
    if not history:
        return ["the history is gone"]
    if history[-1].get("to") != record.get("state"):
        last = f"its last entry says {history[-1].get('to')}, the run is {record.get('state')}"
        found.append(f"entries were removed at the end, or the state was changed by hand: {last}")
    return found


def departs_from_report(record: Record) -> str | None:
    """How a run differs from its report on this machine; None where it does not, or there is none."""
    place = (record.get("artifacts") or {}).get("run_record")
    try:
        reported = json.loads(Path(place).read_text(encoding="utf-8")) if place else None
    except (OSError, ValueError):
        return None  # moved, or another machine's
    if not isinstance(reported, dict) or not reported.get("trail"):
        return None
    known = {entry.get("digest") for entry in record.get("history") or []} | {head(record)}
    if reported["trail"] in known:
        return None
    return f"the head in {place} is {reported['trail'][:12]}, which is no entry of the history any more"


def check(db: Database[dict[str, Any]]) -> tuple[int, list[str]]:
    """Check the trails of all runs; returns how many runs there are, and what is wrong, each with its run."""
    from valflow.database import ACTIONS, AUDITS, LEDGER, RUNS
    from valflow.freezing import digest_of

    count, found = 0, []
    for record in db[RUNS].find({}, dict.fromkeys(_OF_RUN, 1)).sort("_id", 1):
        count += 1
        of_run = {"run": record["run"]}
        token = (record.get("frozen") or {}).get("token")
        approved = digest_of(record, token, db[LEDGER])[0] if token else None
        wrong = problems(record, list(db[ACTIONS].find(of_run)), list(db[AUDITS].find(of_run)), approved)
        departed = departs_from_report(record)
        found += [f"run {record['run']}: {p}" for p in [*wrong, *([departed] if departed else [])]]
    return count, found


def _root(record: Record) -> str:
    """What the first entry follows: the run itself, and entries from before there was a chain."""
    early = [entry for entry in record.get("history") or [] if "digest" not in entry]
    return _digest({"run": record["run"], "early": early})


def _broken_links(record: Record, history: Sequence[Entry]) -> Iterator[str]:
    early = next((i for i, entry in enumerate(history) if "digest" in entry), len(history))
    before, number = _root(record), early
    numbers = [entry.get("n") for entry in history[early:]]
    for entry in history[early:]:
        number += 1
        if (
            "digest" not in entry
            or _digest({k: v for k, v in entry.items() if k != "digest"}) != entry["digest"]
        ):
            yield f"{_named(entry)} was changed"
        elif entry["n"] != number and number in numbers:
            yield f"{_named(entry)} stands in place {number}: entries were reordered"
        elif entry["n"] != number:
            yield f"entry {number} was removed; {_named(entry)} stands in its place"
            number = entry["n"]
        elif entry["after"] != before:
            yield f"{_named(entry)} does not follow the entry before it, which was changed or replaced"
        before = str(entry.get("digest"))


def _broken_seals(history: Sequence[Entry], actions: Sequence[Record]) -> Iterator[str]:
    for entry in history:
        sealed = (entry.get("figures") or {}).get("sealed")
        if sealed and _digest_of_actions(actions, sealed["up_to"]) != sealed["digest"]:
            yield f"reviewers' actions up to number {sealed['up_to']} were changed after {_named(entry)}"


def _broken_decision(
    record: Record, history: Sequence[Entry], audits: Sequence[Record] | None, approved: str | None
) -> Iterator[str]:
    """What differs from what the last decision sealed; a run whose review is open again has none."""
    entry = next((e for e in reversed(history) if e.get("event") == "submit"), None)
    if entry is None or not record.get("decision"):
        return
    figures = entry.get("figures") or {}
    sealed = figures.get("sealed") or {}
    if "decision" in sealed and sealed["decision"] != _digest(record["decision"]):
        yield f"the decision was changed after {_named(entry)}"
    if "certificate" in sealed and sealed["certificate"] != _digest(record.get("certificate")):
        yield f"the certificate was changed after {_named(entry)}"
    if "verdicts" in sealed and audits is not None and sealed["verdicts"] != _digest_of_audits(audits):
        yield f"draws or verdicts were changed after {_named(entry)}"
    if approved is not None and approved != figures.get("digest"):
        yield f"the approved labels in the ledger were changed after {_named(entry)}"


def _digest_of_audits(audits: Iterable[Record]) -> str:
    kept = [{k: a.get(k) for k in _OF_DRAW} for a in audits]
    return _digest(sorted(kept, key=lambda a: (str(a["drawn_at"]), str(a["kind"]), str(a["seed"]))))


def _digest_of_actions(actions: Iterable[Record], up_to: int) -> str:
    # Not whether an action was undone later: that is an action of its own.
    kept = [{k: a.get(k) for k in _OF_ACTION} for a in actions if a["seq"] <= up_to]
    return _digest(sorted(kept, key=lambda a: a["seq"]))


def _named(entry: Entry) -> str:
    return f"entry {entry.get('n')} ({entry.get('event')} by {entry.get('actor')})"


def _digest(value: Any) -> str:
    plain = json.dumps(as_json(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()
