"""Taking back the last action that nobody has taken back yet."""

from __future__ import annotations

from typing import Any

from valflow import app_edits, certifying, database, label_states, mirroring, problem_tags, runs
from valflow.actions import (
    JUDGE_IMAGES,
    POLICY,
    ActionResult,
    begin,
    check_reviewer,
    record_action,
)
from valflow.errors import IllegalTransition, SelectionError

UNDOABLE = ("approve", "reject", "judge", "reset", "tag", JUDGE_IMAGES)


def last_undoable(run: str, of: str | None = None) -> dict[str, Any] | None:
    """The last action of a person (or of this one) that nobody has taken back yet."""
    whose = {"$ne": POLICY} if of is None else of
    return database.actions().find_one(
        {"run": run, "event": {"$in": UNDOABLE}, "actor": whose, "undone_by": None}, sort=[("seq", -1)]
    )


def undo(run: str, reviewer: str, *, own: bool = False) -> ActionResult:
    """Take back the last action that a person did and nobody has taken back yet.

    Args:
        run: key of the run.
        reviewer: who takes it back.
        own: only the reviewer's own actions; refused where somebody has decided on the same labels since.

    Raises:
        SelectionError: there is no such action.
        IllegalTransition: the run is not in review.
        DecisionRefused: see ``check_reviewer``.
    """
    record = runs.load(run)
    check_reviewer(record, reviewer)
    # What people tagged by hand in the App would be wiped as a difference.
    app_edits.read_edits(record["run"])
    last = last_undoable(record["run"], reviewer if own else None)
    if last is None:
        raise SelectionError(
            f"run {record['run']} has no action of {reviewer if own else 'a person'} left to undo; "
            "`undo --all` takes back the policy's approvals as well"
        )
    tagged = last["event"] in ("tag", JUDGE_IMAGES)
    if last["event"] == "tag" and "writing" in last:
        last = problem_tags.until_remembered(record, database.dataset_of(record), last)
    if runs.is_alive(last.get("writing") or {}) and not problem_tags.is_remembered(last):
        # What it still writes would stay, although it was taken back.
        raise IllegalTransition(
            f"action {last['seq']} of {last['actor']} is being written just now; try again in a moment"
        )
    if own:
        _check_uppermost(record["run"], last["seq"])
    if last["event"] == "judge":
        # A certificate stands and falls with its verdicts.
        certifying.withdraw(record, f"verdicts of {last['actor']} are taken back by {reviewer}")
    record = begin(record["run"])
    seq, target = record["action_seq"], last["seq"]
    _claim_undo(last, reviewer)
    more = {"writing": problem_tags.writing()} if tagged else {}
    record_action(record, "undo", reviewer, {"action": target}, **more)
    dataset = database.dataset_of(record)
    if last["event"] == "tag":
        changed = problem_tags.withdraw(record["run"], target)
    else:
        changed = label_states.restore(record["run"], target, seq)
        if seq > target + 1:  # somebody may have decided since, even after this action was chosen
            label_states.take_out_below(record["run"], target, seq)
    if last["event"] == JUDGE_IMAGES:
        changed = problem_tags.withdraw(record["run"], target)
    if last["event"] in ("judge", JUDGE_IMAGES):
        database.audits().update_many(
            {"run": record["run"]},
            {"$set": {f"items.$[i].{key}": None for key in ("verdict", "reviewer", "time", "action")}},
            array_filters=[{"i.action": target}],
        )
    mirroring.mirror_soon(record, dataset)
    done = {"$set": {"undone_by": seq}, "$unset": {"undoing": ""}}
    database.actions().update_one({"run": record["run"], "seq": target}, done)
    if tagged:
        problem_tags.write(record, dataset, seq)
    return ActionResult(record["run"], seq, "undo", changed, {})


def _claim_undo(action: dict[str, Any], reviewer: str) -> None:
    """Take an action back alone: a second undo would take away what somebody did after the first.

    Raises:
        IllegalTransition: somebody else is at it, or has just done it.
    """
    seen, mine = action.get("undoing"), {"by": reviewer, **runs.sign_of_life()}
    this = {"run": action["run"], "seq": action["seq"], "undone_by": None, "undoing": seen}
    if runs.is_alive(seen or {}) or not (
        database.actions().update_one(this, {"$set": {"undoing": mine}}).modified_count
    ):
        now = database.actions().find_one({"run": action["run"], "seq": action["seq"]}) or {}
        who = (now.get("undoing") or {}).get("by", "somebody")
        raise IllegalTransition(
            f"{who} is taking back action {action['seq']} just now; look at what is there, and try again in a moment"
        )


def _check_uppermost(run: str, seq: int) -> None:
    """Refuse to pull an action out from under a later one on the same labels."""
    if runs.load(run)["action_seq"] == seq:
        return
    above = database.ledger().find_one(
        {"run": run, "labels.prev.action": seq}, {"labels.prev": 1, "labels.action": 1}
    )
    if above is None:
        return
    later = {e["action"] for e in above["labels"] if any(p["action"] == seq for p in e["prev"])}
    by = database.actions().find_one({"run": run, "seq": {"$in": list(later)}}, sort=[("seq", -1)])
    who = by["actor"] if by else "somebody"
    raise SelectionError(
        f"{who} has decided on labels of your last action since (action {max(later)}); that must be taken back "
        "first. Nothing was undone"
    )
