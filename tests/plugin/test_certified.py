"""A run with a certificate, as a reviewer clicks through it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.builders import counts
from tests.certified import honest_verdicts, make_certified_run, make_large_dataset
from tests.plugin.screens import Reviewer
from valflow import audits, runs


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    return make_large_dataset(tmp_path)


@pytest.fixture
def run(dataset: Any) -> str:
    return make_certified_run(dataset)


@pytest.fixture
def approval(ann: Reviewer) -> Reviewer:
    return ann.click("change_tab", tab="approval")


def test_the_audit_comes_before_anything_is_approved(approval: Reviewer, run: str) -> None:
    audit = audits.certificate_audit(run)
    assert audit is not None
    assert approval.state["approved"] == 0
    assert "Go on with the audit" in approval.drawn()
    assert "of labels that may skip the review" in approval.drawn()
    assert approval.click("start_audit").grid == [str(i["label_id"]) for i in audit["items"][:30]]


def test_the_last_page_brings_the_certificate(approval: Reviewer, dataset: Any, run: str) -> None:
    verdicts = honest_verdicts(run, dataset)
    by_label = {str(i["label_id"]): verdicts[i["number"]] for i in audits.open_items(run)}
    approval.click("start_audit")
    while approval.state["mode"] == "audit":
        wrong = [i for i in approval.grid if by_label[i] != "correct"]
        if wrong:
            approval.select("judge_selected", wrong, verdict="not_an_object")
        if approval.state["mode"] == "audit" and approval.grid:
            approval.click("confirm_page")
    certificate = runs.load(run)["certificate"]
    assert certificate["state"] == "certified"
    assert certificate["verdicts_from"] == {"ann": len(verdicts)}
    assert f"{certificate['approved']} labels in" in approval.success()
    assert approval.state["approved"] == counts(run)["approved"] > certificate["approved"] > 0
    assert "✓ **A random sample of approved labels was judged**" in approval.drawn()
