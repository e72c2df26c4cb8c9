"""Checklist, audit, finalization and result, as a reviewer clicks through them."""

from __future__ import annotations

from typing import Any

import pytest
from fiftyone.operators.executor import ExecutionError

from plugin import grid
from tests.builders import accept, bring_to, counts, entries, ids_where, judge_all, labels_in
from tests.plugin.screens import Reviewer, call
from valflow import actions, audits, database, decisions, runs
from valflow.review_app import PLUGIN
from valflow.reviewing import Shown

NOBODY_THERE = "http://127.0.0.1:9/api"


@pytest.fixture
def approval(ann: Reviewer) -> Reviewer:
    """Ann in the Approval tab."""
    return ann.click("change_tab", tab="approval")


def confirm(reviewer: Reviewer, **changes: Any) -> dict[str, Any]:
    """Send the dialog that the last click on Finalize has opened."""
    [prompt] = reviewer.was_asked("prompt_user_for_operation")
    values = {**prompt["params"], **changes}
    return call("finalize_labels", reviewer.dataset, **values)


def judge_open(run: str) -> None:
    """What is drawn and not judged is right."""
    audits.judge(run, {item["number"]: "correct" for item in audits.open_items(run)}, "ann")


class TestChecklist:
    def test_each_item_with_its_evidence(self, approval: Reviewer) -> None:
        assert len(approval.state["checklist"]) == 5
        assert "✗ **A random sample of approved labels was judged** *(required)*" in approval.drawn()
        assert "Finalize Labels (6 approved)" in approval.drawn()

    def test_it_follows_what_is_done(self, approval: Reviewer, run: str) -> None:
        judge_all(run)
        assert "✓ **A random sample" in approval.click("refresh").drawn()

    def test_nothing_to_finalize(self, approval: Reviewer) -> None:
        approval.click("undo_all")
        assert approval.state["approved"] == 0


class TestAudit:
    def test_the_draw_is_shown_blind(self, approval: Reviewer, run: str) -> None:
        approval.click("start_audit")
        drawn = [str(i["label_id"]) for i in audits.latest(run)["items"]]
        assert approval.grid == drawn  # in the order of the draw
        stages = approval.was_asked("set_view")[0]["view"]
        hidden = [dict(s["kwargs"])["field"] for s in stages if s["_cls"].endswith("SetField")]
        assert hidden == ["auto_in_review.detections.confidence", "auto_in_review.detections.tags"]

    def test_what_a_blind_tile_saves_does_no_harm(self, approval: Reviewer, dataset: Any, run: str) -> None:
        actions.tag(run, "poor_bbox", Shown(states=("approved",), all=True), "ann")
        approval.click("start_audit")
        record = runs.load(run)
        labels = approval.grid
        holders = [entries(run)[i]["sample_id"] for i in labels]
        for tile in grid.blind_patches(dataset, record, labels, holders):
            tile.save()  # all of it, the confidence that it does not show included
        judge_open(run)
        decisions.submit(run, decisions.Decision("finalize", "ann"))
        bring_to(run, dataset, "FINALIZED")
        final = labels_in(dataset, "auto")
        assert {i: d["confidence"] for i, d in final.items()} == {
            i: entries(run)[i]["confidence"] for i in labels
        }
        assert all(d["tags"] == ["poor_bbox"] for d in final.values())

    def test_wrong_ones_are_selected_and_the_rest_confirmed(self, approval: Reviewer, run: str) -> None:
        wrong, unsure = approval.click("start_audit").grid[:2]
        approval.select("judge_selected", [wrong], verdict="wrong_class")
        assert len(approval.grid) == 5
        approval.select("judge_selected", [unsure], verdict="unsure")
        approval.click("confirm_page")
        assert approval.success().startswith("2 wrong of 6: at most")
        assert approval.state["mode"] == "patches"
        assert entries(run)[wrong]["state"] == "rejected"
        assert entries(run)[unsure]["state"] == "undecided"
        verdicts = {str(i["label_id"]): (i["verdict"], i["reviewer"]) for i in audits.latest(run)["items"]}
        assert verdicts[wrong] == ("wrong_class", "ann")
        assert sorted(v for v, _ in verdicts.values()) == ["correct"] * 4 + ["unsure", "wrong_class"]

    def test_a_page_is_never_confirmed_with_labels_selected(self, approval: Reviewer, run: str) -> None:
        some = approval.click("start_audit").grid[:1]
        assert "say why first" in approval.select("confirm_page", some).refusal()
        assert not approval.was_asked("set_view")  # the next click would confirm them as correct
        assert len(audits.open_items(run)) == 6

    def test_only_what_was_on_the_page_is_confirmed(
        self, approval: Reviewer, run: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(audits.page_of, "__defaults__", (4,))
        first = approval.click("start_audit").grid
        assert len(first) == 4
        approval.click("confirm_page")
        assert len(audits.open_items(run)) == 2
        assert len(approval.grid) == 2
        assert approval.state["mode"] == "audit"

    def test_nothing_selected(self, approval: Reviewer) -> None:
        said = approval.click("start_audit").click("judge_selected", verdict="bad_box").refusal()
        assert "select the wrong ones" in said

    def test_somebody_else_judged_it_meanwhile(self, approval: Reviewer, run: str) -> None:
        label = approval.click("start_audit").grid[0]
        [item] = [i for i in audits.open_items(run) if str(i["label_id"]) == label]
        audits.judge(run, {item["number"]: "correct"}, "bob")
        approval.select("judge_selected", [label], verdict="bad_box")
        assert approval.refusal()
        assert label not in approval.grid
        assert entries(run)[label]["state"] == "approved"

    def test_later(self, approval: Reviewer, run: str) -> None:
        approval.click("start_audit").click("leave_audit")
        assert approval.state["mode"] == "patches"
        drawn = audits.latest(run)["_id"]
        # The same draw goes on.
        assert len(approval.click("start_audit").grid) == 6
        assert audits.latest(run)["_id"] == drawn

    def test_a_new_draw_after_new_approvals(self, approval: Reviewer, run: str) -> None:
        judge_all(run)
        actions.approve(run, Shown(label_ids=tuple(ids_where(run, state="undecided")[:1])), "ann")
        assert "Draw a new audit" in approval.click("refresh").drawn()
        assert len(approval.click("start_audit").grid) == 7


def test_the_checklist_says_what_to_do_here(approval: Reviewer) -> None:
    assert "none was drawn; draw and judge one below" in approval.drawn()
    assert "valflow audit" not in approval.drawn()


class TestJudgingOneByOne:
    @pytest.fixture
    def judge(self, approval: Reviewer, dataset: Any) -> Reviewer:
        """The panel in an open picture of the audit."""
        approval.click("start_audit")
        beside = Reviewer(dataset, "ann", panel=f"{PLUGIN}/judge_labels")
        beside.picture = approval.grid[0]
        return beside.click("on_load")

    def test_a_verdict_opens_the_next(self, judge: Reviewer, approval: Reviewer, run: str) -> None:
        assert judge.state["place"] == "1 of 6"
        judge.click("judge", verdict="correct")
        assert judge.was_asked("open_sample")[0]["id"] == approval.grid[1]
        assert judge.state["place"] == "2 of 6"
        assert audits.latest(run)["items"][0]["verdict"] == "correct"

    def test_the_last_one_closes_the_picture(self, judge: Reviewer) -> None:
        for _ in range(6):
            judge.click("judge", verdict="correct")
        assert judge.was_asked("close_sample")

    def test_twice_is_once(self, judge: Reviewer, run: str) -> None:
        before, picture = dict(judge.state), judge.picture
        judge.click("judge", verdict="correct")
        judge.state, judge.picture = before, picture
        assert "no verdict" in judge.click("judge", verdict="bad_box").refusal()
        assert audits.latest(run)["items"][0]["verdict"] == "correct"

    def test_a_verdict_means_the_picture_that_is_open(
        self, judge: Reviewer, approval: Reviewer, run: str
    ) -> None:
        judge.picture = approval.grid[2]  # the panel was not told yet
        judge.click("judge", verdict="bad_box")
        verdicts = {str(i["label_id"]): i["verdict"] for i in audits.latest(run)["items"]}
        assert {i: v for i, v in verdicts.items() if v} == {approval.grid[2]: "bad_box"}

    def test_a_panel_that_comes_back_finds_the_picture_that_is_open(
        self, judge: Reviewer, approval: Reviewer
    ) -> None:
        assert not judge.click("follow").asked
        judge.picture = approval.grid[3]
        judge.click("follow")
        assert judge.state["place"] == "4 of 6"

    def test_a_name_field_that_is_left_draws_nothing(self, judge: Reviewer) -> None:
        # Its event comes after that of the click that left it, with the state of before.
        for typed in ("", "ann"):
            assert not judge.click("name_reviewer", value=typed).asked

    def test_another_picture(self, judge: Reviewer) -> None:
        judge.picture = "0" * 24
        assert "no labeling run" in judge.click("on_change_current_sample").drawn()

    def test_nobody_judges_without_a_name(self, judge: Reviewer) -> None:
        judge.state.pop("reviewer")
        judge.click("name_reviewer", value="")
        assert "Type your name" in judge.click("judge", verdict="correct").refusal()


class TestDecidingInAPicture:
    @pytest.fixture
    def beside(self, ann: Reviewer, dataset: Any) -> Reviewer:
        """The panel beside a sample of which the labels cat 0.6 and dog 0.3 are undecided."""
        beside = Reviewer(dataset, "ann", panel=f"{PLUGIN}/judge_labels")
        beside.picture = ann.click("change_mode", mode="samples").grid[0]
        return beside.click("on_load")

    @staticmethod
    def picked(run: str, beside: Reviewer) -> dict[str, Any]:
        """One of the undecided labels, selected in the picture."""
        label = next(
            i for i in ids_where(run, state="undecided") if entries(run)[i]["sample_id"] == beside.picture
        )
        return {"label_id": label, "field": "auto_in_review", "sample_id": beside.picture}

    def test_all_that_is_undecided_in_it(self, beside: Reviewer, run: str) -> None:
        assert "Add 2 labels for approval" in beside.drawn()
        assert beside.click("approve").success() == "2 labels approved"
        assert "Add 0 labels" in beside.drawn()
        assert counts(run)["approved"] == 8

    def test_the_labels_that_are_selected(self, beside: Reviewer, run: str) -> None:
        picked = {"selected_labels": [self.picked(run, beside)]}
        assert "Reject 1 label" in beside.click("on_change_selected_labels", context=picked).drawn()
        assert not beside.click("on_change_selected_labels", context=picked).asked
        assert beside.click("reject", context=picked).success() == "1 label rejected"
        assert ids_where(run, state="rejected") == [picked["selected_labels"][0]["label_id"]]
        assert beside.was_asked("clear_selected_labels")

    def test_a_patch(self, beside: Reviewer, run: str) -> None:
        beside.picture = self.picked(run, beside)["label_id"]
        beside.click("on_change_current_sample").click("approve")
        assert entries(run)[beside.picture]["state"] == "approved"

    def test_what_somebody_else_decided_stays(self, beside: Reviewer, run: str) -> None:
        picked = self.picked(run, beside)
        actions.reject(run, Shown(label_ids=(picked["label_id"],)), "bob")
        refused = beside.click("approve", context={"selected_labels": [picked]}).refusal()
        assert "bob decided so" in refused

    def test_the_review_has_ended(self, beside: Reviewer, run: str) -> None:
        decisions.submit(run, decisions.Decision("discard", "bob"))
        assert "no run that is in review" in beside.click("approve").refusal()
        assert "no labeling run" in beside.drawn()

    def test_nobody_decides_without_a_name(self, beside: Reviewer, run: str) -> None:
        beside.state.pop("reviewer")
        assert "Type your name" in beside.click("reject").refusal()
        assert beside.click("name_reviewer", value="ann").click("reject").success() == "2 labels rejected"


class TestFinalizing:
    @pytest.fixture
    def ready(self, approval: Reviewer, run: str) -> Reviewer:
        """All evidence is there."""
        judge_all(run)
        return approval.click("refresh")

    def test_the_dialog_shows_what_would_happen(self, ready: Reviewer) -> None:
        [prompt] = ready.click("finalize").was_asked("prompt_user_for_operation")
        preview = prompt["params"]["preview"]
        assert (preview["labels"], preview["samples"], preview["label_field"]) == (6, 3, "auto")
        assert (preview["undecided"], preview["rejected"], preview["missing"]) == (6, 0, [])

    def test_confirm_decides(self, ready: Reviewer, run: str) -> None:
        answer = confirm(ready.click("finalize"), note="well done")
        assert "valflow finalize" in answer["done"]  # no Prefect run waits for it
        record = runs.load(run)
        assert record["state"] == "REVIEWED"
        assert (record["decision"]["reviewer"], record["decision"]["via"]) == ("ann", "app")
        ready.click("finalized")
        assert "**ann** decided to finalize it" in ready.drawn()
        assert ready.state["waiting"]

    def test_a_changed_set_is_not_confirmed(self, ready: Reviewer, run: str) -> None:
        ready.click("finalize")
        actions.reject(run, Shown(label_ids=tuple(ids_where(run, state="approved")[:1])), "bob")
        assert "has changed since you saw it" in confirm(ready)["refused"]
        assert runs.load(run)["state"] == "IN_REVIEW"

    def test_no_digest_no_decision(self, ready: Reviewer, run: str) -> None:
        answer = confirm(ready.click("finalize"), digest=None)
        assert "digest" in answer["refused"]
        assert runs.load(run)["state"] == "IN_REVIEW"

    def test_missing_evidence_needs_a_reason(self, approval: Reviewer, run: str) -> None:
        approval.click("finalize")
        [prompt] = approval.was_asked("prompt_user_for_operation")
        assert prompt["params"]["preview"]["missing"]
        with pytest.raises(ExecutionError, match="override"):
            confirm(approval)
        confirm(approval, override="a test")
        assert runs.load(run)["decision"]["override"] == "a test"

    def test_a_second_decision_is_told_who_decided(self, ready: Reviewer, run: str) -> None:
        ready.click("finalize")
        decisions.submit(run, decisions.Decision("finalize", "bob"))
        assert "bob decided to finalize it" in confirm(ready)["refused"]

    def test_a_discarded_run(self, ready: Reviewer, run: str) -> None:
        ready.click("finalize")
        decisions.submit(run, decisions.Decision("discard", "bob"))
        assert "DISCARDED" in confirm(ready)["refused"]
        assert "DISCARDED" in ready.click("finalize").refusal()

    def test_one_who_may_not_decide(self, ready: Reviewer, run: str) -> None:
        database.runs().update_one({"run": run}, {"$set": {"config.review.reviewers": ["bob"]}})
        assert "may not decide" in ready.click("finalize").refusal()  # before any dialog

    def test_prefect_down(self, ready: Reviewer, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PREFECT_API_URL", NOBODY_THERE)
        database.runs().update_one({"run": run}, {"$set": {"suspended_in": "0" * 8}})
        answer = confirm(ready.click("finalize"))
        assert answer["done"].startswith("the decision is recorded, but Prefect could not be told")
        assert f"valflow finalize {run}" in answer["done"]
        assert runs.load(run)["state"] == "REVIEWED"

    def test_reviewing_needs_no_prefect(
        self, approval: Reviewer, run: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PREFECT_API_URL", NOBODY_THERE)
        approval.click("change_tab", tab="review").click("approve")
        assert counts(run)["approved"] == 12


class TestAfterwards:
    def test_the_state_is_followed_to_the_end(self, ann: Reviewer, dataset: Any, run: str) -> None:
        record = bring_to(run, dataset, "REVIEWED")
        ann.click("change_tab", tab="approval")
        assert "Validation is next" in ann.drawn()
        assert not ann.click("follow").was_asked("set_view")  # nothing moved
        accept(record, dataset)
        assert "Validated" in ann.click("follow").drawn()
        bring_to(run, dataset, "FINALIZED")
        assert "6 labels added" in ann.click("follow").drawn()
        assert ann.state["tab"] == "approved"

    def test_the_result(self, dataset: Any, run: str) -> None:
        label = ids_where(run, state="undecided")[0]
        actions.tag(run, "poor_bbox", Shown(label_ids=(label,)), "ann")
        bring_to(run, dataset, "FINALIZED")
        ann = Reviewer(dataset, "ann").open(run)
        result = ann.state["result"]
        assert (result["labels"], result["samples"], result["per_class"]) == (6, 3, {"cat": 3, "dog": 3})
        assert result["labels"] == len(labels_in(dataset, "auto"))
        assert result["quality"][-1].startswith("audit: 0 wrong of 6")
        assert ann.state["work_lists"] == [{"name": "poor_bbox", "samples": 1}]
        assert ann.was_asked("set_active_fields")[-1]["fields"] == ["auto"]
        assert ann.click("show_work_list", name="poor_bbox").was_asked("set_view")[0]["name"] == "poor_bbox"
        assert ann.click("show_final").was_asked("set_view")

    def test_it_is_read_only(self, dataset: Any, run: str) -> None:
        bring_to(run, dataset, "FINALIZED")
        ann = Reviewer(dataset, "ann").open(run)
        before = entries(run)
        for handler in ("approve", "reject", "undo", "undo_all", "finalize"):
            assert ann.click(handler).refusal()
        assert entries(run) == before

    @pytest.mark.parametrize("state", ["CREATED", "PREDICTED", "FAILED", "DISCARDED", "VALIDATED"])
    def test_every_other_state_is_told(self, dataset: Any, state: str) -> None:
        from tests.builders import make_run

        run = make_run(dataset, state, label_field="other")
        shown = Reviewer(dataset, "ann").open(run)
        assert shown.state["fate"]
        assert shown.state["tab"] == "approval"
