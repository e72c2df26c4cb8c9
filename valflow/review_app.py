"""The FiftyOne App as a place of review: where its plugin is, and the address that opens a run in it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from valflow import database, homes, references, runs
from valflow.schema_changes import changing

PANEL = "auto_labeling"
PLUGIN = "@valflow/auto-labeling"
PANEL_URI = f"{PLUGIN}/{PANEL}"


def plugin_folder() -> Path:
    """The folder of the App's plugin: in an installation beside this file, in a clone beside the package."""
    here = Path(__file__).resolve().parent
    return next((f for f in (here / "plugin", here.parent / "plugin") if (f / "fiftyone.yml").exists()), here)


def link_plugins(folder: Path) -> Path:
    """A folder for FIFTYONE_PLUGINS_DIR with our plugin and those of the user.

    FiftyOne looks into one folder only, so the user's own is linked into this one.

    Args:
        folder: where the links go; created where missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = os.environ.get("FIFTYONE_PLUGINS_DIR")
    theirs = Path(own).expanduser() if own else Path.home() / "fiftyone" / "__plugins__"
    for name, target in (("valflow", plugin_folder()), ("yours", theirs)):
        link = folder / name
        if link.is_symlink():
            link.unlink()
        is_inside = folder.resolve() == target.resolve() or folder.resolve() in target.resolve().parents
        if target.is_dir() and not is_inside:
            link.symlink_to(target.resolve(), target_is_directory=True)
    return folder


def is_disabled() -> bool:
    """Whether somebody switched the plugin off in FiftyOne; asked without importing it."""
    path = Path(os.environ.get("FIFTYONE_APP_CONFIG_PATH") or Path.home() / ".fiftyone" / "app_config.json")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # as FiftyOne reads it
        return False
    return settings.get("plugins", {}).get(PLUGIN, {}).get("enabled") is False


def version_in(app_url: str, login: str | None = None) -> str | None:
    """Version of the plugin that a running App has found; None where it has none, or does not answer.

    Args:
        app_url: address of the App.
        login: ``user:secret`` that it asks for.
    """
    import httpx

    try:
        user, _, secret = (login or "").partition(":")
        answer = httpx.get(
            f"{app_url.rstrip('/')}/plugins", timeout=10.0, auth=(user, secret) if login else None
        )
        plugins = answer.raise_for_status().json()["plugins"]
    except (httpx.HTTPError, httpx.InvalidURL):
        return None
    return next((p["version"] for p in plugins if p["name"] == PLUGIN), None)


def workspace_name(run: str) -> str:
    """Name of the saved workspace that shows a run."""
    return f"review {run}"


def save_workspace(record: runs.Record, dataset: Any) -> str:
    """Save the layout that opens with this run's panel, grid to the left, and note its slug in the record.

    Those of runs that have ended go: recurring runs would fill the App's list. Harmless when repeated.
    """
    import fiftyone as fo
    from fiftyone.core.utils import to_slug

    grid = fo.Panel(type="Samples", pinned=True)
    # The App nests what a panel keeps, and shows an empty half without an active child.
    panel = fo.Panel(type=PANEL, state={"state": {"page": "run", "run": record["run"]}})
    layout = fo.Space(
        children=[
            fo.Space(children=[grid], active_child=grid.component_id),
            fo.Space(children=[panel], active_child=panel.component_id),
        ],
        orientation="horizontal",
        sizes=[0.55, 0.45],
    )
    name = workspace_name(record["run"])
    with changing(dataset):
        references.adopt(dataset, "workspaces", name)
        dataset.save_workspace(name, layout, description=f"Review of {record['name']}", overwrite=True)
    slug = str(to_slug(name))
    _drop_workspaces_of_ended_runs(record, dataset)
    database.runs().update_one({"run": record["run"]}, {"$set": {"workspace": slug}})
    return slug


def _drop_workspaces_of_ended_runs(record: runs.Record, dataset: Any) -> None:
    query = {"dataset_id": record["dataset_id"], "open": False, "workspace": {"$exists": True}}
    for ended in list(database.runs().find(query, {"run": 1})):
        name = workspace_name(ended["run"])
        if dataset.has_workspace(name):
            dataset.delete_workspace(name)
        database.runs().update_one({"_id": ended["_id"]}, {"$unset": {"workspace": ""}})


def address_of(record: runs.Record, app_url: str | None = None) -> str | None:
    """The address that opens a run in the App; None where no App is known.

    Args:
        record: the run.
        app_url: the App's; None takes VALFLOW_APP_URL, else the stack that runs in this home.
    """
    base = app_url or os.environ.get("VALFLOW_APP_URL")
    base = base or homes.environment(homes.home()).get("VALFLOW_APP_URL")
    if not base:
        return None
    dataset, slug = quote(record["dataset"], safe=""), record.get("workspace")
    return f"{base.rstrip('/')}/datasets/{dataset}" + (f"?workspace={slug}" if slug else "")
