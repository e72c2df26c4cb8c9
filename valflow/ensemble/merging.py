"""One set of labels out of several runs, as predictions of a run of its own.

What comes out is not final: it goes through triage, review, validation and finalization like any prediction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from bson import ObjectId

from valflow import runs
from valflow.config import LabelingConfig, config_from_mapping, with_settings
from valflow.ensemble.clusters import Clusters, cluster
from valflow.ensemble.comparing import compare
from valflow.ensemble.reading import Which, labels_of, load_together
from valflow.errors import ConfigError
from valflow.evaluation.labels import table_of
from valflow.label_types import LabelDict

Strategy = Literal["agreement", "best", "union"]
# Attributes of merged labels: the labels they come from, and how many runs found the object.
MERGED_FROM, VOTES = "merged_from", "votes"


def best_runs(
    records: Sequence[runs.Record], which: Which, iou: float, ground_truth: str | None
) -> dict[str, str]:
    """Which run is best at each class: the one with the highest F1 against ground truth.

    Args:
        records: the runs.
        which: the labels that count.
        iou: least overlap of a match, in (0, 1].
        ground_truth: field of true labels; None takes the one that all runs are evaluated against.

    Returns:
        Key of a run by class. Of equals the run that is named first; a class that no run names is not there.

    Raises:
        ConfigError: there is no ground truth on samples that all runs have seen.
    """
    compared = compare([r["run"] for r in records], which=which, iou=iou, ground_truth=ground_truth)
    if not compared["runs"][0]["figures"]:
        raise ConfigError(
            [
                "strategy best chooses by F1 against ground truth, and found none on samples that all runs have "
                "seen; name a field of true labels, or choose agreement or union"
            ]
        )
    chosen = {}
    for row in compared["classes"]:
        scores = [(r["figures"] or {}).get("f1") or 0.0 for r in row["runs"]]
        chosen[row["label"]] = compared["runs"][int(np.argmax(scores))]["run"]
    return chosen


def merge_labels(
    records: Sequence[runs.Record],
    sample_ids: Sequence[ObjectId],
    *,
    strategy: Strategy,
    which: Which = "predicted",
    iou: float = 0.5,
    least_votes: int | None = None,
    best: Mapping[str, str] | None = None,
) -> list[list[LabelDict]]:
    """Merge the labels of runs on some samples.

    Args:
        records: the runs, the preferred ones first.
        sample_ids: of these samples.
        strategy: *agreement*: objects that at least ``least_votes`` runs found; *union*: each object once;
            *best*: the labels of the run that is best at their class.
        which: the labels that count.
        iou: least overlap at which two labels mean the same object, in (0, 1].
        least_votes: of *agreement*; None wants all runs.
        best: of *best*: key of a run by class.

    Returns:
        Raw labels per sample: the most confident label of each object, with the mean confidence of the runs that
        found it, ``merged_from`` (``run/label id``) and ``votes``.
    """
    place = {sample_id: number for number, sample_id in enumerate(sample_ids)}
    sides = [
        [(place[i], label) for i, labels in labels_of(record, sample_ids, which) for label in labels]
        for record in records
    ]
    found = cluster([table_of(side) for side in sides], iou)
    if strategy == "best":
        keep = _is_by_best(found, records, best or {})
    else:
        wanted = (least_votes or len(records)) if strategy == "agreement" else 1
        keep = found.votes >= wanted
    merged: list[list[LabelDict]] = [[] for _ in sample_ids]
    confidences = found.confidences()
    for number in np.flatnonzero(keep):
        members, scores = found.members[number], confidences[number]
        run = _spokesman(members, scores)
        if strategy == "best":
            run = [r["run"] for r in records].index((best or {})[found.classes[found.class_id[number]]])
        at, label = sides[run][members[run]]
        scored = scores[~np.isnan(scores)]
        sources = [
            f"{record['run']}/{side[m][1]['_id']}"
            for record, side, m in zip(records, sides, members, strict=True)
            if m >= 0
        ]
        mean = float(scored.mean()) if len(scored) else None
        own = label.get("confidence")
        merged[at].append(
            {
                **label,
                "confidence": own if strategy == "best" else mean,
                MERGED_FROM: sources,
                VOTES: len(sources),
            }
        )
    return merged


def _is_by_best(found: Clusters, records: Sequence[runs.Record], best: Mapping[str, str]) -> np.ndarray:
    """(C,) bool: objects found by the run that is best at their class."""
    keys = [r["run"] for r in records]
    column = np.array([keys.index(best[name]) if name in best else -1 for name in found.classes] + [-1])
    wanted = column[found.class_id]
    rows = np.arange(len(found.members))
    return np.asarray((wanted >= 0) & (found.members[rows, wanted] >= 0))


def _spokesman(members: np.ndarray, scores: np.ndarray) -> int:
    """The run whose label stands for an object: the most confident one, the first of equals."""
    return int(np.argmax(np.where(members >= 0, np.nan_to_num(scores, nan=-1.0), -2.0)))


def in_words(strategy: Strategy, runs_named: Sequence[str], least_votes: int | None) -> str:
    """The merge as the name of a model."""
    votes = f" of {least_votes}" if strategy == "agreement" and least_votes else ""
    return f"{strategy}{votes}: {' + '.join(runs_named)}"


def merge_config(
    keys: Sequence[str],
    label_field: str,
    *,
    strategy: Strategy,
    which: Which,
    iou: float,
    least_votes: int | None,
    ground_truth: str | None,
    overrides: Sequence[str] = (),
) -> LabelingConfig:
    """The configuration of a run that merges others: that of the first one, with a model and a field of its own.

    Args:
        keys: of the runs, the preferred ones first.
        label_field: of the new run.
        strategy: see :func:`merge_labels`.
        which: likewise.
        iou: likewise.
        least_votes: likewise.
        ground_truth: see :func:`best_runs`.
        overrides: ``key.sub=value`` settings that win.

    Raises:
        RunNotFound: no run has one of the keys.
        ConfigError: the runs cannot be merged, or the result cannot work; every reason is listed.
    """
    records = load_together(keys, which)
    for record in records:
        if record["label_field"] == label_field:
            raise ConfigError(
                [
                    f"--into: {label_field!r} is the field of run {record['run']}; give the merge one of its own"
                ]
            )
    model = {
        "kind": "merge",
        "runs": [r["run"] for r in records],
        "strategy": strategy,
        "labels": which,
        "iou": iou,
        "least_votes": least_votes,
        "ground_truth": ground_truth,
    }
    values = {
        **records[0]["config"],
        "label_field": label_field,
        "model": model,
        "append": False,
        "run_key": None,
        "run_name": None,
        "target": {},
    }
    if values.get("evaluation"):
        values["evaluation"] = {**values["evaluation"], "eval_key": f"{label_field}_eval"}
    return with_settings(config_from_mapping(values), overrides)
