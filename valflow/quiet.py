"""No telemetry: valflow has none, and that of the parts it stands on is off unless somebody switches it on."""

from __future__ import annotations

import os

QUIET = {
    "DO_NOT_TRACK": "1",  # Prefect's client
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "FIFTYONE_DO_NOT_TRACK": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def be_quiet() -> None:
    """Switch it off in this process, before any of the parts is imported; what is set already stays."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
