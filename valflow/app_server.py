"""A FiftyOne App server of one's own, with valflow's panel in it.

One server is one shared screen: what one person sets, everybody on it sees. So each reviewer gets a server of
their own, on the same database.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from valflow.login import FOR_APP
from valflow.processes import Child
from valflow.review_app import link_plugins
from valflow.serving import LOCAL

EXPOSED = (
    "Without a login, whoever reaches this address can change labels, and read every file that this user can read; "
    "with one, whoever listens on the network can read it. Bind it to 127.0.0.1 unless you trust all of that network."
)


def app_server(
    folder: Path,
    port: int,
    *,
    address: str = LOCAL,
    log: Path | None = None,
    env: Mapping[str, str | None] | None = None,
    token: str = "",
    cwd: Path | None = None,
    login: str | None = None,
) -> Child:
    """The server, not started yet.

    Args:
        folder: for links to plugins, and the log.
        port: TCP port.
        address: what it binds to; see ``EXPOSED`` for any other than 127.0.0.1.
        log: its output; None puts it into the folder.
        env: further variables, or those to take away.
        token: mark of the stack that it belongs to.
        cwd: its working directory, where models of one's own are imported from.
        login: ``user:secret`` that it asks for.
    """
    command = [sys.executable, "-m", "valflow.serving", "app", "--address", address]
    command += ["--port", str(port)]
    plugins = {"FIFTYONE_PLUGINS_DIR": str(link_plugins(folder / "plugins"))}
    host = LOCAL if address == "0.0.0.0" else address
    return Child(
        "app",
        command,
        log or folder / "logs" / f"app-{port}.log",
        lambda: _answers(f"http://{host}:{port}/fiftyone"),
        env={**(env or {}), **plugins, FOR_APP: login},
        token=token,
        cwd=cwd,
    )


def _answers(url: str) -> bool:
    import httpx

    try:
        return httpx.get(url, timeout=2.0).status_code in (200, 401)  # it may ask for a login
    except httpx.HTTPError:
        return False
