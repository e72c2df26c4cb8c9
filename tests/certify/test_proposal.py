"""From scores to approvals, and everything that must not get through."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from valflow.certify import Promise, certify, check_first, check_unchanged, draw_audit, propose


def make_batch(seed: int = 0, labels: int = 4000, classes: int = 3):
    rng = np.random.default_rng(seed)
    quality = rng.beta(6, 0.5, labels).round(4)
    return quality, rng.choice([f"class {i}" for i in range(classes)], labels), rng.random(labels) < quality


def run(quality, classes, correct, seed=1, **options):
    proposal = propose(quality, classes, **{"history": 1000, **options})
    draw = draw_audit(proposal, seed)
    verdicts = correct[draw.positions].tolist()
    return proposal, draw, verdicts


def test_every_label_is_in_exactly_one_set():
    quality, classes, correct = make_batch()
    quality[:100] = np.nan
    proposal, draw, verdicts = run(quality, classes, correct)
    verdicts[3], verdicts[5] = None, "unsure"
    result = certify(proposal, draw, verdicts)
    sets = [result.approved, result.confirmed, result.rejected, result.review]
    assert np.array_equal(np.sort(np.concatenate(sets)), np.arange(4000))
    assert len(result.approved) > 300
    assert set(range(100)) <= set(result.review.tolist())
    assert {draw.positions[3], draw.positions[5]} <= set(result.review.tolist())
    assert result.missing == 1
    assert result.looks == 4000 - len(result.approved)
    for group in (g for g in result.groups if g.certificate):
        assert sum(c[1] for c in group.by_class) == len(group.approved) == group.certificate.rest
        assert group.certificate.bound <= 0.05
        assert "missed" in group.sentence


def test_the_sentence_never_promises_more_than_is_proven():
    proven = []
    for labels in range(2000, 2100, 10):
        groups = certify(*run(*make_batch(labels=labels, classes=2))).groups
        proven += [g for g in groups if g.certificate]
    assert len(proven) >= 8
    for group in proven:
        stated = float(group.sentence.split("(")[1].split(" %")[0]) / 100
        assert group.certificate.bound <= stated + 1e-12 <= group.certificate.bound + 0.001


def test_the_draw_is_uniform_random_and_repeatable():
    quality, classes, _ = make_batch(labels=600, classes=1)
    proposal = propose(quality, classes, history=1000, min_group=300)
    design, regions = proposal.groups[0].design, proposal.groups[0].regions
    inside = regions.members(design.drawn_from)
    counts = np.zeros(600)
    for seed in range(400):
        draw = draw_audit(proposal, seed)
        assert len(set(draw.positions.tolist())) == design.audit == len(draw.positions)
        counts[draw.positions] += 1
    assert counts[np.setdiff1d(np.arange(600), inside)].sum() == 0
    expected = 400 * draw.probability[0]
    spread = np.sqrt(expected * (1 - draw.probability[0]))
    assert np.abs(counts[inside] - expected).max() < 5 * spread
    again = draw_audit(proposal, 399)
    assert np.array_equal(again.positions, draw.positions)
    # In random order: the place in the draw says nothing about the quality.
    assert abs(np.corrcoef(np.arange(design.audit), quality[draw.positions])[0, 1]) < 0.3


def test_a_broken_model_is_not_approved():
    quality, classes, _ = make_batch()
    proposal, draw, _ = run(quality, classes, np.ones(4000, bool))
    rng = np.random.default_rng(3)
    result = certify(proposal, draw, (rng.random(len(draw.positions)) < 0.7).tolist())
    assert not len(result.approved)
    assert all("nothing is proven" in g.sentence for g in result.groups)


def test_missing_verdicts_count_as_wrong_or_end_the_sample():
    quality, classes, _ = make_batch(classes=1)
    proposal, draw, verdicts = run(quality, classes, np.ones(4000, bool))
    assert len(certify(proposal, draw, verdicts).approved)
    some = [None if i >= 100 else v for i, v in enumerate(verdicts)]
    assert not len(certify(proposal, draw, some).approved)
    prefix = certify(proposal, draw, some, missing="prefix")
    assert prefix.groups[0].walk.tests[-1].audited <= 100
    assert len(prefix.approved)
    assert set(draw.positions[100:].tolist()).isdisjoint(prefix.confirmed.tolist())
    assert not len(certify(proposal, draw, [None] * len(verdicts), missing="prefix").approved)


@pytest.mark.parametrize(
    ("scope", "certified", "reviewed"),
    [
        ("per_class", {"large"}, {"other classes"}),
        ("auto", {"large", "other classes"}, set()),
        ("pooled", {"all classes"}, set()),
        ("all_classes", {"large"}, {"other classes"}),
    ],
)
def test_scopes(scope, certified, reviewed):
    classes = np.repeat(["large", "small", "tiny", "least"], [3000, 300, 200, 100])
    quality = np.random.default_rng(0).beta(20, 0.3, 3600)
    proposal = propose(quality, classes, scope=scope, history=1000)
    assert {g.group.name for g in proposal.groups if g.design} == certified
    assert {g.group.name for g in proposal.groups if not g.design} == reviewed
    assert all(g.reason for g in proposal.groups if not g.design)


def test_promises_for_all_classes_at_once_share_the_risk():
    quality, classes, _ = make_batch()
    proposal = propose(quality, classes, scope="all_classes", history=1000)
    assert [round(g.risk, 6) for g in proposal.groups] == [round(0.1 / 3, 6)] * 3


# --- misuse: refused, or made harmless ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quality": [0.5, 1.2]}, "from 0 to 1"),  # above one: logits
        ({"quality": [-0.5, 0.2]}, "from 0 to 1"),
        ({"quality": [0.5]}, "a quality and a class for each label"),  # lengths differ
        ({"quality": [], "classes": []}, "1 or more"),  # an empty batch
        ({"audit": 20}, "45 labels or more"),  # can prove nothing
        ({"audit": 0}, "45 labels or more"),
        ({"audit": 461}, "at most min_group"),  # larger than the group may be
        ({"audit": 153.0}, "number of labels"),
        ({"min_group": 0}, "min_group"),
        ({"scope": "classes"}, "scope"),
        ({"history": -1}, "history"),
    ],
)
def test_proposals_that_are_refused(changes, message):
    arguments = {"quality": [0.5, 0.6], "classes": ["a", "b"], **changes}
    with pytest.raises(ValueError, match=message):
        propose(**arguments)


@pytest.mark.parametrize(
    ("quality", "reason"),
    [
        ([float("nan")] * 600, "no label has a confidence"),
        ([None] * 600, "no label has a confidence"),
        ([0.3] * 600, "no score promises"),  # all equal, and bad
        ([0.99] * 100, "only 100 labels"),  # fewer than a group needs
    ],
)
def test_batches_without_an_audit_go_to_review(quality, reason):
    proposal = propose(quality, ["a"] * len(quality), history=1000, scope="per_class")
    assert [g.design for g in proposal.groups] == [None]
    assert reason in proposal.groups[0].reason
    assert proposal.audit == 0
    with pytest.raises(ValueError, match=reason):
        draw_audit(proposal, 1)


def test_equal_confidences_are_certified_together_or_not_at_all():
    proposal, draw, _ = run(np.full(2000, 0.97), np.full(2000, "a"), np.ones(2000, bool))
    assert proposal.groups[0].regions.sizes.tolist() == [2000]
    right = certify(proposal, draw, [True] * 153)
    assert len(right.approved) == 2000 - 153
    assert not len(certify(proposal, draw, [True] * 140 + [False] * 13).approved)


def test_labels_chosen_by_hand_do_not_certify():
    quality, classes, correct = make_batch()
    proposal, draw, verdicts = run(quality, classes, correct)
    best = np.flatnonzero(correct)[: len(verdicts)]
    for forged in (
        dataclasses.replace(draw, positions=best),
        dataclasses.replace(draw, seed=draw.seed + 1),
        dataclasses.replace(draw, positions=draw.positions[::-1].copy()),
    ):
        with pytest.raises(ValueError, match="drawn at random"):
            certify(proposal, forged, verdicts)


@pytest.mark.parametrize("change", ["class", "quality", "promise"])
def test_a_draw_does_not_certify_another_proposal(change):
    quality, classes, correct = make_batch()
    _, draw, verdicts = run(quality, classes, correct)
    if change == "class":  # renamed
        classes = np.where(classes == "class 1", "class one", classes)
    elif change == "quality":
        quality[7] = 0.5
    promise = Promise(0.1) if change == "promise" else None
    other = propose(quality, classes, promise, history=1000)
    with pytest.raises(ValueError, match="have changed since the draw"):
        certify(other, draw, verdicts)


def test_verdicts_changed_after_the_certificate_void_it():
    quality, classes, correct = make_batch()
    proposal, draw, verdicts = run(quality, classes, correct)
    result = certify(proposal, draw, verdicts)
    check_unchanged(result, proposal, draw, verdicts)
    changed = [not verdicts[0], *verdicts[1:]]
    with pytest.raises(ValueError, match="void"):
        check_unchanged(result, proposal, draw, changed)
    with pytest.raises(ValueError, match="void"):
        check_unchanged(result, proposal, draw, [None, *verdicts[1:]])


def test_a_batch_is_drawn_for_once():
    quality, classes, _ = make_batch()
    first = propose(quality, classes, history=1000)
    check_first(first, [])
    laxer = propose(quality, classes, Promise(0.1), history=1000)  # the same labels, another promise
    with pytest.raises(ValueError, match="drawn for before"):
        check_first(laxer, [first.batch])
    ids = [str(i) for i in range(4000)]
    a = propose(quality, classes, history=1000, label_ids=ids)
    b = propose(quality**2, classes, history=1000, label_ids=reversed(ids))  # other scores, the same labels
    assert a.batch == b.batch
    check_first(a, [first.batch])


@pytest.mark.parametrize(
    ("verdicts", "message"),
    [
        ([True] * 10, "for each of"),  # too few
        (["good"] * 459, "one of correct"),  # unknown word
        ([1] * 459, "one of correct"),
    ],
)
def test_verdicts_that_are_refused(verdicts, message):
    quality, classes, correct = make_batch()
    proposal, draw, _ = run(quality, classes, correct)
    assert len(draw.positions) == 459
    with pytest.raises(ValueError, match=message):
        certify(proposal, draw, verdicts)
    with pytest.raises(ValueError, match="missing="):
        certify(proposal, draw, [True] * 459, missing="ignore")


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, True])
def test_impossible_seeds(seed):
    quality, classes, _ = make_batch()
    with pytest.raises(ValueError, match="seed"):
        draw_audit(propose(quality, classes, history=1000), seed)


def test_it_works_alone():
    code = (
        "import sys; from valflow.certify import propose, certify; "
        "assert not {'fiftyone', 'prefect', 'pymongo', 'bson'} & set(sys.modules), 'heavy'; "
        "assert not any(m.startswith('scipy.stats') for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
