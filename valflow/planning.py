"""What a run would do, before it does anything."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from bson import ObjectId

from valflow import preflight, runs
from valflow.choosing_types import chosen_type
from valflow.config import LabelingConfig
from valflow.inference import PER_WRITE, choose_shard_size, find_targets, prediction_source
from valflow.label_types import candidates
from valflow.promotion import finalized_runs_into
from valflow.states import State
from valflow.triage import thresholds_of

TRIAL_BATCHES = 3


def make_plan(config: LabelingConfig, more_problems: Sequence[str] = ()) -> dict[str, Any]:
    """Try a few batches, spread over the targets, and estimate the rest. Writes nothing.

    Returns:
        JSON: ``dataset, label_field, samples, shards, open_run, open_run_state, trial{samples, labels, failed,
        seconds}, estimate{seconds, labels, approved, to_review}``; the estimates are None where nothing is to do.

    Raises:
        ConfigError: the configuration cannot work.
    """
    dataset = preflight.check(config, more_problems)
    targets = find_targets(dataset, config, finalized_runs_into(dataset, config.label_field))
    open_run = runs.find_open(str(dataset._doc.id), config.label_field)
    size = choose_shard_size(len(targets), config)
    plan: dict[str, Any] = {
        "dataset": config.dataset,
        "label_field": config.label_field,
        "samples": len(targets),
        "shards": -(-len(targets) // size),
        "open_run": open_run["run"] if open_run else None,
        "open_run_state": open_run["state"] if open_run else None,
        "trial": None,
        "estimate": None,
    }
    if targets:
        plan["trial"], plan["estimate"] = _try(config, dataset, targets)
    return plan


def plan_in_words(plan: dict[str, Any]) -> str:
    """The plan for a terminal."""
    lines = [
        f"{plan['samples']} samples of {plan['dataset']} would be labelled into {plan['label_field']}; "
        "nothing was written"
    ]
    if plan["open_run"]:
        failed = plan["open_run_state"] == State.FAILED.value
        then = "a start goes on with it" if failed else "until it is decided, a start is skipped"
        lines.append(f"run {plan['open_run']} is open; {then}")
    if plan["estimate"] is None:
        return "\n".join([*lines, "nothing to do"])
    trial, estimate = plan["trial"], plan["estimate"]
    lines.append(
        f"a trial of {trial['samples']} samples found {trial['labels']} labels in {trial['seconds']:.1f} s"
        + (f"; {trial['failed']} samples failed" if trial["failed"] else "")
    )
    lines.append(
        f"estimate: {estimate['seconds']:.0f} s of inference, {estimate['labels']} labels, of which about "
        f"{estimate['approved']} approved by threshold and {estimate['to_review']} to review"
    )
    return "\n".join(lines)


def _try(
    config: LabelingConfig, dataset: Any, targets: list[ObjectId]
) -> tuple[dict[str, Any], dict[str, Any]]:
    label_type = chosen_type(config, dataset)
    source = prediction_source(config.model, dataset, label_type)
    thresholds = thresholds_of(config)
    classes = None if config.classes is None else frozenset(config.classes)
    at_once = PER_WRITE if config.batch_size == "auto" else config.batch_size
    wanted = min(len(targets), TRIAL_BATCHES * at_once)
    sample_ids = [targets[i * len(targets) // wanted] for i in range(wanted)]
    source(sample_ids[:1])  # the first call may pay for set-up, which a long run does not feel
    start = time.perf_counter()
    predictions = []
    for first in range(0, wanted, at_once):
        predictions += source(sample_ids[first : first + at_once])
    seconds = time.perf_counter() - start
    labels = [
        label
        for sample_id, prediction in zip(sample_ids, predictions, strict=True)
        if not isinstance(prediction, Exception)
        for label in candidates(
            prediction,
            "",
            sample_id,
            min_confidence=config.min_confidence,
            classes=classes,
            label_type=label_type,
        )
    ]
    approved = sum(_passes(label, thresholds) for label in labels)
    scale = len(targets) / wanted
    trial = {
        "samples": wanted,
        "labels": len(labels),
        "failed": sum(isinstance(p, Exception) for p in predictions),
        "seconds": seconds,
    }
    estimate = {
        "seconds": seconds * scale,
        "labels": round(len(labels) * scale),
        "approved": round(approved * scale),
        "to_review": round((len(labels) - approved) * scale),
    }
    return trial, estimate


def _passes(label: dict[str, Any], thresholds: dict[str, Any]) -> bool:
    threshold = thresholds["per_class"].get(label["label"], thresholds["default"])
    return threshold is not None and label["confidence"] is not None and label["confidence"] >= threshold
