"""``python -m tests.chaos.stack_kills``: SIGKILL to the parts of a real stack at seeded moments, and what was lost."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.isolation import own_folder, settings

if TYPE_CHECKING:
    from tests.chaos.components import RunningStack
    from tests.chaos.stack_trials import Played

PER_RUN = 7


def main() -> int:
    """Run it; 0 when nothing was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.stack_kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=40, help="at least so many")
    parser.add_argument("--seed", type=int, default=51)
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--minutes", type=float, default=60.0, help="no run begins after so many")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--keep", action="store_true", help="leave the folder with all logs where it is")
    options = parser.parse_args()
    with own_folder("valflow-stack-kills-", in_memory=False, keep=options.keep) as folder:
        played, starts = run(folder, options)
    for line in table(played):
        print(line)
    print(f"starts of `valflow up`: {starts}")
    print(f"commands that a person had to give again: {sum(len(p.refused) for p in played)}")
    if options.json:
        options.json.write_text(
            json.dumps([vars(p) | {"kills": [vars(k) for k in p.kills]} for p in played], indent=1)
        )
    too_few = sum(len(p.kills) for p in played) < options.kills
    if too_few:
        print(f"expected at least {options.kills} kills within {options.minutes:.0f} minutes")
    from tests.chaos.components import COMPONENTS

    missed = sorted(set(COMPONENTS) - {k.component for p in played for k in p.kills})
    # Six parts drawn at random: after 40 kills one was hardly missed by chance.
    unmet = options.kills >= 40 and bool(missed)
    if unmet:
        print(f"never killed: {', '.join(missed)}; are they found by their command lines?")
    return int(too_few or unmet or any(p.problems for p in played))


def run(folder: Path, options: argparse.Namespace) -> tuple[list[Played], int]:
    """An undisturbed run, and disturbed ones until there were enough kills; and how often the stack was started."""
    from tests.chaos.components import RunningStack

    home = folder / "home"
    with RunningStack(home) as stack:
        os.environ.update(environment_of(stack, folder))
        lab = make_lab(stack, folder, options.scenes)
        played = list(_play(lab, options))
        return played, stack.starts


def environment_of(stack: RunningStack, folder: Path) -> dict[str, str]:
    """What a person's shell holds, before FiftyOne is imported in it."""
    from valflow.homes import read_record

    # Where Prefect and valflow live is the stack's affair.
    own = ("PREFECT_HOME", "VALFLOW_HOME")
    quiet = {name: value for name, value in settings(folder).items() if name not in own}
    return {**read_record(stack.home).addresses, **quiet}


def make_lab(stack: RunningStack, folder: Path, scenes: int) -> Any:
    """The demo's scenes and its configuration, in a stack that runs."""
    from examples.digits.demo import CONFIG
    from examples.digits.scenes import build_dataset
    from tests.chaos.stack_trials import DATASET, RUN, Lab
    from valflow.config import load_config

    files = folder / "files"
    pictures = folder / "scenes"
    demo = load_config(CONFIG)
    config = demo.model_copy(
        update={
            "dataset": DATASET,
            "run_key": RUN,
            "batch_size": 4,
            "shard_size": 4,
            "max_attempts": 10,
            "output_dir": str(files / "runs"),
            "export": [e.model_copy(update={"dir": str(files / "exports")}) for e in demo.export],
        }
    )
    return Lab(stack, files, config, lambda: build_dataset(DATASET, pictures, scenes))


def _play(lab: Any, options: argparse.Namespace) -> Iterator[Played]:
    from tests.chaos.stack_trials import draw_plan

    chance, start, kills, number = random.Random(options.seed), time.monotonic(), 0, 0
    calm = lab.play({})
    _say(number, calm, start)
    yield calm
    if calm.problems:
        return
    while kills < options.kills and time.monotonic() - start < options.minutes * 60:
        number += 1
        wanted = min(PER_RUN, max(options.kills - kills, 3))
        played = lab.play(draw_plan(chance, wanted, calm.pace), first=kills + 1)
        kills += len(played.kills)
        _say(number, played, start)
        yield played


def _say(number: int, played: Played, start: float) -> None:
    print(
        f"run {number}: {len(played.kills)} kills, {played.repairs} repairs, {len(played.problems)} losses, "
        f"{played.seconds:.0f} s ({time.monotonic() - start:.0f} s in all)",
        flush=True,
    )
    for problem in played.problems[:6]:
        print(f"    LOST {problem}", flush=True)
    for message in played.refused[:8]:
        print(f"    again: {message}", flush=True)


def table(played: Sequence[Played]) -> Iterator[str]:
    """The figures: kills by part and stage."""
    kills = Counter((k.component, k.stage) for p in played for k in p.kills)
    stages = sorted({stage for _, stage in kills})
    yield f"{'killed':<16}" + "".join(f"{s.lower():>15}" for s in stages) + f"{'all':>6}"
    for part in sorted({component for component, _ in kills}):
        counts = [kills[part, stage] for stage in stages]
        yield f"{part:<16}" + "".join(f"{n:>15}" for n in counts) + f"{sum(counts):>6}"
    totals = [sum(n for (_, s), n in kills.items() if s == stage) for stage in stages]
    yield f"{'all':<16}" + "".join(f"{n:>15}" for n in totals) + f"{sum(totals):>6}"
    yield f"runs {len(played)}, repairs {sum(p.repairs for p in played)}, losses {sum(len(p.problems) for p in played)}"


if __name__ == "__main__":
    sys.exit(main())
