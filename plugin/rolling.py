"""Taking a finished run back, in the App: its dialog, as an operator."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import fiftyone.operators.types as types

from valflow import resuming, rolling_back, runs
from valflow.errors import RollbackRefused, ValflowError
from valflow.plain import as_json
from valflow.review_page import markdown_text
from valflow.states import State

from . import layout

OPERATOR = "@valflow/auto-labeling/roll_back_run"
_SHOWN = 10
_DONE = (State.FINALIZED.value, State.ROLLED_BACK.value)


def runs_that_are_through(ctx: Any) -> list[runs.Record]:
    """Runs of the dataset that can be taken back, or back into review."""
    found = runs.list_runs(ctx.dataset.name) if ctx.dataset is not None else []
    return [r for r in found if r["state"] in _DONE]


def what_is_there(run: str) -> dict[str, Any]:
    """What the dialog shows, as plain JSON: the preview, and why a reopening is not possible where it is not.

    Raises:
        RollbackRefused: the run can be neither taken back nor reopened.
    """
    record = runs.load(run)
    try:
        seen = rolling_back.preview(run, reopen=True)
        blocked = None
    except RollbackRefused as refusal:
        if record["state"] != State.FINALIZED.value:
            raise
        seen, blocked = rolling_back.preview(run), str(refusal)
    return {**as_json(asdict(seen)), "state": record["state"], "blocked": blocked}


def ask(inputs: types.Object, params: dict[str, Any], seen: dict[str, Any]) -> None:
    """The questions of the dialog; it shows one state of the labels, and confirms no other."""
    for name, value in (("run", seen["run"]), ("digest", seen["digest"])):
        inputs.str(name, default=params.get(name) or value, view=types.HiddenView())
    inputs.obj("preview", default=seen, view=types.HiddenView())
    is_final = seen["state"] == State.FINALIZED.value
    takes_edited = bool(params.get("including_edited"))
    inputs.md(_numbers(seen, takes_edited), name="numbers")
    if seen["edited"]:
        inputs.md(_edited(seen["edited"]), name="edited")
        inputs.bool("including_edited", label="The edited labels, too", default=False)
    if seen["blocked"]:
        inputs.view("blocked", types.Notice(label=f"It cannot come back into review: {seen['blocked']}"))
    else:
        inputs.bool(
            "reopen",
            label="Bring the run back into review, as it was before the decision",
            default=not is_final,
        )
    if params.get("reopen", not is_final) and seen["edited"] and not takes_edited:
        inputs.view(
            "in_the_way",
            types.Warning(
                label="Edited labels cannot be final and in review at once",
                description="With “The edited labels, too” they come into review as they were edited.",
            ),
        )
    name = params.get("reviewer") or os.environ.get("VALFLOW_REVIEWER", "")
    inputs.str("reviewer", label="Your name", required=True, default=name)
    inputs.str("note", label="Why; kept with the run (optional)")


def carry_out(params: dict[str, Any], run: str, reviewer: str) -> str:
    """Take the run back; returns in words what became of it.

    Raises:
        RollbackRefused: without the digest of what the person saw, or for the reasons of ``rolling_back.roll_back``.
    """
    if not params.get("digest"):
        raise RollbackRefused(
            "a rollback here needs the digest of the labels that you saw; open the dialog again"
        )
    record = rolling_back.roll_back(
        run,
        reviewer,
        digest=str(params["digest"]),
        including_edited=bool(params.get("including_edited")),
        reopen=bool(params.get("reopen")),
        note=params.get("note") or None,
    )
    if record["state"] == State.IN_REVIEW.value:
        return f"in review again (round {record['round']}). {resuming.ask_again(record)}"
    left = record["rollback"]["left"]
    stay = f"; {left} that were edited since stay" if left else ""
    return f"rolled back: {record['rollback']['announced']} labels left {record['label_field']}{stay}"


def dialog(params: dict[str, Any]) -> types.Property:
    """The dialog of one run; why it is not possible, where it is not."""
    inputs = types.Object()
    try:
        seen = params.get("preview") or what_is_there(str(params["run"]))
    except ValflowError as refusal:
        inputs.view("refused", types.Error(label="It cannot be rolled back", description=str(refusal)))
        return types.Property(inputs, view=types.View(label="Roll back"))
    ask(inputs, params, seen)
    view = types.PromptView(label="Roll back", submit_button_label="Confirm", cancel_button_label="Cancel")
    return types.Property(inputs, view=view)


def _numbers(seen: dict[str, Any], takes_edited: bool) -> str:
    leaving = seen["labels"] + (len(seen["edited"]) if takes_edited else 0)
    rows = {
        "Labels to be removed": f"**{layout.number(leaving)}**",
        "Samples affected": f"**{layout.number(seen['samples'])}**",
        "Label field": layout.code(seen["label_field"]),
        "Edited since": f"{layout.number(len(seen['edited']))}",
        "Gone already": f"{layout.number(seen['gone'])}",
        "Digest": layout.code(str(seen["digest"])[:12]),
    }
    if seen["to_review"]:
        states = ", ".join(f"{layout.number(n)} {state}" for state, n in seen["to_review"].items())
        rows["Into review, if wanted"] = states
    head, *lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join([head, "|---|---|", *lines])


def _edited(ids: list[str]) -> str:
    more = f" and {layout.number(len(ids) - _SHOWN)} more" if len(ids) > _SHOWN else ""
    named = ", ".join(layout.code(markdown_text(i)) for i in ids[:_SHOWN])
    return f"Edited since, and kept unless you say otherwise: {named}{more}"
