"""The exact bounds against published figures, against scipy, and at their edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import beta, binom

from valflow.certify.bounds import smallest_sample, upper_bound


@pytest.mark.parametrize(
    ("max_error", "confidence", "expected"),
    [
        (0.01, 0.95, 299),  # one in a hundred, the textbook case
        (0.02, 0.95, 149),
        (0.05, 0.95, 59),  # the default spot-check
        (0.05, 0.90, 45),
        (0.10, 0.90, 22),
        (0.50, 0.75, 2),  # both logarithms meet exactly: no label more
        (0.999, 0.10, 1),  # never less than one label
    ],
)
def test_smallest_sample_of_the_published_table(max_error, confidence, expected):
    assert smallest_sample(max_error, confidence) == expected


@pytest.mark.parametrize("max_error", [0.001, 0.01, 0.05, 0.1, 0.3, 0.9])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_smallest_sample_is_enough_and_one_less_is_not(max_error, confidence):
    n = smallest_sample(max_error, confidence)
    assert upper_bound(0, n, confidence) <= max_error * (1 + 1e-9)
    assert n == 1 or upper_bound(0, n - 1, confidence) > max_error


@pytest.mark.parametrize(
    ("wrong", "judged", "confidence", "expected"),
    [
        (0, 30, 0.90, 0.074),  # published: 7.4 %
        (0, 60, 0.90, 0.038),
        (0, 100, 0.90, 0.023),
        (0, 200, 0.90, 0.011),
        (0, 59, 0.95, 0.0495),
    ],
)
def test_upper_bound_of_the_published_table(wrong, judged, confidence, expected):
    assert upper_bound(wrong, judged, confidence) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(
    ("wrong", "judged", "expected"),
    [
        (0, 0, 1.0),  # nothing judged proves nothing
        (1, 1, 1.0),  # everything judged is wrong
        (59, 59, 1.0),
    ],
)
def test_upper_bound_without_evidence_is_one(wrong, judged, expected):
    assert upper_bound(wrong, judged) == expected


def test_upper_bound_is_the_beta_quantile():
    for judged in (1, 2, 59, 299, 100_000):
        for wrong in {0, 1, judged // 10, judged // 2, judged - 1}:
            for confidence in (0.5, 0.9, 0.95, 0.999):
                if wrong < judged:
                    expected = beta.ppf(confidence, wrong + 1, judged - wrong)
                    assert upper_bound(wrong, judged, confidence) == pytest.approx(expected, rel=1e-9)


def test_upper_bound_agrees_with_the_binomial_test():
    for wrong, judged in [(0, 58), (0, 59), (3, 149), (2, 149), (7, 299)]:
        assert (upper_bound(wrong, judged, 0.95) <= 0.05) == (binom.cdf(wrong, judged, 0.05) <= 0.05)


def test_upper_bound_rises_with_errors_and_falls_with_the_sample():
    by_errors = [upper_bound(k, 59) for k in range(60)]
    by_sample = [upper_bound(2, n) for n in range(2, 400)]
    by_confidence = [upper_bound(2, 59, c) for c in np.linspace(0.5, 0.999, 50)]
    assert by_errors == sorted(by_errors)
    assert len(set(by_errors)) == 60
    assert by_sample == sorted(by_sample, reverse=True)
    assert by_confidence == sorted(by_confidence)


def test_upper_bound_holds_as_often_as_it_promises():
    judged, confidence = 59, 0.95
    bounds = np.array([upper_bound(k, judged, confidence) for k in range(judged + 1)])
    for truth in (0.001, 0.02, 0.05, 0.2, 0.7):
        holds = binom.pmf(np.arange(judged + 1), judged, truth)[bounds >= truth].sum()
        assert holds >= confidence - 1e-12


def test_numpy_counts_are_taken():
    assert upper_bound(np.int64(1), np.int32(59), np.float64(0.95)) == upper_bound(1, 59, 0.95)


@pytest.mark.parametrize(
    ("wrong", "judged", "confidence", "found"),
    [
        (-1, 59, 0.95, "-1"),  # negative count
        (60, 59, 0.95, "60"),  # more wrong than judged
        (0, -5, 0.95, "-5"),
        (0.5, 59, 0.95, "0.5"),  # half a label
        (True, 59, 0.95, "True"),  # a verdict instead of a count
        (0, 59, 0.0, "0.0"),
        (0, 59, 1.0, "1.0"),  # certainty costs an infinite sample
        (0, 59, 95, "95"),  # percent instead of a share
        (0, 59, math.nan, "nan"),
        (0, 59, "high", "high"),
    ],
)
def test_upper_bound_refuses(wrong, judged, confidence, found):
    with pytest.raises(ValueError, match="expected") as error:
        upper_bound(wrong, judged, confidence)
    assert found in str(error.value)


@pytest.mark.parametrize(
    ("max_error", "confidence"),
    [(0.0, 0.95), (1.0, 0.95), (5, 0.95), (0.05, 0.0), (0.05, 1.0), (0.05, 95), (None, 0.95)],
)
def test_smallest_sample_refuses(max_error, confidence):
    with pytest.raises(ValueError, match="expected a share between 0 and 1"):
        smallest_sample(max_error, confidence)
