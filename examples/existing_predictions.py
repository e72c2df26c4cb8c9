"""Predictions that are there already: reviewed and made labels, while the field that holds them stays as it is.

    python -m examples.existing_predictions

A field of predictions is how results of another team, of a cloud service or of last year's model usually arrive. Here
a detector of handwritten digits writes one, on a MongoDB of its own. Half a minute; nothing of yours is touched.
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


def step(*words: str) -> None:
    """One command, as it would be typed."""
    print(f"\n$ valflow {' '.join(words)}", flush=True)
    if valflow(words) != 0:
        sys.exit(f"valflow {words[0]} did not end well")


def main(folder: Path) -> None:
    """The article."""
    # %% A dataset with predictions
    #
    # Whoever made them, they are `Detections` (or any other type of docs/label-types.md) in a field.

    import fiftyone as fo

    from examples.digits.model import DigitDetector
    from examples.digits.scenes import build_dataset

    build_dataset("numbers", folder / "scenes", 30)
    dataset = fo.load_dataset("numbers")
    dataset.apply_model(DigitDetector(), "predictions", progress=False)
    before = dataset.values("predictions.detections.confidence")

    # %% The configuration
    #
    # `kind: field` in place of a model. Confident labels are approved by threshold, the others wait for a person.

    config = folder / "labeling.yaml"
    config.write_text(
        """
dataset: numbers
label_field: checked
run_key: checked_run
model: {kind: field, field: predictions}
approval: {threshold: 0.8}
review: {checklist: []}
output_dir: runs
"""
    )
    step("run", str(config), "--dry-run")
    step("run", str(config))

    # %% The review
    #
    # By command here; `valflow up` shows the same in the FiftyOne App.

    step("reject", "checked_run", "--max-confidence", "0.3", "--reviewer", "ann")
    step("approve", "checked_run", "--min-confidence", "0.6", "--reviewer", "ann")
    step("finalize", "checked_run", "--yes", "--reviewer", "ann")

    # %% What has become of it
    #
    # The approved ones are copies with ids of their own; the predictions are what they were.

    dataset.reload()
    predicted, checked = dataset.count("predictions.detections"), dataset.count("checked.detections")
    print(f"\npredictions: {predicted}, labels: {checked}")
    same = dataset.values("predictions.detections.confidence") == before
    print("the predictions are", "unchanged" if same else "CHANGED")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="predictions-") as name, Mongod(Path(name) / "db") as mongod:
        os.environ.update(mongod.environment)
        os.environ["FIFTYONE_SHOW_PROGRESS_BARS"] = "false"
        main(Path(name))
