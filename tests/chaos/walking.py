"""The pipeline without Prefect: the flow's stages in their order, as ``flows.label_dataset`` calls them."""

from __future__ import annotations

from collections.abc import Callable

from tasks.evaluate import measure_run
from tasks.export import export_missing
from tasks.triage import decide_by_policy
from tasks.validate import pass_gate
from valflow import certifying, database, decisions, inference, opening, promotion, runs
from valflow.config import LabelingConfig
from valflow.reporting import write_run_report
from valflow.run_exports import missing_exports
from valflow.states import State, is_past

STAGES = ("open", "infer", "triage", "validate", "finalize", "evaluate", "export", "report")


def walk(config: LabelingConfig, enter: Callable[[str], None] = lambda stage: None) -> str:
    """Start the flow: it goes on from where the run stands, until a person is needed or nothing is left.

    Args:
        config: names the run by its key.
        enter: called with each stage that begins.

    Returns:
        The run's state.
    """
    enter("open")
    opened = opening.open_run(config)
    assert opened.outcome == "run", opened.message
    assert opened.run is not None
    run = opened.run
    with runs.heartbeat(runs.fence_of(runs.load(run))):
        _go_on(run, enter)
    return str(runs.load(run)["state"])


def _go_on(run: str, enter: Callable[[str], None]) -> None:
    enter("infer")
    _infer(run)
    enter("triage")
    if runs.load(run)["state"] == State.PREDICTED.value:
        decide_by_policy(run)
    certifying.judge_from_ground_truth(run)
    if _state(run) == State.IN_REVIEW:
        return
    enter("validate")
    if _state(run) == State.REVIEWED:
        pass_gate(run)
    if _state(run) not in (State.VALIDATED, State.FINALIZING, State.FINALIZED):
        return
    enter("finalize")
    if _state(run) in (State.VALIDATED, State.FINALIZING):
        record = runs.load(run)
        with runs.timed(runs.fence_of(record), "finalize"):
            promotion.promote(record, database.dataset_of(record))
    enter("evaluate")
    record = runs.load(run)
    if record["config"]["evaluation"] and not record["metrics"]:
        measure_run(run)
    enter("export")
    if missing_exports(runs.load(run)):
        list(export_missing(run))
    enter("report")
    record = runs.load(run)
    fence = runs.fence_of(record)
    runs.update(fence, {"artifacts": {**record["artifacts"], **write_run_report(record)}})
    runs.update(fence, {"completed_at": database.now()})


def _infer(run: str) -> None:
    record = runs.load(run)
    if is_past(record["state"], State.PREDICTED):
        return
    record = opening.prepare(record, database.dataset_of(record))
    for shard in range(record["target"]["shards"]):
        inference.infer_shard(run, shard)
    inference.finish_inference(runs.load(run))


def _state(run: str) -> State:
    return State(runs.load(run)["state"])


def decide(run: str, reviewer: str, digest: str | None = None, override: str | None = None) -> None:
    """A person's decision to finalize."""
    decisions.submit(run, decisions.Decision("finalize", reviewer, override=override, digest=digest))
