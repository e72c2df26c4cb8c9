"""Lots: a run takes in what is new, start by start, until it holds enough labels to be audited or has waited long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bson import ObjectId

from valflow import database, inference, ledger, runs
from valflow.certify.lots import LotPolicy, closes
from valflow.config import CertifiedApproval, LabelingConfig, LotConfig, duration
from valflow.states import Event, State


def lot_of(config: LabelingConfig) -> LotConfig | None:
    """When runs of this configuration wait for more labels; None where they never do."""
    return config.approval.lot if isinstance(config.approval, CertifiedApproval) else None


def is_waiting(record: runs.Record) -> bool:
    """Whether the run waits for more labels."""
    lot = record.get("lot")
    return lot is not None and lot["closed"] is None and record["state"] == State.PREDICTED.value


def take_in(record: runs.Record, dataset: Any, earlier_runs: Sequence[str]) -> int:
    """Let a waiting run see what is new by now; returns the number of samples."""
    config = LabelingConfig.model_validate(record["config"])
    own = [record["run"]]
    seen = ledger.seen_samples(own)
    found = inference.find_targets(dataset, config, [*earlier_runs, *own])
    new: list[ObjectId] = [i for i in found if i not in seen]
    if not new:
        return 0
    # First the state: shards that a crash left out are found as new again.
    size = inference.choose_shard_size(len(new), config)
    shards = record["target"]["shards"] + -(-len(new) // size)
    record = runs.transition(
        record,
        Event.EXTEND,
        actor="system",
        figures={"samples": len(new)},
        changes={
            "target": {
                **record["target"],
                "samples": record["target"]["samples"] + len(new),
                "shards": shards,
            }
        },
    )
    ledger.open_targets(record["run"], new, size, first=shards - -(-len(new) // size))
    return len(new)


def close_if_due(record: runs.Record) -> bool:
    """Whether the review opens now; writes down what the run holds, and why it stops waiting."""
    config = LabelingConfig.model_validate(record["config"])
    settings = lot_of(config)
    if settings is None:
        return True
    lot = record.get("lot") or {"arrivals": [], "closed": None}
    labels = ledger.total(record["run"])
    now = database.now()
    if not lot["arrivals"] or labels > lot["arrivals"][-1]["total"]:
        lot["arrivals"].append({"at": now, "total": labels, "samples": record["counts"]["samples"]})
    policy = LotPolicy(settings.min_labels, duration(settings.max_wait))
    times = [runs.aware(a["at"]) for a in lot["arrivals"]]
    lot |= {
        "labels": labels,
        "min_labels": settings.min_labels,
        "due": times[0] + policy.max_wait,
        "closed": lot["closed"] or closes(labels, times, runs.aware(now), policy),
    }
    lot["closed_at"] = now if lot["closed"] else None
    runs.update(runs.fence_of(record), {"lot": lot})
    return lot["closed"] is not None


def close(record: runs.Record, reason: str) -> None:
    """Let a waiting run wait no longer; its review opens as the flow goes on."""
    database.runs().update_one({"run": record["run"], "lot.closed": None}, {"$set": {"lot.closed": reason}})


def in_words(record: runs.Record) -> str:
    """What a waiting run waits for, and how to end that."""
    lot = record["lot"]
    return (
        f"run {record['run']} waits for more labels: {lot['labels']} of {lot['min_labels']}, until "
        f"{runs.aware(lot['due']):%Y-%m-%d %H:%M} UTC at the latest; to open its review now, run its "
        "configuration with `--set approval.lot=null`"
    )
