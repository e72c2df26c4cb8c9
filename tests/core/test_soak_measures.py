"""The soak test finds what grows, and takes no noise for a leak."""

from __future__ import annotations

import pytest

from tests.soak.measures import Measure, leaks, slope

QUIET = {"processes": 9, "temporary files": 2, "collections": 30}


def made(run: int, **grows: float) -> Measure:
    """After run number ``run``, with what grows by so much per run."""

    def grown(name: str) -> float:
        return grows.get(name, 0.0) * run

    noise = (run * 7) % 5
    return Measure(
        10.0,
        {name: 300.0 + noise + grown(name) for name in ("server", "worker", "app", "mongod", "driver")},
        {"server": 40 + noise % 2 + int(grown("descriptors"))},
        {name: count + int(grown(name)) for name, count in QUIET.items()},
        {"prefect rows": 1000.0 + 300 * run + grown("prefect rows") * run},
    )


def found(runs: int, **grows: float) -> list[str]:
    return leaks([made(run, **grows) for run in range(1, runs + 1)])


@pytest.mark.parametrize(
    ("grows", "expected"),
    [
        pytest.param({}, None, id="noise"),
        pytest.param({"server": 4.0}, "memory of server", id="memory"),
        pytest.param({"worker": 2.0}, "memory of worker", id="memory of a small process"),
        pytest.param({"processes": 1}, "processes", id="processes"),
        pytest.param({"temporary files": 1}, "temporary files", id="temporary files"),
        pytest.param({"collections": 1}, "collections", id="collections"),
        pytest.param({"descriptors": 1}, "descriptors of server", id="descriptors"),
        pytest.param({"prefect rows": 100}, "Prefect rows", id="more rows each time"),
    ],
)
def test_what_grows(grows: dict[str, float], expected: str | None) -> None:
    lines = found(20, **grows)
    assert len(lines) == (0 if expected is None else 1), lines
    assert expected is None or expected in lines[0]


def test_a_single_leftover_is_enough() -> None:
    measures = [made(run) for run in range(1, 7)]
    measures[-1] = Measure(**{**vars(measures[-1]), "counts": {**QUIET, "temporary files": 3}})
    assert len(leaks(measures)) == 1


def test_the_slope_does_not_follow_one_outlier() -> None:
    assert slope([10, 10, 10, 90, 10, 10]) == 0.0
    assert slope([1, 2, 3, 4]) == 1.0
