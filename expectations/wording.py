"""Checks and their results in plain words."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from expectations.suite import Item, condition_columns_in

# Told in a form of their own, or not worth telling.
_HIDDEN = {
    *(
        "column",
        "column_A",
        "column_B",
        "column_list",
        "or_equal",
        "row_condition",
        "ignore_row_if",
        "mostly",
    ),
    *("min_value", "max_value", "strict_min", "strict_max"),
}
_OPERATORS = {"==": "is", "!=": "is not", "IN": "is one of", "NOT_IN": "is none of"}


def nearest(found: Any, known: Iterable[str]) -> str:
    """A hint at what was meant: the nearest known word, or all of them."""
    words = list(known)
    close = difflib.get_close_matches(str(found), words, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(words)}"


def title_of(item: Item) -> str:
    """The check's own description, else its type in words."""
    if item.description:
        return item.description.strip()
    words = item.expectation.expectation_type.removeprefix("expect_").replace("_", " ")
    return f"{' and '.join(item.columns)}: {words}" if item.columns else words


def expected_of(kwargs: Mapping[str, Any]) -> str:
    """The arguments of a check in words; parameters already filled in."""
    parts = [_bounds(kwargs)] if kwargs.get("min_value", kwargs.get("max_value")) is not None else []
    if "column_A" in kwargs and "or_equal" in kwargs:
        parts.append(
            f"{kwargs['column_A']} {'at least' if kwargs['or_equal'] else 'above'} {kwargs['column_B']}"
        )
    for key, value in kwargs.items():
        if key in _HIDDEN or value is None:
            continue
        if key == "value_set" and isinstance(value, (list, tuple)):
            parts.append(f"one of {listed(value)}" if len(value) > 1 else listed(value))
        elif key == "partition_object" and isinstance(value, Mapping):
            parts.append(f"shares of {len(value.get('weights', ()))} values")
        elif isinstance(value, bool):
            parts.append(key.replace("_", " ") if value else f"not {key.replace('_', ' ')}")
        else:
            parts.append(f"{key.replace('_', ' ')} {shown(value)}")
    if kwargs.get("mostly") not in (None, 1, 1.0):
        parts.append(f"for {100 * kwargs['mostly']:g}% of the rows")
    condition = _condition(kwargs.get("row_condition"))
    return " ".join(part for part in (", ".join(parts), f"where {condition}" if condition else "") if part)


def observed_of(count: int | None, considered: int | None, value: Any, details: Any, noun: str) -> str:
    """The result of a check in words.

    Args:
        count: rows out of line, None for a check of the whole table.
        considered: rows looked at.
        value: the figure of a check of the whole table.
        details: what the check adds to it; shares of classes are told by their largest shifts.
        noun: what a row is: labels, samples.
    """
    if count is not None:
        if not count:
            return f"all {considered:,} {noun}" if considered else f"no {noun} concerned"
        share = f" ({100 * count / considered:.3g}%)" if considered else ""
        return f"{count:,} of {considered or 0:,} {noun} out of line{share}"
    figure = "" if value is None else shown(value)
    return ": ".join(part for part in (figure, _shifts(details)) if part)


def reason(title: str, columns: Iterable[str], values: Iterable[Any]) -> str:
    """Why one row fails: the check, and what the row holds."""
    found = ", ".join(f"{c} {shown(v)}" for c, v in zip(columns, values, strict=True))
    return f"{title} (found {found})" if found else title


def shown(value: Any) -> str:
    """A value as people write it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "nothing"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple, set)):
        return listed(value)
    return str(value)


def listed(values: Iterable[Any], limit: int = 6) -> str:
    """The first few values, and how many there are."""
    texts = [shown(v) for v in values]
    if len(texts) <= limit:
        return ", ".join(texts) if texts else "nothing"
    return f"{', '.join(texts[:limit])}, … ({len(texts)} in all)"


def _bounds(kwargs: Mapping[str, Any]) -> str:
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    above = "more than" if kwargs.get("strict_min") else "at least"
    below = "less than" if kwargs.get("strict_max") else "at most"
    if low is None:
        return f"{below} {shown(high)}"
    if high is None:
        return f"{above} {shown(low)}"
    if above == "at least" and below == "at most":
        return f"{shown(low)} to {shown(high)}"
    return f"{above} {shown(low)}, {below} {shown(high)}"


def _condition(condition: Any) -> str:
    if not isinstance(condition, Mapping):
        return ""
    kind = condition.get("type")
    if kind in ("and", "or"):
        return f" {kind} ".join(_condition(inner) for inner in condition["conditions"])
    column = next(condition_columns_in(condition), "")
    if kind == "nullity":
        return f"{column} is {'missing' if condition['is_null'] else 'there'}"
    operator = str(condition.get("operator"))
    return f"{column} {_OPERATORS.get(operator, operator)} {shown(condition.get('parameter'))}"


def _shifts(details: Any, limit: int = 3) -> str:
    """The largest changes between two mixes of classes."""
    try:
        now, before = details["observed_partition"], details["expected_partition"]
        rows = list(zip(now["values"], before["weights"], now["weights"], strict=True))
    except (KeyError, TypeError, ValueError):
        return ""  # not a comparison of shares
    rows.sort(key=lambda row: -abs(row[2] - row[1]))
    return ", ".join(f"{name} {100 * b:.3g}% → {100 * n:.3g}%" for name, b, n in rows[:limit] if b != n)
