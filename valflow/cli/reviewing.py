"""The command that opens a run in the FiftyOne App."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser
from typing import Any

from valflow.cli.result import Result
from valflow.errors import StackError


def review(options: Any) -> Result:
    """`valflow review`: on the App of the running stack, or on a server of one's own until Ctrl-C."""
    from valflow import database, review_app, runs

    record = runs.load(options.run)
    review_app.save_workspace(record, database.dataset_of(record))
    record = runs.load(record["run"])
    there = os.environ.get("VALFLOW_APP_URL")
    if options.port is None and options.address == "127.0.0.1" and there:
        address = review_app.address_of(record, there)
        _open(address, options)
        return Result(f"{address}", {"run": record["run"], "address": address})
    return _serve(record, options)


def _serve(record: dict[str, Any], options: Any) -> Result:
    from valflow import homes, review_app
    from valflow.app_server import EXPOSED, app_server
    from valflow.processes import free_port, is_port_taken
    from valflow.serving import LOCAL

    if options.port is not None and is_port_taken(options.port):
        raise StackError(f"expected port {options.port} to be free, found another program on it")
    port, home = options.port or free_port(), homes.home()
    if options.address != LOCAL:
        print(EXPOSED, file=sys.stderr)
    name = {"VALFLOW_REVIEWER": options.reviewer} if options.reviewer else {}
    server = app_server(
        homes.state_folder(home),
        port,
        address=options.address,
        env={**name, **_same_database()},
        cwd=home,
        login=homes.login_for(home),
    )
    server.start()
    # Bound to every interface, it answers this machine at the usual one.
    host = LOCAL if options.address in ("0.0.0.0", "::") else options.address
    address = review_app.address_of(record, f"http://{host}:{port}")
    try:
        print(f"{address}\nStop with Ctrl-C.", file=sys.stderr, flush=True)
        _open(address, options)
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        server.stop()
    return Result("stopped", {"run": record["run"], "address": address})


def _same_database() -> dict[str, str | None]:
    """The server must work on the database that this process uses, whatever led to it."""
    import fiftyone as fo

    uri = fo.config.database_uri
    return {"FIFTYONE_DATABASE_URI": uri} if uri else {}


def _open(address: str | None, options: Any) -> None:
    if address and not options.no_browser and not options.json and sys.stdout.isatty():
        webbrowser.open(address)
