"""The examples are articles that run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("compare_and_merge", ["merged_run  In Review", "merged from: thorough_run/"]),
        ("existing_predictions", ["checked_run  Approved", "the predictions are unchanged"]),
    ],
)
def test_an_example_runs(name: str, says: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"examples.{name}"], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    for text in says:
        assert text in done.stdout
