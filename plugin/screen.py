"""What one person's panel shows: small values in the panel's state, and what they mean."""

from __future__ import annotations

import os
from typing import Any

from valflow import reviewing, runs
from valflow.errors import ActionIncomplete
from valflow.label_types import APPROVED
from valflow.ledger import UNDECIDED
from valflow.reviewing import Shown

REVIEW, APPROVAL, DONE = "review", "approval", "approved"
PATCHES, SAMPLES, CORRECT, DRAW, AUDIT = "patches", "samples", "correct", "draw", "audit"
LOOK_EVERY = 2000  # milliseconds, while the pipeline works
STATES = {REVIEW: (UNDECIDED,), APPROVAL: (APPROVED,)}


class Screen:
    """Reads and writes the state of the panel. The truth about labels is in the database, never here."""

    def __init__(self, ctx: Any) -> None:
        self.ctx = ctx

    def get(self, key: str, default: Any = None) -> Any:
        """A value of the state."""
        value = self.ctx.panel.get_state(key)
        return default if value is None else value

    def put(self, **values: Any) -> None:
        """Set values of the state, in one message to the browser."""
        self.ctx.panel.set_state(values)

    @property
    def run(self) -> str | None:
        """Key of the open run; None on the list of runs."""
        return self.get("run") if self.get("page", "runs") == "run" else None

    @property
    def tab(self) -> str:
        """The tab of the open run."""
        return str(self.get("tab", REVIEW))

    @property
    def mode(self) -> str:
        """What the grid is used for."""
        return str(self.get("mode", PATCHES))

    @property
    def shows_samples(self) -> bool:
        """Whether the grid shows whole samples: chosen so, or because labels speak about all of their image."""
        return self.mode in (SAMPLES, DRAW) or bool(self.get("whole"))

    @property
    def is_ranked(self) -> bool:
        """Whether the grid shows the least certain labels first."""
        return self.tab == REVIEW and self.mode != DRAW

    @property
    def reviewer(self) -> str:
        """The reviewer's name as typed; else the one of this App server, else empty."""
        return str(self.get("reviewer", os.environ.get("VALFLOW_REVIEWER", ""))).strip()

    def named_reviewer(self) -> str:
        """The reviewer's name.

        Raises:
            ActionIncomplete: nobody has typed one.
        """
        if not self.reviewer:
            raise ActionIncomplete(
                "who does this? Type your name at the top of the panel and press Enter first"
            )
        return self.reviewer

    @property
    def confidence(self) -> tuple[float, float]:
        """The range of the slider, in [0, 1]."""
        low, high = self.get("confidence", [0.0, 1.0])
        return float(min(low, high)), float(max(low, high))

    def record(self) -> runs.Record:
        """The record of the open run, as it is now."""
        return runs.load(self.get("run"))

    def shown(self) -> Shown:
        """The selection that tab and filters make."""
        low, high = self.confidence
        return reviewing.screen(
            STATES.get(self.tab, STATES[REVIEW]),
            self.get("classes", []),
            low,
            high,
            bool(self.get("unscored", True)),
        )

    def pointed(self, record: runs.Record) -> Shown:
        """What a button means: what is selected, else all that is shown."""
        return reviewing.pointed_at(
            record["run"],
            self.shown(),
            self.reviewer,
            labels=self.ctx.selected_labels or [],
            ids=self.ctx.selected or [],
            field=record["staging_field"],
        )
