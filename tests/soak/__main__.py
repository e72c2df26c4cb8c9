"""``python -m tests.soak``: recurring runs in a row on a stack of its own, and what grows with them."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """Run it; 0 where nothing leaks."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--runs", type=int, default=50, help="recurring runs in a row (50)")
    options = parser.parse_args()
    if options.runs < 6:
        parser.error("--runs: expected 6 or more; the first 4 only warm up")
    folder = Path(tempfile.mkdtemp(prefix="valflow-soak-"))
    for name in list(os.environ):
        if name.startswith(("FIFTYONE_", "PREFECT_", "VALFLOW_")):
            del os.environ[name]
    try:
        return _soak(folder, options.runs)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _soak(folder: Path, amount: int) -> int:
    from valflow.stack import Stack

    temporary, home = folder / "temporary", folder / "home"
    temporary.mkdir()
    home.mkdir()
    os.environ.update(
        {
            "DO_NOT_TRACK": "1",
            "FIFTYONE_CONFIG_PATH": str(folder / "fiftyone" / "config.json"),
            "FIFTYONE_DEFAULT_DATASET_DIR": str(folder / "fiftyone" / "datasets"),
            "FIFTYONE_DO_NOT_TRACK": "true",
            "FIFTYONE_SHOW_PROGRESS_BARS": "false",
            "MPLBACKEND": "Agg",
            "TMPDIR": str(temporary),
        }
    )
    tempfile.tempdir = str(temporary)
    with Stack(home, database="own", say=lambda line: print(line, flush=True)) as stack:
        os.environ.update(stack.environment)
        from tests.soak.measures import leaks, measure, table
        from tests.soak.rounds import Rounds

        files = folder / "files"
        files.mkdir()
        rounds, measures = Rounds(stack, files, "soaked"), []
        for number in range(1, amount + 1):
            seconds = rounds.play()
            measures.append(measure(stack, rounds.dataset, temporary, files, seconds, {}))
            print(f"run {number} of {amount}: {seconds:.1f} s", flush=True)
    found = leaks(measures)
    print("\n" + "\n".join(table(measures)))
    print("\n" + ("\n".join(f"GROWS {line}" for line in found) or "nothing grows that must not"))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
