"""The Approved tab: the result of a finished run, to look at only."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import fiftyone.operators.types as types

from valflow import overview, runs
from valflow.review_page import markdown_text

from . import layout, rolling
from .answers import told
from .screen import LOOK_EVERY, Screen

# Classes are names, even where they look like numbers.
_CHART = {"height": 240, "margin": {"l": 40, "r": 10, "t": 10, "b": 40}, "xaxis": {"type": "category"}}


class ApprovedTab:
    """Totals, classes, quality, links, and the tagged samples as work lists."""

    def look_at_result(self, ctx: Any, record: runs.Record) -> None:
        """Bring the figures of the record into the panel's state."""
        result = overview.result_figures(record)
        Screen(ctx).put(
            result=result,
            work_lists=overview.work_lists(record, ctx.dataset),
            waiting=overview.is_moving(record),
        )
        classes = result["per_class"]
        ctx.panel.set_data("chart", [{"type": "bar", "x": list(classes), "y": list(classes.values())}])

    @told
    def show_work_list(self, ctx: Any) -> None:
        """Show the samples that reviewers tagged."""
        ctx.ops.set_view(name=ctx.params["name"])

    @told
    def roll_back(self, ctx: Any) -> None:
        """Look what a rollback would do, and ask for a confirmation of exactly that."""
        screen = Screen(ctx)
        run = screen.record()["run"]
        seen = rolling.what_is_there(run)
        ctx.prompt(
            rolling.OPERATOR,
            params={"run": run, "reviewer": screen.reviewer, "digest": seen["digest"], "preview": seen},
            on_success=self.rolled_back,
        )

    @told
    def rolled_back(self, ctx: Any) -> None:
        """The dialog is closed; whatever it did is in the database."""
        self.open(ctx, Screen(ctx).record()["run"])  # type: ignore[attr-defined]

    @told
    def show_final(self, ctx: Any) -> None:
        """Back to all samples with final labels."""
        self.look_again(ctx)  # type: ignore[attr-defined]

    def render_result(self, panel: types.Object, screen: Screen) -> None:
        """Draw the tab."""
        result = screen.get("result")
        if not result:
            return
        if screen.get("waiting"):
            panel.md("The pipeline still evaluates, exports and reports.", name="still")
            panel.view("follow", types.TimerView(interval=LOOK_EVERY, on_interval=self.follow))  # type: ignore[attr-defined]
        panel.md(
            f"**{layout.number(result['labels'])} labels added**\n\n"
            f"on {layout.number(result['samples'])} samples, in the field {layout.code(result['field'])}. "
            f"{layout.number(result['discarded'])} discarded, {layout.number(result['edited'])} corrected by hand. "
            f"Decided by {markdown_text(result['reviewer'])}.",
            name="totals",
        )
        panel.plot("chart", layout=_CHART, config={"displayModeBar": False})
        lines = [f"- {markdown_text(line)}" for line in result["quality"]]
        panel.md(
            "**Quality**\n\n" + ("\n".join(lines) or "- nothing was validated or evaluated"), name="quality"
        )
        links = [f"- [{markdown_text(name)}]({_shown(path)})" for name, path in result["links"].items()] + [
            f"- {markdown_text(name)}: {layout.code(path)}" for name, path in result["folders"].items()
        ]
        if links:
            panel.md("**Results**\n\n" + "\n".join(links), name="links")
        self.render_roll_back(panel, "Roll back")
        lists = screen.get("work_lists", [])
        if lists:
            panel.md("**Work lists**: samples with a problem tag", name="lists_heading")
            bar = layout.row(panel, "lists")
            for entry in lists:
                bar.btn(
                    f"list_{entry['name']}",
                    label=f"{entry['name']} ({entry['samples']})",
                    icon="label",
                    on_click=self.show_work_list,
                    params={"name": entry["name"]},
                    variant="outlined",
                )
            bar.btn("show_final", label="All final labels", on_click=self.show_final, variant="outlined")

    def render_roll_back(self, panel: types.Object, label: str) -> None:
        """The button that takes the run back, or back into review."""
        panel.btn(
            "roll_back",
            label=label,
            icon="settings_backup_restore",
            on_click=self.roll_back,
            variant="outlined",
        )


def _shown(path: str) -> str:
    """Where the browser finds it: the App serves files of this machine itself."""
    return path if path.startswith("http") else f"/media?filepath={quote(path)}"
