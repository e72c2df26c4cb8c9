"""A decision replayed, and a record changed by hand: the first is refused, the second is named by the doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.builders import bring_to, ids_where, judge_all, make_dataset, make_run
from tests.certified import judge_honestly, make_certified_run, make_large_dataset
from valflow import actions, audits, database, decisions, promotion, rolling_back, runs, trail, undoing
from valflow.errors import DecisionRefused, IllegalTransition, PromotionError, RollbackRefused
from valflow.selections import Selection
from valflow.states import State


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    return make_dataset(tmp_path, samples=3, empty=0)


@pytest.fixture
def decided(dataset: Any) -> str:
    run = make_run(dataset)
    actions.approve(run, Selection(label_ids=(ids_where(run, state="undecided")[0],)), "bob")
    judge_all(run)
    decisions.submit(run, decisions.Decision("finalize", "ann", note="all seen"))
    return run


def problems(run: str) -> list[str]:
    """What the doctor says about a run."""
    _, found = trail.check(database.connection())
    return [p for p in found if f"run {run}:" in p]


def set_record(**changes: Any) -> Any:
    return lambda run: database.runs().update_one({"run": run}, {"$set": changes})


def set_verdict(run: str) -> None:
    database.audits().update_one({"run": run}, {"$set": {"items.0.verdict": "bad_box"}})


def set_judge(run: str) -> None:
    database.audits().update_one({"run": run}, {"$set": {"items.0.reviewer": "eve"}})


def remove_audit(run: str) -> None:
    database.audits().delete_many({"run": run})


def add_audit(run: str) -> None:
    audits.insert(runs.load(run), "spot_check", "eve", 1, 1, [])


def move_frozen_box(run: str) -> None:
    database.ledger().update_one(
        {"run": run, "frozen.labels.0": {"$exists": True}},
        {"$set": {"frozen.labels.0.bounding_box": [0.0, 0.0, 1.0, 1.0]}},
    )


def remove_frozen_label(run: str) -> None:
    database.ledger().update_one(
        {"run": run, "frozen.labels.0": {"$exists": True}}, {"$pop": {"frozen.labels": 1}}
    )


def change_action(run: str) -> None:
    database.actions().update_one({"run": run, "actor": "bob"}, {"$set": {"actor": "eve"}})


TAMPERED = {
    "another-reviewer": (set_record(**{"decision.reviewer": "eve"}), "the decision was changed"),
    "another-note": (set_record(**{"decision.note": "looked at nothing"}), "the decision was changed"),
    "an-override": (set_record(**{"decision.override": "in a hurry"}), "the decision was changed"),
    "another-digest": (set_record(**{"decision.digest": "0" * 64}), "the decision was changed"),
    "a-certificate": (set_record(certificate={"digest": "0" * 64}), "the certificate was changed"),
    "a-verdict": (set_verdict, "draws or verdicts were changed"),
    "another-judge": (set_judge, "draws or verdicts were changed"),
    "no-audit": (remove_audit, "draws or verdicts were changed"),
    "one-audit-more": (add_audit, "draws or verdicts were changed"),
    "another-box": (move_frozen_box, "the approved labels in the ledger were changed"),
    "a-label-less": (remove_frozen_label, "the approved labels in the ledger were changed"),
    "another-actor": (change_action, "reviewers' actions up to number"),
    "the-state": (set_record(state="ROLLED_BACK"), "the state was changed by hand"),
    "a-history-entry": (set_record(**{"history.1.actor": "eve"}), "entry 2 (infer by eve) was changed"),
}


@pytest.mark.parametrize(("tamper", "says"), TAMPERED.values(), ids=TAMPERED)
def test_the_doctor_names_what_was_changed_by_hand(decided: str, tamper: Any, says: str) -> None:
    assert problems(decided) == []
    tamper(decided)
    assert any(says in problem for problem in problems(decided)), problems(decided)


@pytest.mark.parametrize("tamper", [move_frozen_box, remove_frozen_label])
def test_changed_labels_are_not_promoted(decided: str, dataset: Any, tamper: Any) -> None:
    tamper(decided)
    record = runs.transition(runs.load(decided), runs.Event.VALIDATE, actor="policy")
    with pytest.raises(PromotionError, match="by hand"):
        promotion.promote(record, dataset)
    dataset.reload()
    assert not dataset.has_field(record["label_field"])


def test_what_follows_a_decision_is_no_tampering(decided: str) -> None:
    decisions.reopen(runs.load(decided), reason="again")
    assert problems(decided) == []
    undoing.undo(decided, "bob", own=True)
    assert problems(decided) == []


def test_nor_is_what_finalization_and_rollback_do(dataset: Any) -> None:
    run = make_run(dataset, State.FINALIZED)
    assert problems(run) == []
    rolling_back.roll_back(run, "ann")
    assert problems(run) == []


def test_a_certificate_is_sealed_by_the_decision(tmp_path: Path) -> None:
    large = make_large_dataset(tmp_path)
    run = make_certified_run(large)
    judge_honestly(run, large)
    decisions.submit(run, decisions.Decision("finalize", "ann", override="not what this test is about"))
    assert problems(run) == []
    database.runs().update_one({"run": run}, {"$set": {"certificate.wrong": 0, "certificate.audited": 10**6}})
    assert any("the certificate was changed" in p for p in problems(run))


# -- a decision given twice


def test_a_decision_is_not_taken_twice(decided: str) -> None:
    digest = runs.load(decided)["decision"]["digest"]
    for name in ("ann", "eve"):
        with pytest.raises(IllegalTransition, match="ann decided to finalize it"):
            decisions.submit(decided, decisions.Decision("finalize", name, digest=digest))
    with pytest.raises(IllegalTransition, match=r"is not waiting|is REVIEWED"):
        decisions.preview(decided, "eve")
    assert runs.load(decided)["decision"]["reviewer"] == "ann"


def test_an_old_digest_confirms_nothing_that_came_after(dataset: Any) -> None:
    run = make_run(dataset)
    judge_all(run)
    old = decisions.preview(run, "ann").digest
    actions.approve(run, Selection(label_ids=(ids_where(run, state="undecided")[0],)), "eve")
    for digest in (old, old[:12]):
        with pytest.raises(DecisionRefused, match="has changed since you saw it"):
            decisions.submit(run, decisions.Decision("finalize", "ann", override="x", digest=digest))
    assert runs.load(run)["state"] == "IN_REVIEW"


def test_the_digest_of_an_earlier_round_confirms_nothing_in_the_next(decided: str) -> None:
    digest = runs.load(decided)["decision"]["digest"]
    decisions.reopen(runs.load(decided), reason="the gate refused a label")
    actions.reject(decided, Selection(label_ids=(ids_where(decided, state="approved")[0],)), "ann")
    with pytest.raises(DecisionRefused, match="has changed since you saw it"):
        decisions.submit(decided, decisions.Decision("finalize", "ann", override="x", digest=digest))


def test_the_digest_of_an_earlier_round_is_none_of_the_same_labels_either(dataset: Any, decided: str) -> None:
    earlier = runs.load(decided)["decision"]
    decisions.reopen(runs.load(decided), reason="somebody had second thoughts")
    again = decisions.preview(decided, "ann")
    assert again.labels == runs.load(decided)["counts"]["approved"]
    for digest in (earlier["digest"], earlier["digest"][:12]):
        with pytest.raises(DecisionRefused, match="has changed since you saw it"):
            decisions.submit(decided, decisions.Decision("finalize", "ann", override="x", digest=digest))
    decisions.submit(decided, decisions.Decision("finalize", "ann", override="x", digest=again.digest))
    assert problems(decided) == []
    bring_to(decided, dataset, "FINALIZED")
    assert problems(decided) == []


def test_the_digest_of_an_earlier_rollback_takes_nothing_back_again(dataset: Any, decided: str) -> None:
    bring_to(decided, dataset, "FINALIZED")
    earlier = rolling_back.preview(decided)
    rolling_back.roll_back(decided, "ann", digest=earlier.digest)
    rolling_back.roll_back(decided, "ann", from_copy="latest")
    assert rolling_back.preview(decided).labels == earlier.labels
    with pytest.raises(RollbackRefused, match="have changed since you saw them"):
        rolling_back.roll_back(decided, "ann", digest=earlier.digest)
    assert runs.load(decided)["state"] == "FINALIZED"


@pytest.mark.parametrize("digest", ["", " ", "0", "0000000"])
def test_a_piece_of_a_digest_too_short_to_mean_anything(dataset: Any, digest: str) -> None:
    run = make_run(dataset)
    judge_all(run)
    with pytest.raises(DecisionRefused, match="expected at least 8 characters"):
        decisions.submit(run, decisions.Decision("finalize", "ann", digest=digest))
