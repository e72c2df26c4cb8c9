"""Commands that move a run: run, finalize, discard."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from valflow.cli.asking import said_yes
from valflow.cli.result import Result, reviewer_of, text_table
from valflow.cli.views import describe, document_of, document_without_run
from valflow.errors import DecisionRefused, IllegalTransition, StackError
from valflow.markup import for_terminal

_BY_DIGEST = "confirm with --yes, or with --digest D from `finalize --preview`"
_POLL_SECONDS = 1.0
_LONGEST_WAIT = 3600.0
# Without a server, Prefect starts a temporary one; a busy machine needs longer than its usual 20 s.
_PREFECT_SETTINGS = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # No page in a browser may read the temporary server's answers; Prefect's own default lets all.
    "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "http://127.0.0.1",
}


def run(options: Any) -> Result:
    """`valflow run`: in this process, or through the deployment."""
    from valflow.config import load_config

    return start(load_config(options.config, options.set), options, options.config)


def start(config: Any, options: Any, name: str) -> Result:
    """Plan, trigger or run a configuration, as the options say.

    Args:
        config: the configuration.
        options: with ``dry_run``, ``deploy`` and ``debug``.
        name: of the configuration, for people.
    """
    if options.dry_run:
        from valflow.planning import make_plan, plan_in_words

        _check(config)
        plan = make_plan(config)
        return Result(plan_in_words(plan), plan)
    if options.deploy:
        return _trigger(config)
    _say(f"checking {name}")
    _check(config)
    _say("running in this process")
    return _run_here(config, options.debug)


def finalize(options: Any) -> Result:
    """`valflow finalize`: preview, confirm, decide, and see the run through."""
    from valflow import decisions, runs

    reviewer = reviewer_of(options)
    record = runs.load(options.run)
    key = record["run"]
    if record["state"] == "IN_REVIEW":
        preview = decisions.preview(key, reviewer)
        if options.preview:
            return Result(_dialog(preview, record), _preview_document(preview))
        if not (options.yes or options.digest):
            _say(_dialog(preview, record))
        question = f"finalize these {preview.labels} labels?"
        digest = options.digest or (preview.digest if options.yes or said_yes(question, _BY_DIGEST) else None)
        if digest is None:
            return Result("not confirmed; nothing was decided", {"run": key, "outcome": "not confirmed"}, 1)
        decision = decisions.Decision("finalize", reviewer, options.note, options.override, digest)
        decisions.submit(key, decision)
        _say(
            f"decided by {reviewer}: {preview.labels} labels on {preview.samples} samples, digest {preview.digest[:12]}"
        )
    elif options.preview:
        raise IllegalTransition(f"run {key} is {record['state']}, not in review; there is nothing to preview")
    else:
        _require_decided(record)
        _say(
            f"run {key} was decided by {record['decision']['reviewer']} already ({record['state']}); "
            "going on from there"
        )
    return _see_through(key, wait=not options.no_wait, debug=options.debug)


def discard(options: Any) -> Result:
    """`valflow discard`."""
    from valflow import decisions, runs

    reviewer = reviewer_of(options)
    record = runs.load(options.run)
    if record["state"] == "DISCARDED" and record.get("suspended_in") and not record.get("completed_at"):
        _resume(record)  # which failed the last time
        return Result(f"run {record['run']} was discarded already", document_of(record))
    if not options.yes:
        question = f"discard run {record['run']} with {record['counts'].get('predicted', 0)} predictions?"
        if not said_yes(question):
            return Result(
                "not confirmed; nothing was decided", {"run": record["run"], "outcome": "not confirmed"}, 1
            )
    decision = decisions.Decision("discard", reviewer, options.note, override=options.override)
    decided = decisions.submit(record["run"], decision)
    if decided.get("suspended_in"):
        _resume(decided)
    return Result(
        f"run {record['run']} was discarded; its predictions stay in the ledger", document_of(decided)
    )


def _require_decided(record: dict[str, Any]) -> None:
    """Refuse a run that nobody decided to finalize, or that is through.

    Raises:
        DecisionRefused: there is nothing to go on with.
    """
    if record["state"] != "DISCARDED" and record["decision"] and not record.get("completed_at"):
        return
    hint = ""
    if record["state"] == "FAILED":
        hint = f": {record.get('failed_stage')} failed; start the same configuration again to go on"
    raise DecisionRefused(f"run {record['run']} is {record['state']}; there is nothing to finalize{hint}")


def _check(config: Any) -> None:
    """Tell what is wrong before a server is started or asked."""
    from expectations.loader import check_suites
    from valflow import preflight

    preflight.check(config, check_suites(config.validation.suites, Path.cwd()))


def _trigger(config: Any) -> Result:
    from valflow import prefect_api

    _check(config)
    flow_run = prefect_api.trigger(config, name=config.run_name)
    page = prefect_api.ui_url(flow_run)
    return Result(
        f"triggered the deployment: flow run {flow_run}\n{page}\n"
        "see `valflow runs`; it waits for you when it is In Review",
        {"flow_run": flow_run, "url": page, "outcome": "triggered"},
    )


def _run_here(config: Any, debug: bool) -> Result:
    for name, value in _PREFECT_SETTINGS.items():
        os.environ.setdefault(name, value)
    from flows.label_dataset import label_dataset
    from valflow import runs

    if not debug:
        _hide_tracebacks()
    state: Any = label_dataset(config, return_state=True)
    outcome = state.result(raise_on_failure=True)
    if outcome["run"] is None:
        nothing = {"outcome": outcome["outcome"], "message": state.message}
        return Result(state.message, {**document_without_run(config), **nothing})
    record = runs.load(outcome["run"])
    document = {**document_of(record), "outcome": outcome["outcome"], "message": state.message}
    if outcome["outcome"] in ("skipped", "waiting_for_more"):
        return Result(state.message, document)
    return Result(describe(record), document)


def _hide_tracebacks() -> None:
    """Prefect logs every failure with its traceback; the command line tells it in one paragraph."""

    def without_traceback(record: logging.LogRecord) -> bool:
        record.exc_info = None
        return True

    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(without_traceback)


def _see_through(run: str, *, wait: bool, debug: bool) -> Result:
    """Continue a decided run where it lives: the suspended Prefect run, or else this process."""
    from valflow import runs

    record = runs.load(run)
    if record.get("suspended_in") and _resume(record):
        if not wait:
            return Result(
                f"run {run} goes on in Prefect: {record['prefect_url']}", document_of(runs.load(run))
            )
        return _wait(run)
    _say("continuing in this process")
    result = go_on_here(run, debug)
    return _judged(result, runs.load(run))


def go_on_here(run: str, debug: bool) -> Result:
    """Let the flow go on with a run in this process."""
    from valflow import runs
    from valflow.config import LabelingConfig

    config = LabelingConfig.model_validate(runs.load(run)["config"]).model_copy(update={"run_key": run})
    return _run_here(config, debug)


def _resume(record: dict[str, Any]) -> bool:
    """Tell Prefect about the decision; whether its run goes on with it."""
    from valflow.resuming import resume_decided

    resumed = resume_decided(record)
    if resumed.outcome == "unreachable":
        raise StackError(resumed.message)
    _say(resumed.message)
    return resumed.outcome == "resumed"


def _wait(run: str) -> Result:
    from valflow import prefect_api, runs

    deadline = time.monotonic() + _LONGEST_WAIT
    while time.monotonic() < deadline:
        record = runs.load(run)
        if record.get("completed_at") or record["state"] in ("IN_REVIEW", "FAILED"):
            return _judged(Result(describe(record), document_of(record)), record)
        state = prefect_api.flow_run_state(record["suspended_in"])
        if state.is_final and state.kind != "COMPLETED":
            raise StackError(
                f"the Prefect run ended as {state.name}: {state.message}. The run is {record['state']}; "
                f"retry it in Prefect, or start the same configuration again: {record['prefect_url']}"
            )
        time.sleep(_POLL_SECONDS)
    raise StackError(f"run {run} did not end within an hour; see {runs.load(run)['prefect_url']}")


def _judged(result: Result, record: dict[str, Any]) -> Result:
    if record["state"] == "IN_REVIEW":
        last = record["history"][-1]["note"] or ""
        return Result(
            f"the review was reopened (round {record['round']}): {last}\n\n{result.text}", result.document, 1
        )
    return Result(result.text, result.document, 0 if record["state"] == "FINALIZED" else 1)


def _dialog(preview: Any, record: dict[str, Any]) -> str:
    rows = [{"class": label, "labels to be added": n} for label, n in preview.per_class.items()]
    tagged = ", ".join(f"{n} {name}" for name, n in preview.tagged.items())
    lines = [
        "Finalize Labels",
        f"  labels to be added  {preview.labels}  ({', '.join(f'{n} {s}' for s, n in preview.by_source.items())})",
        f"  samples affected    {preview.samples}",
        f"  label field         {record['dataset']}.{preview.label_field}",
        *([f"  problem tags        {for_terminal(tagged)}"] if tagged else []),
        f"  to be discarded     {preview.undecided} undecided, {preview.rejected} rejected",
        f"  digest              {preview.digest}",
        *(f"  missing             {m}" for m in preview.missing),
        "",
        text_table(rows),
    ]
    return "\n".join(lines)


def _preview_document(preview: Any) -> dict[str, Any]:
    keys = (
        "run",
        "label_field",
        "labels",
        "samples",
        "per_class",
        "by_source",
        "tagged",
        "rejected",
        "undecided",
        "digest",
        "missing",
        "checklist",
    )
    return {k: getattr(preview, k) for k in keys}


def _say(text: str) -> None:
    print(for_terminal(text), file=sys.stderr)
