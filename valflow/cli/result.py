"""What a command hands back: text for people, one document for programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from valflow.errors import SelectionError


@dataclass(frozen=True)
class Result:
    """Outcome of a command."""

    text: str = ""
    document: dict[str, Any] = field(default_factory=dict)
    exit_code: int = 0


def reviewer_of(options: Any) -> str:
    """The reviewer's name.

    Raises:
        SelectionError: none was given.
    """
    name = (options.reviewer or "").strip()
    if not name:
        raise SelectionError("who does this? Give --reviewer NAME, or set VALFLOW_REVIEWER")
    return name


def text_table(rows: list[dict[str, Any]]) -> str:
    """Rows as aligned columns; numbers to the right."""
    if not rows:
        return ""
    head = list(rows[0])
    cells = [[str(r[h]) for h in head] for r in rows]
    widths = [max(len(h), *(len(c[i]) for c in cells)) for i, h in enumerate(head)]
    right = [all(_is_number(c[i]) for c in cells) for i in range(len(head))]

    def line(values: list[str]) -> str:
        parts = [v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True)]
        return "  ".join(parts).rstrip()

    return "\n".join([line(head), *(line(c) for c in cells)])


def _is_number(text: str) -> bool:
    return text in ("–", "-") or text.replace(".", "", 1).replace("%", "").isdigit()
