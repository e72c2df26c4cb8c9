"""Numbers and times as a person reads them. Rounding never makes a claim stronger than it is."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from valflow.markup import clean as clean

NOTHING = "–"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def number(value: Any) -> float | None:
    """The value as a finite float, or None for everything that is not a number."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def whole(value: Any) -> int:
    """A count; 0 where there is none."""
    found = number(value)
    return 0 if found is None else int(found)


def count(value: Any) -> str:
    """``1,204``."""
    return NOTHING if number(value) is None else f"{whole(value):,}"


def counted(value: Any, singular: str, plural: str | None = None) -> str:
    """``1 label``, ``1,204 labels``."""
    return f"{count(value)} {singular if whole(value) == 1 else plural or singular + 's'}"


def percent(share: Any) -> str:
    """``12.6 %``; 100 % only for everything and 0 % only for nothing."""
    found = number(share)
    if found is None:
        return NOTHING
    if found in (0.0, 1.0):
        return f"{found:.0%}".replace("%", " %")
    return f"{min(max(round(100 * found, 1), 0.1), 99.9) if 0 < found < 1 else round(100 * found, 1):.1f} %"


def percent_at_most(share: Any) -> str:
    """An upper bound in percent, rounded up."""
    found = number(share)
    if found is None:
        return NOTHING
    tenths = math.ceil(1000 * found - 1e-9)
    return f"{tenths / 10:.1f} %" if tenths % 10 else f"{tenths // 10} %"


def level(confidence: Any) -> str:
    """A confidence level: ``95 %``, ``99.9 %``."""
    found = number(confidence)
    return NOTHING if found is None else f"{100 * found:.10g} %"


def decimal(value: Any, places: int = 2) -> str:
    """A score in [0, 1] as ``0.93``; below 1 it is never written as 1."""
    found = number(value)
    if found is None:
        return NOTHING
    text = f"{found:.{places}f}"
    return f"{1 - 10**-places:.{places}f}" if found < 1 and text.startswith("1") else text


def threshold(value: Any) -> str:
    """A threshold as it was set: at least two places, more where it has more."""
    found = number(value)
    if found is None:
        return NOTHING
    text = f"{found:.4f}".rstrip("0")
    return text.ljust(text.index(".") + 3, "0")


def duration(seconds: Any) -> str:
    """``0.8 s``, ``42 s``, ``3 min 12 s``, ``2 h 05 min``, ``3 d 4 h``."""
    found = number(seconds)
    if found is None or found < 0:
        return NOTHING
    if found < 0.05:
        return "<0.1 s"
    if found < 9.95:
        return f"{found:.1f} s"
    total = round(found)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    if total < 86400:
        return f"{total // 3600} h {total % 3600 // 60:02d} min"
    return f"{total // 86400} d {total % 86400 // 3600} h"


def when(time: Any) -> str:
    """``23 Nov 2026, 23:41 UTC`` of a datetime (naive ones are UTC) or an ISO 8601 text."""
    if isinstance(time, str):
        try:
            time = datetime.fromisoformat(time)
        except ValueError:
            return time
    if not isinstance(time, datetime):
        return NOTHING
    time = time.astimezone(UTC) if time.tzinfo else time
    return f"{time.day} {_MONTHS[time.month - 1]} {time.year}, {time:%H:%M} UTC"


def address(words: str) -> str:
    """The text as an address to follow; empty if it could run a script instead of opening a page."""
    words = clean(words).strip()
    if re.match(r"(?i)https?://[^/]", words):
        return quote(words, safe="/:?#[]@!$&'()*+,;=%~")
    if not words or words.startswith(("//", "\\")) or re.match(r"[\w+.-]*:", words):
        return ""
    return quote(words, safe="/~@!$&'()*+,;=")


def joined(words: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
