"""What the gate's verdict does to a run, and what suites may ask about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from tasks.validate import pass_gate
from tests.builders import bring_to, counts, entries, ids_where, judge_all, labels_in, make_dataset, make_run
from tests.certified import SETTINGS, judge_honestly, make_certified_run, make_large_dataset
from tests.expectations.test_shipped_suites import (
    DRAWN_THERE,
    FOLLOWS,
    VERDICT_KNOWN,
    VERDICT_THERE,
    WITHIN_PROMISE,
)
from valflow import actions, database, decisions, runs, validation
from valflow.decisions import Decision
from valflow.errors import IllegalTransition
from valflow.selections import Selection
from valflow.states import State

Refused = dict[ObjectId, dict[ObjectId, list[str]]]


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    """Two samples with cat 0.95, dog 0.8, cat 0.6, dog 0.3 each."""
    return make_dataset(tmp_path, samples=2, empty=0)


@pytest.fixture
def run(dataset: Any) -> str:
    return make_run(dataset, State.REVIEWED)


def check(status: str, severity: str = "critical", **texts: Any) -> dict[str, Any]:
    """A check as the gate puts it into its JSON."""
    blocks = status == "error" or (status == "failed" and severity == "critical")
    plain = {"title": f"a {severity} check", "observed": "2 of 4 rows", "error": None, "unexpected_count": 2}
    return {**plain, "status": status, "severity": severity, "blocks": blocks, **texts}


def result(*checks: dict[str, Any]) -> dict[str, Any]:
    return {"passed": not any(c["blocks"] for c in checks), "checks": list(checks)}


def refuse(run: str, *label_ids: str) -> Refused:
    refused: Refused = {}
    for label_id in label_ids:
        sample = refused.setdefault(ObjectId(entries(run)[label_id]["sample_id"]), {})
        sample[ObjectId(label_id)] = ["no area"]
    return refused


def conclude(run: str, *checks: dict[str, Any], refused: Refused | None = None) -> runs.Record:
    return validation.conclude(runs.load(run), result(*checks), "<p>checks</p>", refused or {})


class TestPassed:
    @pytest.mark.parametrize(
        ("checks", "failed"),
        [
            ([check("passed")], []),
            ([check("skipped")], []),
            ([check("passed"), check("failed", "warning")], ["a warning check"]),
            ([], []),
        ],
        ids=["all well", "skipped", "a warning", "no checks"],
    )
    def test_moves_on(self, run: str, checks: list[dict[str, Any]], failed: list[str]) -> None:
        record = conclude(run, *checks)
        assert (record["state"], record["round"]) == ("VALIDATED", 1)
        (only,) = record["validation"]["rounds"]
        assert only == {
            "round": 1, "passed": True, "checks": len(checks), "failed_checks": failed, "failing_labels": 0
        }  # fmt: skip
        assert record["history"][-1]["figures"] == only
        assert record["validation"]["passed"]

    def test_keeps_the_result_as_files(self, run: str) -> None:
        record = conclude(run, check("passed"))
        folder = validation.output_folder(record)
        assert folder == Path(record["config"]["output_dir"]) / run
        page, plain = (Path(record["artifacts"][k]) for k in ("validation", "validation_json"))
        assert (page, plain) == (folder / "validation-r1.html", folder / "validation-r1.json")
        assert page.read_text() == "<p>checks</p>"
        assert json.loads(plain.read_text()) == result(check("passed"))

    def test_only_a_decided_run_is_judged(self, dataset: Any) -> None:
        with pytest.raises(IllegalTransition, match="IN_REVIEW cannot 'validate'"):
            conclude(make_run(dataset), check("passed"))


class TestRefused:
    @pytest.mark.parametrize(
        ("failing", "says"),
        [
            (check("failed"), "a critical check (2 of 4 rows)"),
            (check("failed", observed="", unexpected_count=3), "a critical check (3)"),
            (check("error", "warning", error="no column x"), "a warning check (no column x)"),
        ],
        ids=["a critical check", "without words", "one that could not run"],
    )
    def test_reopens_the_review_with_the_reason(self, run: str, failing: dict[str, Any], says: str) -> None:
        record = conclude(run, check("passed"), check("failed", "info"), failing)
        assert (record["state"], record["round"]) == ("IN_REVIEW", 2)
        assert (record["decision"], record["frozen"]) == (None, None)
        last = record["history"][-1]
        # Only what blocks is a reason.
        assert (last["event"], last["actor"], last["note"]) == (
            "reopen",
            "policy",
            f"validation refused: {says}",
        )
        assert record["validation"]["rounds"][0]["failed_checks"] == ["a info check", failing["title"]]

    def test_failing_labels_are_marked_and_wait_again(self, run: str, dataset: Any) -> None:
        first, second = ids_where(run, confidence=0.95)
        record = conclude(run, check("failed"), refused=refuse(run, first, second))
        assert record["validation"]["rounds"][0]["failing_labels"] == 2
        assert counts(run) == {"approved": 2, "rejected": 0, "undecided": 6}
        for label_id in (first, second):
            assert entries(run)[label_id]["invalid"] == ["no area"]
            assert labels_in(dataset, "auto_in_review")[label_id]["tags"] == ["invalid"]
        (action,) = [a for a in actions.history_of(run) if a["event"] == "refuse"]
        assert (action["actor"], action["selector"]) == ("policy", {"labels": 2})

    def test_a_label_that_was_rejected_stays_rejected(self, dataset: Any) -> None:
        run = make_run(dataset)
        (label_id, other) = ids_where(run, confidence=0.95)
        actions.reject(run, Selection(label_ids=(label_id,)), "ann")
        bring_to(run, dataset, State.REVIEWED)
        conclude(run, check("failed"), refused=refuse(run, label_id, other))
        assert (entries(run)[label_id]["state"], entries(run)[other]["state"]) == ("rejected", "undecided")

    def test_each_round_is_kept(self, run: str, dataset: Any) -> None:
        (label_id, *_) = ids_where(run, confidence=0.95)
        conclude(run, check("failed"), refused=refuse(run, label_id))
        actions.approve(run, Selection(label_ids=(label_id,)), "ann")
        judge_all(run)
        decisions.submit(run, Decision("finalize", "ann"))
        record = conclude(run, check("passed"), check("passed"))
        assert [(r["round"], r["passed"], r["checks"]) for r in record["validation"]["rounds"]] == [
            (1, False, 1),
            (2, True, 2),
        ]
        assert record["artifacts"]["validation"].endswith("validation-r2.html")
        assert (validation.output_folder(record) / "validation-r1.html").is_file()
        assert counts(run)["approved"] == 4
        assert bring_to(run, dataset, State.FINALIZED)["counts"]["finalized"] == 4


class TestWhatSuitesMayAsk:
    @pytest.mark.parametrize(
        ("changes", "default_classes", "expected"),
        [
            ({}, [], ["cat", "dog"]),
            ({"classes": ["dog", "cat"]}, ["horse"], ["dog", "cat"]),
            ({}, ["horse"], ["cat", "dog", "horse"]),
            ({"evaluation": {"ground_truth": "ground_truth"}}, [], ["bird", "cat", "dog"]),
            ({"model": {"kind": "python", "path": "tests.models:Corner"}}, [], ["cat", "dog"]),
            ({"model": {"kind": "python", "path": "tests.models:Silent"}}, [], []),
            (
                {
                    "model": {"kind": "python", "path": "tests.models:Silent"},
                    "evaluation": {"ground_truth": "ground_truth"},
                },
                [],
                [],
            ),
        ],
        ids=[
            "of the field",
            "as configured",
            "of the dataset",
            "of the ground truth",
            "of the model",
            "nobody says",
            "annotations alone are no list",
        ],
    )
    def test_allowed_classes(
        self, dataset: Any, changes: dict[str, Any], default_classes: list[str], expected: list[str]
    ) -> None:
        dataset.default_classes = default_classes
        dataset.save()
        record = runs.load(make_run(dataset, State.CREATED, **changes))
        assert validation.allowed_classes(record, dataset) == expected

    def test_parameters(self, dataset: Any) -> None:
        changes = {"min_confidence": 0.2, "validation": {"max_labels_per_sample": 7}}
        record = runs.load(make_run(dataset, State.CREATED, **changes))
        assert validation.suite_parameters(record, dataset) == {
            "classes": ["cat", "dog"],
            "max_labels_per_sample": 7,
            "min_confidence": 0.2,
            "previous_class_mix": None,
        }

    def test_the_class_mix_is_that_of_the_last_finalized_run_into_the_field(self, dataset: Any) -> None:
        everything = {"target": {"only": "all"}}
        make_run(dataset, State.FINALIZED, approval={"threshold": 0.9})  # cats alone
        make_run(dataset, State.FINALIZED, **everything)  # half and half
        make_run(dataset, State.DISCARDED, **everything)
        record = runs.load(make_run(dataset, State.CREATED, **everything))
        assert validation.previous_class_mix(record) == {"cat": 0.5, "dog": 0.5}


class TestCertificate:
    """The real stage, with the suites of certificates."""

    @pytest.fixture
    def large(self, tmp_path: Path) -> Any:
        return make_large_dataset(tmp_path)

    @pytest.fixture
    def certified(self, large: Any) -> str:
        run = make_certified_run(large)
        judge_honestly(run, large)
        bring_to(run, large, State.REVIEWED)
        return run

    def test_a_sound_one_passes_and_is_named(self, certified: str) -> None:
        assert pass_gate(certified).passed
        record = runs.load(certified)
        checks = [c for c in record["validation"]["checks"] if c["suite"] in ("certificate", "audit")]
        assert record["state"] == "VALIDATED"
        assert len(checks) == 13
        assert {c["status"] for c in checks} == {"passed"}
        page = Path(record["artifacts"]["validation"]).read_text()
        assert "groups checked" in page
        assert "drawn labels checked" in page

    @pytest.mark.parametrize(
        ("collection", "change", "failed"),
        [
            pytest.param(
                "audits", {"$set": {"items.0.verdict": "duplicate"}}, {FOLLOWS}, id="a verdict changed"
            ),
            pytest.param(
                "audits", {"$set": {"items.0.verdict": None}}, {FOLLOWS, VERDICT_THERE}, id="a verdict gone"
            ),
            pytest.param(
                "audits", {"$set": {"items.0.verdict": "fine"}}, {FOLLOWS, VERDICT_KNOWN}, id="no verdict"
            ),
            pytest.param("audits", {"$set": {"kind": "gone"}}, {FOLLOWS, DRAWN_THERE}, id="the draw is gone"),
            pytest.param("batches", {"$set": {"classes": ["cat", "cow"]}}, {FOLLOWS}, id="a class renamed"),
            pytest.param(
                "runs", {"$set": {"certificate.groups.0.most_wrong": 0}}, {FOLLOWS}, id="a better bound"
            ),
            pytest.param(
                "runs",
                {"$set": {"certificate.groups.0.most_wrong": 999}},
                {FOLLOWS, WITHIN_PROMISE},
                id="a worse bound",
            ),
        ],
    )
    def test_what_was_tampered_with_is_refused(
        self, certified: str, collection: str, change: Any, failed: set[str]
    ) -> None:
        getattr(database, collection)().update_one({"run": certified}, change)
        assert not pass_gate(certified).passed
        record = runs.load(certified)
        assert (record["state"], record["round"]) == ("IN_REVIEW", 2)
        assert set(record["validation"]["rounds"][0]["failed_checks"]) == failed
        # The labels are not at fault.
        assert record["validation"]["rounds"][0]["failing_labels"] == 0

    def test_the_refusal_says_what_to_do(self, certified: str) -> None:
        database.audits().update_one({"run": certified}, {"$set": {"items.0.verdict": "duplicate"}})
        pass_gate(certified)
        (check,) = [c for c in runs.load(certified)["validation"]["checks"] if c["title"] == FOLLOWS]
        assert f"valflow undo {certified}" in check["examples"][0]["problem"]

    def test_named_in_the_configuration_too_it_runs_once(self, large: Any) -> None:
        suites = {"suites": ["certificate", "labels", "audit"]}
        run = make_run(large, approval=SETTINGS, validation=suites)
        judge_honestly(run, large)
        bring_to(run, large, State.REVIEWED)
        assert pass_gate(run).passed
        titles = [c["title"] for c in runs.load(run)["validation"]["checks"]]
        assert titles.count(FOLLOWS) == 1

    @pytest.mark.parametrize("suites", [["labels"], ["labels", "certificate"]], ids=["not named", "named"])
    def test_where_nothing_is_certified_it_does_not_apply(self, dataset: Any, suites: list[str]) -> None:
        run = make_run(dataset, State.REVIEWED, validation={"suites": suites})
        assert pass_gate(run).passed
        checks = runs.load(run)["validation"]["checks"]
        assert {c["status"] for c in checks if c["suite"] == "certificate"} <= {"skipped"}
