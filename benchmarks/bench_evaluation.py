"""Evaluation with mAP and marks, beside FiftyOne's ``evaluate_detections(compute_mAP=True)``.

Run as ``python -m benchmarks.bench_evaluation [--samples 1500]``.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.measuring import Meter, own_database
from benchmarks.scenes import make_scenes, write_dataset

RUN = "bench_run"
FINAL = {"run": RUN, "source": "auto"}
GOAL = 20.0


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1500)
    parser.add_argument("--without-fiftyone", action="store_true", help="ours alone (for large datasets)")
    options = parser.parse_args()
    with own_database() as meter:
        compare(meter, options.samples, options.without_fiftyone)
        meter.print_table(f"Evaluation, {options.samples:,} images")


def compare(meter: Meter, samples: int, alone: bool) -> None:
    """Evaluate the same labels in both ways, compare all figures and marks, and add the rows."""
    from valflow import evaluation

    scenes = make_scenes(samples)
    labels = len(scenes.sample)
    dataset = write_dataset("bench_evaluation", scenes, field="final", truth="truth", attributes=FINAL)
    enter_ledger(dataset)
    evaluate_tiny()
    with meter.measure() as ours:
        metrics = evaluation.evaluate(dataset, "final", "truth", "ours", run_key=RUN)
    if alone:
        meter.row("valflow: evaluate", labels, ours.cpu)
        return
    with meter.measure() as theirs:
        results = dataset.evaluate_detections("final", "truth", "theirs", method="coco", compute_mAP=True)
    check_equal(dataset, metrics, results)
    meter.row("FiftyOne: evaluate_detections(compute_mAP=True)", labels, theirs.cpu)
    meter.against("valflow: evaluate", labels, ours.cpu, theirs.cpu, GOAL)


def evaluate_tiny() -> None:
    """Import everything that both ways need, so that the rows compare only the work."""
    from valflow import evaluation

    dataset = write_dataset("tiny", make_scenes(20), field="final", truth="truth", attributes=FINAL)
    sample_ids = dataset.values("id")
    evaluation.evaluate(dataset, "final", "truth", "ours", run_key=RUN, sample_ids=sample_ids)
    dataset.evaluate_detections("final", "truth", "theirs", method="coco", compute_mAP=True)


def enter_ledger(dataset: Any) -> None:
    """The ledger that a run would have written: every label was predicted and approved."""
    from valflow import database

    labels = {
        "$map": {"input": "$final.detections", "as": "d", "in": {"_id": "$$d._id", "state": "approved"}}
    }
    document = {
        "_id": 0,
        "run": {"$literal": RUN},
        "sample_id": "$_id",
        "status": {"$literal": "labelled"},
        "labels": labels,
        "predicted": "$final.detections",
    }
    merge = {"into": database.LEDGER, "on": ["run", "sample_id"]}
    database.samples_of(dataset).aggregate([{"$project": document}, {"$merge": merge}])


def check_equal(dataset: Any, metrics: dict[str, Any], results: Any) -> None:
    """Every mark, every count, and the mean average precision."""
    mine = dataset.load_evaluation_results("ours")
    assert mine.mAP() == results.mAP(), (mine.mAP(), results.mAP())
    assert abs(metrics["run"]["approved"]["mAP"] - results.mAP()) < 1e-9
    assert mine.report() == results.report()
    for field in ("final", "truth"):
        for suffix in ("", "_id", "_iou"):
            paths = [f"{field}.detections.{key}{suffix}" for key in ("ours", "theirs")]
            a, b = (dataset.values(path) for path in paths)
            assert a == b, paths
    for suffix in ("_tp", "_fp", "_fn"):
        assert dataset.values("ours" + suffix) == dataset.values("theirs" + suffix)


if __name__ == "__main__":
    main()
