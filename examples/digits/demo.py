"""The whole pipeline for real, from nothing to exported labels, with a scripted person as reviewer.

It starts its own MongoDB, Prefect server and worker in ``.valflow/``, and ends them again. What it makes stays
in ``demo_output/``; `make up` opens the same data afterwards.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

CONFIG = Path(__file__).with_name("digits.yaml")
REVIEWER = "Robin (scripted)"
_LONGEST_WAIT = 240.0  # seconds for a worker to pick a run up and work on it, on a busy machine


def main() -> int:
    """Run the demo; 0 when everything ended as it should."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--home", type=Path, default=Path.cwd())
    options = parser.parse_args()
    # Before anything of FiftyOne is imported: the demo must never reach a database of the user's.
    for name in list(os.environ):
        if name.startswith(("FIFTYONE_DATABASE", "PREFECT_")):
            del os.environ[name]
    os.environ["FIFTYONE_SHOW_PROGRESS_BARS"] = "false"
    from valflow.stack import Stack

    home = options.home.resolve()
    start = time.monotonic()
    with Stack(home, app=False, database="own") as stack:
        os.environ.update(stack.environment)
        _say("stack", f"MongoDB, Prefect ({stack.ui_url}) and a worker of our own", start)
        run = _walk(home, options.scenes, start)
    _say("stopped", "all processes ended", start)
    print(
        f"\nLook at   {_shown(home, run['artifacts']['report'])}   (in a browser)\n"
        f"          {_shown(home, run['exports'][0]['dir'])}\n"
        "          make up                     the dataset in FiftyOne, the run in Prefect"
    )
    return 0


def _walk(home: Path, scenes: int, start: float) -> dict[str, Any]:
    from examples.digits.scenes import build_dataset
    from valflow import prefect_api
    from valflow.config import load_config

    output = home / "demo_output"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    dataset = build_dataset("digits", output / "scenes", scenes, overwrite=True)
    _say("scenes", f"{len(dataset)} pictures with {dataset.count('ground_truth.detections')} digits", start)

    shutil.copy(CONFIG, output / CONFIG.name)
    flow_run = prefect_api.trigger(load_config(output / CONFIG.name), name="digits-demo")
    prefect_api.wait_for(flow_run, ["Suspended"], timeout=_LONGEST_WAIT)
    run = _valflow("show", "latest")
    counts = run["counts"]
    _say(
        "infer",
        f"{counts['samples']} samples, {counts['predicted']} labels, {counts['failed_samples']} failed",
        start,
    )
    _say(
        "triage",
        f"{counts['approved']} approved by threshold, {counts['undecided']} wait for a person, "
        f"{counts['invalid']} invalid",
        start,
    )
    _review(dataset, run)
    done = _valflow("finalize", "latest", "--yes", "--note", "scripted demo")
    _tell_the_end(done, start)
    return done


def _review(dataset: Any, run: dict[str, Any]) -> None:
    """What a person does at the prompt and in the App, through the same commands."""
    _valflow("approve", "latest", "--class", "3", "--class", "5", "--min-confidence", "0.6", say=True)
    _valflow("reject", "latest", "--max-confidence", "0.3", say=True)
    note = "thin strokes are taken for ones"
    _valflow(
        "tag", "latest", "false_positive", "--class", "1", "--max-confidence", "0.3", "--note", note, say=True
    )
    corrected = _correct_one(dataset, f"{run['label_field']}_in_review")
    if corrected:
        _valflow("approve", "latest", "--label", corrected, say=True)
    drawn = _valflow("audit", "latest", "--seed", "7", say=True)
    verdicts = Path(drawn["sheet"]).with_suffix(".csv")
    _judge(dataset, f"{run['label_field']}_in_review", drawn["items"], verdicts)
    _valflow("audit", "latest", "--verdicts", str(verdicts), say=True)


def _correct_one(dataset: Any, field: str) -> str | None:
    """Give one misread digit its true class, as a person would in the App; returns the label's id."""
    dataset.reload()
    for sample in dataset.match_tags("false_positive", bool=False).exists(field):
        for label in sample[field].detections:
            true = _true_digit(sample, label)
            if true is not None and true.label != label.label and "approved" not in label.tags:
                label.label = true.label
                sample.save()
                return str(label.id)
    return None


def _judge(dataset: Any, field: str, items: list[dict[str, Any]], path: Path) -> None:
    """Fill in the verdicts: the script looks at the ground truth where a person looks at the picture."""
    dataset.reload()
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "verdict"])
        for item in items:
            writer.writerow([item["number"], _verdict(dataset[item["sample_id"]], field, item["label_id"])])


def _verdict(sample: Any, field: str, label_id: str) -> str:
    """What is wrong with a label; a digit found twice is right once, where the model is surest."""
    label = next(d for d in sample[field].detections if d.id == label_id)
    true = _true_digit(sample, label)
    if true is None:
        return "not_an_object"
    if true.label != label.label:
        return "wrong_class"
    same = [d for d in sample[field].detections if "approved" in d.tags and d.label == label.label]
    rivals = [d for d in same if (found := _true_digit(sample, d)) is not None and found.id == true.id]
    surest = max(rivals, key=lambda d: d.confidence, default=label)
    return "correct" if surest.id == label_id else "duplicate"


def _true_digit(sample: Any, label: Any) -> Any:
    """The true digit under a box (overlap of 0.5 or more), None where there is none."""
    best = max(
        sample.ground_truth.detections,
        key=lambda true: _iou(true.bounding_box, label.bounding_box),
        default=None,
    )
    return best if best is not None and _iou(best.bounding_box, label.bounding_box) >= 0.5 else None


def _iou(a: list[float], b: list[float]) -> float:
    width = max(min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]), 0.0)
    height = max(min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]), 0.0)
    common = width * height
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def _tell_the_end(run: dict[str, Any], start: float) -> None:
    counts, metrics, checks = run["counts"], run["metrics"]["run"], run["validation"]["checks"]
    applied = [c for c in checks if c["status"] != "skipped"]
    passed = sum(c["status"] == "passed" for c in applied)
    _say("validate", f"{passed} of {len(applied)} checks passed", start)
    _say(
        "finalize",
        f"{counts['finalized']} labels final, {counts['discarded']} discarded, {counts['edited']} edited",
        start,
    )
    approved, everything = metrics["approved"], metrics["all"]
    _say(
        "evaluate",
        f"precision {approved['precision']:.3f} (all predictions: {everything['precision']:.3f}), "
        f"recall {approved['recall']:.3f}, mAP {approved['mAP']:.3f}",
        start,
    )
    for entry in run["exports"]:
        _say(
            "export",
            f"{entry['format']}, {entry['labels']} labels on {entry['samples']} samples, read back and equal",
            start,
        )
    _say("report", Path(run["artifacts"]["report"]).name, start)


def _valflow(*arguments: str, say: bool = False) -> dict[str, Any]:
    """Run one command of the command line in this process, as its user would; returns its JSON."""
    from valflow.cli import main as valflow

    options = list(arguments)
    if options[0] in ("approve", "reject", "tag", "audit", "finalize"):
        options += ["--reviewer", REVIEWER]
    printed, messages = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(messages):
        exit_code = valflow([*options, "--json"])
    if exit_code:
        sys.exit(
            f"valflow {' '.join(arguments)} ended with {exit_code}: {printed.getvalue()}{messages.getvalue()}"
        )
    document: dict[str, Any] = json.loads(printed.getvalue())
    if say:
        outcome = document.get("sentence") or f"{document['changed']} labels"
        _line("review", f"{arguments[0]} {' '.join(a for a in arguments[2:] if '/' not in a)}: {outcome}")
    return document


def _say(stage: str, text: str, start: float) -> None:
    _line(stage, f"{text}  ({time.monotonic() - start:.0f} s)")


def _line(stage: str, text: str) -> None:
    print(f"{stage:<9} {text}", flush=True)


def _shown(home: Path, path: str) -> Path:
    return Path(path).relative_to(home)


if __name__ == "__main__":
    sys.exit(main())
