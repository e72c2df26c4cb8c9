"""What could keep valflow from working here, each with its remedy. Writes nothing, leaves nothing running."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from valflow import (
    __version__,
    homes,
    mongod,
    notifications,
    prefect_api,
    recovery,
    review_app,
    trail,
    worker,
)
from valflow.config import FieldModelConfig, LabelingConfig, MergeModelConfig, PythonModelConfig
from valflow.database import COPIES, RUNS
from valflow.errors import ConfigError, StackError
from valflow.login import login_file
from valflow.processes import is_port_taken
from valflow.schedules import POOL, REMIND_REVIEWER
from valflow.stack import STANDARD_PORTS

if TYPE_CHECKING:
    from packaging.requirements import Requirement

LEAST_PYTHON = (3, 11)
LEAST_SPACE = 2 * 10**9  # bytes; MongoDB alone sets aside some hundred MB
# A MongoDB below this works, but its makers do not mend it any more.
OLDEST_MAINTAINED_MONGODB = 7
# The worker reports every 30 s; twice that and some more without a word, and it is gone.
SILENT_WORKER = timedelta(seconds=90)
# Mismatches with known, puzzling symptoms.
SYMPTOMS = {
    "fastapi": "Prefect's server then ends at its start with \"unexpected keyword argument 'min_items'\"",
    "sqlalchemy": "with 2.1 and later Prefect's scheduler fails, and no schedule ever runs",
    "fiftyone": "valflow reads and writes its documents directly and was not tried with this version",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; ``remedy`` says what to do, or hints at more where all is right."""

    check: str
    ok: bool
    detail: str
    remedy: str | None = None


def diagnose(home: Path | None = None, config: LabelingConfig | None = None) -> list[Finding]:
    """Look at everything that valflow stands on.

    Args:
        home: the folder to look at; None takes VALFLOW_HOME, else the current folder.
        config: looked at too: its model is imported (which runs its code), its folders are checked.

    Returns:
        Findings in the order in which problems are best mended.
    """
    home = home or homes.home()
    findings = [_python(), *_packages(), _mongod()]
    try:
        homes.read_record(home)
    except StackError as error:
        return [
            *findings,
            Finding("stack", False, str(error), f"Delete {homes.state_folder(home) / 'stack.json'}"),
        ]
    findings += [
        _database(home),
        *_trails(home),
        *_copies(home),
        *_folders(home, config),
        *_login(home),
        _plugin(home),
        *_prefect(home),
        *_ports(home),
    ]
    if config is not None:
        findings.append(_model(home, config))
    return findings


def stopped_runs() -> list[Finding]:
    """Runs that stopped without having ended, each with what would be done about it."""
    from pymongo import MongoClient

    uri = mongod.configured_uri() or next(iter(mongod.embedded_uris()), None)
    if uri is None or mongod.server_version(uri, timeout=3.0) is None:
        return []
    try:
        api = prefect_api.api_url()
    except StackError:
        api = None
    client: MongoClient[dict[str, Any]] = MongoClient(uri, serverSelectionTimeoutMS=3000)
    with client:
        records = client[os.environ.get("FIFTYONE_DATABASE_NAME", "fiftyone")][RUNS]
        steps = recovery.look(records, api)
    if not steps:
        return [Finding("runs", True, "none has stopped without having ended")]
    return [Finding("runs", False, f"run {step.run}: {step.why}", _remedy(step)) for step in steps]


def _remedy(step: recovery.Step) -> str:
    if not step.is_automatic:
        return step.remedy
    return f"`valflow doctor --fix`, or the recovery of `valflow up`, does it: {step.in_words}"


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= LEAST_PYTHON:
        return Finding("python", True, f"{found} at {sys.executable}")
    wanted = ".".join(map(str, LEAST_PYTHON))
    return Finding("python", False, f"expected {wanted} or later, found {found}", f"Install Python {wanted}")


def _packages() -> list[Finding]:
    findings = []
    requirements = _requirements()
    for requirement in requirements:
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            found = None
        if found is not None and requirement.specifier.contains(found, prereleases=True):
            continue
        symptom = SYMPTOMS.get(requirement.name)
        detail = f"expected {requirement}, found {found or 'none'}" + (
            f"; {symptom}" if found and symptom else ""
        )
        remedy = f"{sys.executable} -m pip install '{requirement}'"
        findings.append(Finding(f"package {requirement.name}", False, detail, remedy))
    return findings or [Finding("packages", True, f"{len(requirements)} of {len(requirements)} as required")]


def _requirements() -> list[Requirement]:
    from packaging.requirements import Requirement

    clone = Path(__file__).resolve().parents[1] / "pyproject.toml"
    if clone.exists():
        # What the code asks for now, not what it asked for when somebody installed it.
        lines = tomllib.loads(clone.read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        lines = importlib.metadata.requires("valflow") or []
    requirements = [Requirement(line) for line in lines]
    return [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]


def _mongod() -> Finding:
    binary = mongod.find_mongod()
    if binary is not None:
        return Finding("mongod", True, str(binary))
    if mongod.configured_uri():
        return Finding("mongod", True, "none on this machine, and none needed: FiftyOne is told which to use")
    return Finding("mongod", False, "none with FiftyOne, none on PATH", mongod.REMEDY)


def _database(home: Path) -> Finding:
    stack = homes.environment(home).get("FIFTYONE_DATABASE_URI")
    uri = mongod.configured_uri() or stack
    if uri is None:
        detail = "FiftyOne's embedded MongoDB, which all your FiftyOne sessions share; it starts when needed"
        if homes.read_record(home).database == "own":
            remedy = "`valflow up` starts the database of its own that this folder used last"
            return Finding("database", True, detail, remedy)
        if mongod.find_mongod() is None:
            return Finding(
                "database", False, "FiftyOne's embedded MongoDB cannot start without a mongod", mongod.REMEDY
            )
        try:
            return Finding("database", True, f"{detail} (tried: {mongod.check()})")
        except StackError as error:
            return Finding("database", False, str(error), mongod.REMEDY)
    shown = mongod.without_password(uri)
    where = f"{shown}, of the stack that runs in {home}" if uri == stack else shown
    version = mongod.server_version(uri, timeout=3.0)
    if version is None:
        return Finding("database", False, f"expected a MongoDB at {where}, none answers", mongod.REMEDY_URI)
    old = int(version.split(".")[0]) < OLDEST_MAINTAINED_MONGODB
    remark = f"For production use MongoDB {OLDEST_MAINTAINED_MONGODB} or later, by FIFTYONE_DATABASE_URI"
    return Finding("database", True, f"MongoDB {version} at {where}", remark if old else None)


def _trails(home: Path) -> list[Finding]:
    """The audit trails of all runs; nothing where the database does not run, or does not answer."""
    from pymongo import MongoClient
    from pymongo.errors import PyMongoError

    uri = _uri_in_use(home)
    if uri is None:
        return []
    try:
        with MongoClient(uri, serverSelectionTimeoutMS=3000) as client:  # type: ignore[var-annotated]
            count, wrong = trail.check(client[os.environ.get("FIFTYONE_DATABASE_NAME", "fiftyone")])
    except PyMongoError:
        return []  # told by the check of the database
    remedy = (
        "Somebody wrote to the database by hand. Compare with the reports and backups of that time; do not trust "
        "what this run says before you know what was changed"
    )
    if wrong:
        return [Finding("audit trail", False, problem, remedy) for problem in wrong]
    return [Finding("audit trail", True, f"{count} runs, every entry where and as it was written")]


def _copies(home: Path) -> list[Finding]:
    """The safety copies there are; nothing where the database does not run, or does not answer."""
    from pymongo import MongoClient
    from pymongo.errors import PyMongoError

    uri = _uri_in_use(home)
    if uri is None:
        return []
    try:
        with MongoClient(uri, serverSelectionTimeoutMS=3000) as client:  # type: ignore[var-annotated]
            copies = client[os.environ.get("FIFTYONE_DATABASE_NAME", "fiftyone")][COPIES]
            found = list(copies.find({"complete": True, "going": False}, {"at": 1, "bytes": 1}))
    except PyMongoError:
        return []  # told by the check of the database
    if not found:
        return [Finding("safety copies", True, "none yet; one is made before each finalization and rollback")]
    size, oldest = sum(c["bytes"] for c in found) / 1e6, min(c["at"] for c in found)
    detail = f"{len(found)}, together {size:.1f} MB, the oldest of {oldest:%Y-%m-%d}; `valflow show RUN` lists them"
    return [Finding("safety copies", True, detail)]


def _uri_in_use(home: Path) -> str | None:
    uri = mongod.configured_uri() or homes.environment(home).get("FIFTYONE_DATABASE_URI")
    return uri or next(iter(mongod.embedded_uris()), None)


def _folders(home: Path, config: LabelingConfig | None) -> list[Finding]:
    from valflow.preflight import unwritable

    folders = [home, homes.state_folder(home)]
    if config is not None:
        folders += [Path(config.output_dir), *(Path(export.dir) for export in config.export)]
    problems = [problem for folder in dict.fromkeys(folders) if (problem := unwritable(folder))]
    findings = [
        Finding("folders", False, p, "Change its owner or rights, or choose another folder") for p in problems
    ]
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < LEAST_SPACE:
        detail = f"expected {LEAST_SPACE / 1e9:.0f} GB of free space in {existing}, found {free / 1e9:.1f} GB"
        findings.append(Finding("folders", False, detail, "Make room"))
    named = ", ".join(str(folder) for folder in dict.fromkeys(folders))
    return findings or [Finding("folders", True, f"writable: {named}; {free / 1e9:.0f} GB free")]


def _login(home: Path) -> list[Finding]:
    """Whether the secret of a home that has one is still one."""
    try:
        login = homes.login_for(home)
    except StackError as error:
        return [Finding("login", False, str(error), "valflow up --secure --new-secret")]
    return [Finding("login", True, f"in {login_file(homes.state_folder(home))}")] if login else []


def _prefect(home: Path) -> list[Finding]:
    try:
        api = prefect_api.api_url(home)
    except StackError:
        detail = "no server is known here; only deployed and scheduled runs need one"
        return [Finding("prefect", True, detail, prefect_api.NO_SERVER)]
    if not prefect_api.is_reachable(api):
        return [Finding("prefect", False, f"expected a server at {api}, none answers", prefect_api.NO_SERVER)]
    try:
        return [_prefect_version(api), _deployment(api), _worker(api), *_notifications(api)]
    except StackError as error:
        return [Finding("prefect", False, str(error), "See the server's log, or PREFECT_API_AUTH_STRING")]


def _prefect_version(api: str) -> Finding:
    client, server = importlib.metadata.version("prefect"), prefect_api.server_version(api)
    detail = f"server {server} at {api}"
    if client.split(".")[:2] == server.split(".")[:2]:
        return Finding("prefect", True, detail)
    return Finding(
        "prefect", False, f"{detail}, but {client} is installed here", "Use one version on both sides"
    )


def _deployment(api: str) -> Finding:
    try:
        record = prefect_api.find_deployment(api=api)
    except StackError as error:
        return Finding("deployment", False, str(error), "`valflow up`, or `prefect deploy --all` in a clone")
    try:
        prefect_api.find_deployment(REMIND_REVIEWER.flow, REMIND_REVIEWER.name, api)
    except StackError as error:
        remedy = (
            "`valflow up`, or `prefect deploy --all` in a clone; without it `review.remind_after` is idle"
        )
        return Finding("deployment", False, str(error), remedy)
    return Finding("deployment", True, f"{prefect_api.DEPLOYMENT}, {len(record['schedules'])} schedules")


def _notifications(api: str) -> list[Finding]:
    there = notifications.notifications(api)
    if not there:
        return [Finding("notifications", True, "nobody is told", "`valflow notify BLOCK`, or --webhook URL")]
    return [_notification(notification) for notification in there]


def _notification(told: notifications.Notification) -> Finding:
    if not told.has_block:
        remedy = f"`valflow notify` with another block, or `valflow notify --remove {told.block}`"
        return Finding(
            "notifications", False, f"the block {told.block} was deleted, so nobody is told", remedy
        )
    if not told.is_enabled:
        detail = f"the automation for {told.block} is switched off in Prefect"
        return Finding("notifications", False, detail, f"`valflow notify {told.block}` switches it on")
    return Finding("notifications", True, f"{told.block} is told: {', '.join(told.on)}")


def _plugin(home: Path) -> Finding:
    """The panel of the App: in its folder, of our version, switched on, and seen by the App that runs."""
    folder = review_app.plugin_folder()
    try:
        found = yaml.safe_load((folder / "fiftyone.yml").read_text(encoding="utf-8"))["version"]
    except OSError:
        return Finding("plugin", False, f"expected the App's panel in {folder}, found none", "Install again")
    if found != __version__:
        detail = f"expected the panel in {folder} to be of version {__version__}, found {found}"
        return Finding("plugin", False, detail, "Install again; in a clone: git status plugin")
    if review_app.is_disabled():
        detail = f"{review_app.PLUGIN} is switched off in FiftyOne's settings"
        return Finding("plugin", False, detail, f"fiftyone plugins enable {review_app.PLUGIN}")
    app = os.environ.get("VALFLOW_APP_URL") or homes.environment(home).get("VALFLOW_APP_URL")
    if app is None:
        return Finding("plugin", True, f"{review_app.PLUGIN} {found}", "`valflow review RUN` opens it")
    try:
        login = homes.login_for(home)
    except StackError:  # told by the check of the login
        return Finding(
            "plugin", True, f"{review_app.PLUGIN} {found}; the App was not asked without its login"
        )
    is_own = app == homes.environment(home).get("VALFLOW_APP_URL")
    seen = review_app.version_in(app, login if is_own else None)
    if seen == __version__:
        return Finding("plugin", True, f"{review_app.PLUGIN} {seen} in the App at {app}")
    detail = f"expected {review_app.PLUGIN} {__version__} in the App at {app}, found {seen or 'none'}"
    remedy = (
        "Start that App again with `valflow up` or `valflow review`; a copy of the plugin in FiftyOne's own folder "
        "(`fiftyone plugins list`) goes first: delete it"
    )
    return Finding("plugin", False, detail, remedy)


def _worker(api: str) -> Finding:
    beats = worker.heartbeats(api)
    age = max(datetime.now(UTC) - max(beats), timedelta(0)) if beats else None
    if age is not None and age < SILENT_WORKER:
        return Finding("worker", True, f"last heard of {age.total_seconds():.0f} s ago")
    detail = (
        "none has ever reported"
        if age is None
        else f"last heard of {age.total_seconds() / 60:.0f} minutes ago"
    )
    remedy = f"`valflow up`, or `prefect worker start --pool {POOL}` with VALFLOW_HOME set"
    return Finding("worker", False, detail, remedy)


def _ports(home: Path) -> list[Finding]:
    record = homes.read_record(home)
    if record.is_running:
        silent = {name: port for name, port in record.ports.items() if not is_port_taken(port)}
        if silent:
            remedy = f"See {homes.state_folder(home) / 'logs'}; stop the stack and start it again"
            return [Finding("ports", False, f"the stack runs, but nothing answers on {silent}", remedy)]
        return [Finding("ports", True, f"of the running stack: {record.ports}")]
    standard = [port for port in (STANDARD_PORTS.prefect, STANDARD_PORTS.app) if port]
    taken = [port for port in standard if is_port_taken(port)]
    if taken:
        detail = f"used by other programs: {taken}; `valflow up` then chooses others"
        return [Finding("ports", True, detail, "`valflow up --port N` chooses the App's port")]
    return [Finding("ports", True, f"free: {standard}")]


def _model(home: Path, config: LabelingConfig) -> Finding:
    from valflow.models import open_model

    if isinstance(config.model, MergeModelConfig):
        return Finding("model", True, f"predictions of {', '.join(config.model.runs)}; nothing to import")
    if isinstance(config.model, FieldModelConfig):
        return Finding("model", True, f"predictions of the field {config.model.field!r}; nothing to import")
    sys.path.insert(0, str(home))  # as in a flow run
    try:
        source: Any = open_model(config.model)
    except ConfigError as error:
        remedy = "Mend the section `model` of the configuration; docs/models.md has an example of each kind"
        if isinstance(config.model, PythonModelConfig):
            remedy = (
                f"Put its module into {home}, or install it into this Python, and try: python -c 'import …'"
            )
        return Finding("model", False, error.problems[0], remedy)
    finally:
        sys.path.remove(str(home))
    about = source.describe()
    named = about.get("path") or f"{about['kind']} model {about['name']}"
    return Finding("model", True, f"{named} is a {type(source.model).__name__}")
