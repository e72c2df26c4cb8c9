"""Scores learn from verdicts, and say what the confidence says where there are none."""

from __future__ import annotations

import numpy as np
import pytest

from valflow.certify import (
    ScoreModel,
    box_shapes,
    entropies,
    fingerprint,
    fit_scores,
    group_labels,
    margins,
    neighbour_overlaps,
    second_opinions,
)


def make_verdicts(count: int, seed: int = 0):
    """Confidence is right about cats, and far too high about dogs."""
    rng = np.random.default_rng(seed)
    confidence = rng.beta(4, 1, count)
    classes = rng.choice(["cat", "dog"], count)
    true = np.where(classes == "cat", confidence, confidence**4)
    return confidence, classes, rng.random(count) < true, true


def test_a_score_learns_what_a_class_is_worth():
    confidence, classes, correct, _ = make_verdicts(3000)
    model = fit_scores(confidence, classes, correct)
    new, names, _, true = make_verdicts(2000, seed=1)
    assert model.verdicts == 3000
    assert np.abs(model.quality(new, names) - true).mean() < 0.05 < np.abs(new - true).mean()


def test_few_verdicts_move_a_score_little():
    near = fit_scores([0.9, 0.8], ["cat", "cat"], [True, True])
    raw = np.array([0.3, 0.6, 0.95])
    assert np.abs(near.quality(raw, ["cat"] * 3) - raw).max() < 0.25
    assert ScoreModel(0, 0.0, 1.0).quality(raw, ["cat"] * 3) == pytest.approx(raw)


def test_an_unknown_class_is_an_average_one():
    confidence, classes, correct, _ = make_verdicts(2000)
    model = fit_scores(confidence, classes, correct)
    cat, dog, other = model.quality([0.8, 0.8, 0.8], ["cat", "dog", "cow"])
    assert dog < other < cat


def test_a_further_feature_helps_where_it_knows_more():
    rng = np.random.default_rng(0)
    margin = rng.random(2000)
    correct = rng.random(2000) < margin
    model = fit_scores(np.full(2000, 0.9), np.full(2000, "a"), correct, {"margin": margin})
    low, high, unknown = model.quality([0.9] * 3, ["a"] * 3, {"margin": [0.05, 0.95, np.nan]})
    assert low < 0.25
    assert high > 0.75
    assert low < unknown < high


def test_extreme_confidences_stay_finite_and_missing_ones_missing():
    model = fit_scores([0.0, 1.0, 0.5], ["a", "a", "a"], [False, True, True])
    found = model.quality([0.0, 1.0, float("nan")], ["a"] * 3)
    assert found[0] < 0.01
    assert found[1] > 0.99
    assert np.isnan(found[2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], []), "1 or more"),
        (([0.5], ["a"], [1]), "True or False"),  # numbers
        (([0.5, 0.6], ["a", "b"], [True]), "each of 2"),
        (([0.5], ["a", "b"], [True]), "class for each"),
        (([float("nan")], ["a"], [True]), "confidence for every verdict"),
        (([1.5], ["a"], [True]), "from 0 to 1"),
        (([0.5], ["a"], [True], {"margin": [1.0, 2.0]}), "one value of a feature"),
    ],
)
def test_verdicts_that_cannot_be_learned_from(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_scores(*arguments)


def test_a_missing_feature_is_named():
    model = fit_scores([0.5, 0.7], ["a", "a"], [True, False], {"margin": [0.1, 0.2]})
    with pytest.raises(ValueError, match="found no margin"):
        model.quality([0.5], ["a"])


def test_features_of_boxes_and_distributions():
    second, margin = margins([[0.7, 0.2, 0.1], [0.4, 0.2, 0.4]])
    assert second == pytest.approx([0.2, 0.4])
    assert margin == pytest.approx([0.5, 0.0])
    assert entropies([[0.5, 0.5], [1.0, 0.0]]) == pytest.approx([np.log(2), 0.0], abs=1e-9)
    area, aspect = box_shapes([[0, 0, 0.2, 0.1]])
    assert area == pytest.approx(np.log(0.02))
    assert aspect == pytest.approx(np.log(2))
    boxes = [[0, 0, 2, 1], [1, 0, 2, 1], [0, 0, 2, 1]]
    assert neighbour_overlaps([7, 7, 8], boxes) == pytest.approx([1 / 3, 1 / 3, 0.0])
    agree, disagree = second_opinions(
        [7, 7, 9], boxes, ["a", "b", "a"], [7, 8], [[0, 0, 2, 1], [0, 0, 2, 1]], ["a", "a"], [0.9, 0.9]
    )
    assert agree == pytest.approx([0.9, 0.0, 0.0])
    assert disagree == pytest.approx([0.0, 0.3, 0.0])


def test_groups_hold_every_label_once():
    classes = np.array(["b"] * 5 + ["a"] * 3 + ["c"])
    groups = group_labels(classes, "auto", 4)
    assert [(g.name, g.classes, g.certified) for g in groups] == [
        ("b", ("b",), True),
        ("other classes", ("a", "c"), True),
    ]
    assert sorted(np.concatenate([g.positions for g in groups]).tolist()) == list(range(9))
    assert group_labels([], "auto", 4) == group_labels([], "pooled", 4) == ()


def test_fingerprints_tell_models_and_classes_apart():
    parts = {
        "model": "yolo",
        "weights": "ab12",
        "label_map": {"0": "cat"},
        "processing": None,
        "dataset": "street",
        "classes": ["cat", "dog"],
        "iou": 0.5,
    }
    seen = {fingerprint(parts)}
    assert fingerprint(dict(reversed(parts.items()))) in seen
    for name, value in [("classes", ["cat", "hound"]), ("weights", "ab13"), ("iou", 0.6), ("label_map", {})]:
        seen.add(fingerprint({**parts, name: value}))  # a renamed class, other weights, ...
    assert len(seen) == 5
    with pytest.raises(ValueError, match=r"missing: \['iou'\]"):
        fingerprint({k: v for k, v in parts.items() if k != "iou"})
    with pytest.raises(ValueError, match="JSON"):
        fingerprint({**parts, "iou": float("nan")})
