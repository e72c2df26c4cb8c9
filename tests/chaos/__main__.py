"""``python -m tests.chaos``: kills the pipeline at its writes, and says what was lost."""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.isolation import own_folder, settings

if TYPE_CHECKING:
    from tests.chaos.driver import Trial


def main() -> int:
    """Run it; 0 when nothing was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument(
        "--kills", type=int, help="so many, sampled over all stages; without it at every write"
    )
    parser.add_argument("--minutes", type=float, default=120.0, help="no trial begins after so many")
    parser.add_argument("--seed", type=int, default=51)
    parser.add_argument("--scenario", action="append", help="only this one; may be given again")
    parser.add_argument("--twice", type=float, default=0.0, help="share of trials that are killed again")
    parser.add_argument(
        "--whole", type=float, default=0.2, help="share of trials played to the end in any case"
    )
    parser.add_argument(
        "--only", help="steps and writes whose description holds this, such as 'judge it: review'"
    )
    parser.add_argument("--json", type=Path, help="write the trials here")
    options = parser.parse_args()
    with own_folder("valflow-chaos-") as folder:
        return _run(options, folder)


def _run(options: argparse.Namespace, folder: Path) -> int:
    from valflow.mongod import Mongod

    with Mongod(folder / "db", cache_gb=0.5) as mongod:
        os.environ.update(mongod.environment)
        os.environ.update(settings(folder))
        trials = _trials(options, folder, mongod.uri)
    for trial in trials:
        if trial.problems:
            print(f"\nLOST {trial}")
            for problem in trial.problems[:6]:
                print(f"    {problem}")
    from tests.chaos.driver import table

    print("\n" + "\n".join(table(trials)))
    print(f"actions on record twice, the first without effect: {sum(t.repeated for t in trials)}")
    if options.json:
        options.json.write_text(json.dumps([_as_json(t) for t in trials], indent=1))
    return int(any(t.problems for t in trials))


def _trials(options: argparse.Namespace, folder: Path, uri: str) -> list[Trial]:
    """All trials, from a process that has everything imported, and no connection."""
    import warnings

    warnings.simplefilter("ignore")
    import fiftyone.core.odm.database as connections
    import fiftyone.utils.eval.coco  # noqa: F401 - imported at its first use otherwise, in every child
    import great_expectations  # noqa: F401

    from tests.chaos.driver import Lab, Target, described, recover, sample_targets
    from tests.chaos.scenarios import digits_config, scenarios
    from valflow.models import open_model

    # Trained once, here.
    open_model(digits_config(folder).model)
    connections._disconnect()
    gc.freeze()
    lab = Lab(folder, uri, recover)
    chosen = [s for s in scenarios(lab.files) if options.scenario is None or s.name in options.scenario]
    before = {s.name: lab.undisturbed(s) for s in chosen}
    plan: list[tuple[Any, Target]] = [(s, t) for s in chosen for t in before[s.name].targets()]
    if options.only:
        plan = [(s, t) for s, t in plan if options.only in described(s.steps[t.step].name, t)]
    print(f"{len(plan)} places to die in {sum(len(w) for b in before.values() for w in b.writes)} writes")
    if options.kills is not None:
        wanted = sample_targets([t for _, t in plan], options.kills, options.seed)
        kept = {id(t) for t in wanted}
        plan = [(s, t) for s, t in plan if id(t) in kept]
    chance, trials, start = random.Random(options.seed), [], time.monotonic()
    if options.kills is not None:
        chance.shuffle(plan)  # what is broken off has seen something of everything
    for number, (scenario, target) in enumerate(plan, 1):
        if time.monotonic() - start > options.minutes * 60:
            print(f"broken off after {number - 1} of {len(plan)}: {options.minutes:.0f} minutes are over")
            break
        again = chance.randint(1, 60) if chance.random() < options.twice else None
        whole = chance.random() < options.whole
        trial = lab.trial(scenario, before[scenario.name], target, again=again, to_the_end=whole)
        trials.append(trial)
        if trial.problems or number % 25 == 0:
            lost = sum(bool(t.problems) for t in trials)
            print(
                f"{number:>5} of {len(plan)}, {lost} lost, {time.monotonic() - start:.0f} s  {trial}",
                flush=True,
            )
    return trials


def _as_json(trial: Trial) -> dict[str, Any]:
    return {
        "scenario": trial.scenario,
        "step": trial.step,
        "stage": trial.stage,
        "write": trial.target.write.as_json(),
        "when": trial.target.when,
        "killed": trial.killed,
        "repeated": trial.repeated,
        "problems": list(trial.problems),
    }


if __name__ == "__main__":
    sys.exit(main())
