"""The panel beside an open picture: one label of the audit, one verdict, the next picture."""

from __future__ import annotations

from typing import Any

import fiftyone.operators as foo
import fiftyone.operators.types as types

from valflow import audits, runs
from valflow.certify import BAD_BOX, CORRECT
from valflow.errors import AuditError, ValflowError
from valflow.label_types import review_type_of
from valflow.states import State

from . import layout
from .answers import logged, told
from .screen import Screen

_LABELS = {
    "correct": "Correct",
    "wrong_class": "Wrong class",
    "bad_box": "Bad box",
    "not_an_object": "Not an object",
    "duplicate": "Duplicate",
    "unsure": "Unsure",
}


class JudgeLabels(foo.Panel):
    """Verdicts one by one."""

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
    def name_reviewer(self, ctx: Any) -> None:
        """The reviewer's name was typed; an empty field that is left takes no name back."""
        typed = str(ctx.params.get("value") or "").strip()
        if typed:
            Screen(ctx).put(reviewer=typed)

    @told
    def judge(self, ctx: Any) -> None:
        """Record the verdict on this label, and open the next one."""
        screen = Screen(ctx)
        reviewer, run = screen.named_reviewer(), screen.get("audited")
        items = audits.open_items(run) if run else []
        item = next((i for i in items if str(i["label_id"]) == screen.get("label")), None)
        if item is None:
            raise AuditError("this label waits for no verdict (any more)")
        audits.judge(run, {item["number"]: ctx.params["verdict"]}, reviewer)
        page = audits.page_of(audits.open_items(run))
        following = [i for i in page if i["number"] > item["number"]] or page
        if following:
            ctx.ops.open_sample(str(following[0][_tile(runs.load(run))]))
            self._show(ctx, run, str(following[0]["label_id"]))
        else:
            ctx.ops.notify("that was the last one", variant="success")
            ctx.ops.close_sample()

    def look_again(self, ctx: Any, after: ValflowError | None = None) -> None:
        """Which label is this, and of which audit?"""
        current = ctx.current_sample
        for record in runs.list_runs(ctx.dataset.name, 10) if current else []:
            if record["state"] != State.IN_REVIEW.value:
                continue
            tile = _tile(record)
            item = next((i for i in audits.open_items(record["run"]) if str(i[tile]) == current), None)
            if item is not None:
                self._show(ctx, record["run"], str(item["label_id"]))
                return
        Screen(ctx).put(label=None)

    def _show(self, ctx: Any, run: str, label: str) -> None:
        audit = audits.latest(run)
        item = next((i for i in audit["items"] if str(i["label_id"]) == label), None) if audit else None
        Screen(ctx).put(
            audited=run,
            label=label if item else None,
            place=f"{item['number']} of {len(audit['items'])}" if audit and item else "",
            whole=not review_type_of(runs.load(run)).has_boxes,
            sentence=audits.sentence(audits.summary(audit)) if audit else "",
            name=Screen(ctx).reviewer,
        )

    @logged
    def render(self, ctx: Any) -> types.Property:
        """Draw the verdicts."""
        screen, panel = Screen(ctx), types.Object()
        if not screen.get("label"):
            panel.md("This picture is not part of an audit that waits for verdicts.", name="nothing")
            return layout.page(panel)
        panel.md(f"**{screen.get('place')}** · {screen.get('sentence')}", name="place_text")
        panel.str("name", label="Your name", on_change=self.name_reviewer, view=types.LazyFieldView())
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
        return layout.page(panel)


def _tile(record: runs.Record) -> str:
    """What opens as a picture of its own: a patch, named by its label, or the sample of a label of all of it."""
    return "label_id" if review_type_of(record).has_boxes else "sample_id"
