"""How it came about: history, times, configuration, versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from valflow.report import formats
from valflow.report.blocks import Block, Column, Facts, Heading, Listing, Section, Table

Record = Mapping[str, Any]


def history_section(record: Record) -> Section | None:
    """Every transition: when, who, what, why."""
    entries = record.get("history") or []
    if not entries:
        return None
    columns = [Column("time"), Column("who"), Column("event"), Column("state"), Column("note")]
    rows = [
        [
            formats.when(h.get("time")),
            str(h.get("actor") or formats.NOTHING),
            str(h.get("event") or formats.NOTHING).replace("_", " "),
            _states(h.get("from"), h.get("to")),
            _note(h),
        ]
        for h in entries
    ]
    return Section("history", "History", [Table(columns, rows, 30)])


def settings_section(record: Record) -> Section:
    """Everything that is needed to do the same again."""
    blocks: list[Block] = []
    timings = {k: s for k, s in (record.get("timings") or {}).items() if formats.number(s) is not None}
    if timings:
        machine = sum(formats.number(s) or 0.0 for stage, s in timings.items() if stage != "review")
        times = [(str(stage), formats.duration(s)) for stage, s in timings.items()]
        blocks += [
            Heading("Time per stage"),
            Facts([*times, ("all but the review", formats.duration(machine))]),
        ]
    config = record.get("config") or {}
    if config:
        blocks += [Heading("Configuration"), Listing(as_yaml(config), "yaml")]
    facts = [("run", str(record.get("run", formats.NOTHING)))]
    facts += [("Prefect flow run", str(record["flow_run_id"]))] if record.get("flow_run_id") else []
    facts += [(str(name), str(version)) for name, version in (record.get("versions") or {}).items()]
    return Section("settings", "Settings and versions", [*blocks, Heading("Versions"), Facts(facts)])


def as_yaml(values: Any) -> str:
    """Values as YAML that can be run again; what YAML does not know is written as text."""
    return yaml.safe_dump(_plain(values), sort_keys=False, allow_unicode=True, width=100).strip()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _states(before: Any, after: Any) -> str:
    if not before or before == after:
        return str(after or formats.NOTHING)
    return f"{before} → {after}"


def _note(entry: Mapping[str, Any]) -> str:
    figures = entry.get("figures") or {}
    named = [
        f"{str(k).replace('_', ' ')} {_figure(v)}"
        for k, v in figures.items()
        if not isinstance(v, dict | list)
    ]
    return " · ".join(
        [*([str(entry["note"])] if entry.get("note") else []), *([", ".join(named)] if named else [])]
    )


def _figure(value: Any) -> str:
    found = formats.number(value)
    if found is None:
        return str(value)
    return formats.count(found) if found == int(found) else formats.decimal(found)
