"""Events that Prefect's automations listen to: a run waits for a person, failed, or ended."""

from __future__ import annotations

from typing import Any

from prefect.events import emit_event
from prefect.runtime import flow_run
from prefect.utilities.urls import url_for

from valflow import runs
from valflow.config import LabelingConfig
from valflow.notices import Notice, What, notice, notice_without_run


def page() -> str | None:
    """Address of this flow run's page; None without a server that has pages."""
    # Prefect's own flow_run.ui_url is the address of an older interface.
    return url_for("flow-run", obj_id=flow_run.id) if flow_run.id else None


def emit_once(what: What, record: runs.Record, facts: dict[str, Any]) -> bool:
    """Emit an event that may happen once in each round of a run; whether this was the first time."""
    is_first = runs.mark_told(record, f"{what}-r{record['round']}")
    if is_first:
        emit(what, record, facts)
    return is_first


def emit(what: What, record: runs.Record, facts: dict[str, Any]) -> None:
    """Emit the Prefect event ``valflow.run.<what>``, with what a notification says about it.

    Args:
        what: what became of the run.
        record: the run.
        facts: what programs want to know; see ``notice``.
    """
    record = {**record, "prefect_url": record.get("prefect_url") or page()}
    payload = {
        "run": record["run"],
        "dataset": record["dataset"],
        "label_field": record["label_field"],
        **runs.as_json(facts),
    }
    _emit(what, record["run"], record["name"], payload, notice(what, record, facts))


def emit_failed_start(config: LabelingConfig, reason: str) -> None:
    """Emit ``valflow.run.failed`` for a flow run that ended before there was a labeling run."""
    payload = {
        "run": None,
        "dataset": config.dataset,
        "label_field": config.label_field,
        "stage": "start",
        "reason": reason,
    }
    name = config.run_name or config.dataset
    _emit("failed", str(flow_run.id), name, payload, notice_without_run(config, reason, page()))


def _emit(what: What, identifier: str, name: str, payload: dict[str, Any], told: Notice) -> None:
    emit_event(
        event=f"valflow.run.{what}",
        resource={"prefect.resource.id": f"valflow.run.{identifier}", "prefect.resource.name": name},
        payload={**payload, "subject": told.subject, "text": told.text},
    )
