"""Flat tables of labels and samples: what the validation suites read."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from bson import ObjectId

from valflow import collector, database, ledger, masks
from valflow.boxes import max_iou_with_stronger
from valflow.image_files import problem_of
from valflow.label_types import WHOLE_IMAGE, label_type_of

if TYPE_CHECKING:
    import pandas as pd

# Bounds the memory of a check, whatever the size of the run.
LABELS_PER_TABLE = 50_000
# MongoDB's own batches of 16 MB become ten times that as objects.
_CURSOR_BATCH = 1000
_READERS = 4
_NO_BOX = (np.nan,) * 4


def predicted_tables(record: dict[str, Any], dataset: Any) -> Iterator[pd.DataFrame]:
    """All predictions of a run as they would be approved by policy, one row each, in tables of bounded size."""
    return _label_tables(record, dataset, "$predicted", predicted=True)


def decided_table(record: dict[str, Any], dataset: Any) -> pd.DataFrame:
    """The frozen approved labels of a run, one row each."""
    import pandas as pd

    tables = list(_label_tables(record, dataset, "$frozen.labels", predicted=False))
    return pd.concat(tables, ignore_index=True) if tables else _table_of(record, dataset, [], predicted=False)


def sample_table(labels: pd.DataFrame) -> pd.DataFrame:
    """One row per sample that has labels: id, file path, whether it exists, what is wrong with it, count of labels."""
    import pandas as pd

    grouped = labels.groupby("sample_id", sort=False, observed=True)
    paths = grouped["filepath"].first()
    return pd.DataFrame(
        {
            "sample_id": paths.index.astype("str"),
            "filepath": paths.to_numpy(),
            "file_exists": np.array([os.path.isfile(p) for p in paths], dtype=bool),
            "file_problem": pd.array(_file_problems(paths), dtype="str"),
            "labels": grouped.size().to_numpy(dtype=np.int64),
        }
    )


def _file_problems(paths: Sequence[str]) -> list[str | None]:
    """Why a file is no readable image; one that is missing is told by a column of its own."""
    with ThreadPoolExecutor(_READERS) as pool:
        problems = list(pool.map(problem_of, paths))
    return [None if p == "no such file" else p for p in problems]


def by_sample(
    failing: Mapping[str, list[str]], labels: pd.DataFrame
) -> dict[ObjectId, dict[ObjectId, list[str]]]:
    """Reasons by label id, grouped by the sample that holds the label."""
    grouped: dict[ObjectId, dict[ObjectId, list[str]]] = defaultdict(dict)
    rows = labels[labels["label_id"].isin(list(failing))]
    for label, sample in zip(rows["label_id"], rows["sample_id"], strict=True):
        grouped[ObjectId(sample)][ObjectId(label)] = failing[label]
    return grouped


def _label_tables(
    record: dict[str, Any], dataset: Any, path: str, *, predicted: bool
) -> Iterator[pd.DataFrame]:
    columns = {
        "i": f"{path}._id",
        "l": f"{path}.label",
        # A missing confidence would shorten the array: ask per label.
        "c": {"$map": {"input": path, "as": "d", "in": {"$ifNull": ["$$d.confidence", None]}}},
    }
    label_type = label_type_of(record)
    if label_type.has_boxes:
        columns["b"] = f"{path}.bounding_box"
    if label_type.needs_masks:
        mask = {"_id": "$$d._id", "mask": "$$d.mask", "mask_path": "$$d.mask_path"}
        columns["m"] = {"$map": {"input": path, "as": "d", "in": mask}}
    match: dict[str, Any] = {"run": record["run"], f"{path[1:]}.0": {"$exists": True}}
    if not predicted:
        columns["s"] = f"{path}.source"
        match["frozen.token"] = record["frozen"]["token"]
    cursor = database.ledger().aggregate(
        [
            {"$match": match},
            {"$sort": {"sample_id": 1}},
            {"$project": {"_id": 0, "sample_id": 1, **columns}},
        ],
        allowDiskUse=True,
        batchSize=_CURSOR_BATCH,
    )
    while rows := _read_rows(cursor):
        yield _table_of(record, dataset, rows, predicted=predicted)


@collector.paused()
def _read_rows(cursor: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """The next ledger documents, of about ``LABELS_PER_TABLE`` labels together."""
    rows: list[dict[str, Any]] = []
    size = 0
    for row in cursor:
        rows.append(row)
        size += len(row["i"])
        if size >= LABELS_PER_TABLE:
            break
    return rows


@collector.paused()
def _table_of(
    record: dict[str, Any], dataset: Any, rows: list[dict[str, Any]], *, predicted: bool
) -> pd.DataFrame:
    """The table of some ledger documents; a sample's labels are never split over two tables."""
    import pandas as pd

    sizes = np.array([len(r["i"]) for r in rows], dtype=np.int64)
    groups = np.repeat(np.arange(len(rows)), sizes)
    labels = np.array(list(chain.from_iterable(r["l"] for r in rows)), dtype=object)
    confidence = ledger.confidence_array(list(chain.from_iterable(r["c"] for r in rows)))
    boxes = _boxes(record, rows, len(labels))
    codes = (
        np.unique(labels.astype(str), return_inverse=True)[1] if len(labels) else np.zeros(0, dtype=np.int64)
    )
    sample_ids = [str(r["sample_id"]) for r in rows]
    paths = _filepaths(dataset, [r["sample_id"] for r in rows])
    sources = ["auto"] * len(labels) if predicted else list(chain.from_iterable(r["s"] for r in rows))
    # What a person decided is never the weaker half of a double: no score counts as the strongest.
    strength = np.where(np.array(sources, dtype=object) == "auto", confidence, np.nan)
    return pd.DataFrame(
        {
            "label_id": pd.array([str(i) for i in chain.from_iterable(r["i"] for r in rows)], dtype="str"),
            "sample_id": pd.array(sample_ids, dtype="str").take(groups),
            "filepath": pd.array(paths, dtype="str").take(groups),
            "label": pd.array(labels, dtype="str"),
            "confidence": confidence,
            **(_box_columns(boxes) if label_type_of(record).has_boxes else {}),
            **(_mask_columns(rows) if label_type_of(record).needs_masks else {}),
            "source": pd.array(sources, dtype="str"),
            "threshold": np.full(len(labels), np.nan) if predicted else _thresholds(record, labels),
            "duplicate_iou": max_iou_with_stronger(groups, codes, boxes, strength),
        }
    )


def _boxes(record: dict[str, Any], rows: list[dict[str, Any]], labels: int) -> np.ndarray:
    """Boxes of labels, (N, 4); all of the image where labels speak about all of it, so that doubles overlap."""
    if not label_type_of(record).has_boxes:
        return np.tile(np.array(WHOLE_IMAGE), (labels, 1))
    corners = chain.from_iterable(r["b"] for r in rows)
    return np.array([b if b and len(b) == 4 else _NO_BOX for b in corners], np.float64).reshape(-1, 4)


def _box_columns(boxes: np.ndarray) -> dict[str, np.ndarray]:
    columns = dict(zip(("x", "y", "w", "h"), boxes.T, strict=True))
    return {**columns, "x2": boxes[:, 0] + boxes[:, 2], "y2": boxes[:, 1] + boxes[:, 3]}


def _mask_columns(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    labels = chain.from_iterable(r["m"] for r in rows)
    return {"mask_share": np.array([masks.share_of_box(label) for label in labels], dtype=np.float64)}


def _thresholds(record: dict[str, Any], labels: np.ndarray) -> np.ndarray:
    thresholds = record["thresholds"]
    default = np.nan if thresholds["default"] is None else thresholds["default"]
    per_class = thresholds["per_class"]
    return np.array([per_class.get(label, default) for label in labels], dtype=np.float64)


def _filepaths(dataset: Any, sample_ids: list[Any]) -> list[str]:
    found = {}
    for start in range(0, len(sample_ids), 10_000):
        part = sample_ids[start : start + 10_000]
        for document in database.samples_of(dataset).find({"_id": {"$in": part}}, {"filepath": 1}):
            found[document["_id"]] = document["filepath"]
    return [found.get(i, "") for i in sample_ids]
