"""The short form of ``python -m tests.races --rounds 1000``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_each_race_has_one_winner_and_the_others_are_told_who() -> None:
    """Five lives of a run, and what may happen between them: 22 rounds; loaded machines do fewer in the time."""
    command = [sys.executable, "-m", "tests.races", "--rounds", "22", "--minutes", "0.5", "--keep-going"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2], check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    last = done.stdout.strip().splitlines()[-1].split()
    assert last[0] == "all"
    assert int(last[1]) >= 5
    assert last[2] == "0"
