"""Random draws of labels for a person to judge, and what their verdicts say about the rest."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from bson import ObjectId

from valflow import actions, collector, database, ledger, runs
from valflow.certify.bounds import smallest_sample, upper_bound
from valflow.errors import AuditError
from valflow.label_types import APPROVED, REJECTED, label_type_of
from valflow.report.formats import percent_at_most

SPOT_CHECK = "spot_check"
CORRECT, UNSURE = "correct", "unsure"
VERDICTS = (CORRECT, "wrong_class", "bad_box", "not_an_object", "duplicate", UNSURE)
CONFIDENCE = 0.95
MAX_ERROR = 0.05
ITEMS_PER_PAGE = 30  # of an audit, on one screen

Audit = dict[str, Any]


def draw(run: str, reviewer: str, *, size: int | None = None, seed: int | None = None) -> Audit:
    """Draw approved labels uniformly at random, without replacement, in random order.

    Args:
        run: key of a run in review.
        reviewer: who asked for the draw.
        size: number of labels; by default enough to bound the error at 5 % with 95 % confidence when
            none is wrong (59), or all where there are fewer.
        seed: makes the draw repeatable; by default a new random one, written down.

    Raises:
        AuditError: nothing is approved, size or seed are out of range, or the last audit covers it all.
    """
    actions.check_person(reviewer)
    if seed is not None and not 0 <= seed < 2**63:
        raise AuditError(f"expected a seed from 0 to 2^63 - 1, found {seed}")
    record = runs.load(run)
    actions.require_review(record)
    last = latest(record["run"])
    if last is not None and not approved_since(record, last):
        # Drawing until the sample pleases would make the bound worthless.
        waiting = sum(i["verdict"] is None for i in last["items"])
        raise AuditError(
            f"the audit drawn at {runs.as_json(last['drawn_at'])} covers everything that is approved; "
            + (f"it waits for {waiting} verdicts" if waiting else "it is complete, and its result stands")
        )
    with collector.paused():
        population = list(ledger.approved_ids(record["run"]))
    if not population:
        raise AuditError(f"run {record['run']} has no approved labels to draw from; approve some first")
    if size is not None and not 1 <= size <= len(population):
        raise AuditError(f"expected a sample of 1 to {len(population)} approved labels, found {size}")
    size = size or min(smallest_sample(MAX_ERROR, CONFIDENCE), len(population))
    seed = secrets.randbits(32) if seed is None else seed
    chosen = np.random.default_rng(seed).choice(len(population), size=size, replace=False)
    audit = {
        "run": record["run"],
        "kind": SPOT_CHECK,
        "seed": seed,
        "population": len(population),
        "probability": size / len(population),
        "drawn_at": database.now(),
        "drawn_by": reviewer,
        "drawn_after_action": record["action_seq"],
        "items": [
            {
                "number": number,
                "label_id": population[index][0],
                "sample_id": population[index][1],
                "verdict": None,
                "reviewer": None,
                "time": None,
                "action": None,
            }
            for number, index in enumerate(chosen.tolist(), 1)
        ],
    }
    database.audits().insert_one(audit)
    return audit


def judge(run: str, verdicts: Mapping[int, str], reviewer: str) -> Audit:
    """Record verdicts by number; wrong labels are rejected, unsure ones go back to the queue.

    Raises:
        AuditError: there is no draw, a number was not drawn or is judged already, or a verdict is unknown.
    """
    actions.check_person(reviewer)
    record = runs.load(run)
    actions.require_review(record)
    audit = latest(record["run"])
    if audit is None:
        raise AuditError(
            f"run {record['run']} has no audit yet; draw one with `valflow audit {record['run']}`"
        )
    by_number = {i["number"]: i for i in audit["items"]}
    problems = [
        f"number {n} was not drawn (1 to {len(by_number)} were)" for n in verdicts if n not in by_number
    ]
    problems += [f"number {n}: {v!r} is no verdict" for n, v in verdicts.items() if v not in VERDICTS]
    problems += [
        f"number {n} was judged {by_number[n]['verdict']!r} by {by_number[n]['reviewer']}"
        for n, v in verdicts.items()
        if n in by_number and by_number[n]["verdict"] not in (None, v)
    ]
    if problems:
        raise AuditError(
            f"verdicts are {', '.join(VERDICTS)}; " + "; ".join(problems[:10]) + "; nothing was recorded"
        )
    fresh = {n: v for n, v in verdicts.items() if by_number[n]["verdict"] is None}
    if not fresh:
        return audit
    unsure = [by_number[n]["label_id"] for n, v in fresh.items() if v == UNSURE]
    wrong = [by_number[n]["label_id"] for n, v in fresh.items() if v not in (CORRECT, UNSURE)]
    action = actions.judge_labels(record["run"], reviewer, wrong, unsure, audit["_id"])
    time = database.now()
    for number, verdict in fresh.items():
        database.audits().update_one(
            {"_id": audit["_id"], "items": {"$elemMatch": {"number": number, "verdict": None}}},
            {
                "$set": {
                    "items.$.verdict": verdict,
                    "items.$.reviewer": reviewer,
                    "items.$.time": time,
                    "items.$.action": action,
                }
            },
        )
    return latest(record["run"]) or audit


def latest(run: str) -> Audit | None:
    """The last draw of a run."""
    return database.audits().find_one({"run": run, "kind": SPOT_CHECK}, sort=[("drawn_at", -1), ("_id", -1)])


def open_items(run: str) -> list[dict[str, Any]]:
    """What of the last draw waits for a verdict, in the order of the draw."""
    audit = latest(run)
    return [] if audit is None else [i for i in audit["items"] if i["verdict"] is None]


def page_of(items: Sequence[dict[str, Any]], size: int = ITEMS_PER_PAGE) -> list[dict[str, Any]]:
    """The first page that is not judged in full: its rest, and nothing of the next one.

    A page is fixed by the numbers of the draw, so that judging some of it brings nothing new before the rest is
    confirmed.
    """
    if not items:
        return []
    first = (items[0]["number"] - 1) // size
    return [i for i in items if (i["number"] - 1) // size == first]


def approved_since(record: runs.Record, audit: Audit) -> int:
    """Number of labels approved after the draw, about which the audit says nothing."""
    after = audit["drawn_after_action"]
    # What an undo brought back was not there at the draw if the action that it took back came before the draw.
    gone = {"of": {"$lte": after}, "at": {"$gt": after}}
    brought_back = {
        "$filter": {
            "input": {"$ifNull": ["$$l.returned", []]},
            "as": "r",
            "cond": {"$and": [{"$lte": ["$$r.of", after]}, {"$gt": ["$$r.at", after]}]},
        }
    }
    new = {"$or": [{"$gt": ["$$l.action", after]}, {"$gt": [{"$size": brought_back}, 0]}]}
    holds = {"$or": [{"action": {"$gt": after}}, {"returned": {"$elemMatch": gone}}]}
    return ledger.count_where(
        {"run": record["run"], "labels": {"$elemMatch": {"state": APPROVED, **holds}}},
        {"$and": [{"$eq": ["$$l.state", APPROVED]}, new]},
    )


def summary(audit: Audit) -> dict[str, Any]:
    """What the verdicts say: every verdict but ``correct`` counts as wrong.

    ``upper_bound`` is the exact one-sided bound on the share of wrong labels among those approved at the draw.
    """
    verdicts = Counter(i["verdict"] for i in audit["items"] if i["verdict"] is not None)
    judged = sum(verdicts.values())
    wrong = judged - verdicts[CORRECT]
    complete = judged == len(audit["items"])
    return {
        "drawn": len(audit["items"]),
        "population": audit["population"],
        "judged": judged,
        "wrong": wrong,
        "upper_bound": float(upper_bound(wrong, judged, CONFIDENCE)) if complete else None,
        "confidence": CONFIDENCE,
        "seed": audit["seed"],
        "drawn_by": audit["drawn_by"],
        "drawn_at": audit["drawn_at"],
        "reviewers": sorted({i["reviewer"] for i in audit["items"] if i["reviewer"]}),
        "verdicts": dict(verdicts),
    }


def sentence(result: Mapping[str, Any]) -> str:
    """The result in the words that every report uses."""
    if result["upper_bound"] is None:
        return f"{result['judged']} of {result['drawn']} judged, {result['wrong']} wrong so far"
    return (
        f"{result['wrong']} wrong of {result['judged']}: at most {percent_at_most(result['upper_bound'])} wrong "
        f"({result['confidence'] * 100:.0f} %)"
    )


def items_with_labels(record: runs.Record, audit: Audit) -> list[dict[str, Any]]:
    """The drawn labels in order of their numbers, with ``label`` as it stands in the review field, and ``filepath``."""
    label_type, staging = label_type_of(record), record["staging_field"]
    wanted = {i["label_id"] for i in audit["items"]}
    labels: dict[ObjectId, dict[str, Any]] = {}
    paths: dict[ObjectId, str] = {}
    cursor = database.samples_of(database.dataset_of(record)).find(
        {"_id": {"$in": [i["sample_id"] for i in audit["items"]]}}, {"filepath": 1, staging: 1}
    )
    for sample in cursor:
        paths[sample["_id"]] = sample["filepath"]
        staged = (sample.get(staging) or {}).get(label_type.list_name) or []
        labels.update({d["_id"]: d for d in staged if d["_id"] in wanted})
    labels = {**_rejected(record["run"], wanted - labels.keys()), **labels}
    lost = [str(i["label_id"]) for i in audit["items"] if i["label_id"] not in labels]
    if lost:
        raise AuditError(
            f"{len(lost)} drawn labels are gone from {record['dataset']}.{staging}: {', '.join(lost[:3])}; "
            "bring them back, or reject them by id and draw again"
        )
    return [
        {**i, "label": labels[i["label_id"]], "filepath": paths.get(i["sample_id"], "")}
        for i in audit["items"]
    ]


def _rejected(run: str, wanted: set[ObjectId]) -> dict[ObjectId, dict[str, Any]]:
    """Drawn labels that were deleted, but on record: they are judged as they were predicted."""
    query = {"run": run, "labels": {"$elemMatch": {"_id": {"$in": list(wanted)}, "state": REJECTED}}}
    documents = database.ledger().find(query, {"labels._id": 1, "labels.state": 1, "predicted": 1})
    return {
        entry["_id"]: predicted
        for document in documents
        for entry, predicted in zip(document["labels"], document["predicted"], strict=True)
        if entry["_id"] in wanted and entry["state"] == REJECTED
    }
