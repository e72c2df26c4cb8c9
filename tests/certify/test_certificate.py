"""The certificate against published figures, against every batch of a small size, and against other libraries."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, binom, hypergeom

from valflow.certify import (
    Promise,
    allowed_wrong,
    certify_rest,
    hypergeometric_cdf,
    most_wrong_in_rest,
    p_values,
    sample_for_errors,
    smallest_sample,
    upper_bound,
)


@pytest.mark.parametrize(
    ("max_error", "confidence", "sizes"),
    [
        (0.05, 0.95, [59, 93, 124, 153, 181]),  # the default audit of 153 forgives three
        (0.01, 0.95, [299, 473, 628, 773, 913]),
        (0.10, 0.90, [22, 38, 52, 65, 78]),
    ],
)
def test_published_sample_sizes_by_wrong_labels(max_error, confidence, sizes):
    assert [sample_for_errors(c, Promise(max_error, confidence)) for c in range(5)] == sizes
    assert sizes[0] == smallest_sample(max_error, confidence)


def test_bound_is_the_beta_quantile_and_agrees_with_the_binomial_test():
    for wrong, judged in [(0, 59), (0, 58), (3, 153), (3, 152), (7, 400)]:
        assert upper_bound(wrong, judged) == pytest.approx(
            beta.ppf(0.95, wrong + 1, judged - wrong), rel=1e-9
        )
        assert (upper_bound(wrong, judged) <= 0.05) == (binom.cdf(wrong, judged, 0.05) <= 0.05)


@pytest.mark.parametrize("total", [20, 40, 60])
@pytest.mark.parametrize(("max_error", "risk"), [(0.05, 0.1), (0.1, 0.1), (0.2, 0.05), (0.35, 0.3)])
def test_no_batch_is_certified_falsely_too_often(total, max_error, risk):
    # Every batch of K wrong labels, every size of the audit: the chance of a certificate that is not true.
    promise = Promise(max_error, 1 - risk)
    wrong_in_total = np.arange(total + 1)[:, None]
    worst = 0.0
    for audited in range(total):
        k = np.arange(audited + 1)
        certified = p_values(total, np.full(len(k), audited), k, promise) <= promise.risk * (1 + 1e-9)
        untrue = wrong_in_total - k > max_error * (total - audited) + 1e-9
        chance = hypergeom.pmf(k, total, wrong_in_total, audited)
        worst = max(worst, float((chance * (certified & untrue)).sum(axis=1).max()))
    assert worst <= risk + 1e-9
    assert worst > 0.8 * risk  # tight: a bound that never errs would certify nothing


def test_the_worst_false_certification_reaches_the_risk_exactly():
    # 1 wrong of 10 must be found: with 9 of 10 drawn it is missed with a chance of exactly 1/10.
    promise = Promise(0.5, 0.9)
    assert certify_rest(10, 9, 0, promise).p_value == pytest.approx(0.1)
    assert certify_rest(10, 9, 0, promise).holds
    assert not certify_rest(10, 8, 0, Promise(0.4, 0.9)).holds


def test_distribution_agrees_with_scipy():
    rng = np.random.default_rng(0)
    total = rng.integers(1, 50_000, 500)
    audited, bad = (rng.random(500) * total).astype(int), (rng.random(500) ** 3 * total).astype(int)
    wrong = rng.integers(0, 60, 500)
    expected = hypergeom.cdf(wrong, total, bad, audited)
    assert hypergeometric_cdf(wrong, total, bad, audited) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("promise", [Promise(), Promise(0.01, 0.95), Promise(0.2, 0.5), Promise(0.6, 0.3)])
def test_allowed_wrong_is_the_edge(promise):
    rng = np.random.default_rng(1)
    total = rng.integers(1, 3000, 300)
    audited = (rng.random(300) * total).astype(int)
    allowed = allowed_wrong(total, audited, promise)
    passes = allowed >= 0
    assert np.all(
        p_values(total, audited, np.maximum(allowed, 0), promise)[passes] <= promise.risk * (1 + 1e-9)
    )
    more = allowed < audited
    assert np.all(p_values(total, audited, np.minimum(allowed + 1, audited), promise)[more] > promise.risk)


def test_bound_on_the_rest_is_the_test_inverted():
    for total, audited, wrong in [(20, 7, 1), (300, 60, 0), (5000, 400, 9), (50, 50, 3), (50, 0, 0)]:
        most = most_wrong_in_rest(total, audited, wrong, 0.1)
        assert 0 <= most <= total - audited
        bad = wrong + np.arange(total - audited + 1)
        credible = hypergeom.cdf(wrong, total, bad, audited) > 0.1
        assert most == np.flatnonzero(credible).max(initial=0)


def test_certificate_says_what_it_knows():
    c = certify_rest(10_000, 200, 3, Promise())
    assert c.holds
    assert (c.rest, c.estimate) == (9800, 0.015)
    assert c.bound == c.most_wrong / 9800
    assert c.bound <= 0.05
    everything = certify_rest(50, 50, 50, Promise())
    assert everything.holds
    assert everything.bound == 0.0
    assert np.isnan(certify_rest(50, 0, 0, Promise()).estimate)


def test_a_reviewer_who_overlooks_makes_the_test_stricter():
    keen, tired = Promise(0.05, 0.9), Promise(0.05, 0.9, miss_rate=0.3)
    assert tired.tested_error == pytest.approx(0.035)
    assert certify_rest(5000, 150, 3, keen).holds
    assert not certify_rest(5000, 150, 3, tired).holds
    assert certify_rest(5000, 150, 3, tired).bound > certify_rest(5000, 150, 3, keen).bound


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_error": 0.0}, "max_error between 0 and 1"),  # no error at all
        ({"max_error": 1.0}, "max_error between 0 and 1"),  # everything may be wrong
        ({"max_error": float("nan")}, "max_error"),
        ({"max_error": None}, "max_error"),
        ({"max_error": True}, "max_error"),
        ({"confidence": 1.0}, "confidence between 0 and 1"),  # certainty
        ({"confidence": 0.0}, "confidence"),
        ({"confidence": 90}, "confidence"),  # per cent
        ({"miss_rate": 1.0}, "miss_rate"),  # sees nothing
        ({"miss_rate": -0.1}, "miss_rate"),
    ],
)
def test_impossible_promises(arguments, message):
    with pytest.raises(ValueError, match=message):
        Promise(**arguments)


@pytest.mark.parametrize(
    ("total", "audited", "wrong", "message"),
    [
        (0, 0, 0, "empty"),  # nothing there
        (10, 11, 0, "at most the 10 labels"),  # larger than the batch
        (10, 5, 6, "wrong labels"),  # more wrong than judged
        (10, 5, -1, "0 or more"),
        (10.5, 5, 1, "whole number"),
        (10, True, 0, "whole number"),
    ],
)
def test_contradictory_counts(total, audited, wrong, message):
    with pytest.raises(ValueError, match=message):
        certify_rest(total, audited, wrong, Promise())


@pytest.mark.parametrize("risk", [0.0, 1.0, float("nan"), -0.1])
def test_impossible_risks(risk):
    with pytest.raises(ValueError, match="risk"):
        certify_rest(100, 50, 1, Promise(), risk)
    with pytest.raises(ValueError, match="risk"):
        allowed_wrong(100, 50, Promise(), risk)


def test_statsmodels_agrees():
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    for wrong, judged in [(0, 59), (3, 153), (17, 400)]:
        _, high = proportion.proportion_confint(wrong, judged, alpha=0.2, method="beta")
        assert upper_bound(wrong, judged, 0.9) == pytest.approx(high, rel=1e-9)
