"""The list of runs."""

from __future__ import annotations

from typing import Any

import fiftyone.operators.types as types

from valflow import overview
from valflow.review_page import markdown_text

from . import layout
from .answers import told
from .screen import LOOK_EVERY, Screen

_FORM = ("target", "model", "label_field", "classes", "min_confidence", "name")
# A run that was started has a record after some seconds; its model may have to be loaded before.
_LOOKS = 150
# Few columns: half a screen is narrow, and the App breaks words of cells where it must.
_COLUMNS = {"name": "Run", "state": "State, and labels (predicted / approved / final)"}


class RunsTab:
    """Which runs there are, and who waits for whom."""

    def show_runs(self, ctx: Any) -> None:
        """Look the runs up and go to their list."""
        rows = overview.run_rows(ctx.dataset.name) if ctx.dataset is not None else []
        screen, keys = Screen(ctx), [r["run"] for r in rows]
        if set(keys) - set(screen.get("before_start", keys)):
            screen.put(before_start=None, said=None)
        screen.put(
            page="runs",
            run_keys=keys,
            moves=any(r["moves"] for r in rows),
            runs={
                "columns": list(_COLUMNS),
                "rows": [[_cell(row, key) for key in _COLUMNS] for row in rows],
                "selectedRows": [],
            },
        )

    @told
    def open_run(self, ctx: Any) -> None:
        """A row was clicked."""
        keys, row = Screen(ctx).get("run_keys", []), ctx.params.get("row")
        if isinstance(row, int) and 0 <= row < len(keys):  # -1 is the header
            Screen(ctx).put(confidence=None, classes=[], tab=None)
            self.open(ctx, keys[row])  # type: ignore[attr-defined]

    @told
    def new_run(self, ctx: Any) -> None:
        """Ask for the settings of a new run; those of one that was refused are there again."""
        given = Screen(ctx).get("refused_form")
        ctx.prompt("@valflow/auto-labeling/new_run", params=given, on_success=self.started)

    @told
    def started(self, ctx: Any) -> None:
        """The form was sent: look for its run until it is there, or show why there will be none."""
        screen, answer = Screen(ctx), ctx.params.get("result") or {}
        refused, flow_run = answer.get("refused"), answer.get("flow_run")
        screen.put(
            refused=refused,
            refused_form=_given(ctx.params.get("original_params") or {}) if refused else None,
            before_start=screen.get("run_keys", []) if flow_run else None,
            looks=_LOOKS,
            said=None if refused else answer.get("said"),
        )
        self.show_runs(ctx)

    @told
    def look_for_run(self, ctx: Any) -> None:
        """Look whether the run that was started is there, or one has come further."""
        screen = Screen(ctx)
        screen.put(looks=int(screen.get("looks", _LOOKS)) - 1)
        self.show_runs(ctx)

    @told
    def refresh_runs(self, ctx: Any) -> None:
        """Look again; what was said about a start has been read."""
        Screen(ctx).put(refused=None, said=None)
        self.show_runs(ctx)

    def render_runs(self, panel: types.Object, screen: Screen) -> None:
        """Draw the list."""
        panel.md("**Auto Labeling runs**", name="heading")
        bar = layout.row(panel, "run_buttons")
        bar.btn("new_run", label="New run", icon="add", on_click=self.new_run, variant="contained")
        bar.btn("again", label="Refresh", icon="refresh", on_click=self.refresh_runs, variant="outlined")
        self._render_start(panel, screen)
        if not screen.get("run_keys"):
            panel.md("No labeling run of this dataset yet.", name="no_runs")
            return
        panel.obj("runs", view=layout.table(_COLUMNS, first="4.5rem", on_click_row=self.open_run))
        panel.md("Click a run to open it.", name="hint")

    def _render_start(self, panel: types.Object, screen: Screen) -> None:
        """Draw what became of a new run until it is in the list, and look again while something moves."""
        starts, in_time = screen.get("before_start") is not None, int(screen.get("looks", _LOOKS)) > 0
        if screen.get("refused"):
            panel.view("refused", types.Error(label="Nothing was started", description=screen.get("refused")))
        elif starts and in_time:
            panel.md("A run was started; it appears here within a minute.", name="starts")
        elif screen.get("said"):
            late = "It is not here yet: " if starts else ""
            panel.md(f"{late}{markdown_text(screen.get('said'))}", name="said")
        if (starts and in_time) or screen.get("moves"):
            panel.view("look", types.TimerView(interval=LOOK_EVERY, on_interval=self.look_for_run))


def _given(form: dict[str, Any]) -> dict[str, Any]:
    """What a person has filled in."""
    return {key: value for key, value in form.items() if key in _FORM and value is not None}


def _cell(row: dict[str, Any], key: str) -> str:
    if key == "state":
        labels = " / ".join(layout.number(row[k]) for k in ("predicted", "approved", "finalized"))
        return (
            f"{row['state']}, {row['age']} old; waits for {row['waits']}. {labels} labels, "
            f"{row['model']} → {row['field']}"
        )
    return str(row[key])
