"""Certified approval over time, on the demo's own detector: large runs with a growing history, then small nightly ones.

Every label has ground truth, which plays the reviewer and afterwards tells how many labels that nobody looked at are
wrong. ``python -m benchmarks.bench_nights`` needs about five minutes on two cores; ``--help`` shows its sizes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import own_database

REVIEWER = "ann"
TRUTH = "ground_truth"
DAY = timedelta(days=1)
_APPROVAL = {"mode": "certified", "max_error": 0.05, "confidence": 0.90, "ground_truth": TRUTH}


@dataclass(frozen=True)
class Outcome:
    """What one certified batch came to.

    Attributes:
        labels: in the batch.
        history: verdicts of earlier runs behind its scores.
        audited: labels judged in the audit.
        approved: without a look.
        wrong: of these, by ground truth.
        groups: certified groups.
        broken: of these with more wrong labels than promised.
        waited: how long the oldest labels waited for others.
    """

    labels: int
    history: int
    audited: int
    approved: int
    wrong: int
    groups: int
    broken: int
    waited: timedelta

    @property
    def looks(self) -> int:
        """Labels that a person judged, in the audit and in the queue."""
        return self.labels - self.approved


def config_of(dataset: Any, folder: Path, lot: dict[str, Any] | None) -> Any:
    """The configuration of all runs."""
    from valflow.config import config_from_mapping

    return config_from_mapping(
        {
            "dataset": dataset.name,
            "label_field": "final",
            "model": {"kind": "python", "path": "examples.digits.model:DigitDetector"},
            "approval": {**_APPROVAL, "lot": lot},
            "output_dir": str(folder / "runs"),
        }
    )


def start(dataset: Any, config: Any) -> str | None:
    """One start of the pipeline up to its review; None where the labels wait for more."""
    from valflow import inference, lots, opening, runs, triage

    opened = opening.open_run(config)
    if opened.outcome != "run" or opened.run is None:
        raise RuntimeError(opened.message)
    record = opening.prepare(runs.load(opened.run), dataset)
    for shard in range(record["target"]["shards"]):
        inference.infer_shard(opened.run, shard)
    record = inference.finish_inference(runs.load(opened.run))
    if not lots.close_if_due(record):
        runs.release(runs.fence_of(record))
        return None
    triage.begin_triage(record, dataset)
    triage.finish_triage(runs.load(opened.run), dataset)
    return opened.run


def review(run: str, dataset: Any) -> Outcome:
    """Judge the audit and the queue by ground truth, finalize, and count what went wrong."""
    from valflow import actions, certifying, database, decisions, promotion, runs
    from valflow.certify import CORRECT
    from valflow.selections import Selection
    from valflow.states import Event
    from valflow.truth import verdicts_by_truth

    certifying.judge_from_ground_truth(run)
    record = runs.load(run)
    items = [
        {"number": number, "label_id": entry["_id"], "sample_id": document["sample_id"], "entry": entry}
        for number, (document, entry) in enumerate(
            (d, e) for d in database.ledger().find({"run": run}) for e in d.get("labels", [])
        )
    ]
    verdicts = verdicts_by_truth(record, items, TRUTH)
    queue = [i for i in items if i["entry"]["state"] == "undecided"]
    for act, is_right in ((actions.approve, True), (actions.reject, False)):
        ids = tuple(str(i["label_id"]) for i in queue if (verdicts[i["number"]] == CORRECT) == is_right)
        for first in range(0, len(ids), 500):
            act(run, Selection(label_ids=ids[first : first + 500]), REVIEWER)
    decisions.submit(run, decisions.Decision("finalize", REVIEWER))
    record = runs.transition(runs.load(run), Event.VALIDATE, actor="policy")
    promotion.promote(record, dataset)
    return _outcome(runs.load(run), items, verdicts)


def _outcome(record: dict[str, Any], items: list[dict[str, Any]], verdicts: dict[int, str]) -> Outcome:
    from valflow.certify import CORRECT
    from valflow.runs import aware

    certificate = record["certificate"]
    wrong = 0
    broken = 0
    for group in certificate["groups"]:
        names = {c["label"] for c in group.get("by_class", [])}
        approved = [
            i
            for i in items
            if i["entry"]["action"] == certificate.get("action") and i["entry"]["label"] in names
        ]
        bad = sum(verdicts[i["number"]] != CORRECT for i in approved)
        wrong += bad
        broken += bad > certificate["promise"]["max_error"] * len(approved)
    lot = record.get("lot")
    waited = aware(lot["closed_at"]) - aware(lot["arrivals"][0]["at"]) if lot else timedelta(0)
    return Outcome(
        labels=certificate["labels"],
        history=certificate["history"],
        audited=certificate.get("audited", 0),
        approved=certificate["approved"],
        wrong=wrong,
        groups=sum(bool(g.get("approved")) for g in certificate["groups"]),
        broken=broken,
        waited=waited,
    )


def recurring(folder: Path, scenes: int, count: int) -> Iterator[Outcome]:
    """Runs of equal size, the first without history."""
    from examples.digits.scenes import add_scenes, build_dataset

    dataset = build_dataset("bench-recurring", folder / "recurring", scenes)
    for number in range(count):
        if number:
            add_scenes(dataset, folder / "recurring", scenes)
        run = start(dataset, config_of(dataset, folder, None))
        if run is None:
            raise RuntimeError("a run without a lot waits for more labels")
        yield review(run, dataset)


def nightly(folder: Path, nights: int, seed: int = 0) -> Iterator[Outcome | None]:
    """One start a night on 20 to 50 new images; an outcome where a lot was closed, None where it waits."""
    from examples.digits.scenes import add_scenes, build_dataset
    from valflow import database

    random = np.random.default_rng(seed)
    dataset = build_dataset("bench-nightly", folder / "nightly", int(random.integers(20, 51)))
    config = config_of(dataset, folder, {"min_labels": 2000, "max_wait": "7d"})
    for night in range(nights):
        if night:
            add_scenes(dataset, folder / "nightly", int(random.integers(20, 51)))
            _let_a_day_pass(database)
        run = start(dataset, config)
        yield None if run is None else review(run, dataset)


def _let_a_day_pass(database: Any) -> None:
    """What waits has waited a day longer."""
    for record in database.runs().find({"open": True, "lot": {"$ne": None}}):
        arrivals = [{**a, "at": a["at"] - DAY} for a in record["lot"]["arrivals"]]
        database.runs().update_one({"run": record["run"]}, {"$set": {"lot.arrivals": arrivals}})


def row(name: str, o: Outcome) -> str:
    """An outcome as a line of the table."""
    wrong = f"{100 * o.wrong / o.approved:.1f} %" if o.approved else "–"
    return (
        f"{name:<10} {o.labels:>7,} {o.history:>8,} {o.audited:>8,} {o.approved:>9,} {o.approved / o.labels:>6.0%} "
        f"{wrong:>7} {o.broken:>3} of {o.groups:<3} {o.looks:>7,} {1000 * o.looks / o.labels:>9,.0f} "
        f"{o.waited / DAY:>6.1f} d"
    )


HEAD = (
    f"{'':<10} {'labels':>7} {'history':>8} {'audited':>8} {'approved':>9} {'':>6} {'wrong':>7} {'broken':>9} "
    f"{'looks':>7} {'per 1,000':>9} {'waited':>8}"
)


def total(outcomes: Sequence[Outcome]) -> Outcome:
    """All of them together."""

    def summed(name: str) -> int:
        return sum(getattr(o, name) for o in outcomes)

    longest = max(o.waited for o in outcomes)
    names = ("labels", "audited", "approved", "wrong", "groups", "broken")
    return Outcome(**{n: summed(n) for n in names}, history=outcomes[-1].history, waited=longest)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both parts; fails where a label waited too long, or more promises broke than chance allows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--scenes", type=int, default=1500, help="images of a large run (default: %(default)s)"
    )
    parser.add_argument("--runs", type=int, default=4, help="large runs (default: %(default)s)")
    parser.add_argument("--nights", type=int, default=30, help="small runs (default: %(default)s)")
    options = parser.parse_args(arguments)
    everything: list[Outcome] = []
    with own_database() as meter:
        print("Certified at 5 %, 90 % confidence; the demo's detector\n\n" + HEAD)
        for number, outcome in enumerate(recurring(meter.folder, options.scenes, options.runs), 1):
            print(row(f"run {number}", outcome), flush=True)
            everything.append(outcome)
        print(f"\n{options.nights} nights of 20 to 50 images, in lots of 2,000 labels or 7 days\n\n" + HEAD)
        lots = []
        for night, closed in enumerate(nightly(meter.folder, options.nights), 1):
            if closed is not None:
                print(row(f"night {night}", closed), flush=True)
                lots.append(closed)
        if lots:
            print(row("all", total(lots)))
        everything += lots
    both = total(everything)
    too_long = [o for o in everything if o.waited > 7 * DAY]
    # Each promise may break in one of ten cases; two standard errors above that is no chance any more.
    allowed = 0.1 * both.groups + 2 * np.sqrt(0.09 * both.groups)
    print(f"\n{both.broken} of {both.groups} promises broken; longest wait {both.waited / DAY:.1f} days")
    return int(bool(too_long) or both.broken > allowed)


if __name__ == "__main__":
    sys.exit(main())
