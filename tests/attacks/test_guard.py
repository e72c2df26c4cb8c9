"""What a page from elsewhere makes a browser send is refused, and what the server's own pages send is not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from valflow.guard import ALLOWED_HOSTS, Guard, allowed_hosts

LOCAL = "127.0.0.1:5151"
HTTP = "http://127.0.0.1:5151"
JSON = "application/json"


def ask(method: str, headers: dict[str, str], kind: str = "http", **options: Any) -> tuple[Any, list[Any]]:
    """What the guard answers, and which requests reached the application behind it."""
    reached, sent = [], []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope)
        there = [(b"Cross-Origin-Resource-Policy", b"cross-origin"), (b"x", b"y")]
        await send({"type": "http.response.start", "status": 200, "headers": there})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(k.encode(), v.encode("latin-1")) for k, v in headers.items()]
    scope = {"type": kind, "method": method, "path": "/operators/execute", "headers": raw}
    asyncio.run(Guard(app, **options)(scope, None, send))  # type: ignore[arg-type]
    return sent, reached


def post(**headers: str) -> dict[str, str]:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"host": LOCAL, "content-length": "20", "content-type": JSON, **given}


def get(**headers: str) -> dict[str, str]:
    return {"host": LOCAL, **{name.replace("_", "-"): value for name, value in headers.items()}}


@pytest.mark.parametrize(
    ("method", "headers", "says"),
    [
        ("POST", post(origin="https://evil.example"), "found one of 'https://evil.example'"),  # foreign page
        ("POST", post(origin="null"), "found one of 'null'"),  # sandboxed frame, or a file
        ("POST", post(origin=""), "found one of ''"),  # empty origin
        ("POST", post(origin="http://127.0.0.1:8000"), "127.0.0.1:8000"),  # another server on this machine
        ("POST", post(origin="http://localhost:5152"), "localhost:5152"),  # ... by the other name
        ("POST", post(origin="http://127.0.0.1:5151.evil.example"), "evil.example"),  # looks alike
        ("POST", post(origin="http://evil@127.0.0.1"), "evil@127.0.0.1"),  # name in front of the host
        ("POST", post(origin="https://evil.example", content_type="text/plain"), "evil.example"),  # form
        ("POST", post(content_type="text/plain"), "application/json, found 'text/plain'"),  # no origin: form
        ("POST", post(content_type="text/plain;charset=UTF-8"), "'text/plain'"),  # ... from a script
        ("POST", post(content_type="multipart/form-data; boundary=x"), "multipart/form-data"),
        ("POST", post(content_type="application/x-www-form-urlencoded"), "urlencoded"),
        ("POST", post(content_type=""), "application/json, found none"),  # a beacon without a type
        ("POST", post(sec_fetch_site="cross-site"), "another page sent"),  # origin stripped, mark not
        ("PATCH", post(origin="https://evil.example"), "evil.example"),
        ("DELETE", post(origin="https://evil.example"), "evil.example"),
        ("OPTIONS", get(origin="https://evil.example"), "evil.example"),  # the question before such a call
        ("POST", post(host="evil.example:5151", origin="http://evil.example:5151"), "found 'evil.example'"),
        ("GET", get(host="evil.example:5151"), "VALFLOW_ALLOWED_HOSTS"),  # DNS rebinding reads
        ("GET", get(host="127.0.0.1.evil.example"), "127.0.0.1.evil.example"),
        ("GET", get(host="127.0.0.1:5151, evil.example"), "evil.example"),  # sent twice
        ("GET", get(host=""), "found ''"),
        ("GET", get(host="[::1"), "found ''"),
        ("GET", get(origin="https://evil.example"), "evil.example"),  # a script that reads
        ("GET", get(sec_fetch_site="cross-site", sec_fetch_mode="no-cors", sec_fetch_dest="image"), "embeds"),
        ("GET", get(sec_fetch_site="same-site", sec_fetch_mode="no-cors", sec_fetch_dest="script"), "embeds"),
        ("GET", get(sec_fetch_site="cross-site", sec_fetch_mode="navigate", sec_fetch_dest="iframe"), "embe"),
    ],
)
def test_a_page_from_elsewhere_is_refused(method: str, headers: dict[str, str], says: str) -> None:
    sent, reached = ask(method, headers)
    assert reached == []
    assert sent[0]["status"] == 403
    assert says in sent[1]["body"].decode()


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("POST", post(origin=HTTP)),  # the server's own page
        ("POST", post(origin=HTTP, content_type="text/plain;charset=UTF-8")),  # ... whatever it sends
        ("POST", post(host="localhost:8080", origin="http://localhost:8080")),  # through a tunnel
        ("POST", post(origin="http://localhost:5151")),  # the same server by its other name
        ("POST", post(host="[::1]:5151", origin="http://[::1]:5151")),
        ("POST", post(host="192.168.1.7:5151", origin="http://192.168.1.7:5151")),  # bound wider
        ("POST", post()),  # a program
        ("POST", {"host": LOCAL, "content-length": "0"}),  # a program that says nothing more
        ("PATCH", post(content_type="application/json-patch+json")),
        ("GET", get()),
        ("GET", get(sec_fetch_site="none", sec_fetch_mode="navigate", sec_fetch_dest="document")),  # typed
        ("GET", get(sec_fetch_site="same-origin", sec_fetch_mode="no-cors", sec_fetch_dest="image")),
        (
            "GET",
            get(sec_fetch_site="cross-site", sec_fetch_mode="navigate", sec_fetch_dest="document"),
        ),  # link
    ],
)
def test_its_own_pages_and_programs_pass(method: str, headers: dict[str, str]) -> None:
    sent, reached = ask(method, headers)
    assert len(reached) == 1
    assert sent[0]["status"] == 200


def test_no_page_from_elsewhere_may_show_an_answer() -> None:
    [start, _], _ = ask("GET", get())
    headers = dict(start["headers"])
    assert headers[b"cross-origin-resource-policy"] == b"same-origin"  # and not FiftyOne's own cross-origin
    assert headers[b"content-security-policy"] == b"frame-ancestors 'self'"
    assert [name.lower() for name, _ in start["headers"]].count(b"cross-origin-resource-policy") == 1


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        (get(origin="https://evil.example"), False),
        (get(origin=HTTP), True),
        (get(), True),  # a flow run that streams its logs
        (get(host="evil.example"), False),
    ],
)
def test_websockets_too(headers: dict[str, str], passes: bool) -> None:
    sent, reached = ask("GET", headers, kind="websocket")
    assert bool(reached) is passes
    assert (sent[0]["type"] == "websocket.close") is not passes


@pytest.mark.parametrize(
    ("headers", "options", "passes"),
    [
        (post(host="labels.example", origin="https://labels.example"), {"hosts": ["labels.example"]}, True),
        (post(origin="https://labels.example"), {"hosts": ["labels.example"]}, True),  # proxy changed Host
        (post(origin="https://other.example"), {"hosts": ["labels.example"]}, False),
        (post(origin="https://notes.example"), {"origins": ["https://notes.example"]}, True),
        (post(origin="https://evil.example"), {"origins": ["https://notes.example"]}, False),
        (post(host="evil.example", origin="http://evil.example"), {"origins": ["https://n.example"]}, False),
    ],
)
def test_names_that_somebody_allowed(headers: dict[str, str], options: Any, passes: bool) -> None:
    _, reached = ask("POST", headers, **options)
    assert bool(reached) is passes


def test_allowed_names_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert allowed_hosts() == []
    monkeypatch.setenv(ALLOWED_HOSTS, "labels.example, ,Other.example")
    assert allowed_hosts() == ["labels.example", "Other.example"]
