"""A decided run goes on where it lives: in Prefect, or wherever it is called next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from valflow import prefect_api, runs
from valflow.errors import StackError


@dataclass(frozen=True)
class Resumed:
    """What became of telling Prefect about a decision.

    Attributes:
        outcome: *resumed*: the flow run goes on; *in_process*: no flow run waits for it; *unreachable*: Prefect
            could not be told; *refused*: Prefect did not take it.
        message: what to do now, for people.
    """

    outcome: Literal["resumed", "in_process", "unreachable", "refused"]
    message: str


def resume_decided(record: runs.Record) -> Resumed:
    """Resume the suspended flow run of a decided run; the decision is kept whatever happens here."""
    run = record["run"]
    if not record.get("suspended_in"):
        return Resumed(
            "in_process",
            f"The decision is recorded. No Prefect run waits for it: `valflow finalize {run}` goes on from here.",
        )
    decision = record["decision"]
    answer = {k: decision[k] or "" for k in ("decision", "reviewer", "note", "override", "digest")}
    try:
        outcome = prefect_api.resume(record["suspended_in"], answer)
    except StackError as error:
        return Resumed(
            "unreachable",
            f"the decision is recorded, but Prefect could not be told: {error} "
            f"Once it answers, `valflow finalize {run}` again only resumes.",
        )
    if outcome.status == "REJECT":
        return Resumed(
            "refused", f"the decision is recorded, but Prefect refused to resume: {outcome.reason}"
        )
    return Resumed("resumed", f"resumed the Prefect run: {record['prefect_url']}")
