"""Which labels of several runs mean the same object.

Two runs are matched one to one, within an image and a class, so that the sum of the overlaps is largest (the
assignment problem, solved by scipy); runs join one after the other, and a cluster is compared by its first label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from valflow.evaluation.labels import LabelTable
from valflow.evaluation.matching import candidate_pairs


@dataclass(frozen=True)
class Clusters:
    """Labels of several runs, grouped by the object that they mean.

    Attributes:
        tables: the labels of each run, all with the same list of classes.
        members: (C, R) position of the cluster's label in each run's table, -1 where the run has none.
    """

    tables: tuple[LabelTable, ...]
    members: np.ndarray

    @property
    def votes(self) -> np.ndarray:
        """Number of runs that found each object, (C,) in [1, R]."""
        return np.asarray((self.members >= 0).sum(axis=1))

    @property
    def class_id(self) -> np.ndarray:
        """Class of each cluster, (C,); all its labels are of that class."""
        found = np.full(len(self.members), -1, dtype=np.int64)
        for table, column in zip(self.tables, self.members.T, strict=True):
            has = column >= 0
            found[has] = table.class_id[column[has]]
        return found

    @property
    def classes(self) -> tuple[str, ...]:
        """The common list of classes."""
        return self.tables[0].classes

    def confidences(self) -> np.ndarray:
        """(C, R) confidence of each member, NaN where a run has none."""
        columns = []
        for table, column in zip(self.tables, self.members.T, strict=True):
            values = np.full(len(column), np.nan)
            values[column >= 0] = table.confidence[column[column >= 0]]
            columns.append(values)
        return np.stack(columns, axis=1)


def cluster(tables: Sequence[LabelTable], iou: float) -> Clusters:
    """Group the labels of several runs.

    Args:
        tables: one per run, on the same images; two labels of one run never share a cluster.
        iou: least overlap with the first label of a cluster, in (0, 1].

    Returns:
        The clusters, in the order of the runs that opened them.
    """
    known = tuple(sorted({name for table in tables for name in table.classes}))
    alike = tuple(replace(table, classes=known, class_id=table.codes(known)) for table in tables)
    members = np.zeros((0, len(alike)), dtype=np.int64)
    first: LabelTable | None = None  # of each cluster
    for number, table in enumerate(alike):
        partner = np.full(len(table), -1, dtype=np.int64)
        if first is not None:
            partner = pair_up(table, first, iou)
            members[partner[partner >= 0], number] = np.flatnonzero(partner >= 0)
        alone = np.flatnonzero(partner < 0)
        opened = np.full((len(alone), len(alike)), -1, dtype=np.int64)
        opened[:, number] = alone
        members = np.concatenate([members, opened])
        first = table.where(alone) if first is None else _joined(first, table.where(alone))
    return Clusters(alike, members)


def pair_up(labels: LabelTable, others: LabelTable, iou: float) -> np.ndarray:
    """Match the labels of two sides one to one, so that the sum of the overlaps is largest.

    Args:
        labels: one side.
        others: the other side, on the same images.
        iou: least overlap of a pair, in (0, 1].

    Returns:
        (N,) position in ``others`` of each label's partner, -1 where it has none.
    """
    pairs = candidate_pairs(labels, others, iou)
    partner = np.full(len(labels), -1, dtype=np.int64)
    if not len(pairs.prediction):
        return partner
    links = coo_array(
        (np.ones(len(pairs.iou)), (pairs.prediction, pairs.truth + len(labels))),
        shape=(len(labels) + len(others),) * 2,
    )
    group = connected_components(links, directed=False)[1][pairs.prediction]
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    for rows in np.split(order, starts[1:]):
        left, right = pairs.prediction[rows], pairs.truth[rows]
        if len(rows) > 1:
            left, right = _assigned(left, right, pairs.iou[rows])
        partner[left] = right
    return partner


def _assigned(left: np.ndarray, right: np.ndarray, iou: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best one-to-one choice among the pairs of one group."""
    lefts, row = np.unique(left, return_inverse=True)
    rights, column = np.unique(right, return_inverse=True)
    gain = np.zeros((len(lefts), len(rights)))
    gain[row, column] = iou
    rows, columns = linear_sum_assignment(gain, maximize=True)
    real = gain[rows, columns] > 0
    return lefts[rows[real]], rights[columns[real]]


def _joined(a: LabelTable, b: LabelTable) -> LabelTable:
    columns: dict[str, Any] = {
        f.name: np.concatenate([getattr(a, f.name), getattr(b, f.name)])
        for f in fields(LabelTable)
        # Runs with masks are not compared yet.
        if f.name != "classes" and getattr(a, f.name) is not None
    }
    return replace(a, **columns)
