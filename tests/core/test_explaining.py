"""`valflow why`: the story of one label, from its prediction to where it is now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from tests.builders import (
    bring_to,
    draw_label,
    edit_label,
    entries,
    ids_where,
    judge_all,
    make_dataset,
    make_run,
    remove_label,
)
from valflow import actions, audits, database, decisions, label_states, undoing
from valflow.decisions import Decision
from valflow.errors import RunNotFound, SelectionError
from valflow.explaining import explain, in_words
from valflow.selections import Selection
from valflow.states import State

KEYS = {
    "label_id", "run", "dataset", "sample_id", "predicted", "drawn_by", "model", "threshold", "invalid", "state",
    "actions", "audit", "certificate", "decision", "final",
}  # fmt: skip


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    """One sample with cat 0.95, dog 0.8, cat 0.6, dog 0.3."""
    return make_dataset(tmp_path, samples=1, empty=0)


def story(label_id: str) -> str:
    return in_words(explain(label_id))


def told_actions(facts: dict[str, Any]) -> list[tuple[str, str]]:
    return [(a["event"], a["actor"]) for a in facts["actions"]]


class TestInReview:
    @pytest.fixture
    def run(self, dataset: Any) -> str:
        return make_run(dataset, approval={"threshold": 0.7, "per_class": {"dog": 0.9}})

    @pytest.mark.parametrize(
        ("confidence", "state", "threshold", "says"),
        [
            (
                0.95,
                "approved",
                0.7,
                ["'cat' with confidence 0.950 by pred (field)", "approve by policy", "0.7"],
            ),
            (0.8, "undecided", 0.9, ["'dog' with confidence 0.800"]),
        ],
        ids=["approved by policy", "under the threshold of its class"],
    )
    def test_nobody_has_looked_yet(
        self, run: str, confidence: float, state: str, threshold: float, says: list[str]
    ) -> None:
        (label_id,) = ids_where(run, confidence=confidence)
        facts = explain(label_id)
        assert facts.keys() == KEYS
        assert (facts["label_id"], facts["run"], facts["state"]) == (label_id, run, state)
        assert (facts["threshold"], facts["predicted"]["confidence"]) == (threshold, confidence)
        assert set(facts["predicted"]) == {"label", "confidence", "bounding_box"}
        assert (facts["audit"], facts["decision"], facts["final"]) == (None, None, None)
        assert [s for s in says if s not in in_words(facts)] == []
        assert story(label_id).endswith(f"now {state}, not in the label field")
        json.dumps(facts, allow_nan=False)

    def test_what_people_did_is_told_in_order(self, run: str) -> None:
        (label_id,) = ids_where(run, confidence=0.95)
        selection = Selection(label_ids=(label_id,))
        actions.tag(run, "poor_bbox", selection, "ann", "the tail is cut off")
        actions.reject(run, selection, "bob")
        facts = explain(label_id)
        assert told_actions(facts) == [("approve", "policy"), ("tag", "ann"), ("reject", "bob")]
        assert facts["actions"][1]["selector"]["note"] == "the tail is cut off"
        assert in_words(facts).endswith("now rejected, not in the label field")

    def test_what_was_taken_back_is_told_as_well(self, run: str) -> None:
        (label_id,) = ids_where(run, confidence=0.95)
        actions.reject(run, Selection(classes=("cat",)), "ann")
        undoing.undo(run, "bob")
        facts = explain(label_id)
        assert told_actions(facts) == [("approve", "policy"), ("reject", "ann")]
        assert facts["state"] == "approved"
        lines = in_words(facts).splitlines()
        assert next(line for line in lines if "reject by ann" in line).endswith("(taken back by action 3)")

    def test_actions_on_other_labels_are_left_out(self, run: str) -> None:
        actions.approve(run, Selection(classes=("dog",)), "ann")
        (label_id,) = ids_where(run, confidence=0.95)
        assert told_actions(explain(label_id)) == [("approve", "policy")]

    def test_verdicts_of_a_spot_check(self, run: str) -> None:
        (label_id,) = ids_where(run, confidence=0.95)
        judge_all(run, "wrong_class")
        facts = explain(label_id)
        assert (facts["audit"]["verdict"], facts["audit"]["reviewer"]) == ("wrong_class", "ann")
        assert told_actions(facts) == [("approve", "policy"), ("judge", "ann")]
        assert "drawn at random with probability 1 (number " in in_words(facts)
        assert "and judged wrong_class by ann" in in_words(facts)

    def test_a_draw_without_a_verdict_says_nothing(self, run: str) -> None:
        audits.draw(run, "ann", seed=1)
        assert explain(ids_where(run, confidence=0.95)[0])["audit"] is None

    def test_a_label_that_fails_a_check(self, run: str) -> None:
        (label_id, entry) = next(iter(entries(run).items()))
        reasons = {ObjectId(entry["sample_id"]): {ObjectId(label_id): ["outside of the image", "no area"]}}
        label_states.mark_invalid(run, reasons)
        assert "fails a check: outside of the image; no area" in story(label_id)


def finalized(dataset: Any) -> str:
    """Cat 0.95: judged. dog 0.8: corrected to a cat. cat 0.6: approved by ann. dog 0.3: rejected."""
    run = make_run(dataset)
    edit_label(dataset, "auto_in_review", ids_where(run, confidence=0.8)[0], label="cat")
    actions.approve(run, Selection(classes=("cat",)), "ann")
    actions.reject(run, Selection(max_confidence=0.3), "ann")
    bring_to(run, dataset, State.FINALIZED)
    return run


@pytest.fixture(scope="module")
def finalized_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return finalized(make_dataset(tmp_path_factory.mktemp("why"), samples=1, empty=0))


class TestOfAFinalizedRun:
    @pytest.mark.parametrize(
        ("confidence", "says", "final"),
        [
            (0.95, "in the label field as 'cat', source auto", "cat"),
            (0.8, "in the label field as 'cat', source edited", "cat"),
            (0.6, "in the label field as 'cat', source human", "cat"),
            (0.3, "now rejected, not in the label field", None),
        ],
        ids=["by policy", "corrected", "by a person", "rejected"],
    )
    def test_where_its_labels_are(
        self, finalized_run: str, confidence: float, says: str, final: str | None
    ) -> None:
        (label_id,) = ids_where(finalized_run, confidence=confidence)
        facts = explain(label_id)
        assert (facts["final"] or {}).get("label") == final
        assert says in in_words(facts)
        assert "finalize decided by ann" in in_words(facts)
        if confidence == 0.8:
            assert facts["predicted"]["label"] == "dog"


class TestLater:
    @pytest.fixture
    def run(self, dataset: Any) -> str:
        return make_run(dataset, State.FINALIZED)

    def test_a_final_label_that_was_deleted(self, run: str, dataset: Any) -> None:
        (label_id,) = ids_where(run, confidence=0.95)
        remove_label(dataset, "auto", label_id)
        assert story(label_id).endswith("now approved, not in the label field")

    def test_in_a_dataset_that_was_renamed(self, run: str, dataset: Any) -> None:
        dataset.name = f"{dataset.name}-renamed"
        assert "in the label field as 'cat'" in story(ids_where(run, confidence=0.95)[0])

    def test_in_a_dataset_that_is_gone(self, run: str, dataset: Any) -> None:
        dataset.delete()
        facts = explain(ids_where(run, confidence=0.95)[0])
        assert (facts["state"], facts["final"]) == ("approved", None)

    def test_of_a_run_whose_record_was_removed(self, run: str) -> None:
        (label_id,) = ids_where(run, confidence=0.95)
        database.runs().delete_one({"run": run})
        with pytest.raises(RunNotFound, match=f"no labeling run is named '{run}'"):
            explain(label_id)


class TestOthers:
    def test_a_discarded_label(self, dataset: Any) -> None:
        run = make_run(dataset)
        decisions.submit(run, Decision("discard", "ann", "wrong model"))
        text = story(ids_where(run, confidence=0.95)[0])
        assert "discard decided by ann" in text
        assert text.endswith("now approved, not in the label field")

    def test_a_label_that_a_person_drew(self, dataset: Any) -> None:
        run = make_run(dataset)
        drawn = draw_label(dataset, "auto_in_review", dataset.first().id)
        decisions.preview(run, "bob")  # takes it over
        facts = explain(drawn)
        assert facts["drawn_by"] == "bob"
        assert told_actions(facts) == [("draw", "bob")]
        assert "drawn by bob as 'bird'" in in_words(facts)
        bring_to(run, dataset, State.FINALIZED)
        assert "in the label field as 'bird', source human" in story(drawn)

    @pytest.mark.parametrize(
        ("label_id", "says"),
        [("0" * 24, "no labeling run knows"), ("nonsense", "24 hexadecimal digits"), ("", "24 hexadecimal")],
        ids=["unknown", "no id", "empty"],
    )
    def test_a_label_of_nobody(self, label_id: str, says: str) -> None:
        with pytest.raises(SelectionError, match=says):
            explain(label_id)

    def test_a_true_label_is_none_of_ours(self, dataset: Any) -> None:
        make_run(dataset)
        with pytest.raises(SelectionError, match="by other means"):
            explain(dataset.first().ground_truth.detections[0].id)

    def test_without_thresholds(self, dataset: Any) -> None:
        run = make_run(dataset, approval={"mode": "review_all"})
        facts = explain(ids_where(run, confidence=0.95)[0])
        assert (facts["threshold"], facts["actions"], facts["state"]) == (None, [], "undecided")
