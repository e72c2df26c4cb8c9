"""What to look at first: labels by how uncertain the run is about them, those of one sample together.

Ranked by the best evidence that a label has: FiftyOne's mistakenness, the disagreement with a second field of
predictions, the score that the run learned for its certificate, the confidence.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from bson import ObjectId
from numpy.typing import NDArray

from valflow import batches, collector, database, runs
from valflow.ledger import UNDECIDED, confidence_array
from valflow.selections import Selection

Floats = NDArray[np.float64]

# Written by `fiftyone.brain.compute_mistakenness` onto each label.
MISTAKENNESS = "mistakenness"
# Without a threshold of the class: as likely right as wrong.
_MIDDLE = 0.5
_CURSOR_BATCH = 2000


@dataclass(frozen=True)
class Ranking:
    """Selected labels, the most uncertain sample first, and in it the most uncertain label.

    Attributes:
        label_ids: (N,) raw bytes.
        sample_ids: (N,) raw bytes.
        classes: (N,) as predicted.
        confidence: (N,) NaN where there is none.
        evidence: (N,) the value that a label was ranked by, NaN where there is none.
        reason: (N,) what that value is: ``confidence, score, disagreement, mistakenness`` or ``none``.
        uncertainty: (N,) 0 or more; up to 1 where it follows from a confidence or score.
    """

    label_ids: NDArray[np.void]
    sample_ids: NDArray[np.void]
    classes: NDArray[np.object_]
    confidence: Floats
    evidence: Floats
    reason: NDArray[np.str_]
    uncertainty: Floats

    def __len__(self) -> int:
        return len(self.label_ids)


def rank(run: str, selection: Selection) -> Ranking:
    """The selected labels of a run in the order in which they are worth looking at.

    One query for the labels, and one for the stored scores where the run has them.
    """
    wanted = {"thresholds": 1, "certificate.state": 1, "counts.predicted": 1}
    record = database.runs().find_one({"run": run}, wanted) or {}
    predicted = (record.get("counts") or {}).get("predicted")
    has_mistakenness = _has_mistakenness(record.get("_id"), run, predicted)
    ids, samples, classes, confidence, mistakenness = _read(run, selection, has_mistakenness)
    evidence, uncertainty = _by_confidence(confidence, classes, record.get("thresholds") or {})
    reason = np.where(np.isnan(confidence), "none", "confidence").astype("U12")
    if record.get("certificate"):
        score, disagreement = _stored(run, ids)
        _prefer(evidence, uncertainty, reason, "score", score, 1 - np.abs(2 * score - 1))
        # Where nobody disagrees, the score says more.
        disagreement = np.where(disagreement > 0, disagreement, np.nan)
        _prefer(evidence, uncertainty, reason, "disagreement", disagreement, _above(disagreement))
    _prefer(evidence, uncertainty, reason, "mistakenness", mistakenness, _above(mistakenness))
    order = _order(samples, uncertainty)
    return Ranking(
        label_ids=ids[order],
        sample_ids=samples[order],
        classes=classes[order],
        confidence=confidence[order],
        evidence=evidence[order],
        reason=reason[order],
        uncertainty=uncertainty[order],
    )


def queue(run: str, limit: int) -> dict[str, Any]:
    """What is left to review, the most uncertain first.

    Returns:
        JSON: ``run, undecided, labels``: of each ``label_id, sample_id, class, confidence, score, why``.
    """
    record = runs.load(run)
    ranking = rank(record["run"], _undecided())
    scores = _stored(record["run"], ranking.label_ids[:limit])[0] if record.get("certificate") else None
    thresholds = record.get("thresholds") or {}
    return {
        "run": record["run"],
        "undecided": len(ranking),
        "labels": [
            {
                "label_id": str(batches.object_id(ranking.label_ids[i])),
                "sample_id": str(batches.object_id(ranking.sample_ids[i])),
                "class": str(ranking.classes[i]),
                "confidence": _plain(ranking.confidence[i]),
                "score": None if scores is None else _plain(scores[i]),
                "why": _in_words(ranking, i, thresholds),
            }
            for i in range(min(limit, len(ranking)))
        ],
    }


def _undecided() -> Selection:
    from valflow.reviewing import screen

    return screen([UNDECIDED])


@collector.paused()
def _read(run: str, selection: Selection, has_mistakenness: bool) -> tuple[Any, ...]:
    """Ids, samples, classes, confidences and mistakenness of the selected labels."""
    kept = {"$filter": {"input": "$labels", "as": "l", "cond": selection.condition()}}
    match = {"run": run, **selection.document_query()}
    columns: dict[str, Any] = {
        "i": "$k._id",
        "l": "$k.label",
        "c": {"$map": {"input": "$k", "as": "l", "in": {"$ifNull": ["$$l.confidence", None]}}},
    }
    if has_mistakenness:
        # Labels and predictions stand side by side.
        place = {"$indexOfArray": ["$labels._id", "$$l._id"]}
        value = {
            "$let": {"vars": {"p": {"$arrayElemAt": ["$predicted", place]}}, "in": f"$$p.{MISTAKENNESS}"}
        }
        columns["m"] = {"$map": {"input": "$k", "as": "l", "in": {"$ifNull": [value, None]}}}
    cursor = database.ledger().aggregate(
        [
            {"$match": match},
            {"$set": {"k": kept}},
            {"$project": {"_id": 0, "sample_id": 1, **columns}},
        ],
        batchSize=_CURSOR_BATCH,
    )
    ids: list[bytes] = []
    samples: list[bytes] = []
    classes: list[str] = []
    confidence: list[float | None] = []
    mistakenness: list[float | None] = []
    for document in cursor:
        found = document["i"]
        ids += [i.binary for i in found]
        samples += [document["sample_id"].binary] * len(found)
        classes += document["l"]
        confidence += document["c"]
        mistakenness += document.get("m") or [None] * len(found)
    return (
        np.frombuffer(b"".join(ids), batches.ID),
        np.frombuffer(b"".join(samples), batches.ID),
        np.array(classes, dtype=object),
        confidence_array(confidence),
        confidence_array(mistakenness),
    )


@functools.lru_cache(maxsize=64)
def _has_mistakenness(_record: ObjectId | None, run: str, _predicted: int | None) -> bool:
    """Whether the model said of any label how likely it is wrong; asked once for each number of predictions."""
    there = {"run": run, f"predicted.{MISTAKENNESS}": {"$type": "number"}}
    return database.ledger().find_one(there, {"_id": 1}) is not None


def _by_confidence(
    confidence: Floats, classes: NDArray[np.object_], thresholds: dict[str, Any]
) -> tuple[Floats, Floats]:
    """Closest to the threshold of its class, else to 0.5, is least certain; nothing is known where there is none."""
    default, own = thresholds.get("default"), thresholds.get("per_class") or {}
    limits = np.full(len(confidence), _MIDDLE if default is None else default, float)
    for label, threshold in own.items():
        limits[classes == label] = threshold
    distance = np.abs(confidence - limits) / np.maximum(limits, 1 - limits)
    return confidence.copy(), np.where(np.isnan(distance), 1.0, 1 - np.clip(distance, 0, 1))


def _above(values: Floats) -> Floats:
    """Evidence that something is wrong goes before every label whose place follows from a score."""
    return 1 + np.clip(values, 0, 1)


def _prefer(
    evidence: Floats,
    uncertainty: Floats,
    reason: NDArray[np.str_],
    name: str,
    values: Floats,
    rank_of: Floats,
) -> None:
    """Rank labels by better evidence where they have it."""
    has = ~np.isnan(values)
    evidence[has], uncertainty[has], reason[has] = values[has], rank_of[has], name


def _stored(run: str, ids: NDArray[np.void]) -> tuple[Floats, Floats]:
    """Scores and disagreement of labels as the certificate's proposal knew them, NaN where it did not."""
    batch, quality = batches.load_batch(run)
    score, disagreement = np.full(len(ids), np.nan), np.full(len(ids), np.nan)
    if not len(batch) or not len(ids):
        return score, disagreement
    known = dict(zip(batch.label_ids.tolist(), range(len(batch)), strict=True))
    place = np.array([known.get(i, -1) for i in ids.tolist()])
    found = place >= 0
    rows = place[found]
    score[found] = quality[rows]
    if "disagreement" in batch.features:
        disagreement[found] = batch.features["disagreement"][rows]
    return score, disagreement


def _order(samples: NDArray[np.void], uncertainty: Floats) -> NDArray[np.int64]:
    """Samples by their most uncertain label, and labels of a sample together."""
    if not len(samples):
        return np.zeros(0, np.int64)
    _, first, group = np.unique(samples, return_index=True, return_inverse=True)
    worst = np.zeros(len(first))
    np.maximum.at(worst, group, uncertainty)
    return np.lexsort((-uncertainty, group, -worst[group]))


def _in_words(ranking: Ranking, at: int, thresholds: dict[str, Any]) -> str:
    """Why a label stands where it stands."""
    value, label = ranking.evidence[at], str(ranking.classes[at])
    limit = (thresholds.get("per_class") or {}).get(label, thresholds.get("default"))
    near = "0.5" if limit is None else f"the threshold {limit:g}"
    return {
        "none": "no confidence",
        "confidence": f"confidence {value:.3f}, near {near}"
        if ranking.uncertainty[at] > _MIDDLE
        else f"confidence {value:.3f}",
        "score": f"right with probability {value:.2f}, by the run's score",
        "disagreement": f"the second opinion names another class ({value:.2f})",
        "mistakenness": f"mistakenness {value:.2f}",
    }[str(ranking.reason[at])]


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
