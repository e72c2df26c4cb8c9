"""The whole pipeline for real, from nothing to exported labels, with a scripted person as reviewer.

It starts its own MongoDB, Prefect server and worker in ``.valflow/``, and ends them again. What it makes stays
in ``demo_output/``; `make up` opens the same data afterwards.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from examples.digits.reviewer import review, valflow

CONFIG = Path(__file__).with_name("digits.yaml")
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
    from valflow import database
    from valflow.stack import Stack

    home = options.home.resolve()
    start = time.monotonic()
    with Stack(home, app=False, database="own") as stack:
        os.environ.update(stack.environment)
        _say("stack", f"MongoDB, Prefect ({stack.ui_url}) and a worker of our own", start)
        try:
            run = _walk(home, options.scenes, start)
        finally:
            database.disconnect()
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
    run = valflow("show", "latest")
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
    review(dataset, run, lambda line: _line("review", line))
    done = valflow("finalize", run["run"], "--yes", "--note", "scripted demo")
    _tell_the_end(done, start)
    return done


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


def _say(stage: str, text: str, start: float) -> None:
    _line(stage, f"{text}  ({time.monotonic() - start:.0f} s)")


def _line(stage: str, text: str) -> None:
    print(f"{stage:<9} {text}", flush=True)


def _shown(home: Path, path: str) -> Path:
    return Path(path).relative_to(home)


if __name__ == "__main__":
    sys.exit(main())
