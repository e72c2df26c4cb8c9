"""The panel beside an open picture: a verdict where an audit asks for one, else a decision about what is open."""

from __future__ import annotations

from typing import Any

import fiftyone.operators as foo
import fiftyone.operators.types as types

from valflow import audits, reviewing, runs
from valflow.certify import BAD_BOX, CORRECT
from valflow.errors import AuditError, SelectionError, ValflowError
from valflow.label_types import review_type_of
from valflow.states import State

from . import layout
from .answers import DrawnOnChange, logged, told
from .screen import LOOK_EVERY, REVIEW, STATES, Screen

_LABELS = {
    "correct": "Correct",
    "wrong_class": "Wrong class",
    "bad_box": "Bad box",
    "not_an_object": "Not an object",
    "duplicate": "Duplicate",
    "unsure": "Unsure",
}
_SPLIT = (
    "To see the picture beside these buttons, press *Split horizontally* in the bar above, once. "
    "Boxes are shown under *Explore*."
)


class JudgeLabels(DrawnOnChange, foo.Panel):
    """Verdicts and decisions one by one; they mean the picture that is open, whatever was shown before."""

    passing = ("name_reviewer", "on_change_selected_labels", "follow")

    @property
    def config(self) -> foo.PanelConfig:
        """See FiftyOne."""
        return foo.PanelConfig(name="judge_labels", label="Judge", icon="gavel", surfaces="modal")

    @told
    def on_load(self, ctx: Any) -> None:
        """A picture was opened."""
        self.look_again(ctx)

    @told
    def on_change_current_sample(self, ctx: Any) -> None:
        """Another picture was opened."""
        self.look_again(ctx)

    @told
    def follow(self, ctx: Any) -> bool:
        """The App does not tell a panel that comes back which picture is open now, so it looks by itself."""
        if ctx.current_sample == Screen(ctx).get("picture"):
            return False
        self.look_again(ctx)
        return True

    @told
    def on_change_selected_labels(self, ctx: Any) -> bool:
        """What the buttons mean may have changed."""
        screen = Screen(ctx)
        number = _number_pointed(ctx, screen.record()) if screen.get("run") else screen.get("pointed")
        if number == screen.get("pointed"):
            return False
        screen.put(pointed=number)
        return True

    @told
    def name_reviewer(self, ctx: Any) -> bool:
        """The reviewer's name was typed; an empty field that is left takes no name back."""
        typed, screen = str(ctx.params.get("value") or "").strip(), Screen(ctx)
        if not typed or typed == screen.reviewer:
            return False
        screen.put(reviewer=typed)
        return True

    @told
    def judge(self, ctx: Any) -> None:
        """Record the verdict on the label that is open, and open the next one."""
        screen = Screen(ctx)
        reviewer, run = screen.named_reviewer(), screen.get("audited")
        items = audits.open_items(run) if run else []
        tile = _tile(runs.load(run)) if run else ""
        item = next((i for i in items if str(i[tile]) == ctx.current_sample), None)
        if item is None:
            raise AuditError("this label waits for no verdict (any more)")
        audits.judge(run, {item["number"]: ctx.params["verdict"]}, reviewer)
        page = audits.page_of(audits.open_items(run))
        following = [i for i in page if i["number"] > item["number"]] or page
        if following:
            ctx.ops.open_sample(str(following[0][tile]))
            self._show_item(ctx, run, str(following[0]["label_id"]))
        else:
            ctx.ops.notify("that was the last one", variant="success")
            ctx.ops.close_sample()

    @told
    def approve(self, ctx: Any) -> None:
        """Approve the labels that are selected in the picture, else all that are open and undecided."""
        self._decide(ctx, reviewing.approve)

    @told
    def reject(self, ctx: Any) -> None:
        """Reject them."""
        self._decide(ctx, reviewing.reject)

    def _decide(self, ctx: Any, act: Any) -> None:
        screen = Screen(ctx)
        reviewer = screen.named_reviewer()
        record = _run_of(ctx)
        if record is None:
            raise SelectionError("this picture belongs to no run that is in review (any more)")
        ctx.ops.notify(act(record["run"], _pointed(ctx, record), reviewer), variant="success")
        if ctx.selected_labels:
            ctx.ops.clear_selected_labels()
        ctx.ops.reload_samples()
        screen.put(pointed=0)

    def look_again(self, ctx: Any, after: ValflowError | None = None) -> None:
        """Which label or picture is this, and of which run?"""
        record = _run_of(ctx)
        label = _in_audit(record, ctx.current_sample) if record is not None else None
        if record is not None and label is not None:
            self._show_item(ctx, record["run"], label)
            return
        Screen(ctx).put(
            picture=ctx.current_sample,
            label=None,
            run=record["run"] if record else None,
            pointed=_number_pointed(ctx, record) if record else 0,
        )

    def _show_item(self, ctx: Any, run: str, label: str) -> None:
        audit = audits.latest(run)
        item = next((i for i in audit["items"] if str(i["label_id"]) == label), None) if audit else None
        Screen(ctx).put(
            picture=label,
            audited=run,
            run=run,
            whole=not review_type_of(runs.load(run)).has_boxes,
            label=label if item else None,
            place=f"{item['number']} of {len(audit['items'])}" if audit and item else "",
            sentence=audits.sentence(audits.summary(audit)) if audit else "",
            name=Screen(ctx).reviewer,
        )

    @logged
    def render(self, ctx: Any) -> types.Property:
        """Draw the verdicts, or the decisions."""
        screen, panel = Screen(ctx), types.Object()
        panel.view("follow", types.TimerView(interval=LOOK_EVERY, on_interval=self.follow))
        if not screen.get("run"):
            panel.md("This picture belongs to no labeling run that is in review.", name="nothing")
            return layout.page(panel)
        if screen.get("label"):
            panel.md(f"**{screen.get('place')}** · {screen.get('sentence')}", name="place_text")
        panel.str(
            "name",
            label="Your name" + (f": {screen.reviewer}" if screen.reviewer else ""),
            on_change=self.name_reviewer,
            view=types.LazyFieldView(),
        )
        if screen.get("label"):
            self._render_verdicts(panel, screen)
        else:
            self._render_decisions(panel, int(screen.get("pointed", 0)))
        panel.md(_SPLIT, name="split")
        return layout.page(panel)

    def _render_verdicts(self, panel: types.Object, screen: Screen) -> None:
        bar = layout.row(panel, "verdicts")
        for verdict, label in _LABELS.items():
            if verdict == BAD_BOX and screen.get("whole"):
                continue
            bar.btn(
                verdict,
                label=label,
                on_click=self.judge,
                params={"verdict": verdict},
                variant="contained" if verdict == CORRECT else "outlined",
            )

    def _render_decisions(self, panel: types.Object, number: int) -> None:
        meant = reviewing.in_words(number)
        bar = layout.row(panel, "decisions")
        bar.btn(
            "approve",
            label=f"Add {meant} for approval",
            icon="check",
            on_click=self.approve,
            variant="contained",
            disabled=not number,
        )
        bar.btn(
            "reject",
            label=f"Reject {meant}",
            icon="close",
            on_click=self.reject,
            variant="outlined",
            disabled=not number,
        )
        panel.md(
            "They mean the labels that you select in the picture, else all in it that are undecided.",
            name="meant",
        )


def _run_of(ctx: Any) -> runs.Record | None:
    """The run in review that knows the open label or sample."""
    current = ctx.current_sample
    for record in runs.list_runs(ctx.dataset.name, 10) if current else []:
        if record["state"] == State.IN_REVIEW.value and reviewing.knows(record["run"], current):
            return record
    return None


def _tile(record: runs.Record) -> str:
    """What opens as a picture of its own: a patch, named by its label, or the sample of a label of all of it."""
    return "label_id" if review_type_of(record).has_boxes else "sample_id"


def _in_audit(record: runs.Record, current: str) -> str | None:
    """The first label of what is open that waits for a verdict."""
    tile = _tile(record)
    items = audits.open_items(record["run"])
    return next((str(i["label_id"]) for i in items if str(i[tile]) == current), None)


def _number_pointed(ctx: Any, record: runs.Record) -> int:
    """How many labels the buttons mean."""
    try:
        return reviewing.count(record["run"], _pointed(ctx, record))
    except SelectionError:
        return 0


def _pointed(ctx: Any, record: runs.Record) -> reviewing.Shown:
    return reviewing.pointed_at(
        record["run"],
        reviewing.screen(STATES[REVIEW]),
        Screen(ctx).reviewer,
        labels=ctx.selected_labels or [],
        ids=[ctx.current_sample],
        field=record["staging_field"],
    )
