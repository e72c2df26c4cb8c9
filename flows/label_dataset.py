"""The labeling pipeline: infer, triage, review, validate, finalize, evaluate, export, report."""

from __future__ import annotations

from typing import Any

from prefect import flow

from tasks.evaluate import evaluate
from tasks.export import export
from tasks.finalize import finalize
from tasks.infer import infer
from tasks.report import report
from tasks.review import ask_for_decision, is_decided
from tasks.start import awaiting_review, ended_early, holding, start, waiting_for_more
from tasks.triage import triage
from tasks.validate import validate
from valflow.config import LabelingConfig


@flow(name="label-dataset")
def label_dataset(config: LabelingConfig) -> Any:
    """Label what is new in a dataset, with a human decision before anything becomes final.

    Called again, after a suspension, a crash or by hand, it walks from the top and does nothing twice.
    """
    opened = start(config)
    if opened.run is None or opened.outcome != "run":
        return ended_early(opened)
    run = opened.run
    with holding(run):
        infer(run)
        if not triage(run):
            return waiting_for_more(run)
        while not is_decided(run):
            if not ask_for_decision(run):
                return awaiting_review(run)
            validate(run)
        finalize(run)
        evaluate(run)
        export(run)
        return report(run)
