"""The decision that ends a review: what it covers, who may take it, and that there is one."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from tests.builders import (
    counts,
    documents,
    draw_label,
    edit_label,
    entries,
    ids_where,
    judge_all,
    labels_in,
    make_dataset,
    make_run,
    remove_label,
)
from valflow import actions, audits, database, decisions, runs, undoing
from valflow.app_edits import SOMEBODY
from valflow.decisions import Decision
from valflow.errors import DecisionRefused, IllegalTransition, LabelsVanished
from valflow.selections import Selection

STAGED = "auto_in_review"


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    """Three samples with cat 0.95, dog 0.8, cat 0.6, dog 0.3 each, and one without labels."""
    return make_dataset(tmp_path)


@pytest.fixture
def run(dataset: Any) -> str:
    return make_run(dataset)


def digest(run: str) -> str:
    return decisions.preview(run, "ann").digest


def frozen_labels(run: str) -> dict[str, dict[str, Any]]:
    return {
        str(label["_id"]): label
        for document in database.ledger().find({"run": run})
        for label in (document.get("frozen") or {}).get("labels", [])
    }


class TestPreview:
    def test_says_what_finalization_would_do(self, run: str) -> None:
        actions.reject(run, Selection(max_confidence=0.3), "ann")
        actions.tag(run, "wrong_class", Selection(classes=("dog",)), "ann")
        preview = decisions.preview(run, "ann")
        assert (preview.labels, preview.samples, preview.rejected, preview.undecided) == (6, 3, 3, 3)
        assert preview.per_class == {"cat": 3, "dog": 3}
        assert preview.by_source == {"auto": 6}
        assert preview.tagged == {"wrong_class": 3}
        assert [m.partition(":")[0] for m in preview.missing] == [
            "A random sample of approved labels was judged"
        ]
        assert (preview.run, preview.label_field) == (run, "auto")

    def test_decides_nothing_and_holds_nobody_up(self, run: str) -> None:
        before = runs.load(run)
        decisions.preview(run, "ann")
        after = runs.load(run)
        assert (after["state"], after["decision"], after["frozen"]) == ("IN_REVIEW", None, None)
        assert after["freezing"] is None
        assert after["history"] == before["history"]
        assert actions.approve(run, Selection(classes=("cat",)), "ann").changed == 3

    def test_an_error_does_not_hold_anybody_up_either(self, run: str, dataset: Any) -> None:
        label = ids_where(run)[0]
        remove_label(dataset, STAGED, label)
        with pytest.raises(LabelsVanished):
            decisions.preview(run, "ann")
        assert actions.reject(run, Selection(label_ids=(label,)), "ann").changed == 1

    @pytest.mark.parametrize("state", ["CREATED", "PREDICTED", "REVIEWED", "FINALIZED", "DISCARDED"])
    def test_needs_a_run_in_review(self, dataset: Any, state: str) -> None:
        run = make_run(dataset, state)
        with pytest.raises(IllegalTransition, match=f"is not waiting for a decision, it is {state}"):
            decisions.preview(run, "ann")


class TestDigest:
    def test_stays_while_nothing_changes(self, run: str) -> None:
        first = digest(run)
        actions.tag(run, "odd", Selection(max_confidence=0.3), "ann")  # of labels that are not approved
        judge_all(run)
        assert digest(run) == first
        label = Selection(label_ids=tuple(ids_where(run, state="undecided")[:1]))
        actions.approve(run, label, "ann")
        undoing.undo(run, "ann")
        assert digest(run) == first

    def test_the_confidence_is_the_model_s(self, run: str, dataset: Any) -> None:
        """A screen that hides it, saved whole, would write null over it."""
        before = digest(run)
        edit_label(dataset, STAGED, ids_where(run, state="approved")[0], confidence=None)
        assert digest(run) == before

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda run, ds, i: edit_label(ds, STAGED, i, label="bird"), id="class-corrected"),
            pytest.param(
                lambda run, ds, i: edit_label(ds, STAGED, i, bounding_box=[0, 0, 1, 0.5]), id="box-moved"
            ),
            pytest.param(lambda run, ds, i: edit_label(ds, STAGED, i, occluded=True), id="attribute-added"),
            pytest.param(lambda run, ds, i: edit_label(ds, STAGED, i, tags=["mine"]), id="tag-added"),
            pytest.param(
                lambda run, ds, i: actions.reject(run, Selection(label_ids=(i,)), "ann"),
                id="approval-taken-back",
            ),
            pytest.param(
                lambda run, ds, i: actions.approve(run, Selection(classes=("cat",)), "ann"),
                id="more-approved",
            ),
            pytest.param(
                lambda run, ds, i: draw_label(ds, STAGED, entries(run)[i]["sample_id"]), id="label-drawn"
            ),
        ],
    )
    def test_changes_with_anything(self, run: str, dataset: Any, change: Any) -> None:
        before = digest(run)
        change(run, dataset, ids_where(run, state="approved", label="cat")[0])
        assert digest(run) != before

    def test_who_approved_a_label_is_part_of_it(self, run: str) -> None:
        before = digest(run)
        label = Selection(label_ids=tuple(ids_where(run, state="approved")[:1]))
        actions.reset(run, "ann", ["cat"])
        actions.approve(run, Selection(classes=("cat",), min_confidence=0.9), "ann")
        preview = decisions.preview(run, "ann")
        assert label
        assert preview.by_source == {"auto": 3, "human": 3}
        assert preview.digest != before

    def test_a_confirmation_is_bound_to_it(self, run: str) -> None:
        judge_all(run)
        seen = digest(run)
        actions.reject(run, Selection(label_ids=tuple(ids_where(run, state="approved")[:1])), "bob")
        with pytest.raises(DecisionRefused, match="the approval set has changed since you saw it"):
            decisions.submit(run, Decision("finalize", "ann", digest=seen))
        now = digest(run)
        record = decisions.submit(run, Decision("finalize", "ann", digest=now[:12]))
        assert record["decision"]["digest"] == record["frozen"]["digest"] == now

    @pytest.mark.parametrize("part", ["0", "abc", " "])
    def test_a_few_characters_of_it_are_not_enough(self, run: str, part: str) -> None:
        judge_all(run)
        few = digest(run)[: len(part)] if part.strip() else part
        with pytest.raises(DecisionRefused, match="at least 8 characters"):
            decisions.submit(run, Decision("finalize", "ann", digest=few))
        assert runs.load(run)["state"] == "IN_REVIEW"


class TestSubmit:
    def test_what_the_record_keeps(self, run: str) -> None:
        actions.approve(run, Selection(classes=("cat",)), "bob")
        actions.tag(run, "poor_bbox", Selection(classes=("dog",)), "bob", "too wide")
        judge_all(run)
        record = decisions.submit(run, Decision("finalize", " ann ", note="fine", via="app"))
        assert record["state"] == "REVIEWED"
        decision = record["decision"]
        assert {k: decision[k] for k in ("decision", "reviewer", "note", "via", "round", "override")} == {
            "decision": "finalize", "reviewer": "ann", "note": "fine", "via": "app", "round": 1, "override": None
        }  # fmt: skip
        assert (record["frozen"]["labels"], record["frozen"]["samples"]) == (9, 3)
        assert record["frozen"]["per_class"] == {"cat": 6, "dog": 3}
        assert record["counts"] == {
            "samples": 4, "failed_samples": 0, "empty_samples": 1, "predicted": 12, "approved": 9, "rejected": 0,
            "undecided": 3, "invalid": 0, "edited": 0,
        }  # fmt: skip
        assert record["audit"]["judged"] == 9
        assert record["problem_tags"] == {"poor_bbox": 6}
        assert record["issues"] == {"dog": ["too wide (bob, poor_bbox)"]}
        assert record["review"]["reviewers"] == {"bob": {"approved": 3, "tagged": 6}, "ann": {"judged": 9}}
        assert record["review"]["seconds"] >= 0
        assert {i["item"]: i["ok"] for i in record["checklist"]}["spot_check"]
        entry = record["history"][-1]
        assert (entry["event"], entry["note"], entry["figures"]["labels"]) == ("submit", "fine", 9)

    def test_of_four_at_once_one_wins(self, run: str) -> None:
        judge_all(run)
        won: list[str] = []
        told: list[str] = []
        barrier = threading.Barrier(4)

        def submit(name: str) -> None:
            barrier.wait()
            try:
                decisions.submit(run, Decision("finalize", name))
                won.append(name)
            except IllegalTransition as error:
                told.append(str(error))

        threads = [threading.Thread(target=submit, args=(f"reviewer-{i}",)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1, told
        assert len(told) == 3
        assert all("is being confirmed by" in t or f"{won[0]} decided to finalize it" in t for t in told)
        record = runs.load(run)
        assert record["decision"]["reviewer"] == won[0]
        assert [h["event"] for h in record["history"]].count("submit") == 1
        assert decisions.digest_of(record, record["frozen"]["token"])[:2] == (record["frozen"]["digest"], 6)

    def test_a_second_decider_is_told_who_decided(self, run: str) -> None:
        judge_all(run)
        decisions.submit(run, Decision("finalize", "ann"))
        with pytest.raises(IllegalTransition, match="it is REVIEWED: ann decided to finalize it"):
            decisions.submit(run, Decision("finalize", "bob"))
        other = make_run_again(run)
        decisions.submit(other, Decision("discard", "ann"))
        with pytest.raises(IllegalTransition, match="it is DISCARDED: ann decided to discard it"):
            decisions.submit(other, Decision("finalize", "bob"))

    def test_nobody_decides_while_another_confirms(self, run: str) -> None:
        judge_all(run)
        freezing = {"token": "t", "by": "bob", "at": database.now()}
        database.runs().update_one({"run": run}, {"$set": {"freezing": freezing}})
        with pytest.raises(IllegalTransition, match="is being confirmed by bob just now; try again"):
            decisions.submit(run, Decision("finalize", "ann"))
        database.runs().update_one(
            {"run": run}, {"$set": {"freezing.at": database.now() - timedelta(hours=1)}}
        )
        assert decisions.submit(run, Decision("finalize", "ann"))["decision"]["reviewer"] == "ann"

    def test_a_confirmation_that_ends_at_the_same_moment(
        self, run: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        freezing = {"token": "t", "by": "bob", "at": database.now()}
        database.runs().update_one({"run": run}, {"$set": {"freezing": freezing}})
        load = runs.load

        def load_when_bob_has_finished(key: str) -> runs.Record:
            found = load(key)
            return {**found, "freezing": None}

        monkeypatch.setattr(runs, "load", load_when_bob_has_finished)
        with pytest.raises(IllegalTransition, match="is being confirmed by"):
            decisions.preview(run, "ann")

    def test_one_that_took_too_long_has_lost(self, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
        judge_all(run)
        check = decisions._check_decision

        def slow(*arguments: Any) -> None:
            check(*arguments)
            database.runs().update_one({"run": run}, {"$set": {"freezing.token": "of another"}})

        monkeypatch.setattr(decisions, "_check_decision", slow)
        with pytest.raises(IllegalTransition):
            decisions.submit(run, Decision("finalize", "ann"))
        record = runs.load(run)
        assert (record["state"], record["freezing"]["token"]) == ("IN_REVIEW", "of another")

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            pytest.param("", "needs the name of its reviewer", id="nobody"),
            pytest.param("  ", "needs the name of its reviewer", id="blanks"),
            pytest.param(
                "eve", "'eve' may not decide this run; its reviewers are ann, bob", id="not-on-the-list"
            ),
            pytest.param("policy", "is the name of the machine", id="policy"),
        ],
    )
    @pytest.mark.parametrize("what", ["finalize", "discard"])
    def test_reviewers_are_checked(self, dataset: Any, name: str, expected: str, what: Any) -> None:
        run = make_run(dataset, review={"reviewers": ["ann", "bob"]})
        with pytest.raises(DecisionRefused, match=expected):
            decisions.submit(run, Decision(what, name, override="in a hurry"))
        assert runs.load(run)["state"] == "IN_REVIEW"

    def test_one_on_the_list_may(self, dataset: Any) -> None:
        run = make_run(dataset, review={"reviewers": ["ann", "bob"]})
        assert (
            decisions.submit(run, Decision("finalize", "bob", override="in a hurry"))["state"] == "REVIEWED"
        )

    @pytest.mark.parametrize(
        ("override", "accepted"), [(None, False), ("", False), ("  ", False), ("demo", True)]
    )
    def test_missing_evidence_needs_a_reason(self, run: str, override: str | None, accepted: bool) -> None:
        decision = Decision("finalize", "ann", override=override)
        if accepted:
            assert decisions.submit(run, decision)["decision"]["override"] == override
            return
        with pytest.raises(DecisionRefused, match="evidence is missing") as caught:
            decisions.submit(run, decision)
        assert caught.value.missing
        assert runs.load(run)["state"] == "IN_REVIEW"

    def test_the_checklist_chooses_the_evidence(self, dataset: Any) -> None:
        run = make_run(dataset, review={"checklist": ["reviewed", "issues"]})
        with pytest.raises(DecisionRefused, match="6 labels undecided"):
            decisions.submit(run, Decision("finalize", "ann"))
        actions.reject(run, Selection(classes=("dog",)), "ann")
        actions.approve(run, Selection(classes=("cat",)), "ann")
        with pytest.raises(DecisionRefused, match=r"no note yet on dog \(6 rejected\)"):
            decisions.submit(run, Decision("finalize", "ann"))
        actions.tag(run, "false_positive", Selection(classes=("dog",)), "ann", "these are wolves")
        assert decisions.submit(run, Decision("finalize", "ann"))["state"] == "REVIEWED"

    def test_nothing_approved_is_nothing_to_finalize(self, run: str) -> None:
        actions.reset(run, "ann")
        with pytest.raises(DecisionRefused, match="has no approved labels; approve some, or discard the run"):
            decisions.submit(run, Decision("finalize", "ann", override="x"))


class TestContent:
    def test_state_comes_from_the_ledger_and_content_from_the_field(self, run: str, dataset: Any) -> None:
        edited, moved = ids_where(run, state="approved")[:2]
        edit_label(dataset, STAGED, edited, label="bird", occluded=True)
        edit_label(dataset, STAGED, moved, bounding_box=[0.0, 0.0, 0.5, 0.5])
        preview = decisions.preview(run, "ann")
        assert preview.by_source == {"auto": 4, "edited": 2}
        frozen = frozen_labels(run)
        assert set(frozen) == set(ids_where(run, state="approved"))
        assert (frozen[edited]["label"], frozen[edited]["occluded"], frozen[edited]["source"]) == (
            "bird",
            True,
            "edited",
        )
        assert frozen[moved]["bounding_box"] == [0.0, 0.0, 0.5, 0.5]
        assert all(d["run"] == run for d in frozen.values())

    def test_workflow_tags_stay_out_and_other_tags_stay(self, run: str, dataset: Any) -> None:
        label = ids_where(run, state="approved")[0]
        actions.tag(run, "poor_bbox", Selection(label_ids=(label,)), "ann")
        edit_label(dataset, STAGED, label, tags=["approved", "mine", "poor_bbox", "invalid"])
        decisions.preview(run, "ann")
        assert frozen_labels(run)[label]["tags"] == ["mine", "poor_bbox"]
        assert all(d["tags"] == [] for i, d in frozen_labels(run).items() if i != label)

    def test_tags_put_on_by_hand_are_decisions_of_somebody(self, run: str, dataset: Any) -> None:
        weak, strong = ids_where(run, state="undecided")[0], ids_where(run, state="approved")[0]
        edit_label(dataset, STAGED, weak, tags=["approved"])
        edit_label(dataset, STAGED, strong, tags=["approved", "rejected"])
        decisions.preview(run, "ann")
        assert weak in frozen_labels(run)
        assert strong not in frozen_labels(run)
        assert [a["actor"] for a in actions.history_of(run)[-2:]] == [SOMEBODY, SOMEBODY]

    def test_tags_taken_off_are_no_decisions(self, run: str, dataset: Any) -> None:
        strong = ids_where(run, state="approved")[0]
        edit_label(dataset, STAGED, strong, tags=[])
        decisions.preview(run, "ann")
        assert strong in frozen_labels(run)

    def test_a_save_that_changes_nothing_is_no_edit(self, run: str, dataset: Any) -> None:
        # Other writers spell out what a label does not have.
        database.samples_of(dataset).update_many(
            {f"{STAGED}.detections": {"$exists": True}},
            {"$set": {f"{STAGED}.detections.$[].mask": None, f"{STAGED}.detections.$[].mask_path": None}},
        )
        assert decisions.preview(run, "ann").by_source == {"auto": 6}

    def test_what_a_person_approved_is_human(self, run: str) -> None:
        actions.approve(run, Selection(classes=("cat",)), "ann")
        assert decisions.preview(run, "ann").by_source == {"auto": 6, "human": 3}

    def test_what_is_edited_after_the_decision_does_not_enter(self, run: str, dataset: Any) -> None:
        judge_all(run)
        record = decisions.submit(run, Decision("finalize", "ann"))
        label = ids_where(run, state="approved")[0]
        edit_label(dataset, STAGED, label, label="bird")
        remove_label(dataset, STAGED, ids_where(run, state="approved")[1])
        assert len(frozen_labels(run)) == 6
        assert frozen_labels(run)[label]["label"] == "cat"
        assert decisions.digest_of(record, record["frozen"]["token"])[0] == record["frozen"]["digest"]


class TestDrawn:
    def test_a_label_drawn_by_hand_is_taken_over_as_human(self, run: str, dataset: Any) -> None:
        sample = dataset.first().id
        drawn = draw_label(dataset, STAGED, sample)
        preview = decisions.preview(run, "ann")
        assert preview.by_source == {"auto": 6, "human": 1}
        assert preview.per_class == {"cat": 3, "dog": 3, "bird": 1}
        entry = entries(run)[drawn]
        assert (entry["state"], entry["confidence"], entry["drawn_by"]) == ("approved", None, "ann")
        (action,) = (a for a in actions.history_of(run) if a["event"] == "draw")
        assert (action["actor"], action["selector"]) == ("ann", {"labels": 1})
        assert decisions.preview(run, "bob").digest == preview.digest
        assert len([a for a in actions.history_of(run) if a["event"] == "draw"]) == 1

    def test_on_a_sample_on_which_nothing_was_predicted(self, run: str, dataset: Any) -> None:
        drawn = draw_label(dataset, STAGED, dataset.last().id)
        assert decisions.preview(run, "ann").samples == 4
        assert drawn in frozen_labels(run)

    def test_on_a_sample_that_the_run_did_not_look_at(self, dataset: Any) -> None:
        run = make_run(dataset, target={"limit": 1})
        drawn = draw_label(dataset, STAGED, dataset.skip(1).first().id)
        preview = decisions.preview(run, "ann")
        assert (preview.labels, preview.samples) == (3, 2)
        assert drawn in frozen_labels(run)
        judge_all(run)
        assert decisions.submit(run, Decision("finalize", "ann"))["frozen"]["labels"] == 3

    def test_can_be_rejected_and_tagged_like_any_other(self, run: str, dataset: Any) -> None:
        drawn = draw_label(dataset, STAGED, dataset.first().id)
        decisions.preview(run, "ann")
        actions.tag(run, "ambiguous", Selection(label_ids=(drawn,)), "bob")
        actions.reject(run, Selection(label_ids=(drawn,)), "bob")
        assert decisions.preview(run, "ann").labels == 6
        assert labels_in(dataset, STAGED)[drawn]["tags"] == ["ambiguous", "rejected"]
        undoing.undo(run, "bob")
        assert decisions.preview(run, "ann").labels == 7

    def test_is_shown_as_approved_where_the_review_goes_on(self, run: str, dataset: Any) -> None:
        drawn = draw_label(dataset, STAGED, dataset.first().id)
        decisions.preview(run, "ann")
        assert labels_in(dataset, STAGED)[drawn]["tags"] == ["approved"]

    def test_asks_for_a_draw_that_covers_it(self, run: str, dataset: Any) -> None:
        judge_all(run)
        draw_label(dataset, STAGED, dataset.first().id)
        with pytest.raises(DecisionRefused, match="1 approved labels are not covered by the draw"):
            decisions.submit(run, Decision("finalize", "ann"))
        assert audits.draw(run, "ann")["population"] == 7


class TestVanished:
    @pytest.mark.parametrize("state", ["approved", "undecided"])
    def test_a_label_that_is_gone_stops_the_decision(self, run: str, dataset: Any, state: str) -> None:
        judge_all(run)
        label = ids_where(run, state=state)[0]
        remove_label(dataset, STAGED, label)
        with pytest.raises(LabelsVanished, match=f"1 labels are gone .*{label}") as caught:
            decisions.submit(run, Decision("finalize", "ann", override="never mind"))
        assert f"valflow reject {run} --label ID" in str(caught.value)
        assert runs.load(run)["state"] == "IN_REVIEW"
        actions.reject(run, Selection(label_ids=(label,)), "ann")
        assert decisions.submit(run, Decision("finalize", "ann"))["state"] == "REVIEWED"

    def test_a_rejected_one_may_go(self, run: str, dataset: Any) -> None:
        label = ids_where(run, state="approved")[0]
        actions.reject(run, Selection(label_ids=(label,)), "ann")
        remove_label(dataset, STAGED, label)
        assert decisions.preview(run, "ann").labels == 5

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param({"$set": {STAGED: None}}, id="field-emptied"),
            pytest.param({"$unset": {STAGED: ""}}, id="field-removed"),
            pytest.param({"$set": {f"{STAGED}.detections": None}}, id="list-nulled"),
            pytest.param({"$unset": {f"{STAGED}.detections": ""}}, id="list-removed"),
            pytest.param({"$set": {f"{STAGED}.detections": []}}, id="list-emptied"),
        ],
    )
    def test_all_of_a_sample(self, run: str, dataset: Any, change: dict) -> None:
        sample = ObjectId(dataset.first().id)
        decisions.preview(run, "ann")  # an older frozen copy must not hide it
        database.samples_of(dataset).update_one({"_id": sample}, change)
        with pytest.raises(LabelsVanished, match="4 labels are gone"):
            decisions.preview(run, "ann")

    def test_a_deleted_sample(self, run: str, dataset: Any) -> None:
        sample = dataset.first().id
        dataset.delete_samples([sample])
        with pytest.raises(LabelsVanished, match="4 labels are gone"):
            decisions.preview(run, "ann")
        actions.reject(run, Selection(sample_ids=(sample,)), "ann")
        assert decisions.preview(run, "ann").samples == 2

    def test_the_whole_review_field(self, run: str, dataset: Any) -> None:
        dataset.delete_sample_field(STAGED)
        with pytest.raises(LabelsVanished, match=r"12 labels are gone .* …"):
            decisions.preview(run, "ann")


class TestDiscard:
    @pytest.mark.parametrize(
        "state", ["CREATED", "PREDICTED", "IN_REVIEW", "REVIEWED", "VALIDATED", "FAILED"]
    )
    def test_leaves_the_dataset_as_it_was(self, dataset: Any, state: str) -> None:
        before = documents(dataset)
        run = make_run(dataset, state)
        override = "too few classes" if state in ("REVIEWED", "VALIDATED") else None
        decision = Decision("discard", "ann", note="wrong model", override=override)
        record = decisions.submit(run, decision)
        assert (record["state"], record["open"], record["decision"]["decision"]) == (
            "DISCARDED",
            False,
            "discard",
        )
        assert record["history"][-1]["note"] == "wrong model"
        dataset.reload()
        assert set(dataset.get_field_schema()) & {"auto", STAGED} == set()
        assert {i: d.keys() for i, d in documents(dataset).items()} == {
            i: d.keys() for i, d in before.items()
        }
        assert len(list(dataset)) == 4

    @pytest.mark.parametrize("state", ["REVIEWED", "VALIDATED"])
    def test_what_a_colleague_confirmed_is_not_thrown_away_unknowingly(
        self, dataset: Any, state: str
    ) -> None:
        run = make_run(dataset, state)
        with pytest.raises(
            DecisionRefused, match=r"ann decided to finalize it; .* give a reason with --override"
        ):
            decisions.submit(run, Decision("discard", "bob", note="wrong model"))
        assert runs.load(run)["state"] == state

    def test_whoever_is_late_is_told_who_decided(self, dataset: Any) -> None:
        run = make_run(dataset)
        decisions.submit(run, Decision("discard", "ann"))
        for late in ("finalize", "discard"):
            with pytest.raises(IllegalTransition, match="ann decided to discard it"):
                decisions.submit(run, Decision(late, "bob"))

    @pytest.mark.parametrize(
        ("state", "says"), [("FINALIZED", "it allows: begin_rollback"), ("DISCARDED", "it has ended")]
    )
    def test_not_twice_and_not_after_the_end(self, dataset: Any, state: str, says: str) -> None:
        run = make_run(dataset, state)
        with pytest.raises(IllegalTransition, match=says):
            decisions.submit(run, Decision("discard", "ann"))

    def test_keeps_the_predictions_in_the_ledger(self, run: str) -> None:
        decisions.submit(run, Decision("discard", "ann"))
        assert counts(run) == {"approved": 6, "rejected": 0, "undecided": 6}

    def test_does_not_touch_a_dataset_that_took_the_name(
        self, run: str, dataset: Any, tmp_path: Path
    ) -> None:
        import fiftyone as fo

        name = dataset.name
        fo.delete_dataset(name)
        again = make_dataset(tmp_path, name=name)
        new = make_run(again)
        decisions.submit(run, Decision("discard", "ann"))
        assert len(labels_in(again, STAGED)) == 12
        again.reload()
        assert again.has_field(STAGED)
        assert decisions.preview(new, "ann").labels == 6

    def test_of_a_dataset_that_is_gone(self, run: str, dataset: Any) -> None:
        dataset.delete()
        assert decisions.submit(run, Decision("discard", "ann"))["state"] == "DISCARDED"


class TestReopen:
    def test_starts_a_new_round(self, dataset: Any) -> None:
        run = make_run(dataset, "REVIEWED")
        record = decisions.reopen(runs.load(run), reason="a box is outside", actor="policy")
        assert (record["state"], record["round"], record["decision"], record["frozen"]) == (
            "IN_REVIEW",
            2,
            None,
            None,
        )
        assert record["history"][-1]["note"] == "a box is outside"
        actions.reject(run, Selection(classes=("dog",)), "ann")
        record = decisions.submit(run, Decision("finalize", "bob"))
        assert (record["decision"]["round"], record["frozen"]["labels"]) == (2, 3)


class TestByPolicy:
    def test_what_the_thresholds_approved_is_finalized(self, dataset: Any) -> None:
        run = make_run(dataset, review={"required": False, "reviewers": ["ann"]})
        record = decisions.submit_by_policy(run)
        assert (record["state"], record["decision"]["reviewer"], record["decision"]["via"]) == (
            "REVIEWED", "policy", "policy"
        )  # fmt: skip
        assert record["frozen"]["labels"] == 6

    def test_nothing_approved_is_discarded(self, dataset: Any) -> None:
        run = make_run(dataset, review={"required": False}, approval={"threshold": 1.0})
        record = decisions.submit_by_policy(run)
        assert (record["state"], record["open"]) == ("DISCARDED", False)
        assert "nothing was approved" in record["decision"]["note"]


def make_run_again(run: str) -> str:
    """Another run into another field of the same dataset."""
    import fiftyone as fo

    dataset = fo.load_dataset(runs.load(run)["dataset"])
    return make_run(dataset, label_field="auto2")
