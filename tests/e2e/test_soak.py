"""Recurring runs on the real server and worker, new samples each time: nothing is left behind that grows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.soak.measures import WARM_UP, leaks, measure, table
from tests.soak.rounds import Rounds
from valflow.mongod import Mongod
from valflow.stack import Stack

RUNS = WARM_UP + 2


@pytest.fixture
def rounds(in_stack: Stack, tmp_path: Path) -> Iterator[Any]:
    import fiftyone as fo

    rounds = Rounds(in_stack, tmp_path, "soaked-pets")
    yield rounds
    fo.delete_dataset(rounds.dataset.name)


@pytest.mark.stack
@pytest.mark.long
def test_recurring_runs_leave_nothing_behind_that_grows(
    rounds: Rounds, in_stack: Stack, mongod: Mongod, tmp_path: Path
) -> None:
    assert mongod.pid is not None
    measures = []
    for _ in range(RUNS):
        seconds = rounds.play()
        temporary = in_stack.home / "temporary"
        measures.append(
            measure(in_stack, rounds.dataset, temporary, tmp_path, seconds, {"mongod": mongod.pid})
        )
    print("\n".join(table(measures)))
    assert leaks(measures) == []
