"""Random draws of labels for a person to judge, and what their verdicts say about the rest."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from bson import ObjectId

from valflow import actions, collector, database, ledger, runs
from valflow.certify import BAD_BOX, CORRECT, UNSURE, VERDICTS, smallest_sample, upper_bound
from valflow.errors import AuditError
from valflow.label_types import APPROVED, REJECTED, review_type_of
from valflow.report.formats import percent_at_most

# A spot-check is drawn from what is approved, the audit of a certificate from what may be approved by it.
SPOT_CHECK, CERTIFICATE = "spot_check", "certificate"
CONFIDENCE = 0.95
MAX_ERROR = 0.05
# Selectors of actions whose labels somebody pointed at, each of them.
_ONE_BY_ONE = frozenset({"label_ids", "tagged in the App"})
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
    record = runs.load(run)
    actions.check_reviewer(record, reviewer)
    if seed is not None and not 0 <= seed < 2**63:
        raise AuditError(f"expected a seed from 0 to 2^63 - 1, found {seed}")
    actions.require_review(record)
    last = latest(record["run"])
    if last is not None and not needs_draw(record, last):
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
    labels = _predictions(record["run"], [population[index] for index in chosen.tolist()])
    probability = size / len(population)
    items = [{**label, "probability": probability} for label in labels]
    return insert(record, SPOT_CHECK, reviewer, seed, len(population), items)


def insert_certificate_audit(
    record: runs.Record, seed: int, population: int, items: Sequence[dict[str, Any]]
) -> Audit:
    """Write down a draw that is to prove a certificate.

    Args:
        record: a run before its review.
        seed: that the draw follows from.
        population: labels that a certificate could speak about.
        items: the labels in order of the draw, each with ``label_id, sample_id, label, confidence, probability``.
    """
    return insert(record, CERTIFICATE, actions.POLICY, seed, population, items)


def insert(
    record: runs.Record, kind: str, who: str, seed: int, population: int, items: Sequence[dict[str, Any]]
) -> Audit:
    """Write down a draw; its items wait for verdicts, numbered from 1."""
    audit = {
        "run": record["run"],
        "kind": kind,
        "dataset": record["dataset"],
        "model": (record.get("model") or {}).get("name"),
        "fingerprint": record.get("fingerprint"),
        "seed": seed,
        "population": population,
        "drawn_at": database.now(),
        "drawn_by": who,
        "drawn_after_action": record["action_seq"],
        "items": [
            {"number": number, **item, "verdict": None, "reviewer": None, "time": None, "action": None}
            for number, item in enumerate(items, 1)
        ],
    }
    database.audits().insert_one(audit)
    return audit


def _predictions(run: str, drawn: Sequence[tuple[ObjectId, ObjectId]]) -> list[dict[str, Any]]:
    """Ids, class and confidence as predicted of labels, given by label and sample."""
    query = {"run": run, "sample_id": {"$in": [sample for _, sample in drawn]}}
    fields = {"labels._id": 1, "labels.label": 1, "labels.confidence": 1}
    entries = {e["_id"]: e for d in database.ledger().find(query, fields) for e in d["labels"]}
    return [
        {
            "label_id": label,
            "sample_id": sample,
            "label": str(entries[label]["label"]),
            "confidence": entries[label]["confidence"],
        }
        for label, sample in drawn
    ]


def judge(run: str, verdicts: Mapping[int, str], reviewer: str) -> Audit:
    """Record verdicts by number; wrong labels are rejected, unsure ones go back to the queue.

    In the audit of a certificate, correct labels are approved, and so are wrong ones that were corrected before the
    verdict; the last verdict brings the certificate.

    Raises:
        AuditError: there is no draw, a number was not drawn or is judged already, or a verdict is unknown.
    """
    record = runs.load(run)
    actions.check_reviewer(record, reviewer)
    actions.require_review(record)
    audit = latest(record["run"])
    if audit is None:
        raise AuditError(
            f"run {record['run']} has no audit yet; draw one with `valflow audit {record['run']}`"
        )
    fresh = fresh_verdicts(audit, verdicts, verdicts_of(record))
    if not fresh:
        return audit
    action = actions.judge_labels(record["run"], reviewer, _consequences(record, audit, fresh), audit["_id"])
    record_verdicts(audit, fresh, reviewer, action)
    actions.finished(record["run"], action)
    if audit["kind"] == CERTIFICATE:
        from valflow.certifying import conclude

        conclude(record["run"])
    return latest(record["run"]) or audit


def verdicts_of(record: Mapping[str, Any]) -> tuple[str, ...]:
    """What a verdict on a label of this run can be: without boxes, none is bad."""
    return VERDICTS if review_type_of(record).has_boxes else tuple(v for v in VERDICTS if v != BAD_BOX)


def fresh_verdicts(audit: Audit, verdicts: Mapping[int, str], known: Sequence[str]) -> dict[int, str]:
    """Those of the verdicts, by number, that are not on record yet.

    Raises:
        AuditError: a number was not drawn or is judged otherwise already, or a verdict is none of the known ones.
    """
    by_number = {i["number"]: i for i in audit["items"]}
    problems = [
        f"number {n} was not drawn (1 to {len(by_number)} were)" for n in verdicts if n not in by_number
    ]
    problems += [f"number {n}: {v!r} is no verdict" for n, v in verdicts.items() if v not in known]
    problems += [
        f"number {n} was judged {by_number[n]['verdict']!r} by {by_number[n]['reviewer']}"
        for n, v in verdicts.items()
        if n in by_number and by_number[n]["verdict"] not in (None, v)
    ]
    if problems:
        raise AuditError(
            f"verdicts are {', '.join(known)}; " + "; ".join(problems[:10]) + "; nothing was recorded"
        )
    return {n: v for n, v in verdicts.items() if by_number[n]["verdict"] is None}


def record_verdicts(audit: Audit, verdicts: Mapping[int, str], reviewer: str, action: int) -> None:
    """Write verdicts down, by number and all at once; what another one judged meanwhile stays."""
    numbers, said = list(verdicts), list(verdicts.values())
    place = {"$indexOfArray": [numbers, "$$i.number"]}
    judged = {
        "verdict": {"$arrayElemAt": [said, place]},
        "reviewer": {"$literal": reviewer},
        "time": database.now(),
        "action": action,
    }
    is_fresh = {"$and": [{"$in": ["$$i.number", numbers]}, {"$lte": ["$$i.verdict", None]}]}
    item = {"$cond": [is_fresh, {"$mergeObjects": ["$$i", judged]}, "$$i"]}
    items = {"$map": {"input": "$items", "as": "i", "in": item}}
    database.audits().update_one({"_id": audit["_id"]}, [{"$set": {"items": items}}])


def _consequences(
    record: runs.Record, audit: Audit, verdicts: Mapping[int, str]
) -> dict[str, list[ObjectId]]:
    """The states that labels get by their verdicts."""
    ids = {i["number"]: i["label_id"] for i in audit["items"]}
    wrong = [ids[n] for n, v in verdicts.items() if v not in (CORRECT, UNSURE)]
    correct = [ids[n] for n, v in verdicts.items() if v == CORRECT]
    unsure = [ids[n] for n, v in verdicts.items() if v == UNSURE]
    if audit["kind"] == SPOT_CHECK:
        # What it draws is approved already.
        return {REJECTED: wrong, ledger.UNDECIDED: unsure}
    corrected = corrected_labels(record, [i for i in audit["items"] if i["label_id"] in set(wrong)])
    return {REJECTED: [i for i in wrong if i not in corrected], APPROVED: [*correct, *corrected]}


def corrected_labels(record: runs.Record, items: Sequence[Mapping[str, Any]]) -> set[ObjectId]:
    """Those of the drawn labels whose class or shape a person has changed in the review field."""
    label_type, staging = review_type_of(record), record["staging_field"]
    samples = [i["sample_id"] for i in items]
    ids = {i["label_id"] for i in items}
    query = {"run": record["run"], "sample_id": {"$in": samples}}
    predicted = {d["_id"]: d for s in database.ledger().find(query, {"predicted": 1}) for d in s["predicted"]}
    staged = database.samples_of(database.dataset_of(record)).find({"_id": {"$in": samples}}, {staging: 1})
    compared = ("label", *label_type.geometry)
    return {
        label["_id"]
        for sample in staged
        for label in label_type.labels_of(sample, staging)
        if label["_id"] in ids and any(label.get(a) != predicted[label["_id"]].get(a) for a in compared)
    }


def all_of(run: str) -> list[Audit]:
    """All draws of a run, of every kind."""
    return list(database.audits().find({"run": run}))


def latest(run: str) -> Audit | None:
    """The last draw of labels of a run."""
    of_labels = {"run": run, "kind": {"$in": [SPOT_CHECK, CERTIFICATE]}}
    return database.audits().find_one(of_labels, sort=[("drawn_at", -1), ("_id", -1)])


def certificate_audit(run: str) -> Audit | None:
    """The draw that the run's certificate rests on."""
    return database.audits().find_one({"run": run, "kind": CERTIFICATE})


def needs_draw(record: runs.Record, audit: Audit | None) -> bool:
    """Whether a spot-check may be drawn: nothing was drawn yet, or the last draw does not cover what is approved."""
    return audit is None or uncovered(record, audit) > 0


def uncovered(record: runs.Record, audit: Audit) -> int:
    """Number of approved labels about which the last draw says nothing; none while a certificate waits for verdicts."""
    if audit["kind"] == SPOT_CHECK:
        return approved_since(record, audit)
    is_complete = all(i["verdict"] is not None for i in audit["items"])
    return approved_unseen(record["run"]) if is_complete else 0


def approved_unseen(run: str) -> int:
    """Number of approved labels of a certified run that a person approved by class or confidence, not one by one."""
    actions_in_bulk = [
        a["seq"]
        for a in actions.history_of(run)
        if a["event"] == "approve" and a["actor"] != actions.POLICY and not _ONE_BY_ONE & a["selector"].keys()
    ]
    if not actions_in_bulk:
        return 0
    condition = {"$and": [{"$eq": ["$$l.state", APPROVED]}, {"$in": ["$$l.action", actions_in_bulk]}]}
    return ledger.count_where({"run": run, "labels.action": {"$in": actions_in_bulk}}, condition)


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

    ``upper_bound`` is the exact one-sided bound on the share of wrong labels among those approved at the draw; None
    until all is judged, and for the audit of a certificate, which speaks for itself.
    """
    verdicts = Counter(i["verdict"] for i in audit["items"] if i["verdict"] is not None)
    judged = sum(verdicts.values())
    wrong = judged - verdicts[CORRECT]
    complete = judged == len(audit["items"])
    is_bound = complete and audit["kind"] == SPOT_CHECK
    return {
        "kind": audit["kind"],
        "drawn": len(audit["items"]),
        "population": audit["population"],
        "judged": judged,
        "wrong": wrong,
        "upper_bound": float(upper_bound(wrong, judged, CONFIDENCE)) if is_bound else None,
        "confidence": CONFIDENCE,
        "seed": audit["seed"],
        "drawn_by": audit["drawn_by"],
        "drawn_at": audit["drawn_at"],
        "reviewers": sorted({i["reviewer"] for i in audit["items"] if i["reviewer"]}),
        "verdicts": dict(verdicts),
    }


def population_in_words(audit: Audit) -> str:
    """What the labels were drawn from."""
    return "labels that may skip the review" if audit["kind"] == CERTIFICATE else "approved labels"


def sentence(result: Mapping[str, Any]) -> str:
    """The result in the words that every report uses."""
    if result["upper_bound"] is None:
        if result["judged"] == result["drawn"]:
            return f"{result['wrong']} wrong of {result['judged']}"
        return f"{result['judged']} of {result['drawn']} judged, {result['wrong']} wrong so far"
    return (
        f"{result['wrong']} wrong of {result['judged']}: at most {percent_at_most(result['upper_bound'])} wrong "
        f"({result['confidence'] * 100:.0f} %)"
    )


def items_with_labels(record: runs.Record, audit: Audit) -> list[dict[str, Any]]:
    """The drawn labels in order of their numbers, with ``label`` as it stands in the review field, and ``filepath``."""
    label_type, staging = review_type_of(record), record["staging_field"]
    wanted = {i["label_id"] for i in audit["items"]}
    labels: dict[ObjectId, dict[str, Any]] = {}
    paths: dict[ObjectId, str] = {}
    cursor = database.samples_of(database.dataset_of(record)).find(
        {"_id": {"$in": [i["sample_id"] for i in audit["items"]]}}, {"filepath": 1, staging: 1}
    )
    for sample in cursor:
        paths[sample["_id"]] = sample["filepath"]
        staged = label_type.labels_of(sample, staging)
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
