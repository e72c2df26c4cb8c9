"""All benchmarks in one go, each in a process and on a MongoDB of its own: ``python -m benchmarks [--quick]``."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

# Each with the option that makes it quick.
BENCHMARKS = {
    "bench_evaluation.py": ["--samples", "150"],
    "bench_export.py": ["--samples", "1000"],
}


def main() -> int:
    """Run them one after the other; the first that fails ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small inputs: does it run, not how fast")
    options = parser.parse_args()
    for name, quick in BENCHMARKS.items():
        print(f"\n{name}", flush=True)
        command = [sys.executable, str(Path(__file__).with_name(name)), *(quick if options.quick else [])]
        done = subprocess.run(command, check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
