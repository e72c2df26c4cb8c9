"""The Review tab: what each click does to the database, and what it answers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.builders import counts, draw_label, edit_label, entries, ids_where, labels_in, remove_label
from tests.plugin.screens import Reviewer
from valflow import actions, app_edits, database, decisions, reviewing, runs, undoing
from valflow.selections import Selection

FIELD = "auto_in_review"


def tags(dataset: Any, label: str) -> list[str]:
    dataset.reload()
    found: list[str] = labels_in(dataset, FIELD)[label]["tags"]
    return found


class TestLooking:
    def test_the_list_of_runs(self, dataset: Any, run: str) -> None:
        someone = Reviewer(dataset).click("on_load")
        assert someone.state["run_keys"] == [run]
        [row] = someone.state["runs"]["rows"]
        assert row[1].startswith("In Review, ")
        assert row[1].endswith(" old; waits for a reviewer. 12 / 6 / – labels, pred → auto")
        assert "New run" in someone.drawn()

    def test_no_run_yet(self, dataset: Any) -> None:
        assert "No labeling run" in Reviewer(dataset).click("on_load").drawn()

    def test_the_list_is_looked_up_again(self, dataset: Any, run: str) -> None:
        someone = Reviewer(dataset).click("on_load")
        reviewing.approve(run, Selection(all=True), "ann")
        someone.click("refresh_runs")
        assert "12 / 12 / – labels" in someone.state["runs"]["rows"][0][1]

    def test_a_new_run_is_looked_for_until_it_is_there(self, dataset: Any, run: str) -> None:
        ann = Reviewer(dataset).click("on_load")
        there = ann.state["run_keys"]
        ann.state["run_keys"] = []  # as it was when the form was sent
        ann.click("started", result={"flow_run": "1", "said": "started"})
        assert (ann.state["run_keys"], ann.state["before_start"]) == (there, None)
        ann.click("started", result={"flow_run": "2", "said": "its page"})
        assert "A run was started" in ann.drawn()
        assert "TimerView" in ann.drawn()
        for _ in range(200):
            ann.click("look_for_run")
        assert "It is not here yet: its page" in ann.drawn()
        assert "TimerView" not in ann.drawn()

    def test_a_run_that_was_refused_says_why_and_keeps_what_was_filled_in(self, dataset: Any) -> None:
        form = {"model": "pred", "label_field": "my labels", "name": None, "other": 1}
        ann = Reviewer(dataset).click("on_load")
        ann.click("started", result={"refused": "label_field: no"}, original_params=form)
        assert "label_field: no" in ann.drawn()
        assert "A run was started" not in ann.drawn()
        [prompt] = ann.click("new_run").was_asked("prompt_user_for_operation")
        assert prompt["params"] == {"model": "pred", "label_field": "my labels"}

    def test_without_a_server_it_stays_on_the_screen_how_to_run_it(self, dataset: Any) -> None:
        ann = Reviewer(dataset).click("on_load")
        ann.click("started", result={"flow_run": None, "said": "valflow run pets.yaml runs them"})
        assert "valflow run pets.yaml runs them" in ann.drawn()

    def test_new_run_opens_its_form(self, dataset: Any) -> None:
        [prompt] = Reviewer(dataset).click("on_load").click("new_run").was_asked("prompt_user_for_operation")
        assert prompt["operator_uri"] == "@valflow/auto-labeling/new_run"

    def test_a_run_opens_on_patches_of_what_is_undecided(self, ann: Reviewer, run: str) -> None:
        assert ann.state["tab"] == "review"
        assert sorted(ann.grid) == sorted(ids_where(run, state="undecided"))
        assert ann.state["table"]["rows"] == [["cat", "3 of 6", "0.60"], ["dog", "3 of 6", "0.30"]]
        assert "Add 6 labels for approval" in ann.drawn()
        [view] = ann.was_asked("set_view")
        # The last stage brings the patches into the order of the page.
        assert [s["_cls"].rpartition(".")[2] for s in view["view"]][-2:] == ["ToPatches", "Select"]

    def test_a_workspace_opens_its_run(self, dataset: Any, run: str) -> None:
        someone = Reviewer(dataset)
        someone.state = {"page": "run", "run": run}
        assert len(someone.click("on_load").grid) == 6

    def test_a_run_that_is_gone_leads_back_to_the_list(self, ann: Reviewer, run: str) -> None:
        database.runs().delete_one({"run": run})
        ann.click("refresh")
        assert ann.state["page"] == "runs"

    def test_back_to_the_list(self, ann: Reviewer) -> None:
        ann.click("back")
        assert ann.state["page"] == "runs"
        assert ann.was_asked("clear_view")

    def test_another_dataset_shows_its_own_runs(self, ann: Reviewer) -> None:
        assert ann.click("on_change_dataset").state["page"] == "runs"

    def test_samples_are_whole(self, ann: Reviewer) -> None:
        ann.click("change_mode", mode="samples")
        [view] = ann.was_asked("set_view")
        # A view that hides labels of a sample loses them when somebody annotates on it.
        assert [s["_cls"].rpartition(".")[2] for s in view["view"]] == ["Select"]
        assert len(ann.grid) == 3

    def test_pages(self, ann: Reviewer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reviewing, "PATCHES_PER_PAGE", 4)
        monkeypatch.setattr(reviewing.page_of_labels, "__defaults__", (4,))
        first = ann.click("refresh").grid
        assert len(first) == 4
        assert "page 1 of 2" in ann.drawn()
        second = ann.click("turn_page", number=2).grid
        assert len(second) == 2
        assert not set(first) & set(second)
        # The last page is gone when its labels are: the one before is shown.
        ann.select("approve", second)
        assert ann.state["number"] == 1


class TestFilters:
    @pytest.mark.parametrize(
        ("low", "high", "expected"),
        [
            pytest.param(0.5, 1.0, {"cat": 3, "dog": 0}, id="upper-half"),
            pytest.param(0.0, 0.3, {"cat": 0, "dog": 3}, id="bounds-belong-to-it"),
            pytest.param(0.31, 0.59, {"cat": 0, "dog": 0}, id="nothing"),
        ],
    )
    def test_the_slider(self, ann: Reviewer, low: float, high: float, expected: dict[str, int]) -> None:
        ann.click("change_confidence", value=[low, high])
        assert {r["label"]: r["current"] for r in ann.figures["rows"]} == expected
        assert len(ann.grid) == sum(expected.values())

    def test_a_repeated_event_of_the_slider_changes_nothing(self, ann: Reviewer) -> None:
        ann.click("change_confidence", value=[0.5, 1.0])
        assert not ann.click("change_confidence", value=[0.5, 1.0]).asked

    def test_labels_without_confidence_stay_within_reach(self, dataset: Any, run: str) -> None:
        lost = ids_where(run, state="undecided")[0]
        database.ledger().update_one(
            {"run": run, "labels._id": entries(run)[lost]["_id"]}, {"$set": {"labels.$.confidence": None}}
        )
        ann = Reviewer(dataset, "ann").open(run)
        assert lost in ann.grid
        assert lost in ann.click("change_confidence", value=[0.9, 1.0]).grid
        assert "Labels without confidence too (1)" in ann.drawn()
        assert lost not in ann.click("toggle_unscored", value=False).grid

    def test_classes(self, ann: Reviewer, run: str) -> None:
        ann.click("toggle_class", row=0)
        assert sorted(ann.grid) == sorted(ids_where(run, state="undecided", label="cat"))
        assert ann.state["table"]["selectedRows"] == [0]
        # The other class stays in the table, with its own figures.
        assert ann.figures["rows"][1]["current"] == 3
        assert len(ann.click("toggle_class", row=0).grid) == 6

    def test_the_header_is_no_class(self, ann: Reviewer) -> None:
        assert not ann.click("toggle_class", row=-1).was_asked("set_view")

    def test_filters_are_taken_back(self, ann: Reviewer) -> None:
        ann.click("toggle_class", row=0).click("change_confidence", value=[0.9, 1.0])
        assert len(ann.click("all_classes").grid) == 6

    def test_filters_end_with_the_tab(self, ann: Reviewer) -> None:
        ann.click("change_confidence", value=[0.0, 0.1]).click("change_tab", tab="approval")
        assert len(ann.grid) == 6
        assert ann.state["confidence"] == [0.0, 1.0]


class TestDeciding:
    def test_selected_patches(self, ann: Reviewer, run: str) -> None:
        chosen = ann.grid[:2]
        assert ann.select("on_change_selected", chosen).state["pointed"] == 2
        assert ann.select("approve", chosen).success() == "2 labels approved"
        assert {i for i, e in entries(run).items() if e["action"] == 2} == set(chosen)
        assert ann.was_asked("set_view")  # which ends the selection
        assert len(ann.grid) == 4

    def test_a_selection_that_ends_draws_nothing(self, ann: Reviewer) -> None:
        ann.select("on_change_selected", ann.grid[:2])
        assert "Add 2 labels" in ann.drawn()
        assert not ann.select("on_change_selected", ann.grid[:2]).asked
        ann.click("on_change_selected")
        assert "Add 6 labels" in ann.drawn()
        # The App says so again, after each new view, with a state of before.
        assert not ann.click("on_change_selected").asked

    def test_a_selection_ends_where_the_view_stays(self, ann: Reviewer) -> None:
        ann.select("tag", ann.grid[:2], tag="ambiguous")
        assert ann.was_asked("clear_selected_samples")

    def test_selected_samples(self, ann: Reviewer, run: str) -> None:
        ann.click("change_mode", mode="samples").click("toggle_class", row=0)
        sample = ann.grid[0]
        assert ann.select("approve", [sample]).success() == "1 label approved"
        [changed] = [e for e in entries(run).values() if e["action"] == 2]
        assert (changed["sample_id"], changed["label"]) == (sample, "cat")

    def test_labels_selected_in_a_sample_come_first(self, ann: Reviewer, run: str) -> None:
        one, other = ann.grid[:2]
        picked = {"label_id": one, "field": FIELD, "sample_id": entries(run)[one]["sample_id"]}
        ann.click("reject", context={"selected_labels": [picked], "selected": [other]})
        assert ids_where(run, state="rejected") == [one]

    def test_labels_of_other_fields_do_not_count(self, ann: Reviewer, run: str) -> None:
        strange = {"label_id": "0" * 24, "field": "ground_truth", "sample_id": "0" * 24}
        ann.click("approve", context={"selected_labels": [strange]})
        assert "not in auto_in_review" in ann.refusal()
        assert counts(run)["approved"] == 6

    def test_all_that_is_shown(self, ann: Reviewer, run: str) -> None:
        ann.click("change_confidence", value=[0.5, 1.0]).click("approve")
        assert counts(run) == {"approved": 9, "rejected": 0, "undecided": 3}

    def test_rejecting_what_is_shown_leaves_what_is_approved(self, ann: Reviewer, run: str) -> None:
        assert ann.click("reject").success() == "6 labels rejected"
        assert counts(run) == {"approved": 6, "rejected": 6, "undecided": 0}

    def test_approved_labels_are_rejected_in_their_own_tab(self, ann: Reviewer, run: str) -> None:
        ann.click("change_tab", tab="approval")
        ann.select("reject", ann.grid[:1])
        assert counts(run) == {"approved": 5, "rejected": 1, "undecided": 6}

    @pytest.mark.parametrize("handler", ["approve", "reject", "undo", "undo_all", "undo_classes", "tag"])
    def test_nobody_decides_without_a_name(self, dataset: Any, run: str, handler: str) -> None:
        nobody = Reviewer(dataset).open(run)
        before, some = entries(run), nobody.grid[:2]
        nobody.select("on_change_selected", some)
        assert "Type your name" in nobody.select(handler, some, tag="ambiguous").refusal()
        assert entries(run) == before
        # What was selected still is: the same button would mean everything else.
        assert not nobody.was_asked("set_view")
        assert nobody.state["pointed"] == 2
        nobody.click("name_reviewer", value=" ann ").click("approve")
        assert actions.history_of(run)[-1]["actor"] == "ann"

    def test_a_name_field_that_is_left_empty_takes_no_name_back(self, ann: Reviewer) -> None:
        # Nor is the panel drawn from the state that this event brings: a click on "Runs" may have been faster.
        assert not ann.click("name_reviewer", value="").asked
        assert ann.state["reviewer"] == "ann"

    def test_a_name_draws_nothing_over(self, dataset: Any, run: str) -> None:
        # The field is left by a click on something else, whose answer may come first.
        reviewing.approve(run, Selection(classes=("dog",), all=True), "ann")
        someone = Reviewer(dataset).open(run).click("name_reviewer", value="ann")
        patched = {key for p in someone.was_asked("patch_panel_state") for key in p["state"]}
        assert patched == {"reviewer", "seen.undo"}
        assert someone.figures["undo"]["text"] == "approve dog"

    def test_the_machine_is_no_reviewer(self, dataset: Any, run: str) -> None:
        assert "name of the machine" in Reviewer(dataset, "policy").open(run).click("approve").refusal()

    def test_undo_takes_back_the_action_on_the_button(self, ann: Reviewer, run: str) -> None:
        before = counts(run)
        ann.click("toggle_class", row=0).click("approve")
        last = ann.figures["undo"]
        assert last["text"] == "approve cat"
        ann.click("undo", seq=last["seq"])
        assert counts(run) == before
        assert ann.figures["undo"] is None

    def test_a_second_click_on_undo_takes_back_nothing_more(self, ann: Reviewer, run: str) -> None:
        ann.select("approve", ann.grid[:1])
        ann.select("approve", ann.grid[:1])
        seq = ann.figures["undo"]["seq"]
        ann.click("undo", seq=seq).click("undo", seq=seq)
        assert ann.said[0][0] == "warning"
        assert counts(run)["approved"] == 7

    def test_undo_class_and_undo_all(self, ann: Reviewer, run: str) -> None:
        ann.click("toggle_class", row=0).click("undo_classes")
        assert counts(run) == {"approved": 3, "rejected": 0, "undecided": 9}
        ann.click("undo_all")
        assert counts(run) == {"approved": 0, "rejected": 0, "undecided": 12}
        ann.click("undo", seq=ann.figures["undo"]["seq"])
        assert counts(run)["approved"] == 3

    @pytest.mark.parametrize("own", [False, True], ids=["one-of-the-seven", "a-tag-of-ones-own"])
    def test_tag_with_a_note(self, ann: Reviewer, dataset: Any, run: str, own: bool) -> None:
        label = ann.grid[0]
        ann.state["tag_note"] = "thin strokes"
        if own:
            ann.state["own_tag"] = "night_shift"
        name = "night_shift" if own else "poor_bbox"
        ann.select("tag", [label], tag=None if own else name)
        assert ann.success() == f"1 label tagged {name}"
        assert name in tags(dataset, label)
        assert len(dataset.match_tags(name)) == 1
        assert actions.history_of(run)[-1]["selector"]["note"] == "thin strokes"
        assert ann.state["tag_note"] == ""
        ann.click("undo", seq=ann.figures["undo"]["seq"])
        assert name not in tags(dataset, label)

    def test_a_workflow_tag_is_refused(self, ann: Reviewer) -> None:
        ann.state["own_tag"] = "approved"
        assert "workflow's" in ann.click("tag").refusal()


class TestTwoReviewers:
    @pytest.fixture
    def bob(self, dataset: Any, run: str, ann: Reviewer) -> Reviewer:
        """Another browser on another server; both see the same screen now."""
        return Reviewer(dataset, "bob").open(run)

    @pytest.mark.parametrize(
        ("first", "then"),
        [("reject", "approve"), ("approve", "reject")],
        ids=["reject-wins", "approve-stays"],
    )
    def test_an_old_screen_does_not_overrule(
        self, ann: Reviewer, bob: Reviewer, run: str, first: str, then: str
    ) -> None:
        label = ann.grid[0]
        bob.select(first, [label])
        state = entries(run)[label]["state"]
        assert "bob decided so" in ann.select(then, [label]).refusal()
        assert entries(run)[label]["state"] == state
        # The refusal brought the screen up to date.
        assert label not in ann.grid

    def test_what_does_not_conflict_is_merged(self, ann: Reviewer, bob: Reviewer, run: str) -> None:
        taken, free = ann.grid[:2]
        bob.select("reject", [taken])
        said = ann.select("approve", [taken, free]).success()
        assert said == "1 label approved; 1 stays rejected (bob decided so)"

    def test_all_that_is_shown_means_what_is_there_now(self, ann: Reviewer, bob: Reviewer, run: str) -> None:
        bob.select("reject", bob.grid[:2])
        assert ann.click("approve").success() == "4 labels approved"
        assert counts(run)["rejected"] == 2

    def test_each_undoes_their_own(self, ann: Reviewer, bob: Reviewer, run: str) -> None:
        mine, theirs = ann.grid[:2]
        ann.select("approve", [mine])
        bob.select("approve", [theirs])
        ann.click("undo", seq=ann.figures["undo"]["seq"])
        assert entries(run)[mine]["state"] == "undecided"
        assert entries(run)[theirs]["state"] == "approved"

    def test_no_undo_from_under_somebody_else(self, ann: Reviewer, bob: Reviewer, run: str) -> None:
        label = ann.grid[0]
        ann.select("approve", [label])
        bob.click("change_tab", tab="approval").select("reject", [label])
        assert "bob has decided" in ann.click("undo", seq=ann.figures["undo"]["seq"]).refusal()
        assert entries(run)[label]["state"] == "rejected"

    def test_nothing_is_decided_while_somebody_confirms(self, ann: Reviewer, run: str) -> None:
        database.runs().update_one(
            {"run": run}, {"$set": {"freezing": {"token": "t", "by": "bob", "at": database.now()}}}
        )
        assert "being confirmed by bob" in ann.click("approve").refusal()

    def test_a_discarded_run_is_shown_as_that(self, ann: Reviewer, run: str) -> None:
        decisions.submit(run, decisions.Decision("discard", "bob", note="wrong model"))
        assert "DISCARDED" in ann.click("approve").refusal()
        assert ann.state["head"]["state"] == "DISCARDED"
        assert "Discarded by bob: wrong model" in ann.drawn()


class TestTheAppsOwnTools:
    def by_hand(self, dataset: Any, label: str, tag: str) -> None:
        dataset.select_labels(ids=[label], fields=FIELD).tag_labels(tag, label_fields=FIELD)

    def test_tags_become_actions(self, ann: Reviewer, dataset: Any, run: str) -> None:
        good, bad = ann.grid[:2]
        self.by_hand(dataset, good, "approved")
        self.by_hand(dataset, bad, "rejected")
        ann.click("refresh")
        assert ann.said == [("info", "taken over from tags: 1 approved, 1 rejected")]
        assert entries(run)[good]["state"] == "approved"
        assert entries(run)[bad]["state"] == "rejected"
        # Not ann's: she only looked first.
        assert [a["actor"] for a in actions.history_of(run)[-2:]] == [app_edits.SOMEBODY] * 2
        assert undoing.last_undoable(run, "ann") is None

    def test_they_count_where_nobody_opens_the_panel_again(self, dataset: Any, run: str) -> None:
        label = ids_where(run, state="undecided")[0]
        self.by_hand(dataset, label, "approved")
        assert decisions.preview(run, "ann").labels == 7

    def test_an_action_elsewhere_does_not_wipe_them(self, ann: Reviewer, dataset: Any, run: str) -> None:
        label = ann.grid[0]
        same_sample = [
            i for i in ann.grid if entries(run)[i]["sample_id"] == entries(run)[label]["sample_id"]
        ]
        self.by_hand(dataset, label, "approved")
        actions.reject(run, reviewing.Shown(label_ids=(same_sample[-1],)), "ann")
        assert entries(run)[label]["state"] == "approved"

    def test_a_tag_that_is_wiped_comes_back_and_is_no_undo(
        self, ann: Reviewer, dataset: Any, run: str
    ) -> None:
        label = ids_where(run, state="approved")[0]
        dataset.select_labels(ids=[label], fields=FIELD).untag_labels("approved", label_fields=FIELD)
        ann.click("refresh")
        assert entries(run)[label]["state"] == "approved"
        assert "approved" in tags(dataset, label)

    def test_a_tag_left_over_is_no_approval(self, ann: Reviewer, dataset: Any, run: str) -> None:
        label = ann.grid[0]
        ann.select("approve", [label])
        ann.click("undo", seq=ann.figures["undo"]["seq"])
        self.by_hand(dataset, label, "approved")  # what a stale screen puts back
        ann.click("refresh")
        assert entries(run)[label]["state"] == "undecided"
        assert tags(dataset, label) == []

    def test_rejected_wins_over_a_tag(self, ann: Reviewer, dataset: Any, run: str) -> None:
        label = ann.grid[0]
        ann.select("reject", [label])
        self.by_hand(dataset, label, "approved")
        assert "stay rejected" in ann.click("refresh").said[0][1]
        assert tags(dataset, label) == ["rejected"]

    def test_a_deleted_label_is_told_and_stops_the_end(self, ann: Reviewer, dataset: Any, run: str) -> None:
        label = ids_where(run, state="approved")[0]
        remove_label(dataset, FIELD, label)
        database.runs().update_one({"run": run}, {"$unset": {"edits_read_at": ""}})
        assert ann.click("refresh").said[0][0] == "warning"
        assert label in ann.said[0][1]
        assert label in ann.click("change_tab", tab="approval").click("finalize").refusal()
        assert runs.load(run)["state"] == "IN_REVIEW"


class TestModes:
    def test_correcting_opens_a_form_and_closes_it(self, ann: Reviewer, dataset: Any) -> None:
        ann.click("change_mode", mode="correct")
        dataset.reload()
        assert dataset.active_label_schemas == [FIELD]
        schema = dataset.label_schemas[FIELD]
        assert schema["classes"] == ["cat", "dog"]
        assert [a["name"] for a in schema["attributes"]] == ["tags"]
        assert [s["_cls"].rpartition(".")[2] for s in ann.was_asked("set_view")[0]["view"]][-2] == "ToPatches"
        ann.click("change_tab", tab="approval")
        dataset.reload()
        assert dataset.active_label_schemas == []

    def test_a_corrected_label_is_finalized_as_it_is_left(
        self, ann: Reviewer, dataset: Any, run: str
    ) -> None:
        label = ann.click("change_mode", mode="correct").grid[0]
        edit_label(dataset, FIELD, label, label="bird")
        ann.select("approve", [label])
        assert decisions.preview(run, "ann").by_source["edited"] == 1

    def test_drawn_boxes_are_approved_on_leaving(self, ann: Reviewer, dataset: Any, run: str) -> None:
        ann.click("change_mode", mode="draw")
        assert "for approval" not in ann.drawn()
        assert len(ann.grid) == 4  # the sample without predictions too
        drawn = draw_label(dataset, FIELD, ann.grid[-1])
        ann.click("change_mode", mode="patches")
        assert "1 label drawn by ann approved" in [m for _, m in ann.said]
        assert entries(run)[drawn]["state"] == "approved"
        assert entries(run)[drawn]["drawn_by"] == "ann"
        assert tags(dataset, drawn) == ["approved"]
        dataset.reload()
        assert dataset.active_label_schemas == []
        assert decisions.preview(run, "ann").by_source["human"] == 1

    def test_nobody_draws_without_a_name(self, dataset: Any, run: str) -> None:
        nobody = Reviewer(dataset).open(run).click("change_mode", mode="draw")
        assert "Type your name" in nobody.refusal()
        assert nobody.state["mode"] == "patches"

    def test_embeddings_are_opened_where_there_are_some(self, dataset: Any, run: str) -> None:
        import fiftyone.brain as fob
        import numpy as np

        points = np.random.default_rng(1).random((len(dataset), 2))
        fob.compute_visualization(dataset, points=points, brain_key="look", verbose=False)
        opened = Reviewer(dataset, "ann").open(run).click("open_embeddings").was_asked("open_panel")
        assert [panel["name"] for panel in opened] == ["Embeddings"]

    def test_embeddings_say_what_is_missing(self, ann: Reviewer) -> None:
        assert "compute_visualization" in ann.drawn()
        assert not ann.click("open_embeddings").was_asked("open_panel")
