"""``python -m tests.races --rounds 1000``: eight processes at once, and how each race ended."""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from tests.isolation import own_folder, settings

PROCESSES = 8


def main() -> int:
    """Run it; 0 when each race ended as it must."""
    parser = argparse.ArgumentParser(prog="python -m tests.races", description=__doc__)
    parser.add_argument("--rounds", type=int, default=27)
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--only", action="append", help="only this contest; may be given again")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no round after so many")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first that ends badly")
    options = parser.parse_args()
    with own_folder("valflow-races-") as folder:
        return _run(options, folder)


def _run(options: argparse.Namespace, folder: Path) -> int:
    from valflow.mongod import Mongod

    with Mongod(folder / "db", cache_gb=0.5) as mongod:
        os.environ.update(mongod.environment)
        os.environ.update(settings(folder))
        warnings.simplefilter("ignore")
        import fiftyone.core.odm.database as connections

        from tests.races.acts import ACTS
        from tests.races.crew import Crew

        # Forked processes must each connect for themselves.
        connections._disconnect()
        crew = Crew(PROCESSES, ACTS)
        try:
            return _hold(options, folder, crew)
        finally:
            crew.dismiss()


def _hold(options: argparse.Namespace, folder: Path, crew: Any) -> int:
    from tests.races.contests import CONTESTS, Ground

    ground = Ground(folder, random.Random(options.seed))
    chosen = [c for c in CONTESTS if options.only is None or c.name in options.only]
    if options.only is None:
        # Lives of a run, five rounds each, and between them one of the others.
        chosen = [c for other in chosen[5:] for c in (*chosen[:5], *chosen[:5], other)]
    rounds: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    told_as: dict[str, Counter[str]] = {c.name: Counter() for c in chosen}
    seconds: Counter[str] = Counter()
    until = time.monotonic() + 60 * options.minutes
    for number in range(options.rounds):
        if time.monotonic() > until:
            break
        contest = chosen[number % len(chosen)]
        parts = contest.prepare(ground, PROCESSES)
        begin = time.monotonic()
        told = crew.race(parts)
        seconds[contest.name] += time.monotonic() - begin
        problems = contest.check(ground, parts, told)
        rounds[contest.name] += 1
        told_as[contest.name].update(t.kind for t in told)
        if problems:
            bad[contest.name] += 1
            print(f"\nround {number}, {contest.name}: ended badly")
            print("\n".join(f"    {p}" for p in problems), flush=True)
            if not options.keep_going:
                break
        elif number % 25 == 24:
            print(f"{number + 1} rounds, {sum(bad.values())} ended badly", flush=True)
    print(f"\n{'contest':<24}{'rounds':>7}{'bad':>5}{'ms':>7}  what the {PROCESSES} processes were told")
    for name, n in rounds.items():
        kinds = ", ".join(f"{k} {c}" for k, c in told_as[name].most_common())
        print(f"{name:<24}{n:>7}{bad[name]:>5}{1000 * seconds[name] / n:>7.0f}  {kinds}")
    print(f"{'all':<24}{rounds.total():>7}{bad.total():>5}")
    return int(bad.total() > 0)


if __name__ == "__main__":
    sys.exit(main())
