"""What settings of all sections are made of."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

# Strict: what YAML reads as `true` or as text is a mistake, not a number.
Share = Annotated[float, Field(ge=0.0, le=1.0, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]
Flag = Annotated[bool, Field(strict=True)]
_DURATION = re.compile(r"([1-9][0-9]*)([dhms])")
_SECONDS_PER = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
LONGEST_DURATION = timedelta(days=3650)


class Section(BaseModel):
    """Base of every section: unknown keys are refused, so that a typing error cannot pass in silence."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


def duration(text: object) -> timedelta:
    """The length of a ``Duration``: a whole number and one of d (24 hours), h, m (minutes), s.

    Raises:
        ValueError: it is no such text, or longer than ten years.
    """
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"expected a duration such as 7d, 12h, 30m or 90s, found {text!r}")
    # Compared as a number: Python's own lengths of time overflow.
    seconds = int(match[1]) * _SECONDS_PER[match[2]]
    if seconds > LONGEST_DURATION.total_seconds():
        raise ValueError(f"expected a duration of at most {LONGEST_DURATION.days}d, found {text!r}")
    return timedelta(seconds=seconds)


def _check_duration(text: object) -> object:
    duration(text)
    return text


# Kept as the person wrote it; ``duration(text)`` is its length.
Duration = Annotated[
    str,
    BeforeValidator(_check_duration),
    WithJsonSchema({"type": "string", "pattern": f"^{_DURATION.pattern}$", "examples": ["7d", "12h"]}),
]
