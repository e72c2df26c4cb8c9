"""Every shipped check, on a table that meets it and on one that does not."""

from __future__ import annotations

from typing import Any

import pytest

from expectations.gate import validate
from expectations.loader import check_suites, shipped_suites
from tests.expectations.tables import (
    NAN,
    make_audit,
    make_certificate,
    make_labels,
    make_parameters,
    make_samples,
    make_tables,
)

LABELS_THERE = "there must be approved labels"
LABEL_ID = "every label must have an id"
LABEL_ID_ONCE = "no two labels may share an id"
CLASS = "every label must have a class"
CLASS_ALLOWED = "the class must be an allowed one"
CONFIDENCE = "an automatically approved label must have a confidence"
CONFIDENCE_RANGE = "the confidence must lie between 0 and 1"
THRESHOLD = "an automatically approved label must reach the threshold of its class"
BOX = "the box must lie inside the image and have an area"
DUPLICATE = "a label must not double a stronger one of its class"
MASK = "an instance must have a mask that can be read"
MASK_COVERS = "the mask must cover some of its box"
MIX = "the mix of classes should be like in the last finalized run"
SAMPLES_THERE = "there must be samples with approved labels"
SAMPLE_ID = "every sample must have an id"
SAMPLE_ID_ONCE = "no two samples may share an id"
MEDIA = "the media file must exist"
READABLE = "the media file must be a readable image"
COUNT = "the number of labels of a sample must be within bounds"
GROUPS_THERE = "there must be an audited group"
GROUP_ONCE = "no two groups may share a name"
BOUND_THERE = "a group with approved labels must have a bound"
WITHIN_PROMISE = "the bound on wrong labels must be within the promise"
FOLLOWS = "the certificate must follow from its verdicts"
DRAWN_THERE = "there must be drawn labels"
DRAWN_ID = "every drawn label must have an id"
DRAWN_ONCE = "no label may be drawn twice"
VERDICT_THERE = "every drawn label must have a verdict"
VERDICT_KNOWN = "the verdict must be a known one"
JUDGE_KNOWN = "it must be known who judged"
CHANCE_THERE = "it must be known how likely a label was drawn"
CHANCE_RANGE = "the probability must be above 0 and at most 1"

LABELS_FAIL: list[Any] = [
    pytest.param(make_labels(2, label_id=None), LABEL_ID, {"row 2 (no id)"}, id="label without id"),
    pytest.param(make_labels(1, label_id="label-0"), LABEL_ID_ONCE, {"label-0"}, id="id twice"),
    pytest.param(make_labels(0, label=None), CLASS, {"label-0"}, id="label without class"),
    pytest.param(make_labels(0, label="zebra"), CLASS_ALLOWED, {"label-0"}, id="class not allowed"),
    pytest.param(make_labels(0, label="Cat"), CLASS_ALLOWED, {"label-0"}, id="class in other letters"),
    pytest.param(make_labels(4, confidence=NAN), CONFIDENCE, {"label-4"}, id="approved without confidence"),
    pytest.param(make_labels(3, confidence=1.01), CONFIDENCE_RANGE, {"label-3"}, id="confidence above 1"),
    pytest.param(make_labels(3, confidence=-0.1), CONFIDENCE_RANGE, {"label-3"}, id="confidence below 0"),
    pytest.param(make_labels(1, confidence=0.799), THRESHOLD, {"label-1"}, id="under its threshold"),
    pytest.param(make_labels(0, x=-0.01), BOX, {"label-0"}, id="box out on the left"),
    pytest.param(make_labels(0, y=-0.01), BOX, {"label-0"}, id="box out above"),
    pytest.param(make_labels(1, w=0.51), BOX, {"label-1"}, id="box out on the right"),
    pytest.param(make_labels(1, h=0.51), BOX, {"label-1"}, id="box out below"),
    pytest.param(make_labels(2, w=0.0), BOX, {"label-2"}, id="box without width"),
    pytest.param(make_labels(2, h=-0.1), BOX, {"label-2"}, id="box of negative height"),
    pytest.param(make_labels(2, x=NAN), BOX, {"label-2"}, id="box with a missing number"),
    pytest.param(make_labels(2, x=NAN, y=NAN, w=NAN, h=NAN), BOX, {"label-2"}, id="box of missing numbers"),
    pytest.param(make_labels(2, w=float("inf")), BOX, {"label-2"}, id="box without end"),
    pytest.param(make_labels(mask_share=NAN), MASK, {f"label-{i}" for i in range(6)}, id="no masks"),
    pytest.param(
        make_labels(mask_share=0.0), MASK_COVERS, {f"label-{i}" for i in range(6)}, id="empty masks"
    ),
    pytest.param(make_labels(3, duplicate_iou=0.901), DUPLICATE, {"label-3"}, id="double of a stronger one"),
]
SAMPLES_FAIL: list[Any] = [
    pytest.param(make_samples(0, sample_id=None), SAMPLE_ID, {"row 0 (no id)"}, id="sample without id"),
    pytest.param(make_samples(1, sample_id="sample-0"), SAMPLE_ID_ONCE, {"sample-0"}, id="id twice"),
    pytest.param(make_samples(1, file_exists=False), MEDIA, {"sample-1"}, id="media file gone"),
    pytest.param(
        make_samples(1, file_problem="an empty file"), READABLE, {"sample-1"}, id="media file unreadable"
    ),
    pytest.param(make_samples(1, labels=0), COUNT, {"sample-1"}, id="no label in a sample"),
    pytest.param(make_samples(1, labels=11), COUNT, {"sample-1"}, id="too many labels in a sample"),
]
CERTIFICATE_FAIL: list[Any] = [
    pytest.param(make_certificate().iloc[:0], GROUPS_THERE, id="no group"),
    pytest.param(make_certificate(1, group="cat"), GROUP_ONCE, id="a group twice"),
    pytest.param(make_certificate(0, most_wrong=NAN), BOUND_THERE, id="approved without a bound"),
    pytest.param(make_certificate(0, most_wrong=23.0), WITHIN_PROMISE, id="one more than promised"),
    pytest.param(make_certificate(1, problem="a verdict was changed"), FOLLOWS, id="does not follow"),
]
AUDIT_FAIL: list[Any] = [
    pytest.param(make_audit().iloc[:0], DRAWN_THERE, id="nothing drawn"),
    pytest.param(make_audit(2, label_id=None), DRAWN_ID, id="without id"),
    pytest.param(make_audit(1, label_id="label-0"), DRAWN_ONCE, id="drawn twice"),
    pytest.param(make_audit(3, verdict=None), VERDICT_THERE, id="without verdict"),
    pytest.param(make_audit(0, verdict="fine"), VERDICT_KNOWN, id="unknown verdict"),
    pytest.param(make_audit(0, verdict="Correct"), VERDICT_KNOWN, id="verdict in other letters"),
    pytest.param(make_audit(0, reviewer=None), JUDGE_KNOWN, id="nobody judged"),
    pytest.param(make_audit(0, probability=NAN), CHANCE_THERE, id="without probability"),
    pytest.param(make_audit(0, probability=0.0), CHANCE_RANGE, id="could not have been drawn"),
    pytest.param(make_audit(0, probability=1.01), CHANCE_RANGE, id="probability above 1"),
]
PASS: list[Any] = [
    pytest.param(make_labels(), {}, id="plain"),
    pytest.param(make_labels(1, confidence=0.8), {}, id="exactly at the threshold"),
    pytest.param(make_labels(0, x=-0.0005), {}, id="box out by less than the tolerance"),
    pytest.param(make_labels(3, duplicate_iou=0.9), {}, id="overlap exactly at the limit"),
    pytest.param(make_labels(confidence=NAN, source="human", threshold=NAN), {}, id="all drawn by people"),
    pytest.param(make_labels(confidence=NAN, threshold=NAN), {}, id="predictions approved by people"),
    pytest.param(make_labels(mask_share=1.0), {}, id="masks that fill their boxes"),
    pytest.param(make_labels().drop(columns=["x", "y", "w", "h", "x2", "y2"]), {}, id="whole images"),
    pytest.param(make_labels(3, threshold=0.9), {}, id="edited label under a threshold"),
    pytest.param(make_labels(0, label="zebra"), {"classes": None}, id="no list of classes"),
    pytest.param(make_labels(), {"previous_class_mix": None}, id="no earlier run"),
]


@pytest.mark.parametrize(("table", "changes"), PASS)
def test_tables_that_pass(shipped, table, changes):
    outcome = validate({"labels": table}, shipped[:1], make_parameters(**changes))
    assert [check.title for check in outcome.blocking] == []
    assert outcome.passed
    assert outcome.failing_labels == {}


@pytest.mark.parametrize(("table", "title", "failing"), LABELS_FAIL)
def test_labels_that_fail(shipped, table, title, failing):
    outcome = validate({"labels": table}, shipped[:1], make_parameters(previous_class_mix=None))
    assert not outcome.passed
    assert [check.title for check in outcome.failed] == [title]
    assert set(outcome.failing_labels) == failing
    assert all(reason.startswith(title) for reasons in outcome.failing_labels.values() for reason in reasons)
    assert outcome.failing_samples == {}


@pytest.mark.parametrize(("table", "title", "failing"), SAMPLES_FAIL)
def test_samples_that_fail(shipped, table, title, failing):
    outcome = validate({"samples": table}, shipped[1:], make_parameters())
    assert not outcome.passed
    assert [check.title for check in outcome.failed] == [title]
    assert set(outcome.failing_samples) == failing
    assert outcome.failing_labels == {}


@pytest.mark.parametrize(
    ("tables", "title"),
    [
        pytest.param(make_tables(labels=make_labels().iloc[:0]), LABELS_THERE, id="no labels"),
        pytest.param(make_tables(samples=make_samples().iloc[:0]), SAMPLES_THERE, id="no samples"),
    ],
)
def test_an_empty_table_blocks(shipped, tables, title):
    outcome = validate(tables, shipped, make_parameters())
    assert not outcome.passed
    assert [check.title for check in outcome.blocking] == [title]


@pytest.mark.parametrize(
    ("mix", "status"),
    [
        pytest.param({"values": ["cat", "dog"], "weights": [0.5, 0.5]}, "passed", id="the same mix"),
        pytest.param({"values": ["cat", "dog"], "weights": [0.6, 0.4]}, "passed", id="a small shift"),
        pytest.param({"values": ["cat", "dog"], "weights": [0.9, 0.1]}, "failed", id="a large shift"),
        pytest.param({"values": ["cat"], "weights": [1.0]}, "failed", id="a new class"),
        pytest.param({"cat": 0.5, "dog": 0.5}, "passed", id="class to share"),
        pytest.param({"cat": 5, "dog": 5}, "passed", id="class to count"),
        pytest.param({"cat": 0.1, "dog": 0.9}, "failed", id="class to share, a large shift"),
        pytest.param({"cat": 1.0, "dog": 0.0}, "failed", id="a class of share 0 is a new one"),
        pytest.param({}, "skipped", id="an earlier run without labels"),
        pytest.param(None, "skipped", id="no earlier run"),
    ],
)
def test_the_class_mix_warns_and_never_blocks(shipped, mix, status):
    outcome = validate(make_tables(), shipped, make_parameters(previous_class_mix=mix))
    check = next(check for check in outcome.checks if check.title == MIX)
    assert (check.status, check.severity, outcome.passed) == (status, "warning", True)


def test_one_new_label_among_many_does_not_warn(shipped):
    mix = {"values": ["cat", "dog"], "weights": [0.5, 0.5]}
    labels = make_labels().loc[[0, 1] * 100].assign(label_id=[f"label-{n}" for n in range(200)])
    labels.iloc[7, labels.columns.get_loc("label")] = "zebra"
    outcome = validate(make_tables(labels), shipped, make_parameters(classes=None, previous_class_mix=mix))
    assert next(check for check in outcome.checks if check.title == MIX).status == "passed"


@pytest.mark.parametrize(
    ("certificate", "audit"),
    [
        pytest.param(make_certificate(), make_audit(), id="plain"),
        pytest.param(make_certificate(0, most_wrong=22.0), make_audit(), id="exactly as promised"),
        pytest.param(make_certificate([0, 1], approved=0, most_wrong=NAN), make_audit(), id="nothing proven"),
        pytest.param(make_certificate(), make_audit(probability=1.0), id="everything drawn"),
        pytest.param(make_certificate(), make_audit(confidence=NAN), id="no confidence"),
    ],
)
def test_certificates_that_pass(of_certificate, certificate, audit):
    outcome = validate({"certificate": certificate, "audit": audit}, of_certificate, make_parameters())
    assert [check.title for check in outcome.blocking] == []
    assert outcome.passed


@pytest.mark.parametrize(("certificate", "title"), CERTIFICATE_FAIL)
def test_certificates_that_fail(of_certificate, certificate, title):
    outcome = validate({"certificate": certificate}, of_certificate[:1], make_parameters())
    assert [check.title for check in outcome.blocking] == [title]


@pytest.mark.parametrize(("audit", "title"), AUDIT_FAIL)
def test_draws_that_fail(of_certificate, audit, title):
    outcome = validate({"audit": audit}, of_certificate[1:], make_parameters())
    assert [check.title for check in outcome.blocking] == [title]
    # No person can mend a draw by rejecting what was drawn.
    assert outcome.failing_labels == {}


def test_a_run_without_certificate_skips_its_suites(shipped, of_certificate):
    tables = {**make_tables(), "certificate": None, "audit": None}
    outcome = validate(tables, [*shipped, *of_certificate], make_parameters())
    assert outcome.passed
    skipped = [check for check in outcome.checks if check.suite in ("certificate", "audit")]
    assert {check.skipped_reason for check in skipped} == {"nothing in this run was certified"}
    assert outcome.rows == {"labels": 6, "samples": 2}


def test_a_certificate_that_was_not_given_blocks(of_certificate):
    outcome = validate(make_tables(), of_certificate, make_parameters())
    assert {check.error for check in outcome.blocking} == {
        "the certificate table was not given",
        "the audit table was not given",
    }


def test_every_shipped_check_is_tested_here(shipped, of_certificate):
    failing = LABELS_FAIL + SAMPLES_FAIL + CERTIFICATE_FAIL + AUDIT_FAIL
    tested = {case.values[1] for case in failing} | {LABELS_THERE, SAMPLES_THERE, MIX}
    assert {item.description for suite in [*shipped, *of_certificate] for item in suite.items} == tested


def test_the_shipped_suites_load_and_rehearse():
    assert shipped_suites() == ["audit", "certificate", "labels", "samples"]
    assert check_suites(shipped_suites(), "/") == []
