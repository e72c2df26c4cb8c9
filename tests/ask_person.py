"""A flow that asks a person once: the smallest thing that needs everything a stack has."""

from __future__ import annotations

import os
from typing import Any, Literal

from prefect import flow
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput

from valflow.config import LabelingConfig


class Answer(RunInput):
    decision: Literal["finalize", "discard"]
    # What the command line sends along with every decision.
    reviewer: str = ""
    note: str = ""
    override: str = ""
    digest: str = ""


@flow(name="ask-person", log_prints=True)
def ask_person(config: LabelingConfig) -> Any:
    print(f"folder {os.getcwd()}")
    print(f"database {os.environ['FIFTYONE_DATABASE_URI']}")
    answer = suspend_flow_run(wait_for_input=Answer, key="answer")
    print(f"{config.dataset}: {answer.decision}")
