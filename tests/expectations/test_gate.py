"""The gate: severities, errors, parameters, threads, and classes of one's own."""

from __future__ import annotations

import json
import threading
import time

import numpy as np
import pytest

from expectations.gate import failing_labels, validate
from expectations.rehearsal import small_table
from tests.expectations.tables import make_labels, make_parameters, make_samples, make_tables
from valflow.errors import SuiteError

OWN = "tests.expectations.own_checks"


def check_of(column: str, severity: str = "critical", more: str = "") -> str:
    return (
        "  - {type: expect_column_values_to_be_between, "
        f"kwargs: {{column: {column}, max_value: 0.5{more}}}, severity: {severity}}}"
    )


def own(name: str) -> str:
    return f"  - {{type: '{OWN}:{name}', kwargs: {{column: label}}, severity: S}}"


@pytest.mark.parametrize(
    ("severity", "passed", "failing"),
    [
        pytest.param("critical", False, {"label-0", "label-1", "label-4"}, id="critical blocks"),
        pytest.param("warning", True, set(), id="warning passes"),
        pytest.param("info", True, set(), id="info passes"),
    ],
)
def test_severity_decides(make_suite, severity, passed, failing):
    outcome = validate(make_tables(), [make_suite(check_of("confidence", severity))], make_parameters())
    assert outcome.passed is passed
    assert set(outcome.failing_labels) == failing
    assert [check.unexpected_count for check in outcome.failed] == [3]


@pytest.mark.parametrize(
    ("mostly", "passed"), [pytest.param(0.2, True, id="met"), pytest.param(0.9, False, id="not met")]
)
def test_mostly_names_rows_only_when_the_check_fails(make_suite, mostly, passed):
    suite = make_suite(check_of("confidence", more=f", mostly: {mostly}"))
    outcome = validate(make_tables(), [suite], make_parameters())
    assert outcome.passed is passed
    assert bool(outcome.failing_labels) is not passed


@pytest.mark.parametrize("severity", ["critical", "warning", "info"])
@pytest.mark.parametrize(
    "items",
    [
        pytest.param(
            f"  - {{type: '{OWN}:ExpectMetricThatIsNotThere', kwargs: {{column: label}}, severity: S}}",
            id="metric",
        ),
        pytest.param(
            f"  - {{type: '{OWN}:ExpectPreparationToWork', kwargs: {{column: label}}, severity: S}}",
            id="prepare",
        ),
        pytest.param(
            f"  - {{type: '{OWN}:ExpectNamesOfItsOwn', kwargs: {{column: label}}, severity: S}}",
            id="odd result",
        ),
        pytest.param(check_of("label", "S"), id="text against a number"),
    ],
)
def test_a_check_that_cannot_run_blocks_and_spoils_no_other(make_suite, items, severity):
    suite = make_suite(items.replace("S}", f"{severity}}}") + "\n" + check_of("w", "warning"))
    outcome = validate(make_tables(), [suite], make_parameters())
    assert not outcome.passed
    assert [check.status for check in outcome.checks] == ["error", "failed"]
    assert outcome.checks[0].error
    assert outcome.checks[1].unexpected_count == 1


@pytest.mark.parametrize(
    "column", ["label_id", "label", "confidence", "x", "source", "threshold", "duplicate_iou"]
)
def test_a_missing_column_blocks(shipped, column):
    tables = make_tables(labels=make_labels().drop(columns=column))
    outcome = validate(tables, shipped, make_parameters())
    assert not outcome.passed
    assert any(check.status == "error" and column in (check.error or "") for check in outcome.checks)


def test_a_missing_table_blocks(shipped):
    outcome = validate({"labels": make_labels()}, shipped, make_parameters())
    assert not outcome.passed
    assert {check.error for check in outcome.blocking} == {"the samples table was not given"}


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        pytest.param({"classes": ["cat", "dog"], "previous_class_mix": None}, "no value", id="not given"),
        pytest.param(
            make_parameters(max_labels_per_sample=None), "no value", id="none where there must be one"
        ),
        pytest.param(make_parameters(classes="cat"), "valid list", id="of another type"),
    ],
)
def test_a_parameter_that_cannot_be_blocks(shipped, parameters, told):
    outcome = validate(make_tables(), shipped, parameters)
    assert not outcome.passed
    assert any(told in (check.error or "") for check in outcome.blocking)


def test_no_suite_is_an_error():
    with pytest.raises(SuiteError, match="at least one"):
        validate(make_tables(), [], make_parameters())


def test_skipped_checks_say_why(shipped):
    parameters = make_parameters(classes=None, previous_class_mix=None)
    outcome = validate(make_tables(), shipped, parameters)
    skipped = [check.skipped_reason for check in outcome.checks if check.status == "skipped"]
    masks = "labels of this type have no masks"
    assert skipped == ["no list of allowed classes", masks, masks, "no earlier run"]
    assert outcome.passed


def test_the_same_check_in_two_suites_is_told_twice(make_suite):
    suites = [make_suite(check_of("confidence"), name="a"), make_suite(check_of("confidence"), name="b")]
    outcome = validate(make_tables(), suites, make_parameters())
    assert [(check.suite, check.unexpected_count) for check in outcome.failed] == [("a", 3), ("b", 3)]


def test_checks_come_in_the_order_of_the_suites(shipped):
    # A check that cannot run is first in Great Expectations' answer.
    tables = make_tables(labels=make_labels().drop(columns="threshold"))
    outcome = validate(tables, shipped, make_parameters())
    assert [check.title for check in outcome.checks] == [i.description for s in shipped for i in s.items]


def test_the_index_of_a_table_does_not_matter(shipped):
    labels = make_labels(3, x=-1.0)
    labels.index = [7, 7, 7, 0, 1, 2]
    outcome = validate(make_tables(labels), shipped, make_parameters())
    assert set(outcome.failing_labels) == {"label-3"}


def test_a_label_may_fail_several_checks(shipped):
    outcome = validate(make_tables(make_labels(0, label="zebra", x=-0.5)), shipped, make_parameters())
    assert outcome.failing_labels == {
        "label-0": [
            "the class must be an allowed one (found label zebra)",
            "the box must lie inside the image and have an area (found x -0.5, y 0, w 0.5, h 0.5)",
        ]
    }


def test_the_json_form_holds_everything(shipped):
    labels = make_labels(2, x=float("nan"), w=float("inf"))
    outcome = validate(make_tables(labels, make_samples(0, labels=99)), shipped, make_parameters())
    document = json.loads(json.dumps(outcome.to_json(), allow_nan=False))
    assert document["passed"] is False
    assert document["suites"] == ["labels", "samples"]
    assert document["rows"] == {"labels": 6, "samples": 2}
    assert document["failing_labels"] == outcome.failing_labels
    assert (document["failing_label_count"], document["failing_sample_count"]) == (1, 1)
    box = next(check for check in document["checks"] if check["type"] == "expect_boxes_to_lie_inside_image")
    assert box["examples"] == [{"label_id": "label-2", "x": None, "y": 0.2, "w": "inf", "h": 0.1}]
    assert (box["status"], box["blocks"], box["observed"]) == (
        "failed",
        True,
        "1 of 6 labels out of line (16.7%)",
    )


def test_long_lists_are_counted_not_listed(shipped):
    labels = make_labels(0, label="zebra").loc[[0] * 12_000].assign(label_id=[f"l{n}" for n in range(12_000)])
    document = validate(make_tables(labels), shipped, make_parameters()).to_json()
    assert document["failing_label_count"] == 12_000
    assert len(document["failing_labels"]) == 10_000


def test_threads_do_not_mix_their_results(shipped):
    """Each thread has tables of its own; a context shared by threads would give wrong counts."""
    found: dict[int, list[int]] = {}

    def work(bad: int) -> None:
        labels = make_labels().loc[[0] * 500].assign(label_id=[f"label-{n}" for n in range(500)])
        labels["confidence"] = np.where(np.arange(500) < bad, 1.5, 0.9)
        for _ in range(2):
            outcome = validate(make_tables(labels), shipped, make_parameters())
            found.setdefault(bad, []).append(len(outcome.failing_labels))

    threads = [threading.Thread(target=work, args=(bad,)) for bad in (3, 250, 499)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {bad: [bad, bad] for bad in (3, 250, 499)}


def test_cost_per_label_and_check(shipped):
    tables = {
        "labels": small_table("labels", samples=5_000),
        "samples": small_table("samples", samples=5_000),
    }
    parameters = make_parameters(classes=["a", "b", "c"])
    before = time.process_time()
    outcome = validate(tables, shipped, parameters)
    # Twice the target: a busy machine must not fail the suite.
    assert (time.process_time() - before) / 30_000 / len(outcome.checks) < 2 * 5e-6


def test_a_class_of_ones_own(make_suite):
    suite = make_suite(
        f"  - {{type: '{OWN}:ExpectTextsToStartWith', kwargs: {{column: label, prefix: c}}, "
        "description: the class must start with c}"
    )
    outcome = validate(make_tables(), [suite], make_parameters())
    assert set(outcome.failing_labels) == {"label-1", "label-3", "label-5"}
    assert set(failing_labels(make_labels(), [suite], make_parameters())) == set(outcome.failing_labels)


class TestFailingLabels:
    """Predictions that the gate would refuse, before anybody reviews them."""

    @staticmethod
    def predictions(row=None, **changes):
        return make_labels(row, **{"source": "auto", "threshold": float("nan"), **changes})

    @pytest.mark.parametrize(
        ("row", "changes", "failing"),
        [
            pytest.param(None, {}, set(), id="all well"),
            pytest.param(2, {"label": "zebra"}, {"label-2"}, id="class not allowed"),
            pytest.param(2, {"w": 0.0}, {"label-2"}, id="box without area"),
            pytest.param(2, {"duplicate_iou": 0.95}, {"label-2"}, id="weaker of two"),
            pytest.param(2, {"confidence": 1.2}, {"label-2"}, id="confidence above 1"),
            pytest.param(2, {"confidence": float("nan")}, set(), id="no confidence is for people to judge"),
            pytest.param(None, {"label": "cat"}, set(), id="mix of classes is none of its business"),
        ],
    )
    def test_only_label_level_checks(self, shipped, row, changes, failing):
        found = failing_labels(self.predictions(row, **changes), shipped, make_parameters())
        assert set(found) == failing

    def test_no_predictions(self, shipped):
        assert failing_labels(self.predictions().iloc[:0], shipped, make_parameters()) == {}

    def test_warnings_and_shares_are_left_to_the_gate(self, make_suite):
        items = check_of("w", "warning") + "\n" + check_of("h", more=", mostly: 0.9")
        assert failing_labels(self.predictions(), [make_suite(items)], make_parameters()) == {}

    def test_a_check_that_cannot_run_stops_the_run_before_the_review(self, shipped):
        with pytest.raises(SuiteError, match=r"labels\.yaml, item \d+ .*cannot run: .*duplicate_iou"):
            failing_labels(self.predictions().drop(columns="duplicate_iou"), shipped, make_parameters())
