"""The list of runs."""

from __future__ import annotations

from typing import Any

import fiftyone.operators.types as types

from valflow import overview

from . import layout
from .answers import told
from .screen import Screen

# Few columns: half a screen is narrow, and the App breaks words of cells where it must.
_COLUMNS = {"name": "Run", "state": "State, and labels (predicted / approved / final)"}


class RunsTab:
    """Which runs there are, and who waits for whom."""

    def show_runs(self, ctx: Any) -> None:
        """Look the runs up and go to their list."""
        rows = overview.run_rows(ctx.dataset.name) if ctx.dataset is not None else []
        Screen(ctx).put(
            page="runs",
            run_keys=[r["run"] for r in rows],
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
        """Ask for the settings of a new run."""
        ctx.prompt("@valflow/auto-labeling/new_run", on_success=self.refresh_runs)

    @told
    def refresh_runs(self, ctx: Any) -> None:
        """Look again."""
        self.show_runs(ctx)

    def render_runs(self, panel: types.Object, screen: Screen) -> None:
        """Draw the list."""
        panel.md("**Auto Labeling runs**", name="heading")
        bar = layout.row(panel, "run_buttons")
        bar.btn("new_run", label="New run", icon="add", on_click=self.new_run, variant="contained")
        bar.btn("again", label="Refresh", icon="refresh", on_click=self.refresh_runs, variant="outlined")
        if not screen.get("run_keys"):
            panel.md("No labeling run of this dataset yet.", name="no_runs")
            return
        panel.obj("runs", view=layout.table(_COLUMNS, on_click_row=self.open_run))
        panel.md("Click a run to open it.", name="hint")


def _cell(row: dict[str, Any], key: str) -> str:
    if key == "state":
        labels = " / ".join(layout.number(row[k]) for k in ("predicted", "approved", "finalized"))
        return (
            f"{row['state']}, {row['age']} old; waits for {row['waits']}. {labels} labels, "
            f"{row['model']} → {row['field']}"
        )
    return str(row[key])
