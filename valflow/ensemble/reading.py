"""The labels of runs that are looked at together, from their ledgers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from bson import ObjectId

from valflow import database, runs
from valflow.errors import ConfigError
from valflow.label_types import DETECTIONS, REJECTED, LabelDict
from valflow.states import State

# What counts as a label of a run: all that it proposes and nobody rejected, or what became or will become final.
Which = Literal["predicted", "approved"]

_UNREADY = (State.CREATED,)
_DECIDED = (State.REVIEWED, State.VALIDATED, State.FINALIZING, State.FINALIZED)
_READ_AT_ONCE = 5_000
_READ = {"_id": 0, "sample_id": 1, "labels": 1, "predicted": 1, "frozen": 1}


def load_together(keys: Sequence[str], which: Which) -> list[runs.Record]:
    """The records of runs that can be looked at together.

    Args:
        keys: of two runs or more, or ``latest``.
        which: the labels that are wanted.

    Raises:
        RunNotFound: no run has one of the keys.
        ConfigError: fewer than two runs, or runs without common ground; every reason is listed.
    """
    records = [runs.load(key) for key in keys]
    names = [r["run"] for r in records]
    problems = []
    if len(names) < 2:
        problems.append(f"runs: expected two or more, found {', '.join(names) or 'none'}")
    problems += [f"runs: {n} is named more than once" for n in dict.fromkeys(names) if names.count(n) > 1]
    for name, key in (("dataset", "dataset_id"), ("label type", "label_type")):
        if len({r.get(key) for r in records}) > 1:
            found = ", ".join(
                f"{r['run']}: {r.get('label_type') if key != 'dataset_id' else r['dataset']}" for r in records
            )
            problems.append(f"runs: expected runs of one {name}, found {found}")
    for record in records:
        problems += _not_ready(record, which)
        kind = record.get("label_type", DETECTIONS.name)
        if kind != DETECTIONS.name:
            problems.append(
                f"runs: {record['run']} makes labels of the type {kind!r}; only those of {DETECTIONS.name!r} are "
                "compared and merged, by their boxes"
            )
    if problems:
        raise ConfigError(problems)
    return records


def _not_ready(record: runs.Record, which: Which) -> list[str]:
    state = State(record["state"])
    if state in _UNREADY or (state is State.FAILED and record["failed_from"] == State.CREATED.value):
        return [f"runs: {record['run']} is {state.value}; its predictions are not complete yet"]
    if which == "approved" and state not in _DECIDED:
        return [
            f"runs: {record['run']} is {state.value}, so nobody has decided which of its labels are right; "
            "finalize it first, or take what was predicted"
        ]
    return []


def seen_by(record: runs.Record) -> set[ObjectId]:
    """The samples that a run looked at, whether it found something or not."""
    query = {"run": record["run"], "status": {"$in": ["labelled", "empty"]}}
    return {d["sample_id"] for d in database.ledger().find(query, {"_id": 0, "sample_id": 1})}


def labels_of(
    record: runs.Record, sample_ids: Sequence[ObjectId], which: Which
) -> Iterator[tuple[ObjectId, list[LabelDict]]]:
    """Raw labels of a run, sample by sample; samples without any are left out.

    What was approved comes as it was frozen, with the corrections of people.
    """
    for start in range(0, len(sample_ids), _READ_AT_ONCE):
        part = {"$in": list(sample_ids[start : start + _READ_AT_ONCE])}
        query = {"run": record["run"], "sample_id": part, "labels.0": {"$exists": True}}
        for entry in database.ledger().find(
            query, {"_id": 0, "sample_id": 1, "labels": 1, "predicted": 1, "frozen": 1}
        ):
            found = _frozen(record, entry) if which == "approved" else _predicted(entry)
            if found:
                yield entry["sample_id"], found


def _predicted(document: dict[str, Any]) -> list[LabelDict]:
    rejected = {entry["_id"] for entry in document["labels"] if entry["state"] == REJECTED}
    return [d for d in document.get("predicted") or [] if d["_id"] not in rejected]


def _frozen(record: runs.Record, entry: dict[str, Any]) -> list[LabelDict]:
    frozen = entry.get("frozen") or {}
    return list(frozen.get("labels") or []) if frozen.get("token") == record["frozen"]["token"] else []
