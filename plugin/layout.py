"""Pieces that the tabs share: spacing, tables, rows of buttons that wrap on a narrow screen."""

from __future__ import annotations

from typing import Any

import fiftyone.operators.types as types

# The App's tables demand a minimum width otherwise, and are clipped on half a screen.
_NARROW = {"table": {"sx": {"minWidth": 0}, "size": "small"}}
_WRAPPING = {"grid": {"sx": {"display": "flex", "flexWrap": "wrap", "flexDirection": "row"}}}


def page(panel: types.Object) -> types.Property:
    """The finished panel."""
    return types.Property(
        panel, view=types.GridView(orientation="vertical", align_x="left", gap=2, padding=2)
    )


def table(columns: dict[str, str], **kwargs: Any) -> types.TableView:
    """An empty table with these columns, by key."""
    view = types.TableView(componentsProps=_NARROW, **kwargs)
    for key, label in columns.items():
        view.add_column(key, label=label)
    return view


def row(panel: types.Object, name: str) -> types.Object:
    """A row of buttons that goes on in the next line where the panel is narrow."""
    return panel.h_stack(name, gap=1, align_y="center", componentsProps=_WRAPPING)


def number(value: Any) -> str:
    """A count with separators, a dash where there is none."""
    return f"{value:,}" if isinstance(value, int) else "–"


def code(text: Any) -> str:
    """Text of data as inline code, so that it cannot become markup."""
    return f"`{' '.join(str(text).split()).replace('`', chr(39))}`"
