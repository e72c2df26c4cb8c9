"""Notifications: one Prefect automation per notification block, found by its name and never made twice.

The automation listens to the events of ``tasks/events.py``, which bring subject and text along, so a message changes
with valflow and not with the automation. Prefect's server sends it; nothing of valflow has to run for that.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from valflow.errors import ConfigError
from valflow.prefect_api import FLOW, call
from valflow.schedules import REMIND_REVIEWER

# What a person can ask for, and the events that mean it. A process that was killed cannot say so itself.
EVENTS: dict[str, tuple[str, ...]] = {
    "waiting": ("valflow.run.waiting", "valflow.run.reminder"),
    "failed": ("valflow.run.failed", "prefect.flow-run.Crashed"),
    "finalized": ("valflow.run.finalized",),
    "discarded": ("valflow.run.discarded",),
}
USUAL = ("waiting", "failed", "finalized")
TAG = "valflow"
WEBHOOK_TYPE, WEBHOOK_NAME = "custom-webhook", "valflow"
_PREFIX = "valflow notifies "
_SUBJECT = "{% if event.payload.text %}{{ event.payload.subject }}{% else %}valflow: Run crashed{% endif %}"
_BODY = (
    "{% if event.payload.text %}{{ event.payload.text }}{% else %}"
    "Run crashed: its process was killed or its machine was lost. Nothing is lost; retry it in Prefect, or start "
    "the same configuration again.\nPrefect: {{ flow_run|ui_url }}{% endif %}"
)


@dataclass(frozen=True)
class Notification:
    """Which messages go where.

    Attributes:
        block: `type/name` of the notification block.
        on: what it tells, of ``EVENTS``.
        is_enabled: false where somebody switched the automation off in Prefect.
        has_block: false where the block was deleted.
    """

    block: str
    on: tuple[str, ...]
    is_enabled: bool
    has_block: bool


def notify(block: str, on: Collection[str] = USUAL, api: str | None = None) -> Notification:
    """Send messages through a notification block. Done again it changes ``on``, and switches it on, idempotent.

    Args:
        block: `type/name` of a Prefect notification block, or its name alone where only one has it.
        on: what to tell, of ``EVENTS``.
        api: address of the API; None finds it.

    Raises:
        ConfigError: there is no such block (the message lists those that are there), or no such event.
        StackError: no server answers.
    """
    on = _checked(on)
    document = _find_block(block, api)
    return _automate(_title(document), document["id"], on, api)


def notify_webhook(url: str, on: Collection[str] = USUAL, api: str | None = None) -> Notification:
    """Send messages to an address, as JSON with ``subject`` and ``text``; another address replaces it.

    The address may hold a secret, so it lies encrypted in Prefect.

    Raises:
        ConfigError: it is no address, or no such event.
        StackError: no server answers.
    """
    on = _checked(on)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError([f"--webhook: expected an address such as https://example.org/hook, found {url!r}"])
    return _automate(f"{WEBHOOK_TYPE}/{WEBHOOK_NAME}", _save_webhook(url, api), on, api)


def notifications(api: str | None = None) -> list[Notification]:
    """All notifications of valflow, by block.

    Raises:
        StackError: no server answers.
    """
    there = {document["id"] for document in _blocks(api)}
    return [_as_notification(automation, there) for automation in _automations(api)]


def remove(block: str | None = None, api: str | None = None) -> list[Notification]:
    """Take one notification away, or all; a block stays, apart from the one of ``notify_webhook``.

    Raises:
        ConfigError: there is none for this block (the message lists those that are there).
        StackError: no server answers.
    """
    there = {document["id"] for document in _blocks(api)}
    found = [(a, _as_notification(a, there)) for a in _automations(api)]
    if block is not None:
        known = [n.block for _, n in found]
        found = [(a, n) for a, n in found if block in (n.block, n.block.partition("/")[2])]
        if not found:
            listed = ", ".join(known) or "none"
            raise ConfigError([f"no notification goes to {block!r}; there are: {listed}"])
    for automation, notification in found:
        call("DELETE", f"/automations/{automation['id']}", api=api, accept={404})
        if notification.block == f"{WEBHOOK_TYPE}/{WEBHOOK_NAME}":
            call("DELETE", f"/block_documents/{_block_id(automation)}", api=api, accept={404})
    return [notification for _, notification in found]


def _checked(on: Collection[str]) -> tuple[str, ...]:
    unknown = [name for name in on if name not in EVENTS]
    if unknown or not on:
        known = ", ".join(EVENTS)
        raise ConfigError([f"--on: expected one or more of {known}, separated by commas, found {unknown}"])
    return tuple(name for name in EVENTS if name in on)


def _automate(block: str, block_id: str, on: tuple[str, ...], api: str | None) -> Notification:
    body = {
        "name": _PREFIX + block,
        "description": "Made by `valflow notify`, which also changes and removes it.",
        "enabled": True,
        "tags": [TAG],
        "trigger": {
            "type": "event",
            "posture": "Reactive",
            "expect": [event for name in on for event in EVENTS[name]],
            # Other flows may crash on the same server.
            "match_related": {
                "prefect.resource.role": "flow",
                "prefect.resource.name": [FLOW, REMIND_REVIEWER.flow],
            },
            "for_each": ["prefect.resource.id"],
            "threshold": 1,
            "within": 0,
        },
        "actions": [
            {
                "type": "send-notification",
                "block_document_id": block_id,
                "subject": _SUBJECT,
                "body": _BODY,
            }
        ],
    }
    known = [a for a in _automations(api) if a["name"] == body["name"]]
    if not known:
        call("POST", "/automations/", body, api=api)
        # Two at the same moment both find none; the older one stays.
        known = [a for a in _automations(api) if a["name"] == body["name"]]
    else:
        call("PUT", f"/automations/{known[0]['id']}", body, api=api)
    for doubled in known[1:]:
        call("DELETE", f"/automations/{doubled['id']}", api=api, accept={404})
    return Notification(block, on, True, True)


def _automations(api: str | None) -> list[dict[str, Any]]:
    """Those of valflow, by name, the oldest of a name first."""
    body = {"automations": {"tags": {"all_": [TAG]}}, "limit": 200}
    found = call("POST", "/automations/filter", body, api=api).json()
    ours = [a for a in found if a["name"].startswith(_PREFIX)]
    return sorted(ours, key=lambda a: (a["name"], a["created"], a["id"]))


def _as_notification(automation: dict[str, Any], blocks: Collection[str]) -> Notification:
    expected = set(automation["trigger"].get("expect") or ())
    return Notification(
        block=automation["name"].removeprefix(_PREFIX),
        on=tuple(name for name, events in EVENTS.items() if expected.intersection(events)),
        is_enabled=automation["enabled"],
        has_block=_block_id(automation) in blocks,
    )


def _block_id(automation: dict[str, Any]) -> str | None:
    ids = [a["block_document_id"] for a in automation["actions"] if a["type"] == "send-notification"]
    return ids[0] if ids else None


def _blocks(api: str | None) -> list[dict[str, Any]]:
    """All documents of notification blocks."""
    body = {
        "block_documents": {"is_anonymous": {"eq_": False}},
        "block_schemas": {"block_capabilities": {"all_": ["notify"]}},
        "limit": 200,
    }
    found: list[dict[str, Any]] = call("POST", "/block_documents/filter", body, api=api).json()
    return sorted(found, key=_title)


def _title(document: dict[str, Any]) -> str:
    return f"{document['block_type']['slug']}/{document['name']}"


def _find_block(wanted: str, api: str | None) -> dict[str, Any]:
    by_title = {_title(document): document for document in _blocks(api)}
    fitting = [title for title in by_title if wanted in (title, title.partition("/")[2])]
    if len(fitting) == 1:
        return by_title[fitting[0]]
    if fitting:
        raise ConfigError([f"{wanted!r} is the name of several blocks; say which: {', '.join(fitting)}"])
    if not by_title:
        remedy = (
            "make one in Prefect's pages (Blocks: Slack Webhook, Sendgrid Email, …), or give --webhook URL"
        )
        raise ConfigError(
            [f"expected a notification block, found {wanted!r}, but there is none at all; {remedy}"]
        )
    short = {title.partition("/")[2]: title for title in by_title}
    close = difflib.get_close_matches(wanted, [*by_title, *short], n=1, cutoff=0.5)
    hint = f"; did you mean {short.get(close[0], close[0])!r}?" if close else ""
    raise ConfigError([f"there is no notification block {wanted!r}{hint} (there are: {', '.join(by_title)})"])


def _save_webhook(url: str, api: str | None) -> str:
    """The id of our webhook's block, made or changed."""
    data = {
        "name": WEBHOOK_NAME,
        "url": "{{url}}",
        "secrets": {"url": url},
        "json_data": {"subject": "{{subject}}", "text": "{{body}}"},
    }
    block_type = call("GET", f"/block_types/slug/{WEBHOOK_TYPE}", api=api).json()
    path = f"/block_types/slug/{WEBHOOK_TYPE}/block_documents/name/{WEBHOOK_NAME}"
    found = call("GET", path, api=api, accept={404})
    if found.status_code == 200:
        identifier = str(found.json()["id"])
        change = {"data": data, "merge_existing_data": False}
        call("PATCH", f"/block_documents/{identifier}", change, api=api)
        return identifier
    wanted = {"block_schemas": {"block_type_id": {"any_": [block_type["id"]]}}, "limit": 1}
    [schema] = call("POST", "/block_schemas/filter", wanted, api=api).json()
    document = {
        "name": WEBHOOK_NAME,
        "block_type_id": block_type["id"],
        "block_schema_id": schema["id"],
        "data": data,
    }
    return str(call("POST", "/block_documents/", document, api=api).json()["id"])
