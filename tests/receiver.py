"""A local HTTP server that keeps what is posted to it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver:
    """Receives JSON on 127.0.0.1, as the address of a webhook; ``messages`` in the order in which they came."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.messages.append(json.loads(body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Not on the terminal."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Where it listens, with a secret such as addresses of chats have."""
        return f"http://127.0.0.1:{self._server.server_port}/hook?token=s3cr3t"

    def about(self, text: str) -> list[dict[str, Any]]:
        """Messages whose text holds this."""
        return [message for message in self.messages if text in message["text"]]

    def wait_for(self, claim: Callable[[], bool], seconds: float = 60.0) -> None:
        """Wait until something is true of the messages."""
        deadline = time.monotonic() + seconds
        while not claim():
            assert time.monotonic() < deadline, self.messages
            time.sleep(0.1)

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
