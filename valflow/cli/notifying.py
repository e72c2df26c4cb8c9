"""The command that says where messages about runs go."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from valflow.cli.result import Result, text_table
from valflow.errors import ConfigError


def notify(options: Any) -> Result:
    """`valflow notify`; without block and address it lists what is told to whom."""
    from valflow import notifications

    if options.block and options.webhook:
        raise ConfigError(["give a block or --webhook URL, not both"])
    if options.remove:
        if options.webhook:
            raise ConfigError(["--remove takes the block that `valflow notify` lists, not --webhook"])
        return _removed(notifications.remove(options.block))
    if not options.block and not options.webhook:
        if options.on is not None:
            raise ConfigError(["--on needs to know where to: give a block, or --webhook URL"])
        return _listed(notifications.notifications())
    on = notifications.USUAL if options.on is None else [name.strip() for name in options.on.split(",")]
    if options.webhook:
        made = notifications.notify_webhook(options.webhook, on)
    else:
        made = notifications.notify(options.block, on)
    return Result(f"{made.block} is told: {', '.join(made.on)}", asdict(made))


def _removed(gone: list[Any]) -> Result:
    text = f"{', '.join(n.block for n in gone)}: told no more" if gone else "nobody was told anything"
    return Result(text, {"removed": [asdict(n) for n in gone]})


def _listed(found: list[Any]) -> Result:
    rows = [{"block": n.block, "is told": ", ".join(n.on), "state": _state(n)} for n in found]
    text = (
        text_table(rows) or "nobody is told anything; `valflow notify BLOCK`, or --webhook URL, changes that"
    )
    return Result(text, {"notifications": [asdict(n) for n in found]})


def _state(notification: Any) -> str:
    if not notification.has_block:
        return "its block was deleted"
    return "on" if notification.is_enabled else "switched off in Prefect"
