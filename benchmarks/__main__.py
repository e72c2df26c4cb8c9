"""All benchmarks in one go, each in a process and on a MongoDB of its own: ``python -m benchmarks [--quick]``."""

from __future__ import annotations

import argparse
import subprocess
import sys

# Each with the options that make it quick.
BENCHMARKS = {
    "bench_labels": ["--samples", "300"],
    "bench_evaluation": ["--samples", "100"],
    "bench_export": ["--samples", "300"],
    "bench_pipeline": ["--samples", "500", "--only-stages"],
    "bench_panel": ["--samples", "300"],
    "bench_infer": ["--images", "40", "--rounds", "1"],
    "bench_certify": ["--quick"],
    "bench_nights": ["--scenes", "100", "--runs", "1", "--nights", "2"],
}


def main() -> int:
    """Run them one after the other; the first that fails ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small inputs: does it run, not how fast")
    options = parser.parse_args()
    for name, quick in BENCHMARKS.items():
        command = [sys.executable, "-m", f"benchmarks.{name}", *(quick if options.quick else [])]
        done = subprocess.run(command, check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
