"""Lots, alarms, forecasts and the audit that may stop."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from valflow.certify import (
    LotPolicy,
    Promise,
    audit_sequentially,
    audit_size,
    capital,
    closes,
    compare_errors,
    compare_scores,
    expected_wait,
    forecast,
    forecast_table,
    incomplete_images,
)

DAY = timedelta(days=1)
START = datetime(2024, 5, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("labels", "nights", "now", "expected"),
    [
        pytest.param(300, [0], 0, None, id="the first waits"),
        pytest.param(1000, [0], 0, "full", id="large enough at once"),
        pytest.param(1200, [0, 1, 2, 3], 3, "full", id="large enough together"),
        pytest.param(0, [0], 0, None, id="nothing predicted"),
        pytest.param(300, [0, 1], 5, None, id="another night is left"),
        pytest.param(300, [0, 1], 6, "waited", id="the next night would be too late"),
        pytest.param(300, [0], 7, "waited", id="nobody came again"),
        pytest.param(300, [0, 8], 8, "waited", id="nobody closed it in time"),
    ],
)
def test_lots(labels, nights, now, expected):
    times = [START + n * DAY for n in nights]
    assert closes(labels, times, START + now * DAY, LotPolicy(1000, 7 * DAY)) == expected


def test_nothing_waits_longer_than_allowed():
    rng = np.random.default_rng(0)
    policy = LotPolicy(2000, 5 * DAY)
    arrivals, labels, waits = [], 0, []
    for night in range(200):
        # The clock of a scheduler is never quite on time.
        now = START + night * DAY + timedelta(seconds=int(rng.integers(0, 60)))
        arrivals.append(now)
        labels += int(rng.integers(0, 600))
        if closes(labels, arrivals, now, policy):
            waits.append(now - arrivals[0])
            arrivals, labels = [], 0
    assert len(waits) > 30
    assert max(waits) <= policy.max_wait


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LotPolicy(0), "min_labels"),
        (lambda: LotPolicy(10, timedelta(0)), "max_wait"),
        (lambda: closes(-1, [START], START, LotPolicy()), "0 or more labels"),
        (lambda: closes(1, [], START, LotPolicy()), "an arrival"),
        (lambda: expected_wait(0, DAY, LotPolicy()), "more than 0"),
    ],
)
def test_impossible_lots(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_expected_wait():
    assert expected_wait(300, DAY, LotPolicy(1000, 7 * DAY)) == 3 * DAY
    assert expected_wait(10, DAY, LotPolicy(1000, 7 * DAY)) == 7 * DAY


def test_scores_that_moved_are_noticed():
    rng = np.random.default_rng(0)
    stored = {"cat": rng.beta(5, 2, 400), "dog": rng.beta(5, 2, 400), "cow": rng.random(5)}
    same = {"cat": rng.beta(5, 2, 300), "dog": rng.beta(5, 2, 300), "cow": rng.random(300)}
    assert not any(d.suspected for d in compare_scores(same, stored))
    moved = compare_scores({**same, "dog": rng.beta(2, 5, 300)}, stored)
    assert [(d.name, d.suspected) for d in moved] == [("dog", True), ("cat", False)]


@pytest.mark.parametrize(
    ("wrong", "audited", "predicted", "suspected"),
    [(5, 150, 0.03, False), (15, 150, 0.03, True), (0, 0, 0.03, False), (0, 150, 0.03, False)],
)
def test_errors_that_were_not_predicted_are_noticed(wrong, audited, predicted, suspected):
    assert compare_errors(wrong, audited, predicted).suspected == suspected


@pytest.mark.parametrize("arguments", [(5, 4, 0.1), (-1, 4, 0.1), (1, 4, 1.5), (1, 4, 0.5, 0.0)])
def test_impossible_comparisons(arguments):
    with pytest.raises(ValueError, match="expected"):
        compare_errors(*arguments)


@pytest.mark.parametrize(("max_error", "size"), [(0.05, 132), (0.02, 333), (0.01, 667)])
def test_audit_sizes_of_the_published_table(max_error, size):
    # 80 % power at a third of the allowed error, 90 % confidence, a large batch.
    assert audit_size(1_000_000, max_error / 3, Promise(max_error))[0] == size


def test_a_small_batch_is_nearly_reviewed():
    sizes = [audit_size(n, 0.0, Promise())[0] for n in (60, 1000, 100_000)]
    assert sizes == [54, 46, 45]  # of 60, one more wrong label would already be too many
    assert audit_size(30, 0.0, Promise())[0] < 30
    assert audit_size(100_000, 0.2, Promise()) is None  # far too many are wrong
    hopeless = forecast(10_000, 0.6, 0.2, Promise())
    assert hopeless.audit is None
    assert hopeless.looks == 10_000


def test_forecasts_are_ordered_as_they_must_be():
    table = forecast_table([2000, 20_000], [0.5, 0.8], [0.1, 0.5], Promise())
    assert len(table) == 8
    for row in table:
        assert row.audit <= row.looks <= row.total
        assert row.power >= 0.8
    good, bad = (forecast(20_000, 0.8, e, Promise()) for e in (0.005, 0.03))
    assert good.looks < bad.looks


def test_bound_on_incomplete_images():
    found = [round(100 * incomplete_images(0, m), 1) for m in (30, 60, 100, 200)]
    assert found == [7.4, 3.8, 2.3, 1.1]


def test_an_audit_that_may_stop_keeps_the_promise():
    # Just too many wrong labels: a look after every verdict must not certify more often than promised.
    total, promise, rng = 300, Promise(0.15, 0.8), np.random.default_rng(0)
    wrong = np.arange(total) < 46
    false = 0
    for _ in range(150):
        order = rng.permutation(wrong)[:200]
        path = capital(order, total, promise)
        rest = wrong.sum() - np.cumsum(order)
        untrue = rest > 0.15 * (total - 1 - np.arange(200)) + 1e-9
        false += bool(np.any((path >= 5) & untrue))
    assert false / 150 <= 0.2 + 2 * np.sqrt(0.2 * 0.8 / 150)


def test_an_audit_that_may_stop_stops_early_where_all_is_right():
    stop = audit_sequentially(np.zeros(400, bool), 5000, Promise())
    assert stop.certified
    assert 45 <= stop.judged < 100
    assert not audit_sequentially(np.ones(50, bool), 5000, Promise()).certified
    assert audit_sequentially([], 5000, Promise()).judged == 0
    with pytest.raises(ValueError, match="at most 10"):
        capital(np.zeros(11, bool), 10, Promise())
