"""The short forms of `make chaos`; each in a process of its own, which imports FiftyOne on a database of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.outages import OUTAGES

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, timeout: float) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_nothing_is_lost_by_kills_at_writes() -> None:
    said = run("tests.chaos", "--kills", "20", "--seed", "7", "--whole", "0", timeout=600)
    total = next(line.split() for line in said.splitlines() if line.startswith("all "))
    assert (int(total[-2]), int(total[-1])) == (20, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(OUTAGES))
def test_nothing_is_lost_in_an_outage(name: str) -> None:
    said = run("tests.chaos.outages", name, timeout=400)
    if "skipped:" in said:
        pytest.skip(said.strip().splitlines()[-1])
    assert said.count("held ") >= 2, said
    assert "LOST" not in said


@pytest.mark.slow
def test_what_is_said_to_be_done_is_on_the_disk() -> None:
    found = json.loads(run("tests.chaos.journal", "1", timeout=300).splitlines()[-1])
    assert found["journaled"] == {"insert": 0, "update": 0, "merge": 0}
    assert any(found["not journaled"].values()), "otherwise this test would see nothing"


@pytest.mark.stack
@pytest.mark.long
def test_nothing_is_lost_by_kills_of_a_real_stack() -> None:
    said = run("tests.chaos.stack_kills", "--kills", "3", "--seed", "7", "--scenes", "12", timeout=1200)
    assert "losses 0" in said
