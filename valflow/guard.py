"""Refuses what a page from elsewhere makes a browser send to a server on this machine.

Neither the FiftyOne App nor (without a login) Prefect's server asks who sends a request: they trust whoever
reaches the port. Every page that a person has open can make their browser reach it. Three marks of the browser,
which no page can change, tell such requests from those of the server's own pages:

- ``Host``: the name in the address. A name of somebody else's, led to 127.0.0.1 (DNS rebinding), is still theirs.
- ``Origin``: where the page comes from; browsers send it with everything but plain GET.
- ``Sec-Fetch-Site``: the same in a word, for the GET requests that carry no origin.

Programs send none of them and are let through, unless a login is asked for: what any program here may do needs none.
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

ALLOWED_HOSTS = "VALFLOW_ALLOWED_HOSTS"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
# What a form, or a script that asks nobody before, can send.
_OF_FORMS = frozenset({"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"})
_NOT_FOR_OTHERS = (
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", b"frame-ancestors 'self'"),
)


class Guard:
    """An ASGI application that lets only requests through that no page from elsewhere can have made.

    Args:
        app: the application behind it.
        hosts: names that the server is known by, beside this machine's own and plain addresses.
        origins: origins of pages from elsewhere that may use it; "*" for any.
        login: ``user:secret`` that every request must bring (HTTP Basic); None asks for none.
    """

    def __init__(
        self,
        app: App,
        *,
        hosts: Iterable[str] = (),
        origins: Iterable[str] = (),
        login: str | None = None,
    ) -> None:
        self.app = app
        self.hosts = frozenset(h.lower() for h in hosts) | {"localhost", socket.gethostname().lower()}
        self.origins = frozenset(origins)
        self._expected = f"Basic {base64.b64encode(login.encode()).decode()}" if login else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 403 with the reason, or 401."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers, status = headers_of(scope), 403
        why = self.objection(scope.get("method", "GET"), headers)
        if why is None and not self._has_login(headers):
            why, status = "expected the login of this server", 401
        if why is None:
            await self.app(scope, receive, send if self.origins else _closed_to_others(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": why[:120]})
        else:
            await _refuse(send, why, status)

    def objection(self, method: str, headers: dict[str, str]) -> str | None:
        """Why a request is refused, None where it is not.

        Args:
            method: GET, POST, …
            headers: by name in small letters.
        """
        host, origin = headers.get("host", ""), headers.get("origin")
        name = _name_of(host)
        if not (self._is_known(name) or _is_address(name)):
            return (
                f"expected this server to be addressed by localhost or its IP address, found {name!r}. "
                f"If that is a name of yours, list it in {ALLOWED_HOSTS}"
            )
        if origin is not None:
            if self._may_come_from(origin, host):
                return None
            return (
                f"expected a request of this server's own pages, found one of {origin!r}. "
                f"If that is a name of yours, list it in {ALLOWED_HOSTS}"
            )
        if method not in _SAFE:
            return _objection_to_form(headers)
        site = headers.get("sec-fetch-site", "none")
        is_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if site in ("none", "same-origin") or is_link or self.origins:
            return None
        return "expected a request of this server's own pages, found one that another page embeds"

    def _has_login(self, headers: dict[str, str]) -> bool:
        given = headers.get("authorization", "").encode("latin-1")
        return self._expected is None or hmac.compare_digest(given, self._expected.encode("latin-1"))

    def _is_known(self, name: str) -> bool:
        return name in self.hosts

    def _may_come_from(self, origin: str, host: str) -> bool:
        if "*" in self.origins or origin in self.origins:
            return True
        try:
            place, ours = urlsplit(origin), urlsplit(f"//{host}")
            same_port = place.port == ours.port
        except ValueError:
            return False
        if place.scheme not in ("http", "https") or not place.netloc:
            return False  # also "null": a sandboxed frame, a file
        if place.netloc.lower() == host.lower():
            return True
        theirs = (place.hostname or "").lower()
        if theirs in _LOOPBACK and _name_of(host) in _LOOPBACK:
            return same_port  # the same server by its other name
        # Behind a proxy that puts an address of its own into Host.
        return self._is_known(theirs) and theirs not in _LOOPBACK


def allowed_hosts() -> list[str]:
    """The names in VALFLOW_ALLOWED_HOSTS, separated by commas."""
    return [name.strip() for name in os.environ.get(ALLOWED_HOSTS, "").split(",") if name.strip()]


def headers_of(scope: Scope) -> dict[str, str]:
    """Headers by name in small letters; of one that is sent twice both values, which then fit nothing."""
    found: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _objection_to_form(headers: dict[str, str]) -> str | None:
    """Browsers name the origin of what they post; the second line is against those that leave it out."""
    is_empty = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return "expected a request of this server's own pages, found one that another page sent"
    if is_empty or kind not in _OF_FORMS:
        return None
    return f"expected content-type application/json, found {repr(kind) if kind else 'none'}"


def _name_of(host: str) -> str:
    if any(c in host for c in ",@/ "):
        return host
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    # In an address there is no name that could be led elsewhere.
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _closed_to_others(send: Send) -> Send:
    """Let browsers show answers, pictures among them, to no page from elsewhere."""

    async def closed(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [
                (name, value)
                for name, value in message.get("headers", [])
                if name.lower() != b"cross-origin-resource-policy"
            ]
            message = {**message, "headers": [*kept, *_NOT_FOR_OTHERS]}
        await send(message)

    return closed


async def _refuse(send: Send, why: str, status: int) -> None:
    body = f"refused: {why}\n".encode("utf-8", "replace")
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"x-content-type-options", b"nosniff"),
        (b"content-length", str(len(body)).encode()),
    ]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="valflow", charset="UTF-8"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
