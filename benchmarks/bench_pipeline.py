"""All stages of a run except the model and the review: CPU per label, and memory as the labels grow.

Run as ``python -m benchmarks.bench_pipeline [--samples 10000] [--large 100000]``. What a model would find lies
ready in a collection, and to fetch it is not counted. Each stage runs in a process of its own, so that its memory
can be told, after a small run that pays for imports and first uses; these and Prefect are fixed costs of a run,
with rows of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks import scenes, stand_in
from benchmarks.measuring import Meter, cpu_of, own_database
from valflow import database

STAGES = ("infer", "triage", "freeze", "validate", "finalize", "evaluate", "export", "report")
MICROSECONDS = 250
GROWTH_MB = 100
GROWING = ("infer", "triage", "finalize")
BYTES_TO_VALIDATE = 1000
TITLES = {
    "infer": "infer: write predictions and ledger (no model)",
    "triage": "triage: label checks, thresholds, tags, class table",
    "freeze": "decision: frozen copy, digest, checklist",
    "validate": "validate: the gate",
    "finalize": "finalize: promotion, verification, fingerprints",
    "evaluate": "evaluate: figures and marks",
    "export": "export: COCO, read back",
    "report": "report",
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=100_000, help="samples of the second dataset")
    parser.add_argument("--only-stages", action="store_true", help="no second dataset, no fixed costs")
    options = parser.parse_args()
    with own_database() as meter:
        if options.only_stages:
            add_costs(meter, measure(meter, options.samples, [",".join(STAGES)]))
        else:
            fixed_costs(meter)
            small, large = (measure(meter, samples, STAGES) for samples in (options.samples, options.large))
            add_costs(meter, small)
            add_costs(meter, large)
            add_memory(meter, small, large)
        meter.print_table(f"A whole run, {options.samples:,} images")


def measure(meter: Meter, samples: int, processes: Sequence[str]) -> dict[str, Any]:
    """One run, its stages spread over processes: ``{counts, costs: {stage: {cpu, peak, …}}, sizes}``."""
    name = f"bench_{samples}"
    dataset = scenes.write_dataset(
        name, scenes.make_scenes(samples), doubled=scenes.DOUBLED, folder=meter.folder / name
    )
    stand_in.keep_output(dataset, scenes.PREDICTIONS)
    costs: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for stages in processes:
        found = _in_a_process(meter, name, stages)
        costs |= found["costs"]
        counts = found["counts"]
    sizes = _sizes(dataset)
    dataset.delete()
    return {"counts": counts, "costs": costs, "sizes": sizes}


def _sizes(dataset: Any) -> dict[str, dict[str, float]]:
    """Bytes of the documents that the latest run leaves, by collection: ``documents, mean, largest``."""
    run = database.runs().find_one({"dataset_id": str(dataset._doc.id)}, sort=[("created_at", -1)])
    assert run is not None
    mine: dict[str, Any] = {"run": run["run"]}
    places = {
        "sample": (database.samples_of(dataset), {}),
        "ledger": (database.ledger(), mine),
        "targets of a shard": (database.targets(), mine),
        "run record": (database.runs(), mine),
        "safety copy": (database.copied(), {}),
    }
    size = {"$bsonSize": "$$ROOT"}
    figures = {"_id": None, "documents": {"$sum": 1}, "mean": {"$avg": size}, "largest": {"$max": size}}
    return {
        name: found
        for name, (collection, query) in places.items()
        for found in collection.aggregate([{"$match": query}, {"$group": figures}, {"$unset": "_id"}])
    }


def add_costs(meter: Meter, measured: dict[str, Any]) -> None:
    """One row per stage, and their sum."""
    costs, labels = measured["costs"], measured["counts"]["predicted"]
    for stage in STAGES:
        meter.row(TITLES[stage], labels, costs[stage]["cpu"])
    total = sum(costs[stage]["cpu"] for stage in STAGES)
    figure = f"{total / labels * 1e6:.0f} µs per label"
    meter.row("all stages", labels, total, figure, f"at most {MICROSECONDS} µs")


def add_memory(meter: Meter, small: dict[str, Any], large: dict[str, Any]) -> None:
    """What ten times the labels cost in memory."""
    few, many = small["counts"]["predicted"], large["counts"]["predicted"]
    for stage in GROWING:
        grown = (large["costs"][stage]["peak"] - small["costs"][stage]["peak"]) / 1e6
        name = f"memory of {stage}: growth from {few:,} labels"
        meter.row(name, many, None, f"{grown:+.0f} MB", f"less than {GROWTH_MB} MB")
    each = large["costs"]["validate"]["peak"] / large["counts"]["approved"]
    name = "memory of validate, per approved label"
    meter.row(
        name, large["counts"]["approved"], None, f"{each:.0f} bytes", f"less than {BYTES_TO_VALIDATE:,} bytes"
    )


def fixed_costs(meter: Meter) -> None:
    """Rows of what a run costs whatever its size: imports, and Prefect around the stages."""
    nothing = cpu_of([sys.executable, "-c", ""])
    for module in ("fiftyone", "great_expectations", "prefect"):
        taken = cpu_of([sys.executable, "-c", f"import {module}"]) - nothing
        meter.row(f"import {module} (once per process)", None, taken)
    few = "bench_few"
    scenes.write_dataset(few, scenes.make_scenes(20), folder=meter.folder / few)
    home = meter.folder / "prefect"
    settings = {"PREFECT_HOME": str(home), "VALFLOW_HOME": str(meter.folder), "PREFECT_API_URL": ""}
    config = meter.folder / "few.yaml"
    config.write_text(
        json.dumps(
            {
                "dataset": few,
                "label_field": "final",
                "model": {"kind": "field", "field": scenes.PREDICTIONS},
                "review": {"required": False},
                "output_dir": str(meter.folder / "runs"),
            }
        )
    )
    whole = cpu_of([sys.executable, "-m", "valflow.cli", "run", str(config)], settings)
    meter.row("a run of 20 images by `valflow run`, imports and Prefect's own server included", None, whole)


def _in_a_process(meter: Meter, dataset: str, stages: str) -> Any:
    command = [sys.executable, "-m", "benchmarks.stages", dataset, "--server", str(meter.server.pid)]
    command += ["--folder", str(meter.folder), "--stages", stages]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=dict(os.environ))
    if done.returncode:
        sys.exit(f"{stages} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
