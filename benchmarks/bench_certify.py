"""Approving labels without a look: what each way promises, what it does, and what it costs.

Run as ``python benchmarks/bench_certify.py [--repeats 200] [--jobs 2] [--quick]``. Prints, per batch and
method, the share of wrong labels among those that nobody looked at, in how many repeats it was above the
promise, the share of the batch that was approved so ("covered" counts the audited labels of the certified
region, too), and all labels that a person judged. Then: what a
sequential audit saves, and the time for a million labels.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.certify_methods import CERTIFYING, METHODS, Outcome, Task
from benchmarks.certify_worlds import NEEDS_FIFTYONE, WORLDS, Labels
from valflow.certify import Promise, audit_sequentially, audit_size, certify, draw_audit, propose

CONFIDENCE = 0.90
# Of one repeat: promises broken, promises made, and labels wrongly approved, approved, covered, looked at, in all.
Row = tuple[float, float, float, float, float, float, float]
Key = tuple[str, float, int, str]


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--quick", action="store_true", help="4 repeats: does it run")
    parser.add_argument("--only", default="", help="worlds whose name contains this")
    parser.add_argument("--methods", default="", help="methods whose name contains this")
    parser.add_argument("--without-fiftyone", action="store_true", help="leave out the demo's scenes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    repeats = 4 if options.quick else options.repeats
    worlds = [
        name
        for name in WORLDS
        if options.only in name and not (options.without_fiftyone and name in NEEDS_FIFTYONE)
    ]
    if any(name in NEEDS_FIFTYONE for name in worlds):
        from benchmarks.certify_worlds import scenes

        scenes()  # once, before there are several processes
    broken = compare(worlds, options.methods, repeats, options.jobs, options.seed)
    if not options.only and not options.methods:
        print_sequential(repeats)
        print_large(50_000 if options.quick else 1_000_000)
    if broken:
        print("\nbroken more often than promised: " + "; ".join(broken))
    return 1 if broken else 0


def compare(worlds: Sequence[str], methods: str, repeats: int, jobs: int, seed: int) -> list[str]:
    """Run all repeats, print a table per world, and name the certifying methods that broke their promise."""
    tasks = [(name, methods, seed, repeat) for name in worlds for repeat in range(repeats)]
    broken: list[str] = []
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"  # repeats run side by side already; read when a process starts
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        answers = pool.map(run_repeat, tasks, chunksize=max(1, min(4, repeats // (2 * jobs))))
        for name in worlds:  # printed as soon as it is there
            rows = [next(answers) for _ in range(repeats)]
            broken += print_world(name, methods, rows)
    return broken


def print_world(name: str, methods: str, repeats: Sequence[dict[Key, Row]]) -> list[str]:
    """The tables of one world; names the certifying methods that broke their promise too often."""
    broken = []
    for error, audit in WORLDS[name][1]:
        print(f"\n{name}: at most {error:.0%} wrong, {CONFIDENCE:.0%} confidence, {audit} labels to draw")
        print(f"{'':34s}{'wrong':>8s}{'broken':>16s}{'approved':>10s}{'covered':>10s}{'looks':>9s}")
        for method in (m for m in METHODS if methods in m):
            rows = np.array([r[name, error, audit, method] for r in repeats])
            share, spread = print_row(method, rows)
            if method in CERTIFYING[2:] and share > 1 - CONFIDENCE + 2 * spread:
                broken.append(f"{method} on {name}")
    return broken


def print_row(method: str, rows: np.ndarray) -> tuple[float, float]:
    """One method on one batch; returns the share of broken promises and its standard error."""
    failed, made, wrong, approved, covered, looks, total = rows.sum(axis=0)
    share = failed / made if made else 0.0
    spread = float(np.sqrt(max(share * (1 - share), 0.1 * 0.9) / max(made, 1)))
    error = f"{wrong / approved:8.1%}" if approved else f"{'-':>8s}"
    print(
        f"  {method:32s}{error}{share:8.1%} ± {np.sqrt(share * (1 - share) / max(made, 1)):5.1%}"
        f"{approved / total:10.1%}{covered / total:10.1%}{looks / len(rows):9.0f}",
        flush=True,
    )
    return share, spread


def run_repeat(task: tuple[str, str, int, int]) -> dict[Key, Row]:
    """All methods on one batch; every method sees the same batch and draws on its own."""
    name, methods, seed, repeat = task
    warnings.simplefilter("ignore")  # of scikit-learn, about iterations
    world_number = list(WORLDS).index(name)
    make, terms = WORLDS[name]
    world = make(np.random.default_rng([seed, world_number, repeat]))
    result: dict[Key, Row] = {}
    for error, audit in terms:
        for number, (method, decide) in enumerate(METHODS.items()):
            if methods in method:
                rng = np.random.default_rng([seed, world_number, repeat, number])
                outcome = decide(Task(world, Promise(error, CONFIDENCE), audit, rng))
                result[name, error, audit, method] = judge(world.batch, outcome, error)
    return result


def judge(batch: Labels, outcome: Outcome, error: float) -> Row:
    """Compare with the truth."""
    groups = np.zeros(len(batch.correct), np.int64) if outcome.groups is None else outcome.groups
    count = int(groups.max()) + 1
    approved = np.bincount(groups[outcome.approved], minlength=count)
    wrong = np.bincount(groups[outcome.approved & ~batch.correct], minlength=count)
    broken = int((wrong > error * approved + 1e-9).sum())
    total = len(batch.correct)
    free = float(approved.sum())
    return broken, count, float(wrong.sum()), free, outcome.covered, total - free, total


def print_sequential(repeats: int, total: int = 5000) -> None:
    """Looks of an audit that may stop at any time, beside one of a fixed size with 80 % power."""
    promise = Promise(0.05, CONFIDENCE)
    size, allowed, _ = audit_size(total, promise.max_error / 3, promise) or (total, 0, 0.0)
    print(f"\naudit of one region of {total} labels, at most 5 % wrong, 90 % confidence")
    print(f"{'truly wrong':>14s}{'fixed: looks, certified':>28s}{'may stop: looks, certified':>30s}")
    rng = np.random.default_rng(5)
    for error in (0.0, 0.005, 0.01, 0.0167, 0.025):
        truth = np.arange(total) < round(error * total)
        orders = [rng.permutation(truth) for _ in range(min(repeats, 200))]
        passed = np.mean([order[:size].sum() <= allowed for order in orders])
        stops = [audit_sequentially(order[: 3 * size], total, promise) for order in orders]
        looks, certified = np.mean([(s.judged, s.certified) for s in stops], axis=0)
        print(f"{error:14.1%}{size:18d}{passed:10.0%}{looks:20.0f}{certified:10.0%}", flush=True)


def print_large(labels: int, classes: int = 1203) -> None:
    """Proposal, draw and certificate for very many labels."""
    rng = np.random.default_rng(0)
    quality = rng.beta(5, 0.5, labels).round(6)
    code = rng.integers(0, classes, labels)
    correct = rng.random(labels) < quality
    start = time.perf_counter()
    proposal = propose(quality, code, history=600)
    draw = draw_audit(proposal, 1)
    result = certify(proposal, draw, correct[draw.positions].tolist())
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1024 if sys.platform != "darwin" else 1024**2
    )
    print(
        f"\n{labels:,} labels of {classes:,} classes: proposal, draw of {len(draw.positions):,} and certificate "
        f"in {seconds:.1f} s, the process at most {memory:.0f} MB; {len(result.approved):,} approved"
    )


if __name__ == "__main__":
    sys.exit(main())
