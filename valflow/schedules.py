"""What valflow deploys, and the schedules of `label-dataset`: one per configuration."""

from __future__ import annotations

import difflib
import json
import re
import sys
import zoneinfo
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from valflow.config import LabelingConfig, load_config
from valflow.errors import ConfigError, StackError
from valflow.prefect_api import DEPLOYMENT, FLOW, call, find_deployment

POOL = "valflow"


@dataclass(frozen=True)
class Deployment:
    """How a flow is deployed; ``prefect.yaml`` says the same for `prefect deploy` (a test compares)."""

    flow: str = FLOW
    name: str = DEPLOYMENT
    # A module, not a file: found in a clone (the working directory is importable) and in an installed wheel.
    entrypoint: str = "flows.label_dataset.label_dataset"
    description: str = (
        "Label new samples of a FiftyOne dataset: infer, review, validate, finalize, export, report."
    )
    tags: tuple[str, ...] = ("valflow",)
    # Runs at work at the same time; suspended ones do not count, so this is no guard against two open runs.
    concurrency_limit: int = 2
    # Runs on the worker: its folder, not that of the machine that deploys.
    pull_steps: tuple[dict[str, Any], ...] = ({"valflow.homes.enter_home": {}},)


LABEL_DATASET = Deployment()
REMIND_REVIEWER = Deployment(
    flow="remind-reviewer",
    name="remind-reviewer",
    entrypoint="flows.remind_reviewer.remind_reviewer",
    description="Tell again that a run waits for a person (review.remind_after); planned by the run itself.",
)
DEPLOYMENTS = (LABEL_DATASET, REMIND_REVIEWER)


@dataclass(frozen=True)
class Schedule:
    """One configuration that runs by the clock."""

    name: str
    cron: str
    timezone: str
    is_active: bool
    config: dict[str, Any]

    @property
    def target(self) -> tuple[str | None, str | None]:
        """Dataset and label field."""
        return self.config.get("dataset"), self.config.get("label_field")


def ensure_pool(api: str | None = None) -> None:
    """Make the process work pool, unless it is there; the worker fills in its job template.

    Raises:
        StackError: no server answers.
    """
    if call("GET", f"/work_pools/{POOL}", api=api, accept={404}).status_code == 404:
        # 409: somebody else was quicker, idempotent.
        call("POST", "/work_pools/", {"name": POOL, "type": "process"}, api=api, accept={409})


def ensure_deployment(deployment: Deployment = LABEL_DATASET, api: str | None = None) -> str:
    """Make or update the deployment; schedules, and a concurrency limit that somebody changed, stay.

    Imports the flow, to learn its parameters.

    Returns:
        The deployment's id.

    Raises:
        StackError: no server answers, or the flow cannot be imported.
    """
    ensure_pool(api)
    schema, description = _flow_schema(deployment)
    settings: dict[str, Any] = {
        "entrypoint": deployment.entrypoint,
        "pull_steps": list(deployment.pull_steps),
        "work_pool_name": POOL,
        "parameter_openapi_schema": schema,
        "enforce_parameter_schema": True,
        "description": deployment.description or description,
        "tags": list(deployment.tags),
        "path": None,
    }
    path = f"/deployments/name/{deployment.flow}/{deployment.name}"
    found = call("GET", path, api=api, accept={404})
    if found.status_code == 200:
        # Never POST again: that replaces the deployment, and all its schedules are gone without a word.
        identifier = str(found.json()["id"])
        call("PATCH", f"/deployments/{identifier}", settings, api=api)
        return identifier
    flow_id = call("POST", "/flows/", {"name": deployment.flow}, api=api).json()["id"]
    settings |= {
        "name": deployment.name,
        "flow_id": flow_id,
        "concurrency_limit": deployment.concurrency_limit,
        "concurrency_options": {"collision_strategy": "ENQUEUE"},
    }
    return str(call("POST", "/deployments/", settings, api=api).json()["id"])


def schedule(
    config_path: str | Path,
    cron: str,
    timezone: str = "UTC",
    name: str | None = None,
    *,
    overrides: list[str] | None = None,
    api: str | None = None,
) -> Schedule:
    """Run a configuration by the clock. Doing it again with the same name changes the schedule, idempotent.

    Args:
        config_path: YAML file; its content is copied, so a later change of the file needs this call again.
        cron: five fields, such as ``0 2 * * *``.
        timezone: IANA name, such as Europe/Berlin; daylight saving time is respected.
        name: of the schedule; None takes the file's name without its ending.
        overrides: ``key=value`` settings that win over the file.
        api: address of the API; None finds it.

    Raises:
        ConfigError: lists everything that is wrong with the configuration, the cron line and the time zone.
        StackError: no server answers, or the deployment is not there.
    """
    path = Path(config_path)
    problems = [*_cron_problems(cron), *_timezone_problems(timezone)]
    try:
        config: LabelingConfig | None = load_config(path, overrides)
    except ConfigError as error:
        problems += error.problems
        config = None
    if config is not None and config.run_key is not None:
        problems.append(
            f"run_key is {config.run_key!r}, so every tick would continue that one run; leave it out"
        )
    if problems or config is None:
        raise ConfigError(problems, str(path))
    slug = name or re.sub(r"[^\w.-]+", "-", path.stem)
    wanted = Schedule(slug, cron, timezone, True, config.model_dump(mode="json"))
    deployment = find_deployment(api=api)
    known = {entry.get("slug"): entry for entry in deployment["schedules"]}.get(slug)
    if known is not None and name is None and _as_schedule(known).target != wanted.target:
        other = _as_schedule(known).target
        raise ConfigError([f"the schedule {slug!r} labels {other} already; choose another name"], str(path))
    body = {
        "active": True,
        "schedule": {"cron": cron, "timezone": timezone},
        "parameters": {"config": wanted.config},
        "slug": slug,
    }
    at = f"/deployments/{deployment['id']}/schedules"
    if known is None:
        call("POST", at, [body], api=api)
    else:
        call("PATCH", f"{at}/{known['id']}", body, api=api)
    return wanted


def unschedule(name: str, api: str | None = None) -> Schedule:
    """Take a schedule away, with the ticks that are planned already; a run at work goes on.

    Raises:
        ConfigError: there is no schedule of this name (the message lists those that are there).
        StackError: no server answers, or the deployment is not there.
    """
    deployment = find_deployment(api=api)
    by_name = {entry.get("slug"): entry for entry in deployment["schedules"]}
    if name not in by_name:
        known = ", ".join(sorted(n for n in by_name if n)) or "none"
        raise ConfigError([f"expected the name of a schedule, found {name!r}; there are: {known}"])
    call("DELETE", f"/deployments/{deployment['id']}/schedules/{by_name[name]['id']}", api=api, accept={404})
    return _as_schedule(by_name[name])


def schedules(api: str | None = None) -> list[Schedule]:
    """All schedules of the deployment, by name.

    Raises:
        StackError: no server answers, or the deployment is not there.
    """
    entries = find_deployment(api=api)["schedules"]
    return sorted((_as_schedule(entry) for entry in entries), key=lambda s: s.name)


def _as_schedule(entry: dict[str, Any]) -> Schedule:
    clock = entry["schedule"]
    return Schedule(
        name=entry.get("slug") or entry["id"],
        # A schedule made in Prefect's own pages may be an interval; it is shown, not understood.
        cron=clock.get("cron") or str(clock.get("interval") or clock.get("rrule")),
        timezone=clock.get("timezone") or "UTC",
        is_active=entry["active"],
        config=(entry.get("parameters") or {}).get("config") or {},
    )


def _cron_problems(cron: str) -> list[str]:
    if len(cron.split()) != 5:
        return [
            f"cron: expected five fields (minute hour day month weekday), such as '0 2 * * *', found {cron!r}"
        ]
    from prefect.client.schemas.schedules import CronSchedule
    from pydantic import ValidationError

    try:
        CronSchedule(cron=cron)
    except ValidationError as error:
        return [f"cron: {error.errors()[0]['msg']}; expected a line such as '0 2 * * *', found {cron!r}"]
    return []


def _timezone_problems(timezone: str) -> list[str]:
    names = zoneinfo.available_timezones()
    if timezone in names:
        return []
    close = difflib.get_close_matches(timezone, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else "such as Europe/Berlin or UTC"
    return [f"timezone: expected an IANA name, found {timezone!r}; {hint}"]


def _flow_schema(deployment: Deployment) -> tuple[dict[str, Any], str]:
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema

    try:
        flow: Any = load_flow_from_entrypoint(deployment.entrypoint, use_placeholder_flow=False)
    except (ImportError, AttributeError) as error:
        raise StackError(f"cannot import the flow {deployment.entrypoint}: {error}") from error
    if flow.name != deployment.flow:
        raise StackError(
            f"expected {deployment.entrypoint} to be named {deployment.flow!r}, found {flow.name!r}"
        )
    return parameter_schema(flow).model_dump(exclude_unset=True), flow.description or ""


def main(arguments: list[str]) -> None:
    """Make the deployments on the server of PREFECT_API_URL, and print the id of each.

    A process of its own for the stack: importing Prefect and the flows takes 150 MB, which its parent, who
    only watches, would hold for weeks.
    """
    wanted = [Deployment(**values) for values in json.loads(arguments[0])] if arguments else DEPLOYMENTS
    try:
        for deployment in wanted:
            print(ensure_deployment(deployment))
    except StackError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
