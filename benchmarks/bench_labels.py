"""Approval, class table and promotion, beside the loop over samples with ``save()`` and FiftyOne's best API.

Run as ``python -m benchmarks.bench_labels [--samples 10000]``. Both sides get the same labels and thresholds, and
must come to the same counts.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from typing import Any

import numpy as np

from benchmarks import scenes, stages, stand_in
from benchmarks.measuring import Measured, Meter, own_database

LEAST_APPROVAL, LEAST_PROMOTION, LEAST_TABLE = 70.0, 30.0, 100.0
BINS = 20


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10_000)
    options = parser.parse_args()
    with own_database() as meter:
        run_ours(meter, 100, "warm")  # imports and first uses are not what is compared
        ours = run_ours(meter, options.samples, "ours")
        theirs = run_theirs(options.samples, meter)
        assert ours.approved == theirs.approved, (ours.approved, theirs.approved)
        assert ours.table == theirs.table
        add_rows(meter, ours, theirs)
        meter.print_table(f"Labels, {options.samples:,} images")


class Outcome:
    """What one side measured and counted."""

    def __init__(self) -> None:
        self.costs: dict[str, Measured] = {}
        self.labels = 0
        self.approved = 0
        self.table: dict[str, tuple[int, list[int]]] = {}


def run_ours(meter: Meter, samples: int, name: str) -> Outcome:
    """The stages up to finalization, step by step."""
    import fiftyone as fo

    from valflow import (
        decisions,
        fingerprints,
        inference,
        label_states,
        ledger,
        mirroring,
        promotion,
        runs,
        triage,
    )

    done, cost = Outcome(), {}
    folder = meter.folder / name
    made = scenes.write_dataset(name, scenes.make_scenes(samples), folder=folder / "images")
    stand_in.keep_output(made, scenes.PREDICTIONS)
    run = stages.open_run(name, folder)
    with meter.measure((ledger, "account"), (inference, "_stage")) as cost["infer"]:
        stages.infer(run)
    dataset = fo.load_dataset(name)
    with meter.measure() as cost["fingerprints"]:
        fingerprints.take_fingerprints(runs.load(run), dataset)
    levels = scenes.thresholds()
    with meter.measure() as cost["approve"]:
        done.approved = label_states.approve_by_threshold(run, 0.7, levels)
    with meter.measure() as cost["table"]:
        table = ledger.class_table(run)
    with meter.measure() as cost["mirror"]:
        mirroring.mirror_tags(runs.load(run), dataset)
    done.table = {row["label"]: (row["total"], row["histogram"]) for row in table}
    done.labels = sum(row["total"] for row in table)
    triage.finish_triage(runs.load(run), dataset)
    parts = ((decisions, "freeze_labels"), (decisions, "digest_of"))
    with meter.measure(*parts) as cost["decision"]:
        stages.freeze(run)
    _pass_the_gate(run)
    of_promotion = ((promotion, "digest_of"), (promotion, "_make_copy"), (promotion, "_verify"))
    with meter.measure(*of_promotion) as cost["promote"]:
        stages.finalize(run)
    assert runs.load(run)["counts"]["finalized"] == done.approved
    done.costs = cost
    return done


def _pass_the_gate(run: str) -> None:
    """Validation is measured elsewhere."""
    from valflow import runs, validation

    validation.conclude(runs.load(run), {"passed": True, "checks": []}, "", {})


def run_theirs(samples: int, meter: Meter) -> Outcome:
    """The same by the loops that the guide shows, and by FiftyOne's bulk methods."""
    import fiftyone as fo
    from fiftyone import ViewField as F

    done, cost = Outcome(), {}
    levels = scenes.thresholds()
    dataset = scenes.write_dataset("theirs", scenes.make_scenes(samples))
    with meter.measure() as cost["table loop"]:
        done.table = table_by_loop(dataset)
    with meter.measure() as cost["table"]:
        table_by_fiftyone(dataset)
    passes = F("confidence") >= F("label").map_values(levels)
    state = passes.if_else("approved", "undecided")
    with meter.measure() as cost["approve"]:
        dataset.set_field("predictions.detections.state", state, _allow_missing=True).save("predictions")
    with meter.measure() as cost["approve loop"]:
        done.approved = approve_by_loop(dataset, levels)
    with meter.measure() as cost["promote"]:
        approved = dataset.filter_labels("predictions", F("tags").contains("approved"))
        approved.clone_sample_field("predictions", "best")
    with meter.measure() as cost["promote loop"]:
        for sample in dataset:
            kept = [d for d in sample.predictions.detections if "approved" in d.tags]
            if kept:
                sample["final"] = fo.Detections(detections=kept)
                sample.save()
        dataset.delete_sample_field("predictions")
    done.labels = dataset.count("final.detections")
    assert done.labels == done.approved
    done.costs = cost
    return done


def approve_by_loop(dataset: Any, levels: dict[str, float]) -> int:
    """Tag every label at or above its threshold, sample by sample."""
    approved = 0
    for sample in dataset:
        for detection in sample.predictions.detections:
            if detection.confidence >= levels[detection.label]:
                detection.tags.append("approved")
                approved += 1
        sample.save()
    return approved


def table_by_loop(dataset: Any) -> dict[str, tuple[int, list[int]]]:
    """Total and histogram of confidence per class."""
    levels: dict[str, list[float]] = defaultdict(list)
    for sample in dataset:
        for detection in sample.predictions.detections:
            levels[detection.label].append(detection.confidence)
    return {label: (len(found), _histogram(found)) for label, found in levels.items()}


def table_by_fiftyone(dataset: Any) -> dict[str, tuple[int, list[int]]]:
    """The same from FiftyOne's ``values``."""
    labels, confidences = dataset.values(
        ["predictions.detections.label", "predictions.detections.confidence"], unwind=True
    )
    count = Counter(labels)
    levels: dict[str, list[float]] = defaultdict(list)
    for label, confidence in zip(labels, confidences, strict=True):
        levels[label].append(confidence)
    return {label: (count[label], _histogram(found)) for label, found in levels.items()}


def _histogram(levels: list[float]) -> list[int]:
    places = np.minimum((np.array(levels) * BINS).astype(int), BINS - 1)
    return np.bincount(places, minlength=BINS).tolist()


def add_rows(meter: Meter, ours: Outcome, theirs: Outcome) -> None:
    """The table."""
    n, mine, other = ours.labels, ours.costs, theirs.costs
    infer = mine["infer"]
    meter.row("ledger: enter the predictions", n, infer.apart["account"])
    meter.row("review field: write the predictions", n, infer.apart["_stage"])
    meter.row("fingerprints of everything else", n, mine["fingerprints"].cpu)
    loop = other["approve loop"].cpu
    meter.row("approve by threshold: loop with save()", n, loop)
    meter.against("approve by threshold: FiftyOne, set_field().save()", n, other["approve"].cpu, loop)
    meter.against(
        "approve by threshold: valflow, in the ledger", n, mine["approve"].cpu, loop, LEAST_APPROVAL
    )
    meter.row("its mirror in the tags that people see", n, mine["mirror"].cpu)
    loop = other["table loop"].cpu
    meter.row("class table: loop", n, loop)
    meter.against("class table: FiftyOne, values()", n, other["table"].cpu, loop)
    meter.against("class table: valflow", n, mine["table"].cpu, loop, LEAST_TABLE)
    decision, promote = mine["decision"], mine["promote"]
    meter.row("freeze the approved labels", n, decision.apart["freeze_labels"])
    meter.row("digest of the frozen labels", n, decision.apart["digest_of"])
    meter.row("checklist and the rest of the decision", n, decision.rest)
    loop = other["promote loop"].cpu
    meter.row("finalize: loop with save()", n, loop)
    meter.against("finalize: FiftyOne, clone_sample_field()", n, other["promote"].cpu, loop)
    copy = promote.apart["_make_copy"]
    meter.against(
        "finalize: valflow, safety copy and promotion with schema",
        n,
        promote.rest + copy,
        loop,
        LEAST_PROMOTION,
    )
    meter.row("of it the safety copy", n, copy)
    meter.row("check of the digest before it", n, promote.apart["digest_of"])
    meter.row("counts and fingerprints after it", n, promote.apart["_verify"])


if __name__ == "__main__":
    main()
