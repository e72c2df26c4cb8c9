"""The panel "Auto Labeling" of the FiftyOne App: a thin shell over valflow, with no logic of its own."""

from typing import Any

from .judge import JudgeLabels
from .operators import OPERATORS
from .panel import AutoLabeling


def register(plugin: Any) -> None:
    """Called by FiftyOne."""
    for panel in (AutoLabeling, JudgeLabels):
        plugin.register(panel)
    for operator in OPERATORS:
        plugin.register(operator)
