"""Random draws and verdicts: what a spot-check may claim."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import counts, entries, ids_where, judge_all, make_dataset, make_run, remove_label
from valflow import actions, audits, checklist, decisions, ledger, runs, undoing
from valflow.audit_sheet import draw_sheet
from valflow.certify.bounds import upper_bound
from valflow.errors import AuditError, DecisionRefused, IllegalTransition
from valflow.selections import Selection


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    """One image with twenty labels, of which twelve stand above the threshold."""
    labels = [("cat" if i % 2 else "dog", 0.9 if i < 12 else 0.4) for i in range(20)]
    return make_dataset(tmp_path, predictions=[labels])


@pytest.fixture
def run(dataset: Any) -> str:
    return make_run(dataset)


def numbers(audit: audits.Audit, verdict: str = "correct") -> dict[int, str]:
    return {i["number"]: verdict for i in audit["items"]}


def evidence(run: str) -> tuple[bool, str]:
    record = runs.load(run)
    items = checklist.evidence(record, ledger.class_table(run))
    item = next(i for i in items if i["item"] == "spot_check")
    return item["ok"], item["evidence"]


class TestDraw:
    def test_is_a_sample_without_replacement_in_random_order(self, run: str) -> None:
        audit = audits.draw(run, "ann", size=8, seed=7)
        drawn = [str(i["label_id"]) for i in audit["items"]]
        approved = ids_where(run, state="approved")
        assert len(set(drawn)) == 8
        assert set(drawn) <= set(approved)
        assert drawn != sorted(drawn, key=approved.index)
        assert [i["number"] for i in audit["items"]] == list(range(1, 9))
        assert (audit["population"], audit["seed"]) == (12, 7)
        assert {i["probability"] for i in audit["items"]} == {8 / 12}
        assert all(
            str(i["sample_id"]) == entries(run)[str(i["label_id"])]["sample_id"] for i in audit["items"]
        )
        latest = audits.latest(run)
        assert latest is not None
        assert latest["items"] == audit["items"]

    def test_is_repeatable_by_seed(self, run: str) -> None:
        from valflow import database

        def drawn(seed: int) -> list[Any]:
            found = [i["label_id"] for i in audits.draw(run, "ann", size=5, seed=seed)["items"]]
            database.audits().delete_many({"run": run})
            return found

        assert drawn(3) == drawn(3)
        assert len({tuple(drawn(seed)) for seed in range(4)}) == 4

    def test_is_uniform(self, run: str) -> None:
        """Every label comes about equally often, at every place: chi-square over the draw that ``draw`` makes."""
        population, size, times = 12, 4, 3000
        places = np.zeros((population, size))
        for seed in range(times):
            for place, index in enumerate(
                np.random.default_rng(seed).choice(population, size=size, replace=False)
            ):
                places[index, place] += 1
        expected = times / population
        assert ((places - expected) ** 2 / expected).sum() < 80  # 44 degrees of freedom: beyond it 1 in 1,000
        chosen = np.random.default_rng(5).choice(population, size=size, replace=False)
        approved = [i for i, _ in ledger.approved_ids(run)]
        audit = audits.draw(run, "ann", size=size, seed=5)
        assert [i["label_id"] for i in audit["items"]] == [approved[i] for i in chosen]

    def test_takes_as_many_as_the_bound_needs_or_all(self, run: str, tmp_path: Path) -> None:
        assert len(audits.draw(run, "ann")["items"]) == 12
        many = make_run(make_dataset(tmp_path, predictions=[[("cat", 0.9)] * 70]))
        audit = audits.draw(many, "ann")
        assert len(audit["items"]) == 59
        assert 0 <= audit["seed"] < 2**32

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            pytest.param({"size": 0}, "a sample of 1 to 12 approved labels, found 0", id="none"),
            pytest.param(
                {"size": 13}, "a sample of 1 to 12 approved labels, found 13", id="more-than-there-are"
            ),
            pytest.param({"seed": -1}, "a seed from 0 to", id="negative-seed"),
            pytest.param({"seed": 2**63}, "a seed from 0 to", id="huge-seed"),
        ],
    )
    def test_that_cannot_be_made(self, run: str, options: dict, expected: str) -> None:
        with pytest.raises(AuditError, match=expected):
            audits.draw(run, "ann", **options)
        assert audits.latest(run) is None

    def test_needs_approved_labels(self, run: str) -> None:
        actions.reset(run, "ann")
        with pytest.raises(AuditError, match="has no approved labels to draw from"):
            audits.draw(run, "ann")

    @pytest.mark.parametrize("state", ["CREATED", "REVIEWED", "FINALIZED"])
    def test_needs_a_run_in_review(self, dataset: Any, state: str) -> None:
        run = make_run(dataset, state)
        with pytest.raises(IllegalTransition):
            audits.draw(run, "ann")
        with pytest.raises(IllegalTransition):
            audits.judge(run, {1: "correct"}, "ann")


class TestJudge:
    def test_wrong_labels_are_rejected_and_unsure_ones_wait(self, run: str) -> None:
        audit = audits.draw(run, "ann", seed=1)
        verdicts = [*audits.VERDICTS, *["correct"] * 6]
        after = audits.judge(run, dict(enumerate(verdicts, 1)), "bob")
        by_number = {i["number"]: str(i["label_id"]) for i in audit["items"]}
        states = {n: entries(run)[i]["state"] for n, i in by_number.items()}
        assert Counter(states.values()) == {"approved": 7, "rejected": 4, "undecided": 1}
        assert states[1] == "approved"
        assert states[6] == "undecided"
        assert all(i["reviewer"] == "bob" and i["time"] is not None for i in after["items"])
        summary = audits.summary(after)
        assert (summary["judged"], summary["wrong"]) == (12, 5)  # unsure is not correct
        assert summary["verdicts"]["wrong_class"] == 1
        assert summary["upper_bound"] == pytest.approx(upper_bound(5, 12, 0.95))

    def test_in_parts(self, run: str) -> None:
        audits.draw(run, "ann", size=3, seed=1)
        summary = audits.summary(audits.judge(run, {1: "correct"}, "ann"))
        assert (summary["judged"], summary["upper_bound"]) == (1, None)
        assert audits.sentence(summary) == "1 of 3 judged, 0 wrong so far"
        assert evidence(run) == (False, f"1 of 3 verdicts are there; give them with `valflow audit {run}`")
        audits.judge(run, {1: "correct", 2: "correct"}, "bob")  # what is known may be said again
        summary = audits.summary(audits.judge(run, {3: "correct"}, "bob"))
        assert summary["upper_bound"] == pytest.approx(1 - 0.05 ** (1 / 3))
        assert summary["reviewers"] == ["ann", "bob"]
        assert audits.sentence(summary).startswith("0 wrong of 3: at most 63")
        assert evidence(run)[0]

    @pytest.mark.parametrize(
        ("verdicts", "expected"),
        [
            pytest.param({9: "correct"}, "number 9 was not drawn \\(1 to 3 were\\)", id="number"),
            pytest.param({1: "fine"}, "number 1: 'fine' is no verdict", id="verdict"),
            pytest.param({1: ""}, "number 1: '' is no verdict", id="no-verdict"),
            pytest.param({2: "wrong_class"}, "number 2 was judged 'correct' by ann", id="judged-otherwise"),
            pytest.param(
                {0: "correct", 3: "odd"}, "number 0 was not drawn .*number 3: 'odd'", id="two-problems"
            ),
        ],
    )
    def test_that_cannot_be_recorded(self, run: str, verdicts: dict, expected: str) -> None:
        audits.draw(run, "ann", size=3, seed=1)
        before = audits.judge(run, {2: "correct"}, "ann")
        with pytest.raises(AuditError, match=expected) as caught:
            audits.judge(run, {**verdicts, **({3: "correct"} if 3 not in verdicts else {})}, "bob")
        assert "nothing was recorded" in str(caught.value)
        assert audits.latest(run) == before

    def test_needs_a_draw(self, run: str) -> None:
        with pytest.raises(AuditError, match="has no audit yet; draw one with `valflow audit"):
            audits.judge(run, {1: "correct"}, "ann")

    def test_all_correct_changes_no_label_but_is_an_action(self, run: str) -> None:
        before = entries(run)
        judge_all(run)
        assert entries(run) == before
        assert actions.history_of(run)[-1]["event"] == "judge"

    @pytest.mark.parametrize("verdict", ["unsure", "wrong_class"])
    def test_what_somebody_rejected_since_stays_rejected(self, run: str, verdict: str) -> None:
        audit = audits.draw(run, "ann", size=1, seed=1)
        label = str(audit["items"][0]["label_id"])
        actions.reject(run, Selection(label_ids=(label,)), "bob")
        audits.judge(run, {1: verdict}, "ann")
        assert entries(run)[label]["state"] == "rejected"
        undoing.undo(run, "ann")  # of the verdict
        assert entries(run)[label]["state"] == "rejected"


class TestStale:
    def test_one_draw_until_more_is_approved(self, run: str) -> None:
        audits.draw(run, "ann", size=3, seed=1)
        with pytest.raises(AuditError, match="covers everything that is approved; it waits for 3 verdicts"):
            audits.draw(run, "ann", seed=2)
        audits.judge(run, dict.fromkeys((1, 2, 3), "correct"), "ann")
        with pytest.raises(AuditError, match="it is complete, and its result stands"):
            audits.draw(run, "ann", seed=2)
        actions.approve(run, Selection(classes=("cat",)), "ann")
        assert evidence(run) == (
            False, f"4 approved labels are not covered by the draw; draw again with `valflow audit {run}`"
        )  # fmt: skip
        assert audits.draw(run, "ann", seed=2)["population"] == 16
        judge_verdicts = dict.fromkeys(range(1, 17), "correct")
        audits.judge(run, judge_verdicts, "ann")
        assert evidence(run)[0]

    def test_rejecting_more_leaves_the_bound_as_it_is(self, run: str) -> None:
        judge_all(run)
        actions.reject(run, Selection(classes=("dog",)), "ann")
        assert evidence(run)[0]

    def test_what_an_undo_brings_back_was_not_in_the_draw(self, run: str) -> None:
        actions.reject(run, Selection(classes=("dog",)), "ann")
        audit = audits.draw(run, "ann", seed=1)
        assert audit["population"] == 6
        undoing.undo(run, "ann")
        assert counts(run)["approved"] == 12
        audits.judge(run, numbers(audit), "ann")
        assert evidence(run) == (
            False, f"6 approved labels are not covered by the draw; draw again with `valflow audit {run}`"
        )  # fmt: skip
        assert audits.draw(run, "ann", seed=2)["population"] == 12

    def test_what_an_undo_brings_back_after_the_draw_was_in_it(self, run: str) -> None:
        audit = audits.draw(run, "ann", seed=1)
        audits.judge(run, {**numbers(audit), 1: "wrong_class"}, "ann")
        undoing.undo(run, "ann")  # the verdict was a slip
        actions.reject(run, Selection(classes=("dog",)), "ann")
        undoing.undo(run, "ann")
        audits.judge(run, numbers(audit), "ann")
        assert counts(run)["approved"] == 12
        assert evidence(run)[0]

    def test_a_label_that_was_away_at_the_draw_and_often_since(self, run: str) -> None:
        label = ids_where(run, state="approved")[0]
        one = Selection(label_ids=(label,))
        actions.reject(run, one, "ann")
        audit = audits.draw(run, "ann", seed=1)
        undoing.undo(run, "ann")
        actions.reject(run, one, "ann")
        undoing.undo(run, "ann")
        audits.judge(run, numbers(audit), "ann")
        assert evidence(run)[1].startswith("1 approved labels are not covered by the draw")

    def test_finalization_asks_for_it(self, run: str) -> None:
        with pytest.raises(DecisionRefused, match=r"evidence is missing.*none was drawn") as caught:
            decisions.submit(run, decisions.Decision("finalize", "ann"))
        assert len(caught.value.missing) == 1
        judge_all(run)
        assert decisions.submit(run, decisions.Decision("finalize", "ann"))["audit"]["judged"] == 12


class TestSheet:
    def test_shows_what_was_drawn_in_its_order(self, run: str, dataset: Any, tmp_path: Path) -> None:
        audit = audits.draw(run, "ann", size=4, seed=1)
        items = audits.items_with_labels(runs.load(run), audit)
        assert [i["label"]["_id"] for i in items] == [i["label_id"] for i in audit["items"]]
        assert {i["filepath"] for i in items} == {dataset.first().filepath}
        path = draw_sheet(runs.load(run), audit, tmp_path / "new" / "sheet.png")
        assert path.is_file()
        assert draw_sheet(runs.load(run), audit).parent == tmp_path / "runs" / run

    def test_a_drawn_label_that_is_gone(self, run: str, dataset: Any, tmp_path: Path) -> None:
        audit = audits.draw(run, "ann", seed=1)
        label = str(audit["items"][0]["label_id"])
        remove_label(dataset, "auto_in_review", label)
        with pytest.raises(AuditError, match=f"1 drawn labels are gone .*{label}.*reject them by id"):
            audits.items_with_labels(runs.load(run), audit)
        # Once that is on record, the rest can be judged.
        actions.reject(run, Selection(label_ids=(label,)), "ann")
        items = audits.items_with_labels(runs.load(run), audit)
        assert str(items[0]["label"]["_id"]) == label
        assert draw_sheet(runs.load(run), audit, tmp_path / "sheet.png").is_file()
        audits.judge(run, {**numbers(audit), 1: "not_an_object"}, "ann")
        assert evidence(run)[0]
