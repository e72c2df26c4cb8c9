"""Finalization: what was confirmed is written, all of it, once, whatever dies in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from tests.builders import (
    add_samples,
    bring_to,
    documents,
    draw_label,
    edit_label,
    entries,
    ids_where,
    judge_all,
    labels_in,
    make_config,
    make_dataset,
    make_run,
)
from valflow import actions, database, decisions, opening, promotion, runs
from valflow.errors import IllegalTransition, PromotionError
from valflow.promotion import field_identity, finalized_runs_into
from valflow.selections import Selection

WATCHED = ("pred", "ground_truth", "filepath", "tags", "metadata")


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    """Three samples with cat 0.95, dog 0.8, cat 0.6, dog 0.3 each, and one without labels."""
    return make_dataset(tmp_path)


def history(run: str) -> list[str]:
    return [h["event"] for h in runs.load(run)["history"]]


class TestResult:
    def test_what_is_written(self, dataset: Any) -> None:
        before = documents(dataset)
        run = make_run(dataset)
        edited = ids_where(run, state="approved")[0]
        edit_label(dataset, "auto_in_review", edited, label="bird")
        actions.approve(run, Selection(classes=("cat",)), "ann")
        drawn = draw_label(dataset, "auto_in_review", dataset.first().id)
        decisions.preview(run, "ann")
        record = bring_to(run, dataset, "FINALIZED")
        final = labels_in(dataset, "auto")
        assert {i: d["source"] for i, d in final.items()} == {
            **{i: "auto" if e["action"] == 1 else "human" for i, e in entries(run).items() if e["state"] == "approved"},
            edited: "edited",
            drawn: "human",
        }  # fmt: skip
        assert len(final) == 10
        assert all(d["run"] == run and d["tags"] == [] for d in final.values())
        assert final[edited]["label"] == "bird"
        assert "confidence" not in final[drawn] or final[drawn]["confidence"] is None
        verification = record["verification"]
        assert (verification["announced"], verification["written"]) == (10, 10)
        assert verification["labels_per_class"] == {"cat": 5, "dog": 3, "bird": 2}
        assert verification["schema"] == {"auto": "Detections"}
        assert (verification["samples_with_labels"], verification["changed_elsewhere"]) == (3, [])
        assert (record["counts"]["finalized"], record["counts"]["discarded"]) == (10, 3)
        assert record["history"][-1]["figures"] == {"announced": 10, "written": 10}
        assert {i: [d.get(k) for k in WATCHED] for i, d in documents(dataset).items()} == {
            i: [d.get(k) for k in WATCHED] for i, d in before.items()
        }

    def test_only_samples_with_approved_labels_get_the_field(self, dataset: Any) -> None:
        run = make_run(dataset)
        first = dataset.first().id
        actions.reject(run, Selection(sample_ids=(first,)), "ann")
        bring_to(run, dataset, "FINALIZED")
        found = documents(dataset)
        assert [("auto" in d, "auto_in_review" in d) for d in found.values()] == [
            (False, False), (True, False), (True, False), (False, False)
        ]  # fmt: skip
        dataset.reload()
        assert len(dataset.exists("auto")) == 2
        assert not dataset.has_field("auto_in_review")

    def test_people_find_it_where_they_look(self, dataset: Any) -> None:
        run = make_run(dataset)
        actions.tag(run, "poor_bbox", Selection(classes=("dog",)), "ann")
        record = bring_to(run, dataset, "FINALIZED")
        dataset.reload()
        config = dataset.get_run_info(run).config
        assert (config.method, config.label_field, config.reviewer) == ("valflow", "auto", "ann")
        assert config.digest == record["frozen"]["digest"]
        assert len(dataset.load_saved_view("poor_bbox")) == 3
        assert {"run", "source", "label", "confidence", "bounding_box"} <= set(
            dataset.get_field_schema(flat=True)["auto.detections"].field.document_type._fields
        ) | {
            p.rsplit(".", 1)[1]
            for p in dataset.get_field_schema(flat=True)
            if p.startswith("auto.detections.")
        }
        assert dataset.count_values("auto.detections.source") == {"auto": 6}

    def test_problem_tags_outlive_their_label(self, dataset: Any) -> None:
        run = make_run(dataset)
        label = ids_where(run, state="approved")[0]
        actions.tag(run, "false_positive", Selection(label_ids=(label,)), "ann")
        actions.reject(run, Selection(label_ids=(label,)), "ann")
        bring_to(run, dataset, "FINALIZED")
        dataset.reload()
        assert dataset.match_tags("false_positive").values("id") == [entries(run)[label]["sample_id"]]
        assert dataset.count_label_tags("auto") == {}

    @pytest.mark.parametrize(
        "tags", [("needs correction", "needs_correction"), ("日本", "§§")], ids=["one", "none"]
    )
    def test_tags_that_cannot_each_name_a_view(self, dataset: Any, tags: tuple[str, ...]) -> None:
        run = make_run(dataset)
        dataset.save_view("Poor BBox", dataset.limit(1))
        for tag in (*tags, "poor_bbox"):
            actions.tag(run, tag, Selection(all=True), "ann")
        assert bring_to(run, dataset, "FINALIZED")["state"] == "FINALIZED"
        dataset.reload()
        assert all(len(dataset.match_tags(tag)) == 3 for tag in tags)
        assert len(dataset.list_saved_views()) in (1, 2)

    def test_a_label_without_class(self, dataset: Any) -> None:
        run = make_run(dataset)
        edit_label(dataset, "auto_in_review", ids_where(run, state="approved")[0], label=None)
        record = bring_to(run, dataset, "FINALIZED")  # a team's own suites may allow it
        assert record["verification"]["labels_per_class"]["None"] == 1

    def test_a_class_with_an_odd_name(self, tmp_path: Path) -> None:
        dataset = make_dataset(tmp_path, predictions=[[("$cash", 0.9), ("a.b", 0.9), ("né", 0.9)]])
        run = make_run(dataset, "FINALIZED")
        assert runs.load(run)["verification"]["labels_per_class"] == {"$cash": 1, "a.b": 1, "né": 1}

    def test_progress_is_told_per_batch(self, dataset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(promotion, "BATCH", 2)
        run = make_run(dataset, "VALIDATED")
        told: list[int] = []
        promotion.promote(runs.load(run), dataset, told.append)
        assert told == [2, 1]

    def test_a_finalized_run_is_left_alone(self, dataset: Any) -> None:
        run = make_run(dataset, "FINALIZED")
        before, record = documents(dataset), runs.load(run)
        assert promotion.promote(record, dataset) == record
        assert documents(dataset) == before

    @pytest.mark.parametrize("state", ["IN_REVIEW", "REVIEWED"])
    def test_needs_a_validated_run(self, dataset: Any, state: str) -> None:
        run = make_run(dataset, state)
        with pytest.raises(IllegalTransition, match=f"a run that is {state} cannot 'begin_finalize'"):
            promotion.promote(runs.load(run), dataset)
        dataset.reload()
        assert not dataset.has_field("auto")


class Died(BaseException):
    """As when the process is killed."""


STEPS = (
    "_make_copy",
    "declare_field",
    "declare_label_field",
    "_note_fields_that_exist",
    "_promote_batch",
    "_verify",
    "drop_staging",
    "register",
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    dataset = make_dataset(tmp_path_factory.mktemp("images"))
    return _outcome(dataset, make_run(dataset, "FINALIZED"))


class TestCrash:
    @pytest.mark.parametrize("moment", ["before", "after"])
    @pytest.mark.parametrize("step", STEPS)
    def test_anywhere_then_again_gives_the_same(
        self, dataset: Any, undisturbed: Any, step: str, moment: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(promotion, "BATCH", 1)
        run = make_run(dataset, "VALIDATED")
        with monkeypatch.context() as patch:
            real, calls = getattr(promotion, step), []

            def die(*arguments: Any) -> None:
                calls.append(step)
                if moment == "before" and len(calls) == (2 if step == "_promote_batch" else 1):
                    raise Died
                real(*arguments)
                if moment == "after":
                    raise Died

            patch.setattr(promotion, step, die)
            with pytest.raises(Died):
                promotion.promote(runs.load(run), dataset)
        assert runs.load(run)["state"] == "FINALIZING"
        promotion.promote(runs.load(run), dataset)
        assert _outcome(dataset, run) == undisturbed

    def test_many_repetitions_change_nothing(self, dataset: Any) -> None:
        run = make_run(dataset, "FINALIZED")
        before = {i: _untimed(d) for i, d in documents(dataset).items()}
        for _ in range(3):
            database.runs().update_one({"run": run}, {"$set": {"state": "FINALIZING", "open": True}})
            promotion.promote(runs.load(run), dataset)
        assert {i: _untimed(d) for i, d in documents(dataset).items()} == before
        assert [e.get("had_field") for e in database.ledger().find({"run": run}).sort("sample_id", 1)][
            :3
        ] == [False] * 3

    def test_what_people_did_in_between_stays(self, dataset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        run = make_run(dataset, "VALIDATED")
        with monkeypatch.context() as patch:
            patch.setattr(promotion, "_verify", _die)
            with pytest.raises(Died):
                promotion.promote(runs.load(run), dataset)
        label = next(iter(labels_in(dataset, "auto")))
        edit_label(dataset, "auto", label, label="bird")
        record = promotion.promote(runs.load(run), dataset)
        assert labels_in(dataset, "auto")[label]["label"] == "bird"
        assert record["verification"]["labels_per_class"]["bird"] == 1

    def test_a_failed_finalization_can_only_be_finished(
        self, dataset: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from valflow.states import Event

        run = make_run(dataset, "VALIDATED")
        with monkeypatch.context() as patch:
            patch.setattr(promotion, "_verify", _die)
            with pytest.raises(Died):
                promotion.promote(runs.load(run), dataset)
        runs.transition(runs.load(run), Event.FAIL, actor="system", changes={"failed_from": "FINALIZING"})
        with pytest.raises(IllegalTransition, match="it allows: retry"):
            decisions.submit(run, decisions.Decision("discard", "ann"))
        record = runs.transition(runs.load(run), Event.RETRY, actor="system")
        assert promotion.promote(record, dataset)["counts"]["finalized"] == 6


class TestMerge:
    def test_append_to_a_field_of_others(self, dataset: Any) -> None:
        import fiftyone as fo

        dataset.clone_sample_field("ground_truth", "auto")
        theirs = {i: _untimed(d) for i, d in labels_in(dataset, "auto").items()}
        run = make_run(dataset, append=True)
        record = bring_to(run, dataset, "FINALIZED")
        now = labels_in(dataset, "auto")
        assert {i: d for i, d in now.items() if i in theirs} == theirs
        assert len(now) == len(theirs) + 6
        assert (record["verification"]["written"], record["verification"]["samples_with_labels"]) == (6, 3)
        dataset.reload()
        assert field_identity(dataset, "auto")["created"] is False
        assert isinstance(dataset.first().auto, fo.Detections)
        assert [
            e["had_field"] for e in database.ledger().find({"run": run, "labels.0": {"$exists": True}})
        ] == [True] * 3

    def test_later_runs_add_and_never_double(self, dataset: Any, tmp_path: Path) -> None:
        first = make_run(dataset, "FINALIZED")
        kept = labels_in(dataset, "auto")
        add_samples(dataset, tmp_path, [[("owl", 0.9)], [("cat", 0.1)]])
        dataset.reload()
        assert finalized_runs_into(dataset, "auto") == [first]
        second = make_run(dataset, "FINALIZED")
        assert runs.load(second)["counts"]["samples"] == 2
        third = make_run(dataset, "FINALIZED", target={"only": "all"}, approval={"threshold": 0.5})
        now = labels_in(dataset, "auto")
        assert {i: now[i] for i in kept} == kept
        by_run = {r: sum(d["run"] == r for d in now.values()) for r in (first, second, third)}
        assert by_run == {first: 6, second: 1, third: 10}
        dataset.reload()
        assert set(finalized_runs_into(dataset, "auto")) == {first, second, third}
        assert field_identity(dataset, "auto")["created"] is True
        had = {
            str(e["sample_id"]): e.get("had_field")
            for e in database.ledger().find({"run": third, "labels.0": {"$exists": True}})
        }
        assert list(had.values()) == [True, True, True, True]

    def test_a_field_deleted_by_hand_begins_anew(self, dataset: Any) -> None:
        make_run(dataset, "FINALIZED")
        dataset.reload()
        dataset.delete_sample_field("auto")
        assert finalized_runs_into(dataset, "auto") == []
        again = make_run(dataset, "FINALIZED")
        dataset.reload()
        assert finalized_runs_into(dataset, "auto") == [again]
        assert len(labels_in(dataset, "auto")) == 6


class TestMeanwhile:
    def test_what_others_changed_is_reported_and_stays(self, dataset: Any) -> None:
        run = make_run(dataset)
        first, second, third, fourth = dataset.values("id")
        for sample_id, change in (
            (first, {"$set": {"pred.detections.0.label": "owl"}}),
            (second, {"$push": {"tags": "theirs"}}),
            (fourth, {"$set": {"filepath": "/elsewhere.png"}}),
        ):
            database.samples_of(dataset).update_one({"_id": ObjectId(sample_id)}, change)
        actions.tag(run, "poor_bbox", Selection(sample_ids=(third,)), "ann")
        record = bring_to(run, dataset, "FINALIZED")
        assert set(record["verification"]["changed_elsewhere"]) == {first, second, fourth}
        assert record["verification"]["changed_elsewhere_count"] == 3
        assert documents(dataset)[second]["tags"] == ["theirs"]
        assert documents(dataset)[first]["pred"]["detections"][0]["label"] == "owl"

    @pytest.mark.parametrize("tag", ["night", "$night"])
    def test_tags_of_the_review_are_its_own_even_if_others_use_them(self, dataset: Any, tag: str) -> None:
        first, second, third, fourth = dataset.values("id")
        samples = database.samples_of(dataset)
        samples.update_many({"_id": {"$in": [ObjectId(first), ObjectId(second)]}}, {"$push": {"tags": tag}})
        run = make_run(dataset)
        actions.tag(run, tag, Selection(sample_ids=(first, third)), "ann")
        samples.update_one({"_id": ObjectId(second)}, {"$pull": {"tags": tag}})  # somebody else
        samples.update_one({"_id": ObjectId(fourth)}, {"$push": {"tags": tag}})  # somebody else
        record = bring_to(run, dataset, "FINALIZED")
        assert set(record["verification"]["changed_elsewhere"]) == {second, fourth}

    def test_deleted_samples_do_not_keep_the_rest_waiting(self, dataset: Any) -> None:
        run = make_run(dataset, "VALIDATED")
        gone = dataset.first().id
        dataset.delete_samples([gone])
        record = promotion.promote(runs.load(run), dataset)
        verification = record["verification"]
        assert (record["state"], verification["announced"], verification["written"]) == ("FINALIZED", 6, 4)
        assert verification["deleted_samples"] == [gone]
        assert gone in verification["changed_elsewhere"]
        assert record["counts"]["finalized"] == 4

    def test_labels_that_did_not_arrive_stop_it(self, dataset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        run = make_run(dataset, "VALIDATED")
        first = dataset.first().id
        with monkeypatch.context() as patch:
            real = promotion._promote_batch

            def lossy(*arguments: Any) -> None:
                real(*arguments)
                database.samples_of(dataset).update_one({"_id": ObjectId(first)}, {"$unset": {"auto": ""}})

            patch.setattr(promotion, "_promote_batch", lossy)
            with pytest.raises(
                PromotionError, match=f"6 labels on 3 samples were announced, 4 on 2 .*{first}"
            ):
                promotion.promote(runs.load(run), dataset)
        dataset.reload()
        assert dataset.has_field("auto_in_review")
        assert promotion.promote(runs.load(run), dataset)["counts"]["finalized"] == 6

    def test_a_tampered_copy_is_refused_before_anything_is_written(self, dataset: Any) -> None:
        run = make_run(dataset, "VALIDATED")
        database.ledger().update_one(
            {"run": run, "frozen.labels.0": {"$exists": True}}, {"$set": {"frozen.labels.0.label": "owl"}}
        )
        before = documents(dataset)
        with pytest.raises(PromotionError, match="are not those that ann confirmed: expected 6 labels"):
            promotion.promote(runs.load(run), dataset)
        assert documents(dataset) == before
        dataset.reload()
        assert not dataset.has_field("auto")
        # Nothing is half done, so there is a way out.
        assert runs.load(run)["state"] == "VALIDATED"
        decisions.reopen(runs.load(run), reason="tampered with")
        assert bring_to(run, dataset, "IN_REVIEW")["round"] == 2
        assert decisions.submit(run, decisions.Decision("finalize", "ann"))["state"] == "REVIEWED"

    def test_a_field_that_somebody_else_made_meanwhile(self, dataset: Any) -> None:
        run = make_run(dataset, "VALIDATED")
        dataset.clone_sample_field("ground_truth", "auto")
        before = documents(dataset)
        with pytest.raises(PromotionError, match=r"somebody made a field 'auto' .* nothing was written"):
            promotion.promote(runs.load(run), dataset)
        assert documents(dataset) == before
        dataset.rename_sample_field("auto", "theirs")
        assert promotion.promote(runs.load(run), dataset)["counts"]["finalized"] == 6

    def test_an_edit_after_the_decision_is_not_taken_over(self, dataset: Any) -> None:
        run = make_run(dataset, "VALIDATED")
        label = ids_where(run, state="approved")[0]
        edit_label(dataset, "auto_in_review", label, label="owl")
        promotion.promote(runs.load(run), dataset)
        assert labels_in(dataset, "auto")[label]["label"] == "cat"


def test_what_could_not_be_labelled_before_is_marked_no_longer(dataset: Any) -> None:
    samples = database.samples_of(dataset)
    samples.update_many({}, {"$push": {"tags": "inference_failed"}})
    run = make_run(dataset, "FINALIZED")
    assert run
    assert all("inference_failed" not in d["tags"] for d in documents(dataset).values())


def test_the_next_run_is_free_to_start(dataset: Any) -> None:
    run = make_run(dataset, "FINALIZED")
    assert runs.load(run)["open"] is False
    assert opening.open_run(make_config(dataset)).outcome == "nothing_new"
    judge_all(make_run(dataset, target={"only": "all"}))


def _die(*_: Any) -> None:
    raise Died


def _untimed(document: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in document.items() if k != "last_modified_at"}


def _outcome(dataset: Any, run: str) -> tuple[Any, ...]:
    """Everything that a finalized run leaves behind, without what differs from run to run."""
    dataset.reload()
    record = runs.load(run)
    labels = [
        [
            (d["label"], d["confidence"], d["source"], d["tags"])
            for d in (s.get("auto") or {}).get("detections", [])
        ]
        for s in documents(dataset).values()
    ]
    return (
        labels,
        [sorted(s) for s in documents(dataset).values()],
        record["state"],
        record["counts"],
        {k: v for k, v in record["verification"].items() if k != "changed_elsewhere"},
        record["verification"]["changed_elsewhere"],
        [h["event"] for h in record["history"]],
        dataset.get_field("auto").info["valflow"]["created"],
        dataset.has_field("auto_in_review"),
        run in dataset.list_runs(),
        [e.get("had_field") for e in database.ledger().find({"run": run}).sort("sample_id", 1)],
    )
