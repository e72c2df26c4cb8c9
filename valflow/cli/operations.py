"""Commands around runs: init, report, export, schedule, unschedule, up, doctor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from valflow.cli.result import Result, text_table
from valflow.errors import ConfigError, IllegalTransition, StackError


def init(options: Any) -> Result:
    """`valflow init`."""
    from valflow.drafting import draft_config

    path = Path(options.output)
    if path.exists() and not options.force:
        raise ConfigError([f"{path} is there already; choose another --output, or say --force"])
    draft = draft_config(options.dataset)
    try:
        path.write_text(draft, encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"cannot write {path}: {error.strerror}; choose another --output"]) from None
    return Result(
        f"wrote {path}; look it through, then: valflow run {path} --dry-run",
        {"config": str(path.resolve()), "dataset": options.dataset},
    )


def report(options: Any) -> Result:
    """`valflow report`."""
    from valflow import database, runs
    from valflow.reporting import write_run_report

    record = runs.load(options.run)
    paths = write_run_report(record)
    database.runs().update_one(
        {"run": record["run"]}, {"$set": {f"artifacts.{name}": path for name, path in paths.items()}}
    )
    return Result(
        "\n".join(f"{name}: {path}" for name, path in paths.items()),
        {"run": record["run"], "artifacts": paths},
    )


def export(options: Any) -> Result:
    """`valflow export`."""
    from valflow import database, runs
    from valflow.config import ExportConfig
    from valflow.errors import ExportError
    from valflow.exporting.formats import format_named
    from valflow.run_exports import export_run, with_exports

    try:
        format_named(options.format)
    except ExportError as error:  # a mistake of typing, not an export that failed
        raise ConfigError([f"--format: {error}"]) from None
    record = runs.load(options.run)
    if record["state"] != "FINALIZED":
        raise IllegalTransition(
            f"run {record['run']} is {record['state']}; only finalized labels are exported"
        )
    wanted = ExportConfig(
        format=options.format,
        dir=str(Path(options.dir).resolve()),
        scope=options.scope,
        media=options.media,
    )
    entries = list(export_run(record, [wanted]))
    exports = with_exports(runs.load(record["run"]), entries)
    database.runs().update_one({"run": record["run"]}, {"$set": {"exports": exports}})
    lines = [
        f"{e['labels']} labels on {e['samples']} samples, read back and equal: {e['dir']}" for e in entries
    ]
    return Result("\n".join(lines), {"run": record["run"], "exports": runs.as_json(entries)})


def schedule(options: Any) -> Result:
    """`valflow schedule`; without a configuration it lists what is scheduled."""
    from valflow import schedules

    if options.config is None:
        found = schedules.schedules()
        rows = [
            {"name": s.name, "cron": s.cron, "timezone": s.timezone, "labels": ".".join(map(str, s.target))}
            for s in found
        ]
        return Result(text_table(rows) or "nothing is scheduled", {"schedules": [asdict(s) for s in found]})
    if not options.cron:
        raise ConfigError(['--cron is required, e.g. --cron "0 2 * * *"'])
    made = schedules.schedule(
        options.config, options.cron, options.timezone, options.name, overrides=options.set
    )
    return Result(f"scheduled {made.name}: {made.cron} {made.timezone}", asdict(made))


def unschedule(options: Any) -> Result:
    """`valflow unschedule`."""
    from valflow import schedules

    gone = schedules.unschedule(options.schedule)
    return Result(f"{gone.name} runs no more by the clock", asdict(gone))


def up(options: Any) -> Result:
    """`valflow up`."""
    from valflow import stack

    ports = stack.Ports(prefect=options.prefect_port, app=options.port)
    stack.up(
        app=not options.no_app,
        database=options.database,
        secure=options.secure,
        new_secret=options.new_secret,
        ports=ports,
    )
    return Result()


def doctor(options: Any) -> Result:
    """`valflow doctor`."""
    from valflow.config import load_config
    from valflow.doctor import diagnose, stopped_runs
    from valflow.homes import home

    config = load_config(options.config) if options.config else None
    findings = diagnose(home(), config)
    mended = list(_mend(options)) if options.fix else []
    findings += stopped_runs()
    lines = [f"[..] {line}" for line in mended]
    for finding in findings:
        lines.append(f"[{'ok' if finding.ok else '!!'}] {finding.check}: {finding.detail}")
        if not finding.ok:
            lines.append(f"     {finding.remedy}")
    healthy = all(f.ok for f in findings)
    return Result(
        "\n".join(lines),
        {"healthy": healthy, "findings": [asdict(f) for f in findings], "mended": mended},
        0 if healthy else 1,
    )


def _mend(options: Any) -> Iterator[str]:
    """Continue what stopped: in Prefect, or in this process where no server is known."""
    from valflow import prefect_api, recovery
    from valflow.cli.lifecycle import go_on_here

    try:
        api = prefect_api.api_url()
    except StackError:
        api = None
    yield from recovery.mend(api, lambda run: go_on_here(run, options.debug))
