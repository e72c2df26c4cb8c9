"""The Review tab: filters, pages of pictures, and what a reviewer does with labels."""

from __future__ import annotations

from typing import Any

import fiftyone.operators.types as types

from valflow import actions, correcting, database, reviewing, undoing
from valflow.label_types import PROBLEM_TAGS

from . import layout
from .answers import told
from .screen import CORRECT, DRAW, PATCHES, SAMPLES, Screen

_COLUMNS = {"label": "Class", "shown": "Labels", "mean": "Mean confidence"}
_MODES = {
    PATCHES: ("Patches", "grid_view"),
    SAMPLES: ("Samples", "photo_library"),
    CORRECT: ("Correct labels", "edit"),
    DRAW: ("Draw missing objects", "add_box"),
}
_HOW_TO_ADD = {
    False: "and its box symbol, draw a box and give it its class",
    True: "and add a label and choose its class",
}
_SLIDER = {"slider": {"min": 0, "max": 1, "step": 0.01}}


class ReviewTab:
    """Handlers of the filters and of the buttons that decide; the Approval tab uses them too."""

    # -- filters

    @told
    def change_confidence(self, ctx: Any) -> bool:
        """The slider was moved; the App says so several times."""
        screen, value = Screen(ctx), ctx.params.get("value")
        if not isinstance(value, list) or len(value) != 2 or value == screen.get("applied"):
            return False
        screen.put(confidence=value, applied=value, number=1)
        self.look_again(ctx)  # type: ignore[attr-defined]
        return True

    @told
    def toggle_unscored(self, ctx: Any) -> bool:
        """Labels without confidence are shown, or not."""
        screen = Screen(ctx)
        wanted = bool(ctx.params.get("value"))
        if wanted == bool(screen.get("unscored", True)):
            return False
        screen.put(unscored=wanted, number=1)
        self.look_again(ctx)  # type: ignore[attr-defined]
        return True

    @told
    def toggle_class(self, ctx: Any) -> None:
        """A row of the class table was clicked."""
        screen, row = Screen(ctx), ctx.params.get("row")
        rows = screen.get("seen", {}).get("rows", [])
        if not isinstance(row, int) or not 0 <= row < len(rows):  # -1 is the header
            return
        label, classes = rows[row]["label"], list(screen.get("classes", []))
        classes.remove(label) if label in classes else classes.append(label)
        screen.put(classes=classes, number=1)
        self.look_again(ctx)  # type: ignore[attr-defined]

    @told
    def all_classes(self, ctx: Any) -> None:
        """Take the filters back."""
        Screen(ctx).put(classes=[], confidence=[0.0, 1.0], applied=[0.0, 1.0], unscored=True, number=1)
        self.look_again(ctx)  # type: ignore[attr-defined]

    @told
    def turn_page(self, ctx: Any) -> None:
        """To the next page, or the one before."""
        screen = Screen(ctx)
        screen.put(number=int(ctx.params["number"]))
        self.look_again(ctx)  # type: ignore[attr-defined]

    @told
    def change_mode(self, ctx: Any) -> None:
        """Patches, samples, correcting or drawing."""
        screen, mode = Screen(ctx), ctx.params["mode"]
        if mode == DRAW:
            screen.named_reviewer()
        self.leave_mode(ctx)  # type: ignore[attr-defined]
        # First the view on which editing is safe, then the form that makes it possible.
        screen.put(mode=mode, number=1)
        self.look_again(ctx)  # type: ignore[attr-defined]
        if mode in (CORRECT, DRAW):
            record = screen.record()
            actions.require_review(record)
            correcting.open_form(record, database.dataset_of(record))
            ctx.ops.reload_dataset()

    @told
    def open_embeddings(self, ctx: Any) -> None:
        """FiftyOne's own panel, where there is something for it to show."""
        if reviewing.visualizations(ctx.dataset):
            ctx.ops.open_panel("Embeddings", is_active=True, layout="vertical")

    # -- deciding

    @told
    def approve(self, ctx: Any) -> None:
        """Add what is pointed at to the approved labels."""
        self._decide(ctx, reviewing.approve)

    @told
    def reject(self, ctx: Any) -> None:
        """Reject what is pointed at."""
        self._decide(ctx, reviewing.reject)

    def _decide(self, ctx: Any, act: Any) -> None:
        screen = Screen(ctx)
        reviewer, record = screen.named_reviewer(), screen.record()
        said = act(record["run"], screen.pointed(record), reviewer)
        self._done(ctx, said)

    @told
    def undo(self, ctx: Any) -> None:
        """Take back one's own last action, if it still is the one that the button named."""
        screen = Screen(ctx)
        reviewer, record = screen.named_reviewer(), screen.record()
        last = undoing.last_undoable(record["run"], reviewer)
        expected = ctx.params.get("seq")
        if last is not None and expected is not None and last["seq"] != expected:
            ctx.ops.notify("your last action is another one by now; look again", variant="warning")
            self.look_again(ctx)  # type: ignore[attr-defined]
            return
        result = undoing.undo(record["run"], reviewer, own=True)
        self._done(ctx, f"{reviewing.in_words(result.changed)} as before")

    @told
    def undo_classes(self, ctx: Any) -> None:
        """Put the chosen classes back to undecided."""
        screen = Screen(ctx)
        reviewer, record = screen.named_reviewer(), screen.record()
        result = actions.reset(record["run"], reviewer, screen.get("classes", []))
        self._done(ctx, f"{reviewing.in_words(result.changed)} put back to undecided; Undo takes that back")

    @told
    def undo_all(self, ctx: Any) -> None:
        """Put everything back to undecided."""
        screen = Screen(ctx)
        reviewer, record = screen.named_reviewer(), screen.record()
        result = actions.reset(record["run"], reviewer)
        self._done(ctx, f"{reviewing.in_words(result.changed)} put back to undecided; Undo takes that back")

    @told
    def tag(self, ctx: Any) -> None:
        """Tag what is pointed at as a problem."""
        screen = Screen(ctx)
        reviewer, record = screen.named_reviewer(), screen.record()
        name = ctx.params.get("tag") or str(screen.get("own_tag", "")).strip()
        note = str(screen.get("tag_note", "")).strip() or None
        result = actions.tag(record["run"], name, screen.pointed(record), reviewer, note)
        screen.put(tag_note="", own_tag="")
        self._done(ctx, f"{reviewing.in_words(result.changed)} tagged {name}")

    def _done(self, ctx: Any, said: str) -> None:
        ctx.ops.notify(said, variant="success")
        if ctx.selected_labels:
            ctx.ops.clear_selected_labels()
        self.look_again(ctx, reload=True)  # type: ignore[attr-defined]

    # -- drawing

    def render_review(self, panel: types.Object, screen: Screen) -> None:
        """Draw the tab."""
        self._render_modes(panel, screen)
        if screen.mode == DRAW:
            panel.md(
                f"**Drawing.** Open a picture, choose *Annotate* {_HOW_TO_ADD[bool(screen.get('whole'))]}. "
                "What you add counts as approved by you as soon as you leave this mode.",
                name="how_to_draw",
            )
            self.render_pages(panel, screen)
            return
        if screen.mode == CORRECT:
            panel.md(
                "**Correcting.** Open a patch, choose *Annotate*, and change its class or box; a click beside the "
                "picture closes it. Approve it afterwards: it becomes final as you leave it, marked *edited*.",
                name="how_to_correct",
            )
        self.render_filters(panel, screen)
        self.render_pages(panel, screen)
        meant = reviewing.in_words(pointed_number(screen))
        bar = layout.row(panel, "decide")
        bar.btn(
            "approve",
            label=f"Add {meant} for approval",
            icon="check",
            on_click=self.approve,
            variant="contained",
        )
        bar.btn("reject", label=f"Reject {meant}", icon="close", on_click=self.reject, variant="outlined")
        self.render_undo(panel, screen)
        self._render_tags(panel, meant)

    def _render_modes(self, panel: types.Object, screen: Screen) -> None:
        bar = layout.row(panel, "modes")
        shown = SAMPLES if screen.mode == PATCHES and screen.get("whole") else screen.mode
        for mode, (label, icon) in _MODES.items():
            if mode == PATCHES and screen.get("whole"):
                continue
            bar.btn(
                f"mode_{mode}",
                label=label,
                icon=icon,
                on_click=self.change_mode,
                params={"mode": mode},
                variant="contained" if mode == shown else "outlined",
            )
        known = bool(screen.get("embeddings"))
        bar.btn(
            "embeddings",
            label="Embeddings",
            icon="scatter_plot",
            on_click=self.open_embeddings,
            disabled=not known,
            variant="outlined",
            title=None
            if known
            else "fiftyone.brain.compute_visualization(dataset, brain_key='look') makes them",
        )

    def render_filters(self, panel: types.Object, screen: Screen) -> None:
        """Draw slider and class table."""
        low, high = screen.confidence
        panel.list(
            "confidence",
            types.Number(),
            view=types.SliderView(
                label=f"Confidence {low:.2f} to {high:.2f}",
                label_position="top",
                value_label_display="auto",
                componentsProps=_SLIDER,
            ),
            on_change=self.change_confidence,
        )
        seen = screen.get("seen", {})
        if seen.get("without_confidence"):
            panel.bool(
                "unscored",
                label=f"Labels without confidence too ({layout.number(seen['without_confidence'])})",
                on_change=self.toggle_unscored,
                view=types.CheckboxView(),
            )
        panel.obj("table", view=layout.table(_COLUMNS, on_click_row=self.toggle_class))
        if screen.get("classes") or [low, high] != [0.0, 1.0]:
            panel.btn(
                "all_classes",
                label="Show all classes and confidences",
                on_click=self.all_classes,
                variant="outlined",
            )

    def render_pages(self, panel: types.Object, screen: Screen) -> None:
        """Draw the way to other pages."""
        number, pages = int(screen.get("number", 1)), int(screen.get("pages", 1))
        if pages == 1:
            return
        bar = layout.row(panel, "pages")
        bar.btn(
            "previous",
            label="Previous page",
            icon="chevron_left",
            on_click=self.turn_page,
            params={"number": number - 1},
            disabled=number <= 1,
            variant="outlined",
        )
        bar.md(f"page {number} of {pages}", name="page_of")
        bar.btn(
            "next",
            label="Next page",
            icon="chevron_right",
            on_click=self.turn_page,
            params={"number": number + 1},
            disabled=number >= pages,
            variant="outlined",
        )

    def render_undo(self, panel: types.Object, screen: Screen) -> None:
        """Draw what takes decisions back."""
        last, classes = screen.get("seen", {}).get("undo"), screen.get("classes", [])
        bar = layout.row(panel, "take_back")
        bar.btn(
            "undo",
            label=f"Undo: {last['text']}" if last else "Undo",
            icon="undo",
            on_click=self.undo,
            params={"seq": last["seq"] if last else None},
            disabled=last is None,
            variant="outlined",
        )
        bar.btn(
            "undo_classes",
            label="Undo class" + (f" {', '.join(classes[:3])}" if classes else ""),
            on_click=self.undo_classes,
            disabled=not classes,
            variant="outlined",
        )
        bar.btn("undo_all", label="Undo all", on_click=self.undo_all, variant="outlined")

    def _render_tags(self, panel: types.Object, meant: str) -> None:
        panel.md(f"**Tag {meant} as a problem**", name="tag_heading")
        bar = layout.row(panel, "tags")
        for name in PROBLEM_TAGS:
            bar.btn(
                f"tag_{name}",
                label=name,
                icon="label",
                on_click=self.tag,
                params={"tag": name},
                variant="outlined",
            )
        panel.str("tag_note", label="Note, kept with the next tag (optional)")
        own = layout.row(panel, "own")
        own.str("own_tag", label="A tag of your own")
        own.btn("tag_own", label="Tag", on_click=self.tag, variant="outlined")


def pointed_number(screen: Screen) -> int:
    """How many labels the buttons mean."""
    pointed = screen.get("pointed")
    return int(screen.get("seen", {}).get("current", 0) if pointed is None else pointed)
