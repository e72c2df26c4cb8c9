"""Two models on the same pictures: compare them, then make one set of labels of both.

    python -m examples.compare_and_merge

Everything is real and small: 40 scenes of handwritten digits, two detectors trained on different sheets, a MongoDB of
its own. Half a minute; nothing of yours is touched.
"""

# %% A database of its own
#
# Left out with your own data: there, FIFTYONE_DATABASE_URI or FiftyOne's own database is used. It must be chosen before
# FiftyOne is imported, so what needs FiftyOne is imported below.

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from valflow.cli import main as valflow
from valflow.mongod import Mongod

DETECTOR = "examples.digits.model:DigitDetector"


def step(*words: str) -> None:
    """One command, as it would be typed."""
    print(f"\n$ valflow {' '.join(words)}", flush=True)
    if valflow(words) != 0:
        sys.exit(f"valflow {words[0]} did not end well")


def main(folder: Path) -> None:
    """The article."""
    # %% Two runs, side by side
    #
    # Each model labels into a field of its own, so both can be in review at the same time. The second detector cuts
    # out regions at one contrast only: faster, and blind for faint digits.

    from examples.digits.scenes import build_dataset

    build_dataset("two-models", folder / "scenes", 40)
    config = folder / "labeling.yaml"
    config.write_text(
        f"""
dataset: two-models
label_field: thorough
run_key: thorough_run
model: {{kind: python, path: "{DETECTOR}"}}
approval: {{threshold: 0.8}}
evaluation: {{ground_truth: ground_truth}}
output_dir: runs
"""
    )
    step("run", str(config))
    step(
        "run",
        str(config),
        *("--set", "label_field=quick", "--set", "run_key=quick_run"),
        *("--set", "model.kwargs={seed: 3, levels: [22]}"),
        *("--set", "evaluation.eval_key=quick_eval"),
    )

    # %% Who is better at what?
    #
    # Labels of the same class that overlap by half mean the same object. Against ground truth come precision and
    # recall, per class; without any, you still see where the two agree. `--picture` draws it.

    step("compare", "thorough_run", "quick_run", "--picture", str(folder / "compared.png"))

    # %% One set of labels out of both
    #
    # `agreement` keeps what both found, `union` everything once, `best` per class what the better model found. The
    # result is a run like any other: nothing is final before somebody has looked at it.

    step(
        "merge",
        "thorough_run",
        "quick_run",
        "--into",
        "merged",
        "--strategy",
        "best",
        "--set",
        "run_key=merged_run",
    )
    step("compare", "merged_run", "thorough_run", "quick_run")

    # %% Where a label comes from
    #
    # Every merged label carries the ids of the labels that it was made of.

    from valflow import database

    entry = database.ledger().find_one({"run": "merged_run", "predicted.0": {"$exists": True}})
    assert entry is not None
    print("\nmerged from:", ", ".join(entry["predicted"][0]["merged_from"]))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="two-models-") as name, Mongod(Path(name) / "db") as mongod:
        os.environ.update(mongod.environment)
        os.environ["FIFTYONE_SHOW_PROGRESS_BARS"] = "false"
        main(Path(name))
