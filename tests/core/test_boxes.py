"""Overlap of boxes against a plain double loop."""

from __future__ import annotations

import time

import numpy as np
import pytest

import valflow.boxes as boxes_module
from valflow.boxes import iou_matrix, max_iou_with_stronger, max_same_class_iou

UNIT = [0.0, 0.0, 1.0, 1.0]
NAN = float("nan")


def overlap(a, b):
    """The textbook formula, one pair at a time."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = a[2] * a[3] + b[2] * b[3] - shared
    return shared / union if union > 0 else 0.0


def slow_max(groups, classes, boxes, scores=None):
    result = np.zeros(len(boxes))
    for i in range(len(boxes)):
        for j in range(len(boxes)):
            if i == j or groups[i] != groups[j] or classes[i] != classes[j]:
                continue
            if scores is not None and (-scores[j], j) > (-scores[i], i):
                continue
            result[i] = max(result[i], overlap(boxes[i], boxes[j]))
    return result


def make_labels(count, groups, classes, seed=0, size=0.4):
    rng = np.random.default_rng(seed)
    corner = rng.random((count, 2)) * (1 - size)
    extent = rng.random((count, 2)) * size
    return rng.integers(0, groups, count), rng.integers(0, classes, count), np.hstack([corner, extent])


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        pytest.param(UNIT, UNIT, 1.0, id="same box"),
        pytest.param(UNIT, [0.5, 0.0, 1.0, 1.0], 1 / 3, id="half shifted"),
        pytest.param(UNIT, [0.25, 0.25, 0.5, 0.5], 0.25, id="one inside the other"),
        pytest.param(UNIT, [1.0, 0.0, 1.0, 1.0], 0.0, id="touching edges"),
        pytest.param(UNIT, [2.0, 2.0, 1.0, 1.0], 0.0, id="apart"),
        pytest.param([0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], 0.0, id="no area twice"),
        pytest.param(UNIT, [0.9, 0.9, -0.5, -0.5], 0.0, id="negative extent"),
        pytest.param([0, 0, 640, 480], [0, 0, 320, 480], 0.5, id="pixels"),
    ],
)
def test_iou_of_two_boxes(a, b, expected):
    assert iou_matrix([a], [b])[0, 0] == pytest.approx(expected)
    assert iou_matrix([b], [a])[0, 0] == pytest.approx(expected)


def test_iou_matrix_has_one_row_per_first_box():
    first, second = make_labels(7, 1, 1)[2], make_labels(4, 1, 1, seed=1)[2]
    expected = [[overlap(a, b) for b in second] for a in first]
    np.testing.assert_allclose(iou_matrix(first, second), expected)
    assert iou_matrix(np.empty((0, 4)), second).shape == (0, 4)


@pytest.mark.parametrize("pairs_at_once", [1, 7, 500_000], ids=["a pair a block", "odd blocks", "one block"])
@pytest.mark.parametrize(
    ("count", "groups", "classes"),
    [
        pytest.param(0, 1, 1, id="no labels"),
        pytest.param(1, 1, 1, id="one label"),
        pytest.param(60, 1, 1, id="one image, one class"),
        pytest.param(300, 20, 3, id="many images"),
        pytest.param(50, 1000, 2, id="labels alone"),
    ],
)
def test_largest_overlap_equals_the_double_loop(monkeypatch, pairs_at_once, count, groups, classes):
    monkeypatch.setattr(boxes_module, "PAIRS_AT_ONCE", pairs_at_once)
    image, label, box = make_labels(count, groups, classes)
    scores = np.random.default_rng(5).choice([0.2, 0.5, 0.9], count)  # many ties
    np.testing.assert_allclose(max_same_class_iou(image, label, box), slow_max(image, label, box), atol=1e-12)
    np.testing.assert_allclose(
        max_iou_with_stronger(image, label, box, scores), slow_max(image, label, box, scores), atol=1e-12
    )


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        pytest.param([0.9, 0.8], [0.0, 1.0], id="lower confidence is weaker"),
        pytest.param([0.8, 0.9], [1.0, 0.0], id="order does not matter"),
        pytest.param([0.9, 0.9], [0.0, 1.0], id="a tie keeps the first"),
        pytest.param([0.99, NAN], [1.0, 0.0], id="a person's label is stronger"),
        pytest.param([NAN, NAN], [0.0, 1.0], id="two without confidence"),
    ],
)
def test_only_the_weaker_of_two_carries_the_overlap(scores, expected):
    result = max_iou_with_stronger([4, 4], [2, 2], [UNIT, UNIT], scores)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    ("groups", "classes"),
    [pytest.param([0, 1], [0, 0], id="other image"), pytest.param([0, 0], [0, 1], id="other class")],
)
def test_equal_boxes_do_not_count_across(groups, classes):
    np.testing.assert_array_equal(max_same_class_iou(groups, classes, [UNIT, UNIT]), [0.0, 0.0])


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param([NAN, 0.1, 0.2, 0.2], id="missing number"),
        pytest.param([0.1, 0.1, float("inf"), 0.2], id="infinite"),
        pytest.param([1e300, 0.0, 1e300, 1.0], id="absurd"),
    ],
)
def test_an_odd_box_spoils_no_other(odd):
    result = max_same_class_iou([0, 0, 0], [0, 0, 0], [UNIT, odd, UNIT])
    np.testing.assert_array_equal(result, [1.0, 0.0, 1.0])


def test_one_wide_box_costs_no_neighbours():
    image, label, box = make_labels(80, 4, 2)
    box[3] = [-1e6, -1e6, 2e6, 2e6]
    np.testing.assert_allclose(max_same_class_iou(image, label, box), slow_max(image, label, box), atol=1e-12)


@pytest.mark.parametrize(
    ("groups", "classes", "boxes"),
    [
        pytest.param([0, 0], [0], [UNIT, UNIT], id="classes too short"),
        pytest.param([0], [0], [UNIT, UNIT], id="boxes too long"),
        pytest.param([0], [0], [[0.0, 0.0, 1.0]], id="three numbers a box"),
    ],
)
def test_arrays_that_disagree_are_refused(groups, classes, boxes):
    with pytest.raises(ValueError, match="expected"):
        max_same_class_iou(groups, classes, boxes)


def test_scores_of_another_length_are_refused():
    with pytest.raises(ValueError, match="expected 2 scores"):
        max_iou_with_stronger([0, 0], [0, 0], [UNIT, UNIT], [0.5])


@pytest.mark.parametrize(
    ("count", "groups", "classes", "limit"),
    [
        pytest.param(80_000, 10_000, 10, 5e-6, id="80,000 labels in 10,000 images"),
        pytest.param(5_000, 1, 1, 400e-6, id="5,000 labels in one image"),
    ],
)
def test_cost_per_label(count, groups, classes, limit):
    image, label, box = make_labels(count, groups, classes)
    before = time.process_time()
    max_iou_with_stronger(image, label, box, box[:, 2])
    # Twice the target: a busy machine must not fail the suite.
    assert (time.process_time() - before) / count < 2 * limit
