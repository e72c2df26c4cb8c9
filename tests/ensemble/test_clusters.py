"""Labels of several runs that mean the same object, in pure tables."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from bson import ObjectId
from hypothesis import given, settings
from hypothesis import strategies as st

from valflow.ensemble.clusters import cluster, pair_up
from valflow.evaluation.labels import LabelTable, table_of
from valflow.evaluation.matching import overlap

Label = tuple[int, str, tuple[float, float, float, float]]
LEFT, RIGHT = (0.1, 0.1, 0.2, 0.2), (0.6, 0.1, 0.2, 0.2)
NEAR_LEFT = (0.12, 0.1, 0.2, 0.2)  # overlaps LEFT by 0.82


def table(*labels: Label) -> LabelTable:
    return table_of(
        (image, {"_id": ObjectId(), "label": name, "bounding_box": list(box), "confidence": 0.5})
        for image, name, box in labels
    )


CASES = [
    pytest.param([(0, "cat", LEFT)], [(0, "cat", NEAR_LEFT)], [0], id="same object"),
    pytest.param([(0, "cat", LEFT)], [(0, "dog", LEFT)], [-1], id="another class"),
    pytest.param([(0, "cat", LEFT)], [(1, "cat", LEFT)], [-1], id="another image"),
    pytest.param([(0, "cat", LEFT)], [(0, "cat", RIGHT)], [-1], id="elsewhere"),
    pytest.param([(0, "cat", LEFT), (0, "cat", NEAR_LEFT)], [(0, "cat", LEFT)], [0, -1], id="two for one"),
    pytest.param([], [(0, "cat", LEFT)], [], id="nothing on one side"),
    pytest.param([(0, "cat", LEFT)], [], [-1], id="nothing on the other side"),
]


@pytest.mark.parametrize(("labels", "others", "expected"), CASES)
def test_pairs(labels: list[Label], others: list[Label], expected: list[int]) -> None:
    assert pair_up(table(*labels), table(*others), 0.5).tolist() == expected


def test_a_greedy_choice_does_not_cost_a_partner() -> None:
    # The middle label overlaps both others best, but then one of them would be left alone.
    a = table((0, "cat", (0.10, 0.1, 0.3, 0.3)), (0, "cat", (0.16, 0.1, 0.3, 0.3)))
    b = table((0, "cat", (0.13, 0.1, 0.3, 0.3)), (0, "cat", (0.04, 0.1, 0.3, 0.3)))
    assert pair_up(a, b, 0.5).tolist() == [1, 0]


boxes = st.tuples(st.integers(0, 6), st.integers(0, 6)).map(lambda p: (p[0] / 20, p[1] / 20, 0.3, 0.3))
sides = st.lists(st.tuples(st.integers(0, 1), st.sampled_from(["cat", "dog"]), boxes), max_size=4)


@settings(max_examples=150, deadline=None)
@given(sides, sides)
def test_the_sum_of_the_overlaps_is_the_largest_there_is(a: list[Label], b: list[Label]) -> None:
    left, right = table(*a), table(*b)
    partner = pair_up(left, right, 0.5)
    chosen = partner[partner >= 0]
    assert len(set(chosen.tolist())) == len(chosen)

    def gain(i: int, j: int) -> float:
        if a[i][:2] != b[j][:2]:
            return 0.0
        iou = float(overlap(left.boxes[i : i + 1], right.boxes[j : j + 1])[0])
        return iou if iou >= 0.5 else 0.0

    small, large, turned = (a, b, False) if len(a) <= len(b) else (b, a, True)
    best = max(
        sum(gain(*((j, i) if turned else (i, j))) for i, j in enumerate(order))
        for order in itertools.permutations(range(len(large)), len(small))
    )
    assert sum(gain(i, int(j)) for i, j in enumerate(partner) if j >= 0) == pytest.approx(best)


def test_three_runs() -> None:
    found = cluster(
        [
            table((0, "cat", LEFT), (0, "dog", RIGHT)),
            table((0, "cat", NEAR_LEFT)),
            table((0, "bird", RIGHT), (0, "cat", LEFT), (1, "cat", LEFT)),
        ],
        0.5,
    )
    assert found.members.tolist() == [[0, 0, 1], [1, -1, -1], [-1, -1, 0], [-1, -1, 2]]
    assert found.votes.tolist() == [3, 1, 1, 1]
    assert [found.classes[c] for c in found.class_id] == ["cat", "dog", "bird", "cat"]
    assert np.isnan(found.confidences()).tolist() == (found.members < 0).tolist()


@settings(max_examples=100, deadline=None)
@given(st.lists(sides, min_size=2, max_size=4))
def test_every_label_is_in_one_cluster(runs: list[list[Label]]) -> None:
    found = cluster([table(*labels) for labels in runs], 0.5)
    for number, labels in enumerate(runs):
        column = found.members[:, number]
        assert sorted(column[column >= 0].tolist()) == list(range(len(labels)))
