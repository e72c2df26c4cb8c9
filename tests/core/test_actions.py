"""What reviewers do, and how they take it back."""

from __future__ import annotations

import importlib
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from tests.builders import (
    bring_to,
    counts,
    documents,
    entries,
    ids_where,
    judge_all,
    labels_in,
    make_dataset,
    make_run,
)
from valflow import (
    actions,
    app_edits,
    audits,
    checklist,
    database,
    decisions,
    label_states,
    ledger,
    problem_tags,
    runs,
    undoing,
)
from valflow.errors import IllegalTransition, SelectionError
from valflow.own_writes import Stamp
from valflow.selections import Selection

EVERYTHING = Selection(all=True)


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    """Three samples with cat 0.95, dog 0.8, cat 0.6, dog 0.3 each; the first two of each stand above the threshold."""
    return make_dataset(tmp_path)


@pytest.fixture
def run(dataset: Any) -> str:
    return make_run(dataset)


def states(run: str) -> dict[str, tuple[str, int]]:
    return {i: (e["state"], e["action"]) for i, e in entries(run).items()}


class TestSelection:
    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            pytest.param({}, "the selection is empty", id="nothing"),
            pytest.param({"min_confidence": 1.1}, "between 0 and 1, found 1.1", id="above-one"),
            pytest.param({"max_confidence": -0.1}, "between 0 and 1", id="below-zero"),
            pytest.param({"min_confidence": float("nan")}, "between 0 and 1", id="nan"),
            pytest.param({"label_ids": ("abc",)}, "a label id has 24 hexadecimal digits", id="label-id"),
            pytest.param({"sample_ids": ("xyz",)}, "a sample id has 24 hexadecimal digits", id="sample-id"),
        ],
    )
    def test_that_cannot_be_meant(self, options: dict, expected: str) -> None:
        with pytest.raises(SelectionError, match=expected):
            Selection(**options)

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            pytest.param({"all": True}, 6, id="all"),
            pytest.param({"classes": ("cat",)}, 3, id="class"),
            pytest.param({"classes": ("cat", "dog")}, 6, id="classes"),
            pytest.param({"min_confidence": 0.6}, 3, id="at-least"),
            pytest.param({"max_confidence": 0.3}, 3, id="at-most"),
            pytest.param({"min_confidence": 0.25, "max_confidence": 0.35}, 3, id="between"),
            pytest.param({"min_confidence": 0.0}, 6, id="zero-is-a-bound"),
            pytest.param({"classes": ("dog",), "min_confidence": 0.6}, 0, id="class-and-confidence"),
            pytest.param({"all": True, "classes": ("dog",)}, 3, id="all-of-a-class"),
            pytest.param({"min_confidence": 0.9, "max_confidence": 0.1}, 0, id="upside-down"),
        ],
    )
    def test_conditions_are_joined_by_and(self, run: str, options: dict, expected: int) -> None:
        if not expected:
            with pytest.raises(SelectionError, match="nothing was changed"):
                actions.approve(run, Selection(**options), "ann")
            assert counts(run)["approved"] == 6
            assert runs.load(run)["action_seq"] == 1
            return
        result = actions.approve(run, Selection(**options), "ann")
        assert result.changed == expected
        assert counts(run)["approved"] == 6 + expected

    def test_of_samples_and_labels(self, run: str, dataset: Any) -> None:
        sample = dataset.first().id
        assert actions.approve(run, Selection(sample_ids=(sample,)), "ann").changed == 2
        one, two = ids_where(run, state="undecided")[:2]
        assert actions.reject(run, Selection(label_ids=(one, two)), "ann").changed == 2
        assert {one, two} == set(ids_where(run, state="rejected"))

    def test_labels_without_confidence_match_no_range(self, tmp_path: Path) -> None:
        run = make_run(make_dataset(tmp_path, predictions=[[("cat", None), ("cat", 0.5)]]))
        assert actions.approve(run, Selection(min_confidence=0.0), "ann").changed == 1
        assert actions.approve(run, Selection(classes=("cat",)), "ann").changed == 1

    def test_classes_with_odd_names(self, tmp_path: Path) -> None:
        run = make_run(make_dataset(tmp_path, predictions=[[("$cash", 0.5), ("a.b", 0.5), ("cat", 0.5)]]))
        assert actions.approve(run, Selection(classes=("$cash",)), "ann").changed == 1
        assert actions.reject(run, Selection(classes=("a.b", "$cash")), "ann").changed == 2
        assert actions.tag(run, "poor_bbox", Selection(classes=("$cash",)), "ann", "$note").changed == 1
        assert checklist.issue_notes(run) == {"$cash": ["$note (ann, poor_bbox)"]}
        assert actions.reset(run, "ann", ["a.b"]).changed == 1
        assert {e["label"]: e["state"] for e in entries(run).values()} == {
            "$cash": "rejected", "a.b": "undecided", "cat": "undecided"
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("selection", "expected"),
        [
            pytest.param(
                Selection(classes=("bird",)), "has no labels of class bird; its classes: cat, dog", id="class"
            ),
            pytest.param(
                Selection(classes=("cat", "bird")), "has no labels of class bird", id="one-of-two-classes"
            ),
            pytest.param(Selection(label_ids=("0" * 24,)), f"has no label {'0' * 24}", id="label"),
            pytest.param(
                Selection(sample_ids=("0" * 24,)), f"has no labels on sample {'0' * 24}", id="sample"
            ),
        ],
    )
    @pytest.mark.parametrize("action", ["approve", "reject", "tag"])
    def test_that_names_what_does_not_exist(
        self, run: str, selection: Selection, expected: str, action: str
    ) -> None:
        before = states(run)
        act = actions.approve if action == "approve" else actions.reject
        with pytest.raises(SelectionError, match=expected):
            actions.tag(run, "odd", selection, "ann") if action == "tag" else act(run, selection, "ann")
        assert states(run) == before
        assert runs.load(run)["action_seq"] == 1

    def test_a_known_label_beside_an_unknown_one(self, run: str) -> None:
        known = ids_where(run)[0]
        with pytest.raises(SelectionError, match=f"has no label {'0' * 24}"):
            actions.reject(run, Selection(label_ids=(known, "0" * 24)), "ann")
        assert counts(run)["rejected"] == 0


class TestDecide:
    def test_approve(self, run: str, dataset: Any) -> None:
        result = actions.approve(run, Selection(classes=("cat",)), "ann")
        assert (result.seq, result.event, result.changed, result.left) == (
            2,
            "approve",
            3,
            {"left as they are": 3},
        )
        (entry,) = (a for a in actions.history_of(run) if a["seq"] == 2)
        assert (entry["actor"], entry["event"], entry["selector"]) == ("ann", "approve", {"classes": ["cat"]})
        staged = labels_in(dataset, "auto_in_review")
        assert all(staged[i]["tags"] == ["approved"] for i in ids_where(run, state="approved"))
        assert sum(e["action"] == 2 for e in entries(run).values()) == 3

    def test_rejected_wins(self, run: str) -> None:
        (label,) = ids_where(run, state="undecided")[:1]
        actions.reject(run, Selection(label_ids=(label,)), "bob")
        result = actions.approve(run, EVERYTHING, "ann")
        assert (result.changed, result.left) == (5, {"left as they are": 7})
        assert ids_where(run, state="rejected") == [label]
        with pytest.raises(SelectionError, match="can be approved; nothing was changed"):
            actions.approve(run, Selection(label_ids=(label,)), "ann")

    def test_approved_labels_can_be_rejected(self, run: str) -> None:
        assert actions.reject(run, EVERYTHING, "bob").changed == 12
        assert counts(run)["rejected"] == 12
        with pytest.raises(SelectionError, match="can be rejected"):
            actions.reject(run, EVERYTHING, "bob")

    def test_labels_that_fail_a_check_are_approved_by_name_only(self, run: str, dataset: Any) -> None:
        label = ids_where(run, state="undecided")[0]
        mark_invalid(run, label)
        assert actions.approve(run, EVERYTHING, "ann").changed == 5
        assert entries(run)[label]["state"] == "undecided"
        assert actions.approve(run, Selection(label_ids=(label,)), "ann").changed == 1
        assert labels_in(dataset, "auto_in_review")[label]["tags"] == ["approved"]

    def test_reset_takes_back_the_policy_too(self, run: str, dataset: Any) -> None:
        actions.reject(run, Selection(classes=("dog",), max_confidence=0.5), "ann")
        assert actions.reset(run, "ann", ["dog"]).changed == 6
        assert counts(run) == {"approved": 3, "rejected": 0, "undecided": 9}
        assert actions.reset(run, "ann").changed == 3
        assert counts(run)["undecided"] == 12
        assert all(d["tags"] == [] for d in labels_in(dataset, "auto_in_review").values())
        with pytest.raises(SelectionError):
            actions.reset(run, "ann")

    @pytest.mark.parametrize("state", ["CREATED", "REVIEWED", "FINALIZED", "DISCARDED"])
    def test_only_a_run_in_review_is_decided(self, dataset: Any, state: str) -> None:
        run = make_run(dataset, state)
        before = entries(run)
        some = Selection(all=True)
        for act in (
            lambda: actions.reject(run, some, "ann"),
            lambda: actions.tag(run, "poor_bbox", some, "ann"),
            lambda: undoing.undo(run, "ann"),
            lambda: actions.reset(run, "ann"),
        ):
            # A run without labels yet says that nothing is selected; either way it is refused.
            with pytest.raises((IllegalTransition, SelectionError)):
                act()
        assert entries(run) == before

    def test_not_while_somebody_confirms(self, run: str) -> None:
        database.runs().update_one(
            {"run": run}, {"$set": {"freezing": {"token": "t", "by": "bob", "at": database.now()}}}
        )
        with pytest.raises(IllegalTransition, match="is being confirmed by bob just now"):
            actions.approve(run, EVERYTHING, "ann")
        old = database.now() - actions.FREEZE_EXPIRES * 2
        database.runs().update_one({"run": run}, {"$set": {"freezing.at": old}})
        assert actions.approve(run, EVERYTHING, "ann").changed == 6

    def test_latest_means_the_newest_run_here_too(self, run: str) -> None:
        assert actions.approve("latest", EVERYTHING, "ann").run == run
        assert actions.tag("latest", "poor_bbox", EVERYTHING, "ann").run == run


def test_an_action_that_was_overtaken_while_it_was_taken_back_does_not_come_back(run: str) -> None:
    everything = Selection(all=True)
    before = {i: e["state"] for i, e in entries(run).items()}
    approved = actions.approve(run, everything, "ann").seq
    rejected = actions.reject(run, everything, "bob")
    # Ann's undo had begun when Bob rejected: what it takes back lies below by now.
    label_states.restore(run, approved, rejected.seq + 1)
    label_states.take_out_below(run, approved, rejected.seq + 1)
    assert counts(run)["rejected"] == 12
    assert undoing.undo(run, "bob").changed == 12
    assert {i: e["state"] for i, e in entries(run).items()} == before


class TestUndo:
    def test_takes_back_one_action_after_the_other(self, run: str, dataset: Any) -> None:
        levels = [states(run)]
        actions.approve(run, Selection(classes=("cat",)), "ann")
        levels.append(states(run))
        actions.reject(run, Selection(max_confidence=0.8), "bob")
        levels.append(states(run))
        actions.reset(run, "ann")
        tags = {i: d["tags"] for i, d in labels_in(dataset, "auto_in_review").items()}
        for expected in reversed(levels):
            result = undoing.undo(run, "cleo")
            assert result.event == "undo"
            assert result.changed > 0
            assert states(run) == expected
        assert {i: d["tags"] for i, d in labels_in(dataset, "auto_in_review").items()} != tags
        assert all(
            e["prev"] == ([{"state": "undecided", "action": 0}] if e["action"] else [])
            for e in entries(run).values()
        )
        with pytest.raises(SelectionError, match="has no action of a person left to undo"):
            undoing.undo(run, "ann")

    def test_tells_who_took_what_back(self, run: str) -> None:
        actions.approve(run, EVERYTHING, "ann")
        undoing.undo(run, "bob")
        by_seq = {a["seq"]: a for a in actions.history_of(run)}
        assert by_seq[2]["undone_by"] == 3
        assert (by_seq[3]["event"], by_seq[3]["actor"], by_seq[3]["selector"]) == (
            "undo",
            "bob",
            {"action": 2},
        )
        assert checklist.reviewer_statistics(run) == {}

    def test_acting_again_after_an_undo(self, run: str) -> None:
        actions.approve(run, EVERYTHING, "ann")
        undoing.undo(run, "ann")
        actions.reject(run, Selection(classes=("dog",)), "ann")
        assert counts(run) == {"approved": 3, "rejected": 6, "undecided": 3}
        assert undoing.undo(run, "ann").changed == 6
        assert counts(run) == {"approved": 6, "rejected": 0, "undecided": 6}

    def test_brings_back_that_a_label_fails_a_check(self, run: str, dataset: Any) -> None:
        label = ids_where(run, state="undecided")[0]
        mark_invalid(run, label)
        actions.approve(run, Selection(label_ids=(label,)), "ann")
        undoing.undo(run, "ann")
        assert entries(run)[label]["invalid"] == ["a box outside"]
        assert labels_in(dataset, "auto_in_review")[label]["tags"] == ["invalid"]
        assert actions.approve(run, EVERYTHING, "ann").changed == 5

    def test_of_verdicts(self, run: str) -> None:
        audit = audits.draw(run, "ann", size=3, seed=1)
        audits.judge(run, {1: "wrong_class", 2: "unsure", 3: "correct"}, "ann")
        assert counts(run) == {"approved": 4, "rejected": 1, "undecided": 7}
        assert checklist.reviewer_statistics(run)["ann"] == {"rejected": 1, "undecided": 1, "judged": 3}
        assert undoing.undo(run, "ann").changed == 2
        assert counts(run)["approved"] == 6
        after = audits.latest(run)
        assert after is not None
        assert after["_id"] == audit["_id"]
        assert all(i["verdict"] is None and i["reviewer"] is None for i in after["items"])
        assert audits.summary(after)["reviewers"] == []
        assert checklist.reviewer_statistics(run) == {}
        audits.judge(run, dict.fromkeys((1, 2, 3), "correct"), "bob")
        assert counts(run)["approved"] == 6

    def test_the_policy_and_the_gate_are_not_undone(self, run: str) -> None:
        label = ids_where(run, state="approved")[0]
        sample = ObjectId(entries(run)[label]["sample_id"])
        actions.approve(run, EVERYTHING, "ann")
        number = actions.withdraw_failing(runs.load(run), {sample: {ObjectId(label): ["too small"]}})
        database.runs().update_one({"run": run}, {"$set": {"action_seq": number}})  # as the reopening does
        assert undoing.undo(run, "ann").changed == 6
        entry = entries(run)[label]
        assert (entry["state"], entry["invalid"]) == ("undecided", ["too small"])
        with pytest.raises(SelectionError):
            undoing.undo(run, "ann")


class TestUndoInTheMiddle:
    """An undo must not overtake the action that it takes back."""

    ACTIONS = {  # noqa: RUF012
        "tag": ("valflow.problem_tags._mark_samples", lambda run: actions.tag(run, "odd", EVERYTHING, "ann")),
        "approve": ("valflow.mirroring.mirror_soon", lambda run: actions.approve(run, EVERYTHING, "ann")),
        "reject": ("valflow.mirroring.mirror_soon", lambda run: actions.reject(run, EVERYTHING, "ann")),
        "judge": ("valflow.audits.record_verdicts", lambda run: judge_all(run, "not_an_object")),
    }

    @pytest.mark.parametrize("event", ACTIONS)
    def test_is_asked_to_try_again(
        self, run: str, dataset: Any, event: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place, act = self.ACTIONS[event]
        monkeypatch.setattr(problem_tags, "_WAIT_FOR_OTHERS", 0.1)
        refused: list[str] = []

        def undo_before(*arguments: Any) -> Any:
            if not refused and database.actions().count_documents({"run": run, "actor": "ann"}):
                refused.append("not at all")
                with pytest.raises(IllegalTransition) as refusal:
                    undoing.undo(run, "bob")
                refused[0] = str(refusal.value)
            return original(*arguments)

        module, _, name = place.rpartition(".")
        original = getattr(importlib.import_module(module), name)
        monkeypatch.setattr(place, undo_before)
        act(run)
        assert "of ann is being written just now" in refused[0]
        before = counts(run)
        assert undoing.undo(run, "bob").changed > 0
        dataset.reload()
        assert dataset.count_sample_tags() == {}
        assert counts(run) != before or event == "tag"

    def test_a_tag_is_taken_back_while_it_is_written(
        self, run: str, dataset: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        undone: list[int] = []
        holders = problem_tags._holders

        def undo_before(*arguments: Any) -> Any:
            if not undone:
                undone.append(0)
                undone[0] = undoing.undo(run, "bob").changed
            return holders(*arguments)

        monkeypatch.setattr(problem_tags, "_holders", undo_before)
        actions.tag(run, "odd", EVERYTHING, "ann")
        problem_tags.finish(runs.load(run), dataset)
        dataset.reload()
        assert undone == [12]
        assert dataset.count_sample_tags() == {}
        assert dataset.count_label_tags("auto_in_review").get("odd", 0) == 0

    def test_of_two_at_once_the_second_is_told(
        self, run: str, dataset: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        actions.tag(run, "odd", EVERYTHING, "ann")
        withdraw = problem_tags.withdraw

        def meanwhile(*arguments: Any) -> Any:
            monkeypatch.undo()
            with pytest.raises(IllegalTransition, match=r"bob is taking back action \d+ just now"):
                undoing.undo(run, "carl")
            return withdraw(*arguments)

        monkeypatch.setattr(problem_tags, "withdraw", meanwhile)
        assert undoing.undo(run, "bob").changed == 12
        with pytest.raises(SelectionError, match="left to undo"):
            undoing.undo(run, "carl")

    def test_an_undo_that_was_broken_off_is_done_again(
        self, run: str, dataset: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        actions.tag(run, "odd", EVERYTHING, "ann")
        with monkeypatch.context() as patch:
            patch.setattr(problem_tags, "withdraw", lambda *_: 1 / 0)
            patch.setattr(runs, "_this_process", lambda: f"{socket.gethostname()}:{2**22 + 1}")
            with pytest.raises(ZeroDivisionError):
                undoing.undo(run, "bob")
        assert undoing.undo(run, "carl").changed == 12
        dataset.reload()
        assert dataset.count_sample_tags() == {}

    def test_the_action_of_a_dead_process_is_taken_back(self, run: str) -> None:
        seq = actions.reject(run, EVERYTHING, "ann").seq
        dead = {"process": f"{socket.gethostname()}:{2**22 + 1}", "heartbeat_at": database.now()}
        database.actions().update_one({"run": run, "seq": seq}, {"$set": {"writing": dead}})
        assert undoing.undo(run, "bob").changed == 12


class TestTag:
    def test_marks_labels_and_their_samples(self, run: str, dataset: Any) -> None:
        one, two = ids_where(run)[:2]
        result = actions.tag(run, "needs_correction", Selection(label_ids=(one, two)), "ann", "boxes too big")
        assert result.changed == 2
        sample = entries(run)[one]["sample_id"]
        dataset.reload()
        assert dataset.match_tags("needs_correction").values("id") == [sample]
        assert dataset.count_label_tags("auto_in_review")["needs_correction"] == 2
        assert ledger.problem_tag_counts(run) == {"needs_correction": 2}
        assert checklist.issue_notes(run) == {"all": ["boxes too big (ann, needs_correction)"]}
        assert counts(run)["approved"] == 6  # a tag decides nothing

    def test_undo_takes_it_off_again(self, run: str, dataset: Any) -> None:
        before = documents(dataset)
        actions.tag(run, "poor_bbox", EVERYTHING, "ann")
        assert undoing.undo(run, "ann").changed == 12
        assert without_times(documents(dataset)) == without_times(before)
        assert ledger.problem_tag_counts(run) == {}
        assert all(e["tags"] == [] for e in entries(run).values())

    def test_what_had_the_tag_before_keeps_it(self, run: str, dataset: Any) -> None:
        first, second = ids_where(run)[:2]
        other = next(i for i, e in entries(run).items() if e["sample_id"] != entries(run)[first]["sample_id"])
        sample = ObjectId(entries(run)[first]["sample_id"])
        database.samples_of(dataset).update_one({"_id": sample}, {"$push": {"tags": "odd"}})
        database.samples_of(dataset).update_one(
            {"_id": sample},
            {"$push": {"auto_in_review.detections.$[d].tags": "odd"}},
            array_filters=[{"d._id": ObjectId(first)}],
        )
        before = documents(dataset)
        actions.tag(run, "odd", Selection(label_ids=(first, second, other)), "ann")
        dataset.reload()
        assert len(dataset.match_tags("odd")) == 2
        undoing.undo(run, "ann")
        assert without_times(documents(dataset)) == without_times(before)

    def test_a_sample_keeps_the_tag_of_another_action(self, run: str, dataset: Any) -> None:
        one, two = ids_where(run)[:2]
        actions.tag(run, "odd", Selection(label_ids=(one,)), "ann")
        assert actions.tag(run, "odd", Selection(label_ids=(one, two)), "bob").changed == 1
        assert undoing.undo(run, "ann").changed == 1
        dataset.reload()
        assert len(dataset.match_tags("odd")) == 1
        assert dataset.count_label_tags("auto_in_review")["odd"] == 1
        undoing.undo(run, "ann")
        dataset.reload()
        assert len(dataset.match_tags("odd")) == 0

    def test_a_sample_keeps_the_tag_of_a_later_action(self, run: str, dataset: Any) -> None:
        one, two = ids_where(run)[:2]
        actions.tag(run, "odd", Selection(label_ids=(one,)), "bob")
        actions.tag(run, "odd", Selection(label_ids=(two,)), "ann")
        undoing.undo(run, "bob", own=True)
        dataset.reload()
        assert len(dataset.match_tags("odd")) == 1
        undoing.undo(run, "ann")
        dataset.reload()
        assert len(dataset.match_tags("odd")) == 0

    def test_a_sample_that_somebody_saves_in_that_very_moment_is_not_left_out(
        self, run: str, dataset: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        long_ago = {"last_modified_at": database.now() - timedelta(hours=1)}
        database.samples_of(dataset).update_many({}, {"$set": long_ago})
        app_edits.read_edits(run)
        worked_on = Stamp.worked_on

        def saved_meanwhile(*arguments: Any) -> Any:
            found = worked_on(*arguments)
            database.samples_of(dataset).update_many({}, {"$set": {"last_modified_at": database.now()}})
            return found

        monkeypatch.setattr(Stamp, "worked_on", saved_meanwhile)
        actions.tag(run, "odd", EVERYTHING, "ann")
        dataset.reload()
        assert dataset.count_sample_tags() == {"odd": 3}
        assert dataset.count_label_tags("auto_in_review")["odd"] == 12
        changed = database.samples_of(dataset).find({"tags": "odd"})
        assert not {d["last_modified_at"] for d in changed} & set(runs.load(run)["own_writes"])
        database.samples_of(dataset).update_many({}, {"$set": long_ago})
        undoing.undo(run, "ann")
        dataset.reload()
        assert dataset.count_sample_tags() == {}

    def test_a_sample_whose_review_field_is_gone_is_still_tagged(self, run: str, dataset: Any) -> None:
        sample = dataset.first()
        sample["auto_in_review"] = None
        sample.save()
        assert actions.tag(run, "odd", EVERYTHING, "ann").changed == 12
        dataset.reload()
        assert len(dataset.match_tags("odd")) == 3
        assert undoing.undo(run, "ann").changed == 12
        dataset.reload()
        assert len(dataset.match_tags("odd")) == 0

    @pytest.mark.parametrize("name", ["a.b", "$x", "needs correction", "日本"])
    def test_of_ones_own(self, run: str, dataset: Any, name: str) -> None:
        actions.tag(run, name, EVERYTHING, "ann")
        assert runs.load(run)["own_tags"] == [name]
        assert ledger.problem_tag_counts(run) == {name: 12}
        bring_to(run, dataset, "FINALIZED")
        dataset.reload()
        assert len(dataset.match_tags(name)) == 3
        assert set(dataset.count_label_tags("auto")) == {name}

    @pytest.mark.parametrize(
        "name", ["approved", "rejected", "invalid", "audit", "inference_failed", "", "  "]
    )
    def test_of_the_workflow_are_refused(self, run: str, name: str) -> None:
        with pytest.raises(SelectionError, match="expected a problem tag or one of your own"):
            actions.tag(run, name, EVERYTHING, "ann")
        assert runs.load(run)["action_seq"] == 1


class TestEvidence:
    def test_statistics_count_what_stands(self, run: str) -> None:
        actions.approve(run, Selection(classes=("cat",)), "ann")
        actions.reject(run, Selection(classes=("dog",)), "bob")
        actions.reject(run, Selection(max_confidence=0.7), "bob")
        actions.tag(run, "odd", Selection(classes=("dog",)), "j.doe", "too many")
        assert checklist.reviewer_statistics(run) == {"bob": {"rejected": 9}, "j.doe": {"tagged": 6}}
        assert checklist.issue_notes(run) == {"dog": ["too many (j.doe, odd)"]}

    def test_statistics_know_nothing_of_a_tag_that_was_there_before(self, run: str) -> None:
        actions.tag(run, "odd", EVERYTHING, "ann")
        assert actions.tag(run, "odd", EVERYTHING, "bob").changed == 0
        assert checklist.reviewer_statistics(run) == {"ann": {"tagged": 12}}

    def test_items(self, run: str) -> None:
        record = runs.load(run)
        items = {i["item"]: i for i in checklist.evidence(record, record["class_table"])}
        assert [(n, i["ok"], i["required"]) for n, i in items.items()] == [
            ("reviewed", False, False),
            ("problems", True, False),
            ("spot_check", False, True),
            ("thresholds", True, False),
            ("issues", True, False),
        ]
        assert f"draw one with `valflow audit {run}`" in items["spot_check"]["evidence"]
        assert items["thresholds"]["evidence"] == "fixed at 0.7"
        actions.reject(run, Selection(all=True), "ann")
        table = ledger.class_table(run)
        items = {i["item"]: i for i in checklist.evidence(record, table)}
        assert [(n, i["ok"]) for n, i in items.items()] == [
            ("reviewed", True),
            ("problems", False),
            ("spot_check", True),
            ("thresholds", True),
            ("issues", False),
        ]
        assert checklist.missing(list(items.values())) == []

    @pytest.mark.parametrize("name", ["policy", "system", " Policy "])
    def test_a_person_cannot_decide_under_the_name_of_the_machine(self, dataset: Any, name: str) -> None:
        run = make_run(dataset, review={"reviewers": ["ann"]})
        for act in (
            lambda: actions.approve(run, EVERYTHING, name),
            lambda: actions.tag(run, "odd", EVERYTHING, name),
            lambda: undoing.undo(run, name),
            lambda: audits.draw(run, name),
            lambda: decisions.submit(run, decisions.Decision("finalize", name, override="x")),
            lambda: decisions.submit(run, decisions.Decision("discard", name)),
        ):
            with pytest.raises(Exception, match="is the name of the machine"):
                act()
        assert runs.load(run)["state"] == "IN_REVIEW"
        assert counts(run)["approved"] == 6


def mark_invalid(run: str, label: str) -> None:
    sample = ObjectId(entries(run)[label]["sample_id"])
    label_states.mark_invalid(run, {sample: {ObjectId(label): ["a box outside"]}})


def without_times(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {i: {k: v for k, v in d.items() if k != "last_modified_at"} for i, d in found.items()}
