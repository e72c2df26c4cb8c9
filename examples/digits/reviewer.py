"""The scripted person of the demos, who decides through the same commands as anybody."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

REVIEWER = "Robin (scripted)"


def review(dataset: Any, run: dict[str, Any], say: Callable[[str], None]) -> None:
    """What a person does at the prompt and in the App, through the same commands.

    Args:
        dataset: the run's FiftyOne dataset.
        run: its record, as ``valflow show`` prints it.
        say: called with one line per step.
    """

    def decide(*arguments: str) -> dict[str, Any]:
        done = valflow(arguments[0], run["run"], *arguments[1:])
        outcome = done.get("sentence") or f"{done['changed']} labels"
        say(f"{arguments[0]} {' '.join(a for a in arguments[1:] if '/' not in a)}: {outcome}")
        return done

    decide("approve", "--class", "3", "--class", "5", "--min-confidence", "0.6")
    decide("reject", "--max-confidence", "0.3")
    note = "thin strokes are taken for ones"
    decide(
        "tag",
        "false_positive",
        "--class",
        "1",
        "--max-confidence",
        "0.3",
        "--note",
        note,
    )
    corrected = _correct_one(dataset, f"{run['label_field']}_in_review")
    if corrected:
        decide("approve", "--label", corrected)
    drawn = decide("audit", "--seed", "7")
    verdicts = Path(drawn["sheet"]).with_suffix(".csv")
    judge(dataset, f"{run['label_field']}_in_review", drawn["items"], verdicts)
    decide("audit", "--verdicts", str(verdicts))


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


def judge(dataset: Any, field: str, items: list[dict[str, Any]], path: Path) -> None:
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


def valflow(*arguments: str) -> dict[str, Any]:
    """Run one command of the command line in this process, as its user would; returns its JSON."""
    from valflow.cli import main

    options = list(arguments)
    if options[0] in ("approve", "reject", "tag", "audit", "finalize"):
        options += ["--reviewer", REVIEWER]
    printed, messages = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(messages):
        exit_code = main([*options, "--json"])
    if exit_code:
        sys.exit(
            f"valflow {' '.join(arguments)} ended with {exit_code}: {printed.getvalue()}{messages.getvalue()}"
        )
    document: dict[str, Any] = json.loads(printed.getvalue())
    return document
