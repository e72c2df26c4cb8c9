"""The audit, part of the Approval tab: a random draw, shown blind, and its verdicts."""

from __future__ import annotations

from typing import Any

import fiftyone.operators.types as types

from valflow import audits, certificates, runs
from valflow.certify import BAD_BOX, CORRECT
from valflow.errors import ActionIncomplete, SelectionError

from . import grid, layout
from .answers import told
from .screen import AUDIT, PATCHES, Screen

_REASONS = {
    "wrong_class": "Wrong class",
    "bad_box": "Bad box",
    "not_an_object": "Not an object",
    "duplicate": "Duplicate",
    "unsure": "Unsure",
}


class AuditPart:
    """The same draw and the same verdicts as `valflow audit`."""

    @told
    def start_audit(self, ctx: Any) -> None:
        """Show the draw; make one where there is none, or where it does not cover what was approved since."""
        screen = Screen(ctx)
        reviewer, record = screen.named_reviewer(), screen.record()
        audit = audits.latest(record["run"])
        if audits.needs_draw(record, audit):
            audits.draw(record["run"], reviewer)
        screen.put(mode=AUDIT)
        self.look_again(ctx)  # type: ignore[attr-defined]

    @told
    def leave_audit(self, ctx: Any) -> None:
        """Back to the approved labels; verdicts stay."""
        Screen(ctx).put(mode=PATCHES, number=1)
        self.look_again(ctx)  # type: ignore[attr-defined]

    @told
    def judge_selected(self, ctx: Any) -> None:
        """The selected labels are wrong, for one reason."""
        screen = Screen(ctx)
        reviewer, record = screen.named_reviewer(), screen.record()
        items = audits.open_items(record["run"])
        chosen = {str(i) for i in ctx.selected} | {str(d["label_id"]) for d in ctx.selected_labels or []}
        if screen.get("whole"):
            seen = set(screen.get("on_grid", []))
            chosen |= {
                str(i["label_id"])
                for i in items
                if str(i["sample_id"]) in chosen and str(i["label_id"]) in seen
            }
        verdicts = {i["number"]: ctx.params["verdict"] for i in items if str(i["label_id"]) in chosen}
        if not verdicts:
            raise SelectionError("select the wrong ones in the grid first, then say why they are wrong")
        self._judge(ctx, record, verdicts, reviewer)

    @told
    def confirm_page(self, ctx: Any) -> None:
        """All that is left on this page is right."""
        screen = Screen(ctx)
        reviewer, record = screen.named_reviewer(), screen.record()
        if ctx.selected:
            raise ActionIncomplete(
                "some labels are selected as wrong: say why first, or take the selection back"
            )
        seen = set(screen.get("on_grid", []))
        page = audits.open_items(record["run"])
        verdicts = {i["number"]: CORRECT for i in page if str(i["label_id"]) in seen}
        self._judge(ctx, record, verdicts, reviewer)

    def _judge(self, ctx: Any, record: runs.Record, verdicts: dict[int, str], reviewer: str) -> None:
        audit = audits.judge(record["run"], verdicts, reviewer)
        sentence = audits.sentence(audits.summary(audit))
        if audit["kind"] == audits.CERTIFICATE and not audits.open_items(record["run"]):
            sentence = certificates.in_words(runs.load(record["run"])["certificate"])
        ctx.ops.notify(sentence, variant="success")
        if ctx.selected_labels:
            ctx.ops.clear_selected_labels()
        if not audits.open_items(record["run"]):
            Screen(ctx).put(mode=PATCHES)
        self.look_again(ctx)  # type: ignore[attr-defined]

    def set_audit_grid(self, ctx: Any, record: runs.Record, dataset: Any) -> list[str]:
        """Show the first page that waits for verdicts; returns the ids of its labels."""
        page = audits.page_of(audits.open_items(record["run"]))
        if Screen(ctx).get("whole"):
            # One label of a sample at a time: to select the sample is to select it.
            first_of_each = {i["sample_id"]: i for i in reversed(page)}
            page = sorted(first_of_each.values(), key=lambda i: int(i["number"]))
        ids = [str(i["label_id"]) for i in page]
        view = grid.blind_patches(dataset, record, ids, [str(i["sample_id"]) for i in page])
        ctx.ops.set_view(view)
        ctx.ops.set_active_fields([record["staging_field"]])
        return ids

    def render_audit_offer(self, panel: types.Object, screen: Screen) -> None:
        """Draw how the audit stands, and the way into it."""
        audit = screen.get("audit")
        label, text = "Draw an audit", "none was drawn yet"
        if audit:
            text, label = audit["sentence"], "Go on with the audit"
            if audit["since"]:
                label = "Draw a new audit"
                text += f"; {layout.number(audit['since'])} approved labels are not covered by this draw"
        elif screen.get("seen", {}).get("undecided"):
            text += ". Finish the review first: what is approved later needs a new draw"
        panel.md(f"**Audit** of {audit['of'] if audit else 'approved labels'}: {text}", name="audit_text")
        if not audit or audit["waiting"] or audit["since"]:
            panel.btn(
                "audit",
                label=label,
                icon="casino",
                on_click=self.start_audit,
                variant="outlined",
                disabled=not audit and not screen.get("approved"),
            )

    def render_audit(self, panel: types.Object, screen: Screen) -> None:
        """Draw the verdicts."""
        audit = screen.get("audit") or {"sentence": "", "waiting": 0}
        panel.md(
            f"**Audit.** {audit['sentence']}.\n\nSelect the labels in the grid that are wrong, and say why. "
            "Then confirm the rest of the page.",
            name="audit_how",
        )
        reasons = layout.row(panel, "reasons")
        for verdict, label in _REASONS.items():
            if verdict == BAD_BOX and screen.get("whole"):
                continue
            reasons.btn(
                f"judge_{verdict}",
                label=label,
                on_click=self.judge_selected,
                params={"verdict": verdict},
                variant="outlined",
            )
        rest = layout.row(panel, "rest")
        rest.btn(
            "confirm_page",
            label=f"All other labels on this page are correct ({len(screen.get('on_grid', []))})",
            icon="done_all",
            on_click=self.confirm_page,
            variant="contained",
        )
        rest.btn("leave_audit", label="Later", on_click=self.leave_audit, variant="outlined")
        panel.md("One by one instead: open a picture, and choose *Judge* above it.", name="one_by_one")
