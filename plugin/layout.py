"""Pieces that the tabs share: spacing, tables, rows of buttons that wrap on a narrow screen."""

from __future__ import annotations

from typing import Any

import fiftyone.operators.types as types

# The App's tables demand a minimum width otherwise, and are clipped on half a screen.
# Headings keep their words whole; cells may break theirs.
_NARROW: dict[str, dict[str, Any]] = {
    "table": {
        "sx": {"minWidth": 0, "& td, & th": {"px": 0.75}, "& th": {"overflowWrap": "normal"}},
        "size": "small",
    }
}
# A column is otherwise as wide as its widest word, and the panel cuts off what does not fit.
_SHRINKS = {
    "gridTemplateColumns": "minmax(0, 1fr)",
    "overflowWrap": "anywhere",
    # The mouse wheel over a table that needs no scrolling moves the panel.
    "& .MuiTableContainer-root": {"overscrollBehavior": "auto"},
}
_AS_WIDE_AS_NEEDED = {"item": {"sx": {"width": "auto"}}}


def page(panel: types.Object) -> types.Property:
    """The finished panel."""
    view = types.GridView(
        orientation="vertical", align_x="left", gap=2, pad=2, componentsProps={"grid": {"sx": _SHRINKS}}
    )
    return types.Property(panel, view=view)


def table(columns: dict[str, str], *, first: str = "auto", **kwargs: Any) -> types.TableView:
    """An empty table with these columns, by key; ``first`` is the least width of the first one."""
    style = _NARROW["table"]["sx"] | {"& td:first-of-type": {"minWidth": first}}
    props = {"table": {**_NARROW["table"], "sx": style}}
    view = types.TableView(componentsProps=props, **kwargs)
    for key, label in columns.items():
        view.add_column(key, label=label)
    return view


class Row:
    """A row of buttons that goes on in the next line where the panel is narrow.

    The App's own horizontal stack never wraps: only a grid without an orientation does, and only where its
    items do not ask for the full width.
    """

    def __init__(self, panel: types.Object, name: str) -> None:
        self._items = types.Object()
        panel.define_property(name, self._items, view=types.GridView(gap=1, align_y="center"))

    def btn(self, name: str, label: str, **kwargs: Any) -> None:
        """A button; see FiftyOne."""
        self._items.btn(name, label=label, componentsProps=_AS_WIDE_AS_NEEDED, **kwargs)

    def md(self, text: str, name: str) -> None:
        """Some words between buttons."""
        self._items.md(text, name=name, componentsProps=_AS_WIDE_AS_NEEDED)

    def str(self, name: str, label: str) -> None:
        """A field for text."""
        self._items.str(
            name, label=label, view=types.FieldView(label=label, componentsProps=_AS_WIDE_AS_NEEDED)
        )


def row(panel: types.Object, name: str) -> Row:
    """An empty row."""
    return Row(panel, name)


def number(value: Any) -> str:
    """A count with separators, a dash where there is none."""
    return f"{value:,}" if isinstance(value, int) else "–"


def code(text: Any) -> str:
    """Text of data as inline code, so that it cannot become markup."""
    return f"`{' '.join(str(text).split()).replace('`', chr(39))}`"
