"""The pre-finalization checklist: each of its five items, there, missing, and overridden."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.builders import ids_where, judge_all, make_dataset, make_run
from valflow import actions, audits, checklist, database, decisions, label_states, ledger, runs, undoing
from valflow.decisions import Decision
from valflow.errors import DecisionRefused
from valflow.selections import Selection

ITEMS = ("reviewed", "problems", "spot_check", "thresholds", "issues")
CATS, DOGS, ALL = Selection(classes=("cat",)), Selection(classes=("dog",)), Selection(all=True)


@dataclass(frozen=True)
class Case:
    """What a reviewer did with cat 0.95, dog 0.8 (both approved by policy), cat 0.6 and dog 0.3."""

    item: str
    ok: bool
    says: str
    work: Callable[[str], object] = lambda run: None
    approval: dict[str, Any] | None = None


def _in_turn(*steps: Callable[[str], object]) -> Callable[[str], object]:
    def work(run: str) -> None:
        for step in steps:
            step(run)

    return work


def _approve(selection: Selection, by: str = "ann") -> Callable[[str], object]:
    return lambda run: actions.approve(run, selection, by)


def _reject(selection: Selection, by: str = "ann") -> Callable[[str], object]:
    return lambda run: actions.reject(run, selection, by)


def _tag(selection: Selection, note: str | None = None) -> Callable[[str], object]:
    return lambda run: actions.tag(run, "wrong_class", selection, "ann", note)


def _undo(run: str) -> object:
    return undoing.undo(run, "ann")


def _draw(run: str) -> object:
    return audits.draw(run, "ann", seed=3)


def _judge_one_wrong(run: str) -> object:
    audits.draw(run, "ann", size=1, seed=3)
    return audits.judge(run, {1: "bad_box"}, "ann")


def _mark_one_invalid(run: str) -> None:
    document = next(d for d in _documents(run) if d.get("labels"))
    label_states.mark_invalid(run, {document["sample_id"]: {document["labels"][0]["_id"]: ["no area"]}})


def _documents(run: str) -> list[dict[str, Any]]:
    return list(database.ledger().find({"run": run}))


REVIEW_ALL = {"mode": "review_all"}
CASES = {
    "reviewed: nobody has begun": Case("reviewed", False, "2 labels undecided; no person has decided"),
    "reviewed: in part": Case("reviewed", False, "1 labels undecided; ann: 1 approved", _approve(CATS)),
    "reviewed: by two": Case(
        "reviewed",
        True,
        "0 labels undecided; ann: 1 approved; bob: 2 rejected",
        _in_turn(_approve(CATS), _reject(DOGS, "bob")),
    ),
    "reviewed: taken back": Case("reviewed", False, "2 labels undecided", _in_turn(_approve(ALL), _undo)),
    "problems: nothing is wrong": Case("problems", True, "no label carries a problem tag; 0 labels"),
    "problems: rejected without a tag": Case("problems", False, "2 labels rejected", _reject(DOGS)),
    "problems: invalid without a tag": Case("problems", False, "1 labels rejected", _mark_one_invalid),
    "problems: tagged": Case(
        "problems", True, "2 wrong_class; 2 labels rejected", _in_turn(_reject(DOGS), _tag(DOGS))
    ),
    "problems: a tag that was taken back": Case(
        "problems", False, "no label carries", _in_turn(_reject(DOGS), _tag(DOGS), _undo)
    ),
    "spot check: not drawn": Case("spot_check", False, "none was drawn; draw one with `valflow audit"),
    "spot check: drawn, not judged": Case("spot_check", False, "0 of 2 verdicts are there", _draw),
    "spot check: judged": Case("spot_check", True, "0 wrong of 2: at most 77.7 % wrong (95 %)", judge_all),
    "spot check: judged wrong": Case(
        "spot_check", True, "1 wrong of 1: at most 100 % wrong", _judge_one_wrong
    ),
    "spot check: drawn again after something wrong": Case(
        "spot_check",
        True,
        "judged by ann; an earlier draw: 1 wrong of 1: at most 100 % wrong",
        _in_turn(_judge_one_wrong, _approve(CATS), judge_all),
    ),
    "spot check: all that were approved were wrong": Case(
        "spot_check", True, "nothing is approved", lambda run: judge_all(run, "bad_box")
    ),
    "spot check: labels approved since": Case(
        "spot_check",
        False,
        "1 approved labels are not covered by the draw",
        _in_turn(judge_all, _approve(CATS)),
    ),
    "spot check: labels rejected since": Case(
        "spot_check", True, "0 wrong of 2", _in_turn(judge_all, _reject(CATS))
    ),
    "spot check: nothing is approved": Case("spot_check", True, "nothing is approved", approval=REVIEW_ALL),
    "thresholds: fixed": Case(
        "thresholds", True, "fixed at 0.7, dog: 0.75", approval={"per_class": {"dog": 0.75}}
    ),
    "thresholds: none": Case("thresholds", True, "review_all", approval=REVIEW_ALL),
    "issues: nothing was rejected": Case("issues", True, "no class has rejected labels"),
    "issues: no note": Case("issues", False, "no note yet on dog (2 rejected)", _reject(DOGS)),
    "issues: a tag without a note": Case(
        "issues", False, "no note yet on dog", _in_turn(_reject(DOGS), _tag(DOGS))
    ),
    "issues: a note on the class": Case(
        "issues",
        True,
        "dog: these are wolves (ann, wrong_class)",
        _in_turn(_reject(DOGS), _tag(DOGS, "these are wolves")),
    ),
    "issues: a note on no class": Case(
        "issues", True, "all: blurred (ann, wrong_class)", _tag(Selection(max_confidence=0.4), "blurred")
    ),
    "issues: a note that was taken back": Case(
        "issues", False, "no note yet", _in_turn(_reject(DOGS), _tag(DOGS, "wolves"), _undo)
    ),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One for all: each run has a label field of its own."""
    return make_dataset(tmp_path_factory.mktemp("checklist"), samples=1, empty=0)


@pytest.fixture
def field(request: pytest.FixtureRequest) -> str:
    return "f_" + re.sub(r"\W+", "_", request.node.name)


def evidence_of(run: str) -> list[dict[str, Any]]:
    record = runs.load(run)
    return checklist.evidence(record, ledger.class_table(run, record["thresholds"]))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_evidence(case: Case, dataset: Any, field: str) -> None:
    changes = {} if case.approval is None else {"approval": case.approval}
    run = make_run(dataset, label_field=field, review={"checklist": [case.item]}, **changes)
    case.work(run)
    items = {i["item"]: i for i in evidence_of(run)}
    found = items[case.item]
    assert (found["ok"], case.says in found["evidence"]) == (case.ok, True), found
    assert tuple(items) == ITEMS
    assert [i for i, item in items.items() if item["required"]] == [case.item]
    told = [] if case.ok else [f"{found['title']}: {found['evidence']}"]
    assert checklist.missing(list(items.values())) == told


@pytest.mark.parametrize(
    ("required", "missing"),
    [
        ([], []),
        (["spot_check"], ["spot_check"]),
        (["reviewed", "thresholds"], ["reviewed"]),
        (list(ITEMS), ["reviewed", "problems", "spot_check", "issues"]),
    ],
    ids=["nothing", "the default", "two", "everything"],
)
def test_the_configuration_chooses_what_is_demanded(
    dataset: Any, field: str, required: list[str], missing: list[str]
) -> None:
    run = make_run(dataset, label_field=field, review={"checklist": required})
    actions.reject(run, Selection(label_ids=tuple(ids_where(run, confidence=0.3))), "ann")
    items = {i["item"]: i["title"] for i in evidence_of(run)}
    told = [items[name] for name in missing]
    if not missing:
        assert decisions.submit(run, Decision("finalize", "ann"))["state"] == "REVIEWED"
        return
    with pytest.raises(DecisionRefused, match="evidence is missing") as refused:
        decisions.submit(run, Decision("finalize", "ann"))
    assert [m.split(":")[0] for m in refused.value.missing] == told
    record = decisions.submit(run, Decision("finalize", "ann", override="the camera is broken"))
    assert record["decision"]["override"] == "the camera is broken"
    # What was missing stays in the record beside the reason.
    assert [i["item"] for i in record["checklist"] if i["required"] and not i["ok"]] == missing
    assert record["issues"] == {}


def test_who_did_what(dataset: Any, field: str) -> None:
    run = make_run(dataset, label_field=field)
    assert checklist.reviewer_statistics(run) == {}
    judge_all(run)
    actions.approve(run, CATS, "bob")
    actions.tag(run, "poor_bbox", DOGS, "bob", "tails")
    actions.reject(run, ALL, "eve")
    undoing.undo(run, "eve")
    assert checklist.reviewer_statistics(run) == {
        "ann": {"judged": 2},
        "bob": {"approved": 1, "tagged": 2},
    }
    assert checklist.issue_notes(run) == {"dog": ["tails (bob, poor_bbox)"]}
