"""The stages of a run as the flow calls them, without Prefect; and a process of its own that measures them.

``python -m benchmarks.stages DATASET --server PID --folder DIR --stages infer,triage`` prints JSON. The database
is the one that FIFTYONE_DATABASE_URI names. For figures of memory give each stage a process: what an earlier
stage freed would hide what a later one takes.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks import scenes, stand_in
from benchmarks.measuring import Meter

LABEL_FIELD = "final"
REVIEWER = "ann"
_SAMPLING_SECONDS = 0.02
_TINY = 100


@dataclass(frozen=True)
class Cost:
    """What one stage took.

    Attributes:
        cpu: seconds of CPU, of this process and mongod.
        peak: bytes of memory above what the process held before.
        wall: seconds on the clock, what is measured apart included.
        resident: bytes that the process held at most.
        server: bytes that mongod held at most.
        server_cpu: seconds of CPU of mongod alone, what is measured apart included.
    """

    cpu: float
    peak: int
    wall: float
    resident: int
    server: int
    server_cpu: float


def config_of(dataset: str, folder: Path) -> Any:
    """The configuration of the run that is measured."""
    from valflow.config import config_from_mapping

    return config_from_mapping(
        {
            "dataset": dataset,
            "label_field": LABEL_FIELD,
            "model": {"kind": "python", "path": "benchmarks.silent_model:SilentModel"},
            "min_confidence": 0.0,
            "approval": {"threshold": 0.7, "per_class": scenes.thresholds()},
            "evaluation": {"ground_truth": scenes.TRUTH},
            "export": [{"format": "coco", "dir": str(folder / "exports"), "media": "none"}],
            "output_dir": str(folder / "runs"),
        }
    )


def open_run(dataset: str, folder: Path) -> str:
    """Create the run."""
    from valflow import opening

    opened = opening.open_run(config_of(dataset, folder))
    assert opened.outcome == "run", opened
    assert opened.run is not None
    return opened.run


def infer(run: str) -> None:
    """Write what the model finds; the model itself counts apart."""
    import fiftyone as fo

    from valflow import inference, opening, runs

    setattr(inference, "open_model", stand_in.open_model)  # noqa: B010
    record = runs.load(run)
    record = opening.prepare(record, fo.load_dataset(record["dataset"]))
    for shard in range(record["target"]["shards"]):
        inference.infer_shard(run, shard)
    inference.finish_inference(runs.load(run))


def triage(run: str) -> None:
    """Ledger, label checks, thresholds, tags, class table."""
    import fiftyone as fo

    from expectations.gate import failing_labels
    from expectations.loader import load_suite
    from valflow import label_states, runs, tables, validation
    from valflow import triage as stage

    record = runs.load(run)
    dataset = fo.load_dataset(record["dataset"])
    stage.begin_triage(record, dataset)
    suites = [load_suite(name, Path.cwd()) for name in record["config"]["validation"]["suites"]]
    parameters = validation.suite_parameters(record, dataset)
    for table in tables.predicted_tables(record, dataset):
        label_states.mark_invalid(run, tables.by_sample(failing_labels(table, suites, parameters), table))
    stage.finish_triage(record, dataset)


def review(run: str) -> None:
    """What a person would do; never measured."""
    from valflow import actions
    from valflow.selections import Selection

    actions.approve(run, Selection(classes=scenes.CLASSES[:3], min_confidence=0.5), REVIEWER)
    actions.reject(run, Selection(max_confidence=0.3), REVIEWER)


def freeze(run: str) -> None:
    """The decision: copy what is approved, its digest, the checklist."""
    from valflow import decisions

    decisions.submit(run, decisions.Decision("finalize", REVIEWER, override="a benchmark draws no sample"))


def validate(run: str) -> None:
    """The gate."""
    import fiftyone as fo

    from expectations.gate import validate as judge
    from expectations.loader import load_suite
    from expectations.page import render_page
    from valflow import runs, tables, validation

    record = runs.load(run)
    dataset = fo.load_dataset(record["dataset"])
    labels = tables.decided_table(record, dataset)
    suites = [load_suite(name, Path.cwd()) for name in record["config"]["validation"]["suites"]]
    samples = tables.sample_table(labels)
    parameters = validation.suite_parameters(record, dataset)
    outcome = judge({"labels": labels, "samples": samples}, suites, parameters)
    assert outcome.passed, [check for check in outcome.checks if check.blocks]
    result = outcome.to_json()
    validation.conclude(record, result, render_page(result, f"Validation of {run}"), {})


def finalize(run: str) -> None:
    """The promotion."""
    import fiftyone as fo

    from valflow import promotion, runs

    record = runs.load(run)
    promotion.promote(record, fo.load_dataset(record["dataset"]))


def evaluate(run: str) -> None:
    """Figures, and the marks of true and false positives."""
    import fiftyone as fo

    from valflow import evaluation, runs

    record = runs.load(run)
    settings = record["config"]["evaluation"]
    metrics = evaluation.evaluate(
        fo.load_dataset(record["dataset"]),
        record["label_field"],
        settings["ground_truth"],
        settings["eval_key"],
        run_key=run,
        iou=settings["iou"],
    )
    runs.update(runs.fence_of(record), {"metrics": metrics})


def export(run: str) -> None:
    """COCO, read back and compared."""
    from valflow import run_exports, runs

    record = runs.load(run)
    for entry in run_exports.export_run(record, run_exports.missing_exports(record)):
        runs.update(runs.fence_of(record), {"exports": [entry]})


def report(run: str) -> None:
    """Record, HTML, Markdown, pictures."""
    from valflow import reporting, runs

    reporting.write_run_report(runs.load(run))


STAGES: dict[str, Callable[[str], None]] = {
    f.__name__: f for f in (infer, triage, freeze, validate, finalize, evaluate, export, report)
}


def run_stages(run: str, stages: Sequence[str], meter: Meter) -> dict[str, Cost]:
    """Run some stages of a run and measure each."""
    costs = {}
    for name in stages:
        begin, server_begin = time.perf_counter(), sum(meter.server.cpu_times()[:2])
        with _peak_memory(meter.server) as peak, meter.measure((stand_in, "fetch")) as measured:
            STAGES[name](run)
        wall = time.perf_counter() - begin
        server_cpu = sum(meter.server.cpu_times()[:2]) - server_begin
        costs[name] = Cost(measured.rest, peak.above, wall, peak.resident, peak.server, server_cpu)
        if name == "triage":
            review(run)
    return costs


class _Peak:
    above = resident = server = 0


@contextmanager
def _peak_memory(server: psutil.Process) -> Iterator[_Peak]:
    """Largest resident memory inside the block, in bytes: of this process, also above what it was before; of mongod."""
    process, stop, result = psutil.Process(), threading.Event(), _Peak()
    _give_back_memory()
    before = process.memory_info().rss

    def look() -> None:
        result.resident = max(result.resident, process.memory_info().rss)
        result.above = result.resident - before
        result.server = max(result.server, server.memory_info().rss)

    def watch() -> None:
        while not stop.wait(_SAMPLING_SECONDS):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield result
    finally:
        stop.set()
        thread.join()
        look()


def _give_back_memory() -> None:
    """Return freed memory to the system, where the C library can."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # not glibc
        return


def main() -> None:
    """Measure stages of the latest run into a dataset; the first stage opens it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--server", type=int, required=True, help="process of the database")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--stages", required=True)
    options = parser.parse_args()
    meter = Meter(psutil.Process(options.server), options.folder)
    stages = options.stages.split(",")
    _run_tiny(options.folder, stages[-1], meter)
    from valflow import runs

    if stages[0] == "infer":
        run = open_run(options.dataset, options.folder)
    else:
        run = runs.list_runs(options.dataset, 1)[0]["run"]
    costs = {name: asdict(cost) for name, cost in run_stages(run, stages, meter).items()}
    print(json.dumps({"counts": runs.load(run)["counts"], "costs": costs}))


def _run_tiny(folder: Path, last: str, meter: Meter) -> None:
    """The stages on a few images, so that imports and first uses are paid before anything is measured."""
    name = f"tiny_{psutil.Process().pid}"
    few = scenes.make_scenes(_TINY)
    dataset = scenes.write_dataset(name, few, doubled=scenes.DOUBLED, folder=folder / name)
    stand_in.keep_output(dataset, scenes.PREDICTIONS)
    names = list(STAGES)
    run_stages(open_run(name, folder), names[: names.index(last) + 1], meter)


if __name__ == "__main__":
    main()
