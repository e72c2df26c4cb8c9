"""Where `review.reviewers` is set, nobody else acts on the run under a name of theirs, whatever the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.builders import counts, ids_where, judge_all, make_config, make_dataset, make_run
from valflow import actions, app_edits, audits, completeness, database, decisions, rolling_back, runs, undoing
from valflow.cli import main as valflow
from valflow.errors import DecisionRefused
from valflow.selections import Selection

EVERYTHING = Selection(all=True)

ACTS: dict[str, Callable[[str, str], Any]] = {
    "approve": lambda run, who: actions.approve(run, EVERYTHING, who),
    "approve by id": lambda run, who: actions.approve(
        run, Selection(label_ids=(ids_where(run, state="undecided")[0],)), who
    ),
    "reject": lambda run, who: actions.reject(run, EVERYTHING, who),
    "reset": lambda run, who: actions.reset(run, who),
    "undo": lambda run, who: undoing.undo(run, who),
    "tag": lambda run, who: actions.tag(run, "poor_bbox", EVERYTHING, who),
    "draw": lambda run, who: audits.draw(run, who),
    "judge": lambda run, who: audits.judge(run, {1: "correct"}, who),
    "judge images": lambda run, who: completeness.judge(run, {1: "complete"}, who),
    "adopt": app_edits.adopt_drawn,
    "preview": decisions.preview,
    "finalize": lambda run, who: decisions.submit(run, decisions.Decision("finalize", who, override="x")),
    "finalize with the digest": lambda run, who: decisions.submit(
        run,
        decisions.Decision("finalize", who, override="x", digest=decisions.preview(run, "ann").digest),
    ),
    "discard": lambda run, who: decisions.submit(run, decisions.Decision("discard", who)),
}
COMMANDS = {
    "approve": ["--all"],
    "reject": ["--all"],
    "undo": [],
    "tag": ["poor_bbox", "--all"],
    "finalize": ["--yes", "--override", "x"],
    "discard": ["--yes"],
}
# Not the same name, though it looks so, or would in another writing.
IMPOSTORS = ["eve", "Ann", "ann,bob", "ann\u200b", "аnn"]


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    return make_dataset(tmp_path, samples=3, empty=0)


@pytest.fixture
def run(dataset: Any) -> str:
    run = make_run(dataset, review={"reviewers": ["ann", "bob"]})
    actions.reject(run, Selection(label_ids=(ids_where(run, state="undecided")[0],)), "ann")
    audits.draw(run, "ann", size=3)
    return run


def is_refused(act: Callable[[str, str], Any], run: str, name: str) -> bool:
    try:
        act(run, name)
    except DecisionRefused as refusal:
        return "may not decide this run; its reviewers are ann, bob" in str(refusal)
    return False


@pytest.mark.parametrize("name", IMPOSTORS)
def test_nobody_else_acts(run: str, name: str) -> None:
    before = counts(run), len(actions.history_of(run))
    assert [what for what, act in ACTS.items() if not is_refused(act, run, name)] == []
    assert (counts(run), len(actions.history_of(run))) == before
    assert runs.load(run)["state"] == "IN_REVIEW"


def test_those_on_the_list_do(run: str) -> None:
    for act, name in (
        ("undo", "ann"),
        ("approve", "bob"),
        ("tag", "ann"),
        ("judge", "ann"),
        ("reject", " bob "),
    ):
        ACTS[act](run, name)
    assert decisions.submit(run, decisions.Decision("discard", "bob"))["state"] == "DISCARDED"


def test_nor_by_the_command_line(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command, options in COMMANDS.items():
        assert valflow([command, run, "--reviewer", "eve", *options]) == 1, command
        assert "its reviewers are ann, bob" in capsys.readouterr().err
    assert runs.load(run)["state"] == "IN_REVIEW"


def test_rollback_too(dataset: Any) -> None:
    run = make_run(dataset, review={"reviewers": ["ann"]})
    judge_all(run)
    decisions.submit(run, decisions.Decision("finalize", "ann"))
    # As a run that has been through: rollback looks at the name before anything else.
    database.runs().update_one({"run": run}, {"$set": {"state": "FINALIZED"}})
    with pytest.raises(DecisionRefused, match="its reviewers are ann"):
        rolling_back.roll_back(run, "eve")
    assert runs.load(run)["state"] == "FINALIZED"


def test_without_a_list_anybody_who_gives_a_name_acts(dataset: Any) -> None:
    assert make_config(dataset).review.reviewers == []
    run = make_run(dataset)
    actions.approve(run, EVERYTHING, "eve")
    assert counts(run)["undecided"] == 0
