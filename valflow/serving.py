"""Starts a server of FiftyOne's or Prefect's behind our guard: ``python -m valflow.serving app|prefect``."""

from __future__ import annotations

import argparse
import os

from valflow.guard import Guard, allowed_hosts
from valflow.login import FOR_APP

LOCAL = "127.0.0.1"


def serve_app(address: str, port: int) -> None:
    """FiftyOne's App server; see ``fiftyone.server.main``."""
    import fiftyone as fo
    import fiftyone.server.main as server

    # Taken out of the environment: what the server starts need not know it.
    login = os.environ.pop(FOR_APP, None)
    origins = [o.strip() for o in (fo.config.allowed_origins or "").split(",") if o.strip()]
    server.app = Guard(server.app, hosts=[address, *allowed_hosts()], origins=origins, login=login)
    server.start_server(port=port, address=address)


def serve_prefect(address: str, port: int) -> None:
    """Prefect's server; the same as ``prefect server start`` in the foreground."""
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    settings = get_current_settings().server
    others = set(settings.api.cors_allowed_origins.split(",")) - set(own_origins(port).split(","))
    uvicorn.run(
        Guard(create_app(final=True), hosts=[address, *allowed_hosts()], origins=others),
        host=address,
        port=port,
        timeout_keep_alive=settings.api.keepalive_timeout,
        log_level=settings.logging_level.lower(),
    )


def own_origins(port: int) -> str:
    """The origins that may read Prefect's answers: its own pages, by either name of this machine.

    Prefect's own default is "*": every page in a person's browser could start runs, and so code, here.
    """
    return f"http://{LOCAL}:{port},http://localhost:{port}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("server", choices=("app", "prefect"))
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    (serve_app if options.server == "app" else serve_prefect)(options.address, options.port)
