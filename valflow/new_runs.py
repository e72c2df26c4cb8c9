"""A new run from a form: the settings that a person chooses in the App, as a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from valflow import homes, prefect_api, preflight
from valflow.config import LabelingConfig, config_from_mapping, with_absolute_paths
from valflow.errors import ConfigError, StackError

TARGETS = {
    "new": "What no earlier run has seen",
    "all": "All samples",
    "view": "The current view",
    "selection": "The selected samples",
}
# How the form names models that are no class of one's own: the kind, and which setting the rest is.
KINDS = {"zoo": "name", "huggingface": "id", "ultralytics": "weights"}
# Ids are kept in the record and travel through Prefect; more are better named by a saved view.
MOST_IDS = 10_000


@dataclass(frozen=True)
class Started:
    """What became of a start: ``flow_run`` is None where Prefect does not answer."""

    flow_run: str | None
    message: str


def config_from_form(
    dataset: str, form: Mapping[str, Any], view_ids: Sequence[str] = (), selected: Sequence[str] = ()
) -> LabelingConfig:
    """The configuration that a filled-in form means.

    Args:
        dataset: name of the dataset.
        form: ``target`` (a key of ``TARGETS``), ``model`` (see ``model_from_text``), ``classes``
            (comma-separated), ``min_confidence``, ``label_field``, ``name``.
        view_ids: ids of the samples of the current view.
        selected: ids of the selected samples.

    Raises:
        ConfigError: lists everything that cannot work.
    """
    target = form.get("target") or "new"
    only = target if target in ("new", "all") else "all"
    ids = {"view": view_ids, "selection": selected}.get(target, ())
    if target in ("view", "selection") and not ids:
        raise ConfigError([f"target: {TARGETS[target].lower()} holds no sample"])
    if len(ids) > MOST_IDS:
        raise ConfigError(
            [
                f"target: {len(ids)} samples are too many to name one by one (at most {MOST_IDS}); save the view, "
                "and name it as target.view in a configuration for `valflow run`"
            ]
        )
    classes = [c.strip() for c in str(form.get("classes") or "").split(",") if c.strip()]
    values: dict[str, Any] = {
        "dataset": dataset,
        "label_field": str(form.get("label_field") or "").strip(),
        "model": model_from_text(str(form.get("model") or "").strip()),
        "target": {"only": only, "ids": [str(i) for i in ids]},
        "classes": classes or None,
        "run_name": str(form.get("name") or "").strip() or None,
    }
    if form.get("min_confidence") is not None:
        values["min_confidence"] = float(form["min_confidence"])
    return with_absolute_paths(config_from_mapping(values), homes.home())


def model_from_text(text: str) -> dict[str, str]:
    """Settings of a model: ``zoo:NAME``, ``huggingface:ID``, ``ultralytics:WEIGHTS``, ``module:Class``, or a field."""
    kind, colon, rest = text.partition(":")
    if kind in KINDS and colon:
        return {"kind": kind, KINDS[kind]: rest.strip()}
    return {"kind": "python", "path": text} if colon else {"kind": "field", "field": text}


def start(config: LabelingConfig) -> Started:
    """Trigger the deployment; without Prefect, write the configuration down and say how to run it.

    Raises:
        ConfigError: the configuration cannot work on this dataset.
    """
    preflight.check(config, [])
    try:
        flow_run = prefect_api.trigger(config, name=config.run_name)
    except StackError as error:
        path = _write(config)
        return Started(
            None,
            f"{error} The settings are kept in {path}: `valflow run {path.name}` runs them without a server.",
        )
    page = prefect_api.ui_url(flow_run)
    return Started(flow_run, f"started; the run waits for you here when it is In Review. Its page: {page}")


def _write(config: LabelingConfig) -> Path:
    path = homes.home() / f"{config.dataset}-{config.label_field}.yaml".replace("/", "_")
    number = 2
    while path.exists():
        path = path.with_name(f"{path.stem.rsplit('~', 1)[0]}~{number}.yaml")
        number += 1
    values = config.model_dump(mode="json", exclude_unset=True)
    path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path
