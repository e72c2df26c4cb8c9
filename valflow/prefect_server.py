"""A Prefect server of one's own, behind our guard."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from valflow import prefect_api
from valflow.login import FOR_SERVER
from valflow.processes import Child
from valflow.serving import LOCAL, own_origins


def prefect_server(
    port: int,
    *,
    log: Path,
    env: Mapping[str, str | None] | None = None,
    token: str = "",
    cwd: Path | None = None,
    login: str | None = None,
) -> Child:
    """The server, not started yet.

    Args:
        port: TCP port on 127.0.0.1.
        log: its output.
        env: further variables, or those to take away.
        token: mark of the stack that it belongs to.
        cwd: its working directory.
        login: ``user:secret`` that it asks for.
    """
    command = [sys.executable, "-m", "valflow.serving", "prefect", "--address", LOCAL, "--port", str(port)]
    settings = {
        **(env or {}),
        **({FOR_SERVER: login} if login else {}),
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": os.environ.get("PREFECT_SERVER_CORS_ALLOWED_ORIGINS")
        or own_origins(port),
        # The newer pages hide the resume form in a menu, and ask an analytics host from the browser.
        "PREFECT_SERVER_UI_V2_ENABLED": "false",
    }
    api = f"http://{LOCAL}:{port}/api"
    return Child(
        "server", command, log, lambda: prefect_api.is_reachable(api), env=settings, token=token, cwd=cwd
    )
