"""Values of the database as plain JSON."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from bson import ObjectId


def as_json(value: Any) -> Any:
    """Plain JSON types: ids as text, times in ISO 8601."""
    if isinstance(value, dict):
        return {str(k): as_json(v) for k, v in value.items() if k != "_id"}
    if isinstance(value, list | tuple):
        return [as_json(v) for v in value]
    if isinstance(value, datetime):
        return aware(value).isoformat(timespec="milliseconds")
    if isinstance(value, ObjectId):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def aware(time: datetime) -> datetime:
    """A time from the database, which keeps no time zone, as UTC."""
    return time if time.tzinfo else time.replace(tzinfo=UTC)
