"""Stands on loopback before a real Prefect server, and answers 503 in its place for as long as it is told to."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

_NOT_PASSED_ON = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
)
PATIENCE = 60.0  # seconds for an answer of the server


class Refusing:
    """Passes everything on, but for what it is told to refuse.

    Attributes:
        refused: method and path of each request that was answered 503.
    """

    def __init__(self, server: str) -> None:
        self._server = urlsplit(server)
        self._lock = threading.Lock()
        self._begins_at: re.Pattern[str] | None = None
        self._since: float | None = None  # when it began
        self._lasts: float | None = None
        self._mode: Literal["refuse", "lose"] = "refuse"
        self.refused: list[str] = []

    def begin(
        self, at: str = "", *, seconds: float | None = None, mode: Literal["refuse", "lose"] = "refuse"
    ) -> None:
        """Answer 503 from the next request on whose method, path and body hold a pattern.

        Args:
            at: regular expression; every request holds the empty one.
            seconds: how long it lasts from then on; None: until ``end``.
            mode: *refuse*: the server never hears of a request; *lose*: it does what it is asked, and only its answer
                is lost.
        """
        with self._lock:
            self.refused, self._since = [], None
            self._begins_at, self._lasts, self._mode = re.compile(at, re.DOTALL), seconds, mode

    def end(self) -> None:
        """Pass everything on again."""
        with self._lock:
            self._begins_at = self._since = None

    @property
    def has_begun(self) -> bool:
        """Whether a request came that was refused."""
        return bool(self.refused)

    def fate_of(self, method: str, path: str, body: bytes) -> Literal["pass", "refuse", "lose"]:
        """What becomes of a request."""
        with self._lock:
            if self._begins_at is None:
                return "pass"
            request = f"{method} {path}"
            if self._since is None:
                if not self._begins_at.search(f"{request} {body.decode(errors='replace')}"):
                    return "pass"
                self._since = time.monotonic()
            if self._lasts is not None and time.monotonic() > self._since + self._lasts:
                return "pass"
            self.refused.append(request)
            return self._mode

    # -- passing on

    def ask(
        self, method: str, path: str, headers: Any, body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """The server's own answer."""
        kept = {k: v for k, v in headers.items() if k.lower() not in (*_NOT_PASSED_ON, "host")}
        line = http.client.HTTPConnection(self._server.hostname or "", self._server.port, timeout=PATIENCE)
        try:
            line.request(method, path, body or None, kept)
            answer = line.getresponse()
            passed = [(k, v) for k, v in answer.getheaders() if k.lower() not in _NOT_PASSED_ON]
            return answer.status, passed, answer.read()
        finally:
            line.close()

    def connect_through(self, head: bytes, client: socket.socket) -> None:
        """A WebSocket: bytes go both ways until one side ends."""
        with socket.create_connection((self._server.hostname, self._server.port)) as server:
            server.sendall(head)
            back = threading.Thread(target=_pour, args=(server, client), daemon=True)
            back.start()
            _pour(client, server)
            back.join(PATIENCE)


def _pour(source: socket.socket, into: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65536):
            into.sendall(piece)
    with suppress(OSError):
        into.shutdown(socket.SHUT_WR)


def _handler(proxy: Refusing) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            with suppress(ConnectionError):
                super().handle_one_request()

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fate = proxy.fate_of(self.command, self.path, body)
            if fate == "pass" and self.headers.get("Upgrade", "").lower() == "websocket":
                head = f"{self.raw_requestline.decode()}{self.headers.as_string()}".replace("\n", "\r\n")
                self.close_connection = True
                proxy.connect_through(head.replace("\r\r\n", "\r\n").encode(), self.connection)
                return
            status, headers, content = 503, [("Content-Type", "application/json")], _BUSY
            if fate != "refuse":
                answer = proxy.ask(self.command, self.path, self.headers, body)
                if fate == "pass":
                    status, headers, content = answer
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _any

        def log_message(self, *_: object) -> None:
            pass

    return Handler


_BUSY = json.dumps({"detail": "Service Unavailable"}).encode()


@contextmanager
def refusing(api: str) -> Iterator[tuple[Refusing, str]]:
    """A proxy before a Prefect API, and the address of the API behind it."""
    proxy = Refusing(api)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(proxy))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield proxy, f"http://127.0.0.1:{server.server_address[1]}{urlsplit(api).path}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
