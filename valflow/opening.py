"""The first act of a labeling flow: which run is this?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from valflow import decisions, lots, preflight, runs
from valflow.choosing_types import chosen_type
from valflow.config import LabelingConfig
from valflow.errors import RunBusy
from valflow.inference import find_targets, open_shards
from valflow.models import open_model
from valflow.promotion import finalized_runs_into
from valflow.states import Event, State

# Settings that may change while a failed run is continued: predictions do not depend on them.
_FREE_TO_CHANGE = (
    "run_key",
    "run_name",
    "runner",
    "max_failed_share",
    "max_attempts",
    "safety_copies",
    "output_dir",
)


@dataclass(frozen=True)
class Opened:
    """What a start of the flow found.

    Attributes:
        outcome: *run*: there is work on ``run``; *skipped*: another run is open; *nothing_new*: no sample
            is waiting to be labelled.
        run: key of the run (of the open one where the start was skipped).
        message: one sentence for people.
    """

    outcome: Literal["run", "skipped", "nothing_new"]
    run: str | None
    message: str


def open_run(
    config: LabelingConfig, flow_run_id: str | None = None, more_problems: list[str] | None = None
) -> Opened:
    """Find the run that this start means, or create it.

    A run is found by its key, else by the Prefect flow run that works on it, so a resumed, retried or
    repeated flow is the same run. A start that meets another open run takes it over where its process died,
    and is skipped otherwise.

    Raises:
        ConfigError: the configuration cannot work.
    """
    record = _find_own(config, flow_run_id)
    if record is not None:
        return _continue(record, flow_run_id)
    dataset = preflight.check(config, more_problems or [])
    dataset_id = str(dataset._doc.id)
    other = runs.find_open(dataset_id, config.label_field)
    if other is not None and lots.is_waiting(other) and not runs.is_alive(other):
        return _join(other, dataset, config, flow_run_id)
    if other is not None:
        taken = _take_over(other, config, flow_run_id)
        if taken is not None:
            return taken
    earlier = finalized_runs_into(dataset, config.label_field)
    if not find_targets(dataset, config, earlier):
        return Opened(
            "nothing_new", None, f"nothing to label in {config.dataset} (target.only: {config.target.only})"
        )
    try:
        record = runs.create(config, dataset_id=dataset_id, flow_run_id=flow_run_id)
    except RunBusy as busy:
        return Opened("skipped", busy.run, str(busy))
    decisions.drop_staging(record)  # left behind by a run that was discarded in a crash
    return Opened("run", record["run"], f"run {record['run']} created")


def prepare(record: runs.Record, dataset: Any) -> runs.Record:
    """Write down model and targets of a fresh run; already there is fine."""
    if record.get("target"):
        return record
    config = LabelingConfig.model_validate(record["config"])
    chosen = {"model": open_model(config.model).describe(), "label_type": chosen_type(config, dataset).name}
    runs.update(runs.fence_of(record), chosen)
    return open_shards(
        runs.load(record["run"]), dataset, config, finalized_runs_into(dataset, config.label_field)
    )


def _find_own(config: LabelingConfig, flow_run_id: str | None) -> runs.Record | None:
    if config.run_key is not None:
        # One of another dataset is left to the preflight check, which says whose key it is.
        return runs.find(run=config.run_key, dataset=config.dataset, label_field=config.label_field)
    return None if flow_run_id is None else runs.find_by_flow_run(flow_run_id)


def _continue(record: runs.Record, flow_run_id: str | None) -> Opened:
    if record["state"] == State.ROLLED_BACK.value:
        return Opened("skipped", record["run"], f"skipped: run {record['run']} was rolled back; it has ended")
    if record["state"] in (State.ROLLING_BACK.value, State.REOPENING.value):
        going = f"run {record['run']} is being taken back ({record['state']})"
        return Opened(
            "skipped", record["run"], f"skipped: {going}; `valflow rollback {record['run']}` finishes that"
        )
    somebody_elses = flow_run_id not in (None, record.get("flow_run_id"))
    if record["state"] == State.IN_REVIEW.value and somebody_elses and record.get("suspended_in"):
        return _skip(record)
    try:
        record = runs.claim(record["run"], flow_run_id)
    except RunBusy as busy:
        return Opened("skipped", busy.run, str(busy))
    if record["state"] == State.FAILED.value:
        runs.transition(
            record, Event.RETRY, actor="system", note=f"retried after {record.get('failed_stage')}"
        )
    return Opened("run", record["run"], f"run {record['run']} continued ({record['state']})")


def _take_over(other: runs.Record, config: LabelingConfig, flow_run_id: str | None) -> Opened | None:
    """Continue an open run whose process died; None where a new run may take its place."""
    if other["state"] == State.IN_REVIEW.value or runs.is_alive(other):
        return _skip(other)
    # Where an earlier failure happened, which a retry has mended, says nothing.
    stands = other["failed_from"] if other["state"] == State.FAILED.value else other["state"]
    differs = _differs(other["config"], config)
    if differs and stands in (State.CREATED.value, State.PREDICTED.value):
        # No person has worked on it, and its predictions belong to other settings.
        decisions.discard(
            other["run"],
            decisions.Decision(
                "discard",
                "system",
                note="replaced by a run with changed settings, before any review",
                via="policy",
            ),
        )
        return None
    opened = _continue(other, flow_run_id)
    if differs and opened.outcome == "run":
        return replace(opened, message=f"{opened.message} with the settings it began with")
    return opened


def _join(other: runs.Record, dataset: Any, config: LabelingConfig, flow_run_id: str | None) -> Opened:
    """Bring what is new into a run that waits for more labels; other settings end its waiting."""
    try:
        record = runs.claim(other["run"], flow_run_id)
    except RunBusy as busy:
        return Opened("skipped", busy.run, str(busy))
    if _differs(record["config"], config):
        lots.close(record, "settings")
        return Opened(
            "run", record["run"], f"run {record['run']} waits no longer, because its settings have changed"
        )
    if open_model(config.model).describe() != record["model"]:
        lots.close(record, "model")
        return Opened(
            "run", record["run"], f"run {record['run']} waits no longer, because its model has changed"
        )
    taken = lots.take_in(record, dataset, finalized_runs_into(dataset, config.label_field))
    return Opened(
        "run", record["run"], f"run {record['run']}, which waits for more labels, takes in {taken} samples"
    )


def _skip(other: runs.Record) -> Opened:
    waits = "awaits review" if other["state"] == State.IN_REVIEW.value else f"is at work ({other['state']})"
    message = f"skipped: run {other['run']} {waits}"
    runs.note(other["run"], "skip", actor="system", text="a start met this open run and ended as skipped")
    return Opened("skipped", other["run"], message)


def _differs(stored: dict[str, Any], config: LabelingConfig) -> bool:
    now = config.model_dump(mode="json")
    return any(stored.get(k) != v for k, v in now.items() if k not in _FREE_TO_CHANGE)
