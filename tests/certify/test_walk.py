"""Regions keep ties together, and the walk keeps its promise over all its tests."""

from __future__ import annotations

import numpy as np
import pytest

from valflow.certify import FRACTIONS, Promise, Start, choose_design, nest, p_values, walk_regions


def test_regions_are_the_widest_prefixes_within_the_predicted_error():
    rng = np.random.default_rng(0)
    quality = rng.beta(6, 1, 500).round(2)
    regions = nest(quality, 0.1)
    ranked = np.sort(quality)[::-1]
    assert np.all(np.diff(regions.sizes) > 0)
    assert np.array_equal(quality[regions.order], ranked)
    for size, predicted in zip(regions.sizes, regions.predicted, strict=True):
        assert predicted == pytest.approx((1 - ranked[:size]).mean())
        assert size == 500 or ranked[size - 1] > ranked[size]  # ends with its ties
    assert regions.predicted[-1] <= 0.1 + 1e-9
    wider = np.flatnonzero(np.diff(ranked, append=-1)) + 1
    beyond = wider[wider > regions.sizes[-1]]
    assert not len(beyond) or (1 - ranked[: beyond[0]]).mean() > 0.1


@pytest.mark.parametrize(
    ("quality", "fractions", "sizes"),
    [
        ([0.99] * 50, (), [50]),  # all equal: everything or nothing
        ([0.5] * 50, (), []),  # all equal and bad
        ([0.5] * 50, FRACTIONS, [50]),  # cold start: the one tie group
        ([1.0] * 10 + [float("nan")] * 40, (), [10]),  # without a score: never
        ([None] * 5, FRACTIONS, []),
        ([], FRACTIONS, []),
        ([1.0, 0.9, 0.9, 0.9], (1.0,), [1, 4]),
    ],
)
def test_regions_of_unusual_scores(quality, fractions, sizes):
    assert nest(quality, 0.05, fractions=fractions).sizes.tolist() == sizes


@pytest.mark.parametrize(
    ("quality", "message"),
    [
        ([0.5, 1.01], "found 1.01 at label 1"),
        ([-0.1], "from 0 to 1"),
        ([float("inf")], "from 0 to 1"),
        (["high"], "numbers"),
        ([[0.5]], "shape"),
    ],
)
def test_impossible_scores(quality, message):
    with pytest.raises(ValueError, match=message):
        nest(quality, 0.05)


def test_a_chain_ends_at_its_first_failure():
    sizes, audited = [1000, 2000, 3000], [100, 200, 300]
    wide = walk_regions(sizes, audited, [0, 40, 3], Promise(), [Start(0, 1.0)])
    assert [t.passed for t in wide.tests] == [True, False]  # the third would pass, and is never tested
    assert wide.certified.region == 0
    assert walk_regions(sizes, audited, [9, 0, 0], Promise(), [Start(0, 1.0)]).certified is None


def test_chains_share_the_risk_and_hand_it_on():
    sizes, audited = [1000, 2000, 3000], [100, 200, 300]
    starts = [Start(0, 0.5), Start(1, 0.5)]
    passed = walk_regions(sizes, audited, [0, 0, 0], Promise(), starts)
    assert [round(t.risk, 6) for t in passed.tests] == [0.05, 0.1, 0.1]
    failed = walk_regions(sizes, audited, [50, 50, 0], Promise(), starts)
    assert [(t.region, round(t.risk, 6)) for t in failed.tests] == [(0, 0.05), (1, 0.05)]
    rescued = walk_regions(sizes, audited, [50, 0, 0], Promise(), starts)
    assert rescued.certified.region == 2


def test_one_chain_agrees_with_mapie():
    control = pytest.importorskip("mapie.risk_control.fwer_control")
    rng = np.random.default_rng(0)
    sizes, audited = np.arange(1, 9) * 500, np.arange(1, 9) * 60
    for _ in range(30):
        wrong = rng.poisson(np.linspace(0, 3, 8)).cumsum()
        walk = walk_regions(sizes, audited, wrong, Promise(), [Start(0, 1.0)])
        p = p_values(sizes, audited, wrong, Promise())
        rejected = control.control_fwer(p, 0.1, "fixed_sequence")
        assert [t.region for t in walk.tests if t.passed] == list(rejected)


@pytest.mark.parametrize(
    "starts",
    [
        [Start(1, 0.5), Start(0, 0.5)],  # backwards
        [Start(0, 0.6), Start(1, 0.6)],  # more than there is
        [Start(0, 0.0)],
        [Start(3, 1.0)],  # outside
        [Start(0, 0.5), Start(0, 0.5)],  # twice
    ],
)
def test_starts_that_would_break_the_promise(starts):
    with pytest.raises(ValueError, match="expected"):
        walk_regions([10, 20, 30], [1, 2, 3], [0, 0, 0], Promise(), starts)


@pytest.mark.parametrize(
    "starts",
    [
        [Start(0, 1.0)],
        [Start(0, 0.5), Start(2, 0.5)],
        [Start(0, 0.2), Start(1, 0.3), Start(3, 0.5)],
    ],
)
@pytest.mark.parametrize(
    "shape",
    [
        [0.30, 0.30, 0.30, 0.30],  # bad everywhere
        [0.17, 0.20, 0.21, 0.22],  # just too bad everywhere
        [0.02, 0.16, 0.19, 0.30],  # good first, then just too bad
        [0.40, 0.05, 0.05, 0.05],  # bad where the scores are best
    ],
)
def test_the_whole_walk_certifies_falsely_no_more_often_than_promised(starts, shape):
    # Four nested regions of 100 to 400 labels, errors up to `shape` of each region, 15 % promised.
    promise, sizes, n = Promise(0.15, 0.8), np.array([100, 200, 300, 400]), 120
    wrong_in = np.round(np.array(shape) * sizes).astype(int)
    bands = np.clip(np.diff(wrong_in, prepend=0), 0, 100)
    wrong = np.concatenate([np.arange(100) < b for b in bands])
    rng = np.random.default_rng(4)
    repeats, false = 1500, 0
    for _ in range(repeats):
        place = np.sort(rng.permutation(400)[:n])
        audited = np.searchsorted(place, sizes)
        k = np.concatenate([[0], np.cumsum(wrong[place])])[audited]
        best = walk_regions(sizes, audited, k, promise, starts).certified
        if best is not None:
            rest = wrong[: best.total].sum() - best.wrong
            false += rest > 0.15 * (best.total - best.audited) + 1e-9
    assert false / repeats <= 0.2 + 2 * np.sqrt(0.2 * 0.8 / repeats)


def test_design_draws_where_it_pays():
    rng = np.random.default_rng(0)
    regions = nest(rng.beta(8, 0.5, 5000), 0.05)
    one = choose_design(regions, Promise(), audit=200, history=1000)
    assert one == choose_design(regions, Promise(), audit=200, history=1000)  # repeatable
    more = choose_design(regions, Promise(), audit=600, history=1000)
    free = choose_design(regions, Promise(), history=1000)
    assert 0 < one.expected < more.expected <= 5000
    assert free.expected >= max(one.expected, more.expected) * 0.95
    assert one.starts[0].region <= one.drawn_from < len(regions.sizes)


@pytest.mark.parametrize(
    ("quality", "reason"),
    [
        (np.full(40, 0.999), "too few"),  # an audit would look at all of them
        (np.full(5000, 0.2), "too bad"),
        (np.full(0, 0.9), "nothing there"),
    ],
)
def test_no_design_where_no_audit_pays(quality, reason):
    assert choose_design(nest(quality, 0.05), Promise(), history=1000) is None, reason
