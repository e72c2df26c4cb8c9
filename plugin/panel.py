"""The panel: navigation, and what all tabs do alike."""

from __future__ import annotations

from typing import Any

import fiftyone.operators as foo
import fiftyone.operators.types as types

from valflow import app_edits, correcting, database, overview, reviewing, runs
from valflow.errors import RunNotFound
from valflow.label_types import review_type_of
from valflow.review_order import Ranking, rank
from valflow.review_page import markdown_text
from valflow.states import SHOWN_AS, State

from . import grid, layout
from .answers import DrawnOnChange, logged, told
from .approval_tab import ApprovalTab
from .approved_tab import ApprovedTab
from .audit_part import AuditPart
from .review_tab import ReviewTab
from .runs_tab import RunsTab
from .screen import APPROVAL, AUDIT, CORRECT, DONE, DRAW, PATCHES, REVIEW, SAMPLES, Screen

_TABS = {REVIEW: "Review", APPROVAL: "Approval", DONE: "Approved"}


class AutoLabeling(DrawnOnChange, RunsTab, ReviewTab, ApprovalTab, AuditPart, ApprovedTab, foo.Panel):
    """Runs of the dataset, and the review of one of them."""

    passing = (
        "on_change_selected",
        "on_change_selected_labels",
        "name_reviewer",
        "change_confidence",
        "toggle_unscored",
    )

    @property
    def config(self) -> foo.PanelConfig:
        """See FiftyOne."""
        return foo.PanelConfig(
            name="auto_labeling",
            label="Auto Labeling",
            icon="fact_check",
            surfaces="grid",
            help_markdown="Review what a model has labelled: approve, reject, tag, correct, finalize.",
        )

    # -- what the App tells

    @told
    def on_load(self, ctx: Any) -> None:
        """The panel opens, or the browser was reloaded; a saved workspace may name the run."""
        screen = Screen(ctx)
        if screen.run is None:
            self.show_runs(ctx)
            return
        self.open(ctx, screen.get("run"), tab=screen.get("tab"), mode=screen.mode)

    @told
    def on_change_dataset(self, ctx: Any) -> None:
        """Another dataset has other runs."""
        self.show_runs(ctx)

    @told
    def on_change_selected(self, ctx: Any) -> bool:
        """What the buttons mean may have changed."""
        return self.count_pointed(ctx)

    @told
    def on_change_selected_labels(self, ctx: Any) -> bool:
        """See ``on_change_selected``; labels are selected in an open sample."""
        return self.count_pointed(ctx)

    # -- navigation

    def open(self, ctx: Any, run: str, tab: str | None = None, mode: str = PATCHES) -> None:
        """Show a run; a finished one has one tab only."""
        record = runs.load(run)
        screen = Screen(ctx)
        if record["state"] == State.FINALIZED.value:
            tab, mode = DONE, PATCHES
        elif record["state"] != State.IN_REVIEW.value or tab not in (REVIEW, APPROVAL):
            tab = REVIEW if record["state"] == State.IN_REVIEW.value else APPROVAL
        screen.put(
            page="run",
            run=record["run"],
            tab=tab,
            mode=mode if mode in (PATCHES, SAMPLES) else PATCHES,
            number=1,
            name=screen.reviewer,
        )
        screen.put(embeddings=bool(reviewing.visualizations(ctx.dataset)))
        if screen.get("confidence") is None:
            screen.put(confidence=[0.0, 1.0], applied=[0.0, 1.0], unscored=True, classes=[])
        self.look_again(ctx)

    @told
    def change_tab(self, ctx: Any) -> None:
        """A tab was clicked."""
        self.leave_mode(ctx)
        whole = [0.0, 1.0]
        Screen(ctx).put(
            tab=ctx.params["tab"],
            mode=PATCHES,
            classes=[],
            number=1,
            confidence=whole,
            applied=whole,
            unscored=True,
        )
        self.look_again(ctx)

    @told
    def back(self, ctx: Any) -> None:
        """To the list of runs."""
        self.leave_mode(ctx)
        ctx.ops.clear_view()
        self.show_runs(ctx)

    @told
    def refresh(self, ctx: Any) -> None:
        """Somebody wants to see the state of now."""
        self.look_again(ctx, reload=True)

    @told
    def name_reviewer(self, ctx: Any) -> bool:
        """The reviewer's name was typed; an empty field that is left takes no name back.

        What a click beside the field does at the same moment is not drawn over.
        """
        typed, screen = str(ctx.params.get("value") or "").strip(), Screen(ctx)
        if not typed or typed == screen.reviewer:
            return False
        screen.put(reviewer=typed)
        record = screen.record() if screen.run else None
        if record is None or record["state"] != State.IN_REVIEW.value:
            return True
        if self._take_over(ctx, record).in_words():
            self.look_again(ctx, view=False)
        else:
            screen.put(**{"seen.undo": overview.undoable(record["run"], typed)})
        return True

    def leave_mode(self, ctx: Any) -> None:
        """Give back what a mode has opened: the form of the annotation tab, and boxes that were drawn."""
        screen = Screen(ctx)
        if screen.mode not in (CORRECT, DRAW):
            return
        record = screen.record()
        correcting.close_form(record, ctx.dataset)
        if screen.mode == DRAW and record["state"] == State.IN_REVIEW.value:
            drawn = app_edits.adopt_drawn(record["run"], screen.named_reviewer())
            if drawn:
                ctx.ops.notify(
                    f"{reviewing.in_words(drawn)} drawn by {screen.reviewer} approved", variant="success"
                )
        screen.put(mode=PATCHES)

    # -- looking at the database

    def look_again(
        self, ctx: Any, *, view: bool = True, reload: bool = False, after: Exception | None = None
    ) -> None:
        """Bring panel and grid in line with the database.

        Args:
            ctx: of the handler.
            view: whether the grid is set anew.
            reload: whether its pictures are drawn anew even where the view is the same.
            after: the refusal that made this necessary.
        """
        screen = Screen(ctx)
        if screen.run is None:
            self.show_runs(ctx)
            return
        try:
            record = screen.record()
        except RunNotFound:
            screen.put(page="runs", run=None)
            self.show_runs(ctx)
            return
        table, ranking = None, None
        if record["state"] == State.IN_REVIEW.value:
            table, ranking = self._look_at_review(ctx, screen, record)
        elif screen.tab != DONE and record["state"] == State.FINALIZED.value:
            screen.put(tab=DONE, mode=PATCHES)
        screen.put(head=_head(record), pointed=None)
        if screen.tab == APPROVAL:
            self.look_at_approval(ctx, record, table)
        if screen.tab == DONE:
            self.look_at_result(ctx, record)
        if view:
            self.set_grid(ctx, record, ranking, reload)

    def _look_at_review(
        self, ctx: Any, screen: Screen, record: runs.Record
    ) -> tuple[list[dict[str, Any]], Ranking | None]:
        """Bring the figures into the panel's state.

        Returns:
            The class table, and the order of what is shown where one is wanted.
        """
        if screen.reviewer:
            self._take_over(ctx, record)
        screen.put(whole=not review_type_of(record).has_boxes)
        shown = screen.shown()
        wants_ranking = screen.is_ranked
        table, ranking = database.side_by_side(
            lambda: reviewing.table(record["run"], shown),
            lambda: rank(record["run"], shown) if wants_ranking else None,
        )
        known = overview.review_figures(record, shown, table, screen.reviewer)
        classes = [c for c in screen.get("classes", []) if c in {r["label"] for r in known["rows"]}]
        pages = _pages(screen, record, known)
        screen.put(
            seen=known,
            classes=classes,
            number=max(1, min(int(screen.get("number", 1)), pages)),
            pages=pages,
            table={
                "columns": ["label", "shown", "mean"],
                "rows": [
                    [
                        r["label"],
                        f"{layout.number(r['current'])} of {layout.number(r['total'])}",
                        "–" if r["mean"] is None else f"{r['mean']:.2f}",
                    ]
                    for r in known["rows"]
                ],
                "selectedRows": [i for i, r in enumerate(known["rows"]) if r["label"] in classes],
            },
        )
        if wants_ranking and (now := screen.shown()) != shown:  # a class is gone that was chosen
            ranking = rank(record["run"], now)
        return table, ranking

    def _take_over(self, ctx: Any, record: runs.Record) -> app_edits.Edits:
        """Take over what was done with the App's own tools since the last look, and say so."""
        edits = app_edits.read_edits(record["run"])
        if edits.in_words():
            ctx.ops.notify(edits.in_words(), variant="warning" if edits.vanished else "info")
        return edits

    def count_pointed(self, ctx: Any) -> bool:
        """How many labels the buttons mean now; False where that is as it was."""
        screen = Screen(ctx)
        pointed = None
        if screen.run is not None and screen.tab != DONE and (ctx.selected or ctx.selected_labels):
            record = screen.record()
            if record["state"] == State.IN_REVIEW.value:
                pointed = reviewing.count(record["run"], screen.pointed(record))
        if pointed == screen.get("pointed"):
            return False
        screen.put(pointed=pointed)
        if screen.run is not None and screen.reviewer and screen.tab != DONE:
            # A click that ends a selection may have been an action: this event draws from the state before it.
            screen.put(**{"seen.undo": overview.undoable(str(screen.run), screen.reviewer)})
        return True

    def set_grid(self, ctx: Any, record: runs.Record, ranking: Ranking | None, reload: bool) -> None:
        """Show the page of this tab and mode in the grid."""
        screen = Screen(ctx)
        dataset = database.dataset_of(record)
        mode, page_number = screen.mode, int(screen.get("number", 1))
        if screen.tab == DONE:
            ids: list[str] = []
            if dataset.has_field(record["label_field"]):
                ctx.ops.set_view(grid.final_field(dataset, record))
                ctx.ops.set_active_fields([record["label_field"]])
        elif record["state"] != State.IN_REVIEW.value or not dataset.has_field(record["staging_field"]):
            ids = []
            ctx.ops.clear_view()
        elif mode == AUDIT:
            ids = self.set_audit_grid(ctx, record, dataset)
        else:
            shown = None if mode == DRAW else screen.shown()
            if screen.shows_samples:
                found = reviewing.page_of_samples(record["run"], shown, page_number, ranking=ranking)
                ids = found.sample_ids
                ctx.ops.set_view(grid.samples(dataset, found))
            else:
                found = reviewing.page_of_labels(record["run"], screen.shown(), page_number, ranking=ranking)
                ids = found.label_ids
                ctx.ops.set_view(grid.patches(dataset, record, found))
            ctx.ops.set_active_fields([record["staging_field"]])
        if reload and ids == screen.get("on_grid"):
            # Only this refreshes the tiles of a view that stays the same; a new one also ends what is selected.
            if ctx.selected:
                ctx.ops.clear_selected_samples()
            ctx.ops.reload_dataset()
        screen.put(on_grid=ids)

    # -- drawing

    @logged
    def render(self, ctx: Any) -> types.Property:
        """Draw the panel from its state; no queries here, for it is called after every event."""
        screen = Screen(ctx)
        panel = types.Object()
        if screen.run is None:
            self.render_runs(panel, screen)
            return layout.page(panel)
        self._render_head(panel, screen)
        if screen.tab == REVIEW:
            self.render_review(panel, screen)
        elif screen.tab == APPROVAL:
            self.render_approval(panel, screen)
        else:
            self.render_result(panel, screen)
        return layout.page(panel)

    def _render_head(self, panel: types.Object, screen: Screen) -> None:
        head = screen.get("head", {})
        bar = layout.row(panel, "bar")
        bar.btn("back", label="Runs", icon="arrow_back", on_click=self.back, variant="outlined")
        bar.btn("refresh", label="Refresh", icon="refresh", on_click=self.refresh, variant="outlined")
        tabs = layout.row(panel, "tabs")
        open_tabs = head.get("tabs", list(_TABS))
        for key, label in _TABS.items():
            tabs.btn(
                f"tab_{key}",
                label=label,
                on_click=self.change_tab,
                params={"tab": key},
                variant="contained" if key == screen.tab else "outlined",
                disabled=key not in open_tabs,
            )
        panel.md(head.get("title", ""), name="title")
        if head.get("remark"):
            panel.md(head["remark"], name="remark")
        if head.get("state") == State.IN_REVIEW.value:
            panel.str(
                "name",
                label=f"Your name (it stands beside all that you decide){_known_name(screen)}",
                on_change=self.name_reviewer,
                view=types.LazyFieldView(),
            )


def _known_name(screen: Screen) -> str:
    """The name in force; the field itself forgets what was typed when the panel is drawn anew."""
    return f": {screen.reviewer}" if screen.reviewer else ""


def _head(record: runs.Record) -> dict[str, Any]:
    """What stands above every tab."""
    state = State(record["state"])
    last = record["history"][-1]
    remark = record["config"]["review"]["note"] if state is State.IN_REVIEW else None
    if last["event"] == "reopen":
        remark = f"Reopened: {last['note']}"
    if state is State.FAILED:
        remark = f"{record.get('failed_stage')} failed: {record.get('error')}"
    if state is State.DISCARDED:
        remark = f"Discarded by {last['actor']}" + (f": {last['note']}" if last["note"] else "")
    open_tabs = {State.IN_REVIEW: [REVIEW, APPROVAL], State.FINALIZED: [DONE]}.get(state, [APPROVAL])
    return {
        "state": state.value,
        "tabs": open_tabs,
        "title": f"**{markdown_text(record['name'])}** · {SHOWN_AS[state]} · "
        f"{layout.code(record['label_field'])}",
        "remark": f"> {markdown_text(str(remark))}" if remark else None,
    }


def _pages(screen: Screen, record: runs.Record, known: dict[str, Any]) -> int:
    size, count = reviewing.PATCHES_PER_PAGE, known["current"]
    if screen.shows_samples:
        shown = None if screen.mode == DRAW else screen.shown()
        size, count = reviewing.SAMPLES_PER_PAGE, reviewing.count_samples(record["run"], shown)
    return max(1, -(-count // size))
