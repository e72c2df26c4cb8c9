"""Missed objects: whole images drawn at random, and for each the question whether any object is missing.

A promise about labels says nothing about objects without one; these images do.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from bson import ObjectId

from valflow import actions, audits, database, ledger, problem_tags, runs
from valflow.audits import Audit
from valflow.certify import incomplete_images
from valflow.errors import AuditError
from valflow.label_types import MISSING_OBJECT, REJECTED, review_type_of
from valflow.report.formats import percent_at_most

COMPLETENESS = "completeness"
COMPLETE, INCOMPLETE, UNSURE = "complete", "incomplete", "unsure"
VERDICTS = (COMPLETE, INCOMPLETE, UNSURE)
CONFIDENCE = 0.90


def draw(record: runs.Record, images: int, seed: int | None = None) -> Audit | None:
    """Draw images of a run uniformly at random, without replacement; None where the run has none.

    Repeated after a crash it replaces what it left: nobody has seen the draw before the review is open.

    Args:
        record: a run before its review.
        images: wanted; all are taken where there are fewer.
        seed: makes the draw repeatable; by default a new random one, written down.
    """
    run = record["run"]
    database.audits().delete_many({"run": run, "kind": COMPLETENESS})
    seen = {"run": run, "status": {"$in": [ledger.LABELLED, ledger.EMPTY]}}
    cursor = database.ledger().find(seen, {"_id": 0, "sample_id": 1}).sort("sample_id", 1)
    population = [d["sample_id"] for d in cursor]
    if not population:
        return None
    seed = secrets.randbits(32) if seed is None else seed
    size = min(images, len(population))
    chosen = np.random.default_rng(seed).choice(len(population), size=size, replace=False)
    items = [{"sample_id": population[index]} for index in chosen.tolist()]
    # Verdicts on images teach nothing about the scores of labels, so they carry no fingerprint.
    return audits.insert(
        {**record, "fingerprint": None}, COMPLETENESS, actions.POLICY, seed, len(population), items
    )


def is_wanted(record: runs.Record) -> bool:
    """Whether the run's settings ask the question."""
    return record["config"]["review"].get("completeness") is not None


def drawn(run: str) -> Audit | None:
    """The images of a run that were drawn."""
    return database.audits().find_one({"run": run, "kind": COMPLETENESS})


def current(run: str) -> Audit:
    """The images of a run that were drawn.

    Raises:
        AuditError: none were.
    """
    record = runs.load(run)
    audit = drawn(record["run"])
    if audit is None:
        wanted = is_wanted(record)
        why = "it has no images" if wanted else "its settings do not say `review.completeness: {images: 60}`"
        raise AuditError(f"run {record['run']} drew no images to look for missing objects: {why}")
    return audit


def judge(run: str, verdicts: Mapping[int, str], reviewer: str) -> Audit:
    """Record verdicts by number; incomplete images are tagged ``missing_object``. ``undo`` takes them back.

    Raises:
        AuditError: no images were drawn, a number was not drawn or is judged already, or a verdict is unknown.
        IllegalTransition: the run is not in review.
    """
    record = runs.load(run)
    actions.check_reviewer(record, reviewer)
    actions.require_review(record)
    audit = current(record["run"])
    fresh = audits.fresh_verdicts(audit, verdicts, VERDICTS)
    if not fresh:
        return audit
    samples = {i["number"]: i["sample_id"] for i in audit["items"]}
    incomplete = [samples[n] for n, v in fresh.items() if v == INCOMPLETE]
    record = actions.begin(record["run"])
    seq = record["action_seq"]
    selector = {
        "audit": str(audit["_id"]),
        "tag": MISSING_OBJECT,
        "images": len(fresh),
        "incomplete": len(incomplete),
    }
    actions.record_action(record, actions.JUDGE_IMAGES, reviewer, selector, writing=runs.sign_of_life())
    problem_tags.put_on_samples(record, database.dataset_of(record), MISSING_OBJECT, seq, incomplete)
    audits.record_verdicts(audit, fresh, reviewer, seq)
    actions.finished(record["run"], seq)
    return current(record["run"])


def summary(audit: Audit) -> dict[str, Any]:
    """What the verdicts say: an image that somebody is unsure about counts as incomplete.

    ``upper_bound`` is the exact one-sided bound on the share of incomplete images in the run; None until all are
    judged.
    """
    verdicts = Counter(i["verdict"] for i in audit["items"] if i["verdict"] is not None)
    judged = sum(verdicts.values())
    incomplete = judged - verdicts[COMPLETE]
    is_done = judged == len(audit["items"])
    result = {
        "drawn": len(audit["items"]),
        "population": audit["population"],
        "judged": judged,
        "incomplete": incomplete,
        "upper_bound": float(incomplete_images(incomplete, judged, CONFIDENCE)) if is_done else None,
        "confidence": CONFIDENCE,
        "seed": audit["seed"],
        "drawn_at": audit["drawn_at"],
        "reviewers": sorted({i["reviewer"] for i in audit["items"] if i["reviewer"]}),
        "verdicts": dict(verdicts),
    }
    return {**result, "sentence": sentence(result)}


def summary_of(run: str) -> dict[str, Any] | None:
    """The summary of a run's images; None where none were drawn."""
    audit = drawn(run)
    return None if audit is None else summary(audit)


def sentence(result: Mapping[str, Any]) -> str:
    """The result in the words that every report uses."""
    if result["upper_bound"] is None:
        return (
            f"{result['judged']} of {result['drawn']} images judged, {result['incomplete']} incomplete so far"
        )
    return (
        f"{result['incomplete']} of {result['judged']} images incomplete: at most "
        f"{percent_at_most(result['upper_bound'])} of the images miss an object ({100 * result['confidence']:.0f} %)"
    )


def images(record: runs.Record, audit: Audit) -> list[dict[str, Any]]:
    """The drawn images in order of their numbers, with ``filepath`` and ``labels``: all in the review field but the
    rejected ones. A sample that was deleted meanwhile has neither.
    """
    label_type, staging = review_type_of(record), record["staging_field"]
    wanted = [i["sample_id"] for i in audit["items"]]
    cursor = database.samples_of(database.dataset_of(record)).find(
        {"_id": {"$in": wanted}}, {"filepath": 1, staging: 1}
    )
    samples = {s["_id"]: s for s in cursor}
    rejected = _rejected(record["run"], wanted)
    return [
        {
            **item,
            "filepath": sample.get("filepath", ""),
            "labels": [d for d in label_type.labels_of(sample, staging) if d["_id"] not in rejected],
        }
        for item in audit["items"]
        for sample in [samples.get(item["sample_id"], {})]
    ]


def _rejected(run: str, samples: list[ObjectId]) -> set[ObjectId]:
    query = {"run": run, "sample_id": {"$in": samples}, "labels.state": REJECTED}
    found = database.ledger().find(query, {"labels._id": 1, "labels.state": 1})
    return {e["_id"] for d in found for e in d["labels"] if e["state"] == REJECTED}
