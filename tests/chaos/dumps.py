"""Everything that a run leaves behind, in a form that two runs can be compared by.

Times, durations, process ids and ids that are random by nature are replaced by their kind; label ids follow from run,
sample and place, so they are compared. Numbers of actions are replaced by who did what: a command that died and was
given again has another number.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from bson import ObjectId

from valflow import database, trail

SAMPLES = "samples"
_TIMES = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d| UTC)?")
_NAMED_BY_TIME = re.compile(r"\d{8}-\d{6}")
_HEX = re.compile(r"\b[0-9a-f]{32}\b")
_UUID = re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_LINK = re.compile(r"\b[0-9a-f]{64}\b")
_OBJECT_ID = re.compile(r"\b[0-9a-f]{24}\b")
# Of a run record: who worked on it and when, and what only tells valflow's own writes from those of others.
_PASSING = frozenset(
    {
        *(
            "timings",
            "process",
            "attempt",
            "action_seq",
            "own_writes",
            "heartbeat_at",
            "edits_read_at",
            "seconds",
        ),
        *("recovery",),
    }
)
# Links of the audit trail, which follow from times; whether they hold is a place of its own.
_LINKS = frozenset({"n", "after", "digest"})
# What a broken-off attempt may add to a history; everything else must be there once.
_OF_RECOVERY = frozenset({"fail", "retry", "skip", "recover"})
_DECLARATIONS = frozenset({"fields", "sample_fields"})
_ACTION_KEYS = frozenset({"action", "of", "at", "undone_by", "drawn_after_action"})
_TEXTS = frozenset({".html", ".md", ".svg", ".css"})
_JPEG = b"\xff\xd9"  # ends one


@dataclass(frozen=True)
class Dump:
    """What there is, by place; and what was done more than once.

    Attributes:
        places: canonical JSON of each document or file, by where it is.
        repeated: actions on record a second time that changed no label: what is left of a command that died.
    """

    places: dict[str, str]
    repeated: int = field(default=0, compare=False)

    def differences(self, other: Dump) -> list[str]:
        """Where two dumps differ, one line each."""
        mine = {p: text for p, text in self.places.items() if other.places.get(p) != text}
        theirs = {p: text for p, text in other.places.items() if self.places.get(p) != text}
        lines = []
        for collection in sorted({p.partition("/")[0] for p in mine.keys() ^ theirs.keys()}):
            # Places named by a digest: one that is missing and one that is new are the same document, changed.
            old = [p for p in mine if p not in theirs and p.startswith(f"{collection}/")]
            new = [p for p in theirs if p not in mine and p.startswith(f"{collection}/")]
            if len(old) == len(new) == 1:
                lines.append(f"{old[0]}: {_where(mine.pop(old[0]), theirs.pop(new[0]))}")
        return lines + [
            f"{place}: {_where(mine.get(place), theirs.get(place))}"
            for place in sorted(mine.keys() | theirs.keys())
        ]


def dump(db: Any, folder: Path) -> Dump:
    """All documents of a database, and all files of a folder."""
    plain = _Plain(db)
    places: dict[str, str] = {}
    for name in sorted(db.list_collection_names()):
        if name in (database.ACTIONS, database.RUNS) or name.startswith("system."):
            continue
        short = SAMPLES if name.startswith("samples.") else name
        documents = [plain(d) for d in db[name].find()]
        if short in (SAMPLES, database.LEDGER):
            key = "_id" if short == SAMPLES else "sample_id"
            places |= {f"{short}/{d.get('run', '')}/{d[key]}": _canonical(d) for d in documents}
        else:
            counted = Counter(_canonical(d) for d in documents)
            places |= {f"{short}/{_digest(text)}": f"{n} x {text}" for text, n in counted.items()}
    for record in db[database.RUNS].find():
        places[f"{database.RUNS}/{record['run']}"] = _canonical(_run(plain, record))
        broken = trail.problems(record, list(db[database.ACTIONS].find({"run": record["run"]})))
        places[f"trail/{record['run']}"] = _canonical(broken)
    actions, repeated = plain.actions()
    places |= {f"{database.ACTIONS}/{text}": "there" for text in actions}
    found = sorted(folder.rglob("*"))
    places |= {
        f"files/{_NAMED_BY_TIME.sub('time', str(p.relative_to(folder)))}": _file(plain, p) for p in found
    }
    return Dump(places, repeated)


class _Plain:
    """Turns values into plain ones that do not depend on chance or time."""

    def __init__(self, db: Any) -> None:
        self._db = db
        self._known = {d["_id"] for n in _collections(db, "samples.") for d in db[n].find({}, {"_id": 1})}
        for holder in db[database.LEDGER].find({}, {"labels._id": 1}):
            self._known |= {label["_id"] for label in holder.get("labels", [])}
        for name in _collections(db, "samples."):
            for sample in db[name].find():
                self._known |= {
                    label["_id"]
                    for value in sample.values()
                    if isinstance(value, dict)
                    for label in value.get("detections") or []
                }
        self._words = {str(i) for i in self._known}
        self.links = {h.get("digest") for r in db[database.RUNS].find() for h in r["history"]}
        self._actions = {(a["run"], a["seq"]): a for a in db[database.ACTIONS].find()}

    def __call__(self, value: Any, run: str = "", key: str = "") -> Any:
        if isinstance(value, Mapping):
            run = value.get("run", run) if isinstance(value.get("run", run), str) else run
            if key == "rollback" and "digest" in value:
                value = {**value, "digest": "digest"}  # of the freeze's token, which is random
            return {str(k): self(v, run, str(k)) for k, v in value.items() if k not in _PASSING}
        if isinstance(value, list | tuple):
            plain = [self(v, run, key) for v in value]
            # Declared again after a crash, fields stand in another order, which means nothing.
            return sorted(plain, key=_canonical) if key in _DECLARATIONS else plain
        if key in _ACTION_KEYS and isinstance(value, int):
            return self.action(run, value)
        if isinstance(value, datetime):
            return "time"
        if isinstance(value, ObjectId):
            return str(value) if value in self._known else "id"
        if isinstance(value, bytes):
            return _digest(value)
        return self.text(value) if isinstance(value, str) else value

    def text(self, value: str) -> str:
        """A text without times and random ids."""
        value = _UUID.sub("token", _HEX.sub("token", _TIMES.sub("time", value)))
        return _OBJECT_ID.sub(lambda m: m[0] if m[0] in self._words else "id", value)

    def action(self, run: str, number: int) -> str:
        """Who did what, of the last action up to a number."""
        found = max((n for r, n in self._actions if r == run and n <= number), default=None)
        return "nothing" if found is None else self.in_words(self._actions[run, found])

    def in_words(self, action: Mapping[str, Any]) -> str:
        """Who did what."""
        selector = {k: self(v) for k, v in action["selector"].items() if k not in ("action",)}
        return f"{action['actor']} {action['event']} {_canonical(selector)}"

    def actions(self) -> tuple[set[str], int]:
        """All actions, and how many are there a second time without any label that owes them something."""
        owed = self._owed()
        texts: Counter[str] = Counter()
        empty: list[str] = []
        for (run, number), action in sorted(self._actions.items()):
            undone = action["undone_by"]
            text = f"{run}: {self.in_words(action)}" + (
                f" undone by {self.action(run, undone)}" if undone else ""
            )
            (texts.update([text]) if (run, number) in owed else empty.append(text))
        repeated = sum(n - 1 for n in texts.values())
        for text in empty:
            bare = text.split(" undone by ")[0]
            if any(t.split(" undone by ")[0] == bare for t in texts):
                repeated += 1
            else:
                texts[text] += 1
        return set(texts), repeated

    def _owed(self) -> set[tuple[str, int]]:
        found: set[tuple[str, int]] = set()

        def look(run: str, value: Any) -> None:
            if isinstance(value, dict):
                found.update((run, v) for k, v in value.items() if k in _ACTION_KEYS and isinstance(v, int))
                for inner in value.values():
                    look(run, inner)
            elif isinstance(value, list):
                for inner in value:
                    look(run, inner)

        for name in (database.LEDGER, database.AUDITS):
            for document in self._db[name].find():
                look(document["run"], document)
        return found


def _run(plain: _Plain, record: dict[str, Any]) -> dict[str, Any]:
    history = [_entry(h) for h in record["history"] if h["event"] not in _OF_RECOVERY]
    shown = plain({**record, "history": history}, record["run"])
    return {k: v for k, v in shown.items() if k not in ("failed_from", "failed_stage", "error")}


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    figures = {k: v for k, v in (entry["figures"] or {}).items() if k != "sealed"}
    return {**{k: v for k, v in entry.items() if k not in _LINKS}, "figures": figures}


def _file(plain: _Plain, path: Path) -> str:
    if path.is_symlink():
        return f"link to {path.readlink()}"
    if path.is_dir():
        return "folder"
    content = path.read_bytes()
    if path.suffix == ".json":
        kept = json.loads(content)
        if isinstance(kept, dict) and "history" in kept:
            whole = kept.pop("trail", None) in plain.links
            # A report that is written again tells of the first one.
            kept.pop("artifacts", None)
            kept.pop("completed_at", None)
            kept = {**_run(plain, kept), "the head is an entry of the trail": whole}
        kept = plain(kept)
        return _canonical(kept)
    if path.suffix in _TEXTS:
        # Pages tell times and durations in many words; that they are whole is what counts.
        text = content.decode()
        named = plain.links.intersection(_LINK.findall(text))
        end = _LINK.sub("link", text[-80:])[-8:].strip()
        return f"text that names {'an entry' if named else 'no entry'} of the trail, and ends in {end!r}"
    if path.suffix == ".jpg":
        # The report shows labels drawn at random.
        return f"picture, whole: {content.endswith(_JPEG)}"
    return _digest(content)


def _collections(db: Any, prefix: str) -> list[str]:
    return [n for n in db.list_collection_names() if n.startswith(prefix)]


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _digest(content: bytes | str) -> str:
    data = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(data).hexdigest()[:16]


def _where(mine: str | None, theirs: str | None, around: int = 90) -> str:
    if mine is None or theirs is None:
        there = "only in the disturbed run" if mine is None else "missing"
        return f"{there}: {(mine or theirs or '')[:300]}"
    at = next(
        (i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(len(mine), len(theirs))
    )
    start = max(at - around, 0)
    return f"expected …{mine[start : at + around]}…, found …{theirs[start : at + around]}…"
