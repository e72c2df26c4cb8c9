"""The Approval tab: what is approved, the evidence, and the decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fiftyone.operators.types as types

from valflow import audits, checklist, decisions, overview, reviewing, runs
from valflow.review_page import markdown_text
from valflow.states import State

from . import layout
from .answers import told
from .operators import plain
from .review_tab import pointed_number
from .screen import AUDIT, LOOK_EVERY, PATCHES, Screen

# What a person can do in the panel about an item of the checklist.
_HERE = {
    "spot_check": "; draw and judge one below",
    "issues": "; leave one: in *Review* choose the class, write a note, and press a tag",
}


class ApprovalTab:
    """Checklist, audit and Finalize."""

    def look_at_approval(self, ctx: Any, record: runs.Record, table: Sequence[dict[str, Any]] | None) -> None:
        """Bring checklist and audit into the panel's state; ``table`` has the classes of a run in review."""
        screen = Screen(ctx)
        screen.put(waiting=overview.is_moving(record), fate=_fate(record))
        if table is None:
            return
        audit = audits.latest(record["run"])
        screen.put(
            checklist=checklist.evidence(record, table),
            approved=sum(r["approved"] for r in table),
            audit=None
            if audit is None
            else {
                "sentence": audits.sentence(audits.summary(audit)),
                "waiting": sum(i["verdict"] is None for i in audit["items"]),
                "since": audits.uncovered(record, audit),
                "of": audits.population_in_words(audit),
            },
        )

    @told
    def finalize(self, ctx: Any) -> None:
        """Freeze what is approved now and ask for a confirmation of exactly that."""
        screen = Screen(ctx)
        reviewer, record = screen.named_reviewer(), screen.record()
        preview = plain(decisions.preview(record["run"], reviewer))
        ctx.prompt(
            "@valflow/auto-labeling/finalize_labels",
            params={
                "run": record["run"],
                "reviewer": reviewer,
                "digest": preview["digest"],
                "preview": preview,
            },
            on_success=self.finalized,
        )

    @told
    def finalized(self, ctx: Any) -> None:
        """The dialog is closed; whatever it did is in the database."""
        Screen(ctx).put(mode=PATCHES)
        self.look_again(ctx)  # type: ignore[attr-defined]

    @told
    def follow(self, ctx: Any) -> None:
        """Look how far the pipeline is."""
        screen = Screen(ctx)
        record = screen.record()
        if record["state"] != screen.get("head", {}).get("state") or not overview.is_moving(record):
            self.look_again(ctx)  # type: ignore[attr-defined]

    def render_approval(self, panel: types.Object, screen: Screen) -> None:
        """Draw the tab."""
        if screen.get("head", {}).get("state") != State.IN_REVIEW.value:
            panel.md(screen.get("fate", ""), name="fate")
            if screen.get("head", {}).get("state") == State.ROLLED_BACK.value:
                self.render_roll_back(panel, "Back into review")  # type: ignore[attr-defined]
            if screen.get("waiting"):
                panel.view("follow", types.TimerView(interval=LOOK_EVERY, on_interval=self.follow))
            return
        if screen.mode == AUDIT:
            self.render_audit(panel, screen)  # type: ignore[attr-defined]
            return
        self._render_checklist(panel, screen)
        self.render_audit_offer(panel, screen)  # type: ignore[attr-defined]
        panel.btn(
            "finalize",
            label=f"Finalize Labels ({layout.number(screen.get('approved', 0))} approved)",
            icon="verified",
            on_click=self.finalize,
            variant="contained",
            disabled=not screen.get("approved"),
        )
        panel.md(
            "**Approved so far**: look them through, and take out what is wrong", name="approved_heading"
        )
        bar = layout.row(panel, "take_out")
        bar.btn(
            "reject",
            label=f"Reject {reviewing.in_words(pointed_number(screen))}",
            icon="close",
            on_click=self.reject,  # type: ignore[attr-defined]
            variant="outlined",
        )
        self.render_undo(panel, screen)  # type: ignore[attr-defined]
        self.render_filters(panel, screen)  # type: ignore[attr-defined]
        self.render_pages(panel, screen)  # type: ignore[attr-defined]

    def _render_checklist(self, panel: types.Object, screen: Screen) -> None:
        lines = ["**Checklist**", ""]
        for item in screen.get("checklist", []):
            mark = "✓" if item["ok"] else "✗" if item["required"] else "○"
            must = " *(required)*" if item["required"] and not item["ok"] else ""
            here = "" if item["ok"] else _HERE.get(item["item"], "")
            # What cannot be done here is told with its command.
            text = item["found"] if here else item["evidence"]
            lines.append(f"- {mark} **{item['title']}**{must}: {markdown_text(text)}{here}")
        panel.md("\n".join(lines), name="checklist_text")


def _fate(record: runs.Record) -> str:
    """What happens to a run that is not in review, in words."""
    decision = record.get("decision") or {}
    state = State(record["state"])
    said = (
        f"**{markdown_text(decision['reviewer'])}** decided to {decision['decision']} it. "
        if decision
        else ""
    )
    if state is State.FAILED:
        return (
            said
            + "The pipeline stopped with an error; retry the run in Prefect, or start the same run again."
        )
    if state is State.DISCARDED:
        return said + "None of its labels became final; its predictions stay in the ledger."
    if state is State.ROLLED_BACK:
        rollback = record["rollback"]
        why = f": {markdown_text(rollback['note'])}" if rollback["note"] else "."
        return (
            f"**{markdown_text(rollback['reviewer'])}** rolled it back{why} Its labels left "
            f"{layout.code(record['label_field'])}; its predictions and all decisions stay in the ledger."
        )
    waits = overview.waits_for(record)
    url = record.get("prefect_url")
    page = f" [Its Prefect page]({url})" if url else ""
    steps = {
        State.REVIEWED: "Validation is next.",
        State.VALIDATED: "Validated; the labels are being written.",
        State.FINALIZING: "The labels are being written.",
        State.ROLLING_BACK: "It is being taken back.",
        State.REOPENING: "Its labels are coming back into review.",
    }
    return f"{said}{steps.get(state, 'The model is at work.')} Waits for {markdown_text(waits)}.{page}"
