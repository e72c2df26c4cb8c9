"""Runs of different models side by side: agreement, who finds what alone, figures against ground truth, review time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from bson import ObjectId

from valflow import collector, database, runs
from valflow.actions import MACHINE
from valflow.ensemble.clusters import Clusters, cluster, pair_up
from valflow.ensemble.reading import Which, labels_of, load_together, seen_by
from valflow.errors import ConfigError
from valflow.evaluation.labels import LabelTable, read_labels, table_of
from valflow.evaluation.matching import Comparison
from valflow.evaluation.scores import detection_metrics
from valflow.ledger import labels_by_action

# Who does nothing for longer than this is not at work on the review.
PAUSE = timedelta(minutes=5)
_FIGURES = ("precision", "recall", "f1")


@collector.paused()
def compare(
    keys: Sequence[str], *, which: Which = "predicted", iou: float = 0.5, ground_truth: str | None = None
) -> dict[str, Any]:
    """Look at runs of one dataset side by side, on the samples that all of them have seen.

    Args:
        keys: of two runs or more.
        which: *predicted*: all that a run proposes and nobody rejected; *approved*: what was decided to be final.
        iou: least overlap at which two labels mean the same object, in (0, 1].
        ground_truth: field of true labels; None takes the one that all runs are evaluated against, if any.

    Returns:
        JSON: ``dataset, which, iou, ground_truth, samples, left_out, clusters``; ``runs``: per run its ``run, model,
        state, labels, alone, looks, review{open_seconds, active_seconds}``, and ``figures{precision, recall, f1}``
        where there is ground truth; ``classes``: per class ``label, by_all, some``, and by run ``labels, alone,
        figures``; ``pairs``: for two runs each ``runs, same, other_class, agreement`` (share of all objects of the
        two that both name alike, in [0, 1]).

    Raises:
        RunNotFound: no run has one of the keys.
        ConfigError: the runs have no common ground, or the field is none of true labels.
    """
    records = load_together(keys, which)
    dataset = database.dataset_of(records[0])
    truth_field = ground_truth or _common_truth(records)
    _check_truth(dataset, truth_field)
    seen = [seen_by(r) for r in records]
    shared = sorted(set.intersection(*seen))
    if not shared:
        raise ConfigError(
            [
                "runs: expected samples that all of them have seen, found none; run the models on the same target"
            ]
        )
    tables = [_table(r, shared, which) for r in records]
    found = cluster(tables, iou)
    figures = _figures(dataset, truth_field, shared, found, iou)
    return {
        "dataset": records[0]["dataset"],
        "which": which,
        "iou": iou,
        "ground_truth": truth_field,
        "samples": len(shared),
        "left_out": len(set.union(*seen)) - len(shared),
        "clusters": len(found.members),
        "runs": [
            _of_run(r, found, number, figures[number] if figures else None)
            for number, r in enumerate(records)
        ],
        "classes": _classes(found, figures),
        "pairs": _pairs(records, found, iou),
    }


def _common_truth(records: Sequence[runs.Record]) -> str | None:
    fields = {(r["config"].get("evaluation") or {}).get("ground_truth") for r in records}
    return fields.pop() if len(fields) == 1 else None


def _check_truth(dataset: Any, field: str | None) -> None:
    from valflow.preflight import type_problem

    problems = type_problem("ground truth", dataset, field) if field else []
    if problems:
        raise ConfigError(problems)


def _table(record: runs.Record, samples: Sequence[ObjectId], which: Which) -> LabelTable:
    places = {sample_id: place for place, sample_id in enumerate(samples)}
    return table_of(
        (places[sample_id], label)
        for sample_id, labels in labels_of(record, samples, which)
        for label in labels
    )


def _figures(
    dataset: Any, field: str | None, samples: Sequence[ObjectId], found: Clusters, iou: float
) -> list[dict[str, Any]] | None:
    """Per run its figures against ground truth, on the images that have any; None where nothing is known."""
    if field is None:
        return None
    images, _, true = read_labels(dataset, field, field, samples)
    if not images.annotated.any():
        return None
    # The read is in the dataset's order, the tables in that of the ids.
    place = np.array([{s: i for i, s in enumerate(samples)}[i] for i in images.ids], dtype=np.int64)
    true = true.at(place[true.sample])
    annotated = np.zeros(len(samples), dtype=bool)
    annotated[place] = images.annotated
    names = sorted({*found.classes, *true.classes})
    return [
        detection_metrics(Comparison(t.where(annotated[t.sample]), true, iou), names) for t in found.tables
    ]


def _of_run(
    record: runs.Record, found: Clusters, number: int, figures: Mapping[str, Any] | None
) -> dict[str, Any]:
    return {
        "run": record["run"],
        "name": record["name"],
        "model": (record.get("model") or {}).get("name"),
        "label_field": record["label_field"],
        "state": record["state"],
        "labels": len(found.tables[number]),
        "alone": int((_alone(found)[:, number]).sum()),
        "figures": figures and {key: figures[key] for key in _FIGURES},
        **_effort(record),
    }


def _alone(found: Clusters) -> np.ndarray:
    """(C, R) bool: objects that one run alone has found."""
    return np.asarray((found.members >= 0) & (found.votes == 1)[:, None])


def _classes(found: Clusters, figures: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    most, alone, votes, class_id = found.members.shape[1], _alone(found), found.votes, found.class_id
    by_class = [{row["label"]: row for row in f["per_class"]} for f in figures] if figures else None
    rows = []
    for number, name in enumerate(found.classes):
        here = class_id == number
        if not here.any():
            continue
        rows.append(
            {
                "label": name,
                "by_all": int((here & (votes == most)).sum()),
                "by_some": int((here & (votes > 1) & (votes < most)).sum()),
                "runs": [
                    {
                        "labels": int((t.class_id == number).sum()),
                        "alone": int((here & alone[:, i]).sum()),
                        "figures": by_class and {k: by_class[i][name][k] for k in _FIGURES},
                    }
                    for i, t in enumerate(found.tables)
                ],
            }
        )
    return sorted(rows, key=lambda row: -(row["by_all"] + row["by_some"]))


def _pairs(records: Sequence[runs.Record], found: Clusters, iou: float) -> list[dict[str, Any]]:
    pairs = []
    for i, j in combinations(range(len(records)), 2):
        a, b = found.tables[i], found.tables[j]
        partner = pair_up(a, b, iou)
        same = int((partner >= 0).sum())
        # What is left, whatever its class.
        rest_a = a.where(partner < 0)
        rest_b = b.where(~np.isin(np.arange(len(b)), partner))
        other = int((pair_up(_of_any_class(rest_a), _of_any_class(rest_b), iou) >= 0).sum())
        objects = len(a) + len(b) - same - other
        pairs.append(
            {
                "runs": [records[i]["run"], records[j]["run"]],
                "same": same,
                "other_class": other,
                "agreement": same / objects if objects else None,
            }
        )
    return pairs


def _of_any_class(table: LabelTable) -> LabelTable:
    return replace(table, classes=("any",), class_id=np.zeros(len(table), dtype=np.int64))


def _effort(record: runs.Record) -> dict[str, Any]:
    """How many labels owe their state to a person, and how long the review took."""
    people = {"run": record["run"], "actor": {"$nin": list(MACHINE)}}
    moments = [runs.aware(d["time"]) for d in database.actions().find(people, {"_id": 0, "time": 1})]
    decided = labels_by_action(record["run"])
    return {
        "looks": sum(n for (state, _), n in decided.items() if state != "tag"),
        "review": {
            "open_seconds": (record.get("review") or {}).get("seconds"),
            "active_seconds": active_seconds(moments),
        },
    }


def active_seconds(times: Sequence[datetime]) -> float:
    """Time at work, from the moments of single actions: pauses of more than five minutes do not count."""
    ordered = sorted(times)
    gaps = [later - earlier for earlier, later in pairwise(ordered)]
    return sum((gap for gap in gaps if gap <= PAUSE), timedelta()).total_seconds()
