"""The ledger: what it remembers about samples and labels, and the tags that mirror it."""

from __future__ import annotations

from pathlib import Path

import pytest
from bson import ObjectId

from tests.builders import bring_to, counts, entries, ids_where, labels_in, make_dataset, make_run
from valflow import actions, database, label_states, ledger, mirroring, runs, triage, undoing
from valflow.label_types import candidates, label_id
from valflow.selections import Selection

HALF = ((("cat", 0.9), ("dog", 0.4)),)


@pytest.fixture
def ids() -> list[ObjectId]:
    return [ObjectId() for _ in range(5)]


def key() -> str:
    return f"run_{ObjectId()}"


class TestTargets:
    def test_are_split_into_shards(self, ids: list[ObjectId]) -> None:
        run = key()
        assert ledger.open_targets(run, ids, 2) == 3
        assert [ledger.pending(run, shard) for shard in range(3)] == [ids[:2], ids[2:4], ids[4:]]
        assert ledger.status_counts(run) == {"pending": 5}

    def test_writing_them_down_twice_changes_nothing(self, ids: list[ObjectId]) -> None:
        run = key()
        ledger.open_targets(run, ids, 2)
        ledger.account(run, [(ids[0], "labelled", None)])
        assert ledger.open_targets(run, ids, 2) == 3
        assert ledger.status_counts(run) == {"pending": 4, "labelled": 1}

    def test_those_written_down_in_part_are_forgotten(self, ids: list[ObjectId]) -> None:
        run = key()
        ledger.open_targets(run, ids, 2)
        ledger.forget_targets(run)
        assert ledger.status_counts(run) == {}
        assert ledger.open_targets(run, [], 2) == 0

    def test_every_sample_is_accounted_for(self, ids: list[ObjectId]) -> None:
        run = key()
        ledger.open_targets(run, ids, 5)
        ledger.account(
            run, [(ids[0], "labelled", None), (ids[1], "empty", None), (ids[2], "failed", "no such file")]
        )
        ledger.account(run, [])
        assert ledger.status_counts(run) == {"labelled": 1, "empty": 1, "failed": 1, "pending": 2}
        assert ledger.failed_samples(run) == [{"sample_id": ids[2], "reason": "no such file"}]
        assert ledger.pending(run, 0) == ids[3:]
        assert ledger.seen_samples([run, "another"]) == set(ids)
        assert ledger.seen_samples([]) == set()


class TestPredictions:
    def test_enter_undecided_and_as_predicted(self, tmp_path: Path) -> None:
        dataset = make_dataset(tmp_path, predictions=[*HALF, ()])
        run = make_run(dataset, "PREDICTED")
        first = database.ledger().find_one({"run": run, "labels.0": {"$exists": True}})
        assert first is not None
        staged = list(labels_in(dataset, "auto_in_review").values())
        assert first["predicted"] == staged
        assert [e["_id"] for e in first["labels"]] == [d["_id"] for d in staged]
        assert [(e["label"], e["confidence"], e["state"], e["action"]) for e in first["labels"]] == [
            ("cat", 0.9, "undecided", 0),
            ("dog", 0.4, "undecided", 0),
        ]
        assert database.ledger().count_documents({"run": run}) == 2

    def test_a_triage_that_died_is_repeated_from_the_start(self, tmp_path: Path) -> None:
        dataset = make_dataset(tmp_path, predictions=HALF)
        run = make_run(dataset, "PREDICTED")
        record = runs.load(run)
        for _ in range(2):  # died after its thresholds, before it opened the review
            triage.begin_triage(record, dataset)
            actions.record_policy_action(run, {"default": 0.7, "per_class": {}})
            assert label_states.approve_by_threshold(run, 0.7, {}) == 1
            mirroring.mirror_tags(record, dataset)
        record = triage.finish_triage(record, dataset)
        assert (record["state"], record["counts"]["approved"]) == ("IN_REVIEW", 1)
        assert all(e["prev"] in ([], [{"state": "undecided", "action": 0}]) for e in entries(run).values())
        assert len(actions.history_of(run)) == 1

    def test_a_review_is_not_undone_by_a_late_triage(self, tmp_path: Path) -> None:
        dataset = make_dataset(tmp_path, predictions=HALF)
        run = make_run(dataset)
        actions.approve(run, Selection(all=True), "ann")
        before = entries(run)
        record = runs.load(run)
        triage.begin_triage(record, dataset)
        assert triage.finish_triage(record, dataset) == record
        assert entries(run) == before

    def test_nor_is_a_discarded_run(self, tmp_path: Path) -> None:
        dataset = make_dataset(tmp_path, predictions=HALF)
        run = make_run(dataset)
        bring_to(run, dataset, "DISCARDED")
        before, record = entries(run), runs.load(run)
        triage.begin_triage(record, dataset)
        assert triage.finish_triage(record, dataset) == record
        assert entries(run) == before


class TestThresholds:
    @pytest.mark.parametrize(
        ("default", "per_class", "expected"),
        [
            pytest.param(0.7, {}, {0.7, 0.9}, id="at-or-above"),
            pytest.param(0.0, {}, {0.2, 0.5, 0.7, 0.9}, id="zero-still-needs-a-confidence"),
            pytest.param(1.0, {}, set(), id="nothing-reaches-it"),
            pytest.param(0.7, {"cat": 0.95}, set(), id="stricter-for-a-class"),
            pytest.param(0.95, {"cat": 0.5}, {0.5, 0.7, 0.9}, id="looser-for-a-class"),
            pytest.param(0.7, {"dog": 0.1}, {0.7, 0.9}, id="of-another-class"),
        ],
    )
    def test_approve(self, tmp_path: Path, default: float, per_class: dict, expected: set) -> None:
        labels = [("cat", c) for c in (0.2, 0.5, 0.7, 0.9, None)]
        dataset = make_dataset(tmp_path, predictions=[labels])
        approval = {"threshold": default, "per_class": per_class}
        # Thresholds of classes that do not occur are a configuration error, so they are applied by hand here.
        run = make_run(dataset, "PREDICTED", min_confidence=0.0)
        triage.begin_triage(runs.load(run), dataset)
        assert label_states.approve_by_threshold(run, default, per_class) == len(expected), approval
        approved = {e["confidence"] for e in entries(run).values() if e["state"] == "approved"}
        assert approved == expected

    def test_classes_with_odd_names(self, tmp_path: Path) -> None:
        dataset = make_dataset(
            tmp_path, predictions=[[("$cash", 0.6), ("a.b", 0.6), ("né", 0.6), ("cat", 0.6)]]
        )
        run = make_run(
            dataset, approval={"threshold": 0.9, "per_class": {"$cash": 0.5, "a.b": 0.5, "né": 0.5}}
        )
        assert {e["label"] for e in entries(run).values() if e["state"] == "approved"} == {
            "$cash",
            "a.b",
            "né",
        }

    def test_labels_that_fail_a_check_wait_for_a_person(self, tmp_path: Path) -> None:
        dataset = make_dataset(tmp_path, predictions=HALF)
        run = make_run(dataset, "PREDICTED")
        record = runs.load(run)
        triage.begin_triage(record, dataset)
        (strong,) = ids_where(run, label="cat")
        sample = ObjectId(entries(run)[strong]["sample_id"])
        label_states.mark_invalid(run, {sample: {ObjectId(strong): ["$box outside"]}})
        record = triage.finish_triage(record, dataset)
        assert (record["counts"]["approved"], record["counts"]["invalid"]) == (0, 1)
        assert entries(run)[strong]["invalid"] == ["$box outside"]
        assert labels_in(dataset, "auto_in_review")[strong]["tags"] == ["invalid"]

    def test_review_all_approves_nothing(self, tmp_path: Path) -> None:
        dataset = make_dataset(tmp_path)
        run = make_run(dataset, approval={"mode": "review_all"})
        assert counts(run) == {"approved": 0, "rejected": 0, "undecided": 12}
        assert actions.history_of(run) == []
        assert runs.load(run)["thresholds"] == {"default": None, "per_class": {}}


class TestClassTable:
    def test_figures(self, tmp_path: Path) -> None:
        dataset = make_dataset(
            tmp_path,
            predictions=[
                [("cat", 0.9), ("cat", 0.5), ("cat", None)],
                [("cat", 1.0), ("dog", 0.16)],
                [("owl", None)],
            ],
        )
        run = make_run(dataset, approval={"threshold": 0.7, "per_class": {"dog": 0.1}})
        rows = {r["label"]: r for r in runs.load(run)["class_table"]}
        assert list(rows) == ["cat", "dog", "owl"]  # most labels first, then by name
        cat = rows["cat"]
        assert (cat["total"], cat["approved"], cat["undecided"], cat["rejected"]) == (4, 2, 2, 0)
        assert cat["without_confidence"] == 1
        assert cat["mean_confidence"] == pytest.approx(0.8)
        assert [i for i, n in enumerate(cat["histogram"]) if n] == [10, 18, 19]
        assert sum(cat["histogram"]) == 3
        assert (cat["threshold"], rows["dog"]["threshold"]) == (0.7, 0.1)
        owl = rows["owl"]
        assert (owl["without_confidence"], owl["mean_confidence"], sum(owl["histogram"])) == (1, None, 0)
        assert ledger.label_counts(list(rows.values())) == {
            "predicted": 6, "approved": 3, "rejected": 0, "undecided": 3, "invalid": 0
        }  # fmt: skip

    def test_of_a_run_without_labels(self, tmp_path: Path) -> None:
        dataset = make_dataset(tmp_path, predictions=[(), ()])
        run = make_run(dataset)
        assert runs.load(run)["class_table"] == []
        assert runs.load(run)["counts"]["predicted"] == 0
        assert ledger.label_counts([])["approved"] == 0


class TestLargeChanges:
    @pytest.mark.parametrize("samples", [1, 2, 3])
    def test_are_made_by_halves_and_taken_back_in_full(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: int
    ) -> None:
        monkeypatch.setattr(label_states, "_FEW", 0)
        run = make_run(make_dataset(tmp_path, samples=samples, predictions=HALF * samples, empty=0))
        before, everything = entries(run), Selection(all=True)
        assert len(label_states.halves(run)) == 2
        assert actions.reject(run, everything, "ann").changed == 2 * samples
        assert counts(run)["rejected"] == 2 * samples
        assert undoing.undo(run, "ann").changed == 2 * samples
        after = entries(run)
        assert [e["state"] for e in after.values()] == [e["state"] for e in before.values()]
        assert all(e["prev"] == before[i]["prev"] for i, e in after.items())

    def test_a_run_without_samples_has_no_halves(self) -> None:
        assert label_states.halves(key()) == [{}]


class TestMirror:
    def test_shows_the_ledger_and_keeps_what_people_tagged(self, tmp_path: Path) -> None:
        dataset = make_dataset(tmp_path, predictions=[[("cat", 0.9), ("cat", 0.4), ("dog", 0.4)]])
        run = make_run(dataset)
        strong, weak, dog = ids_where(run)
        database.samples_of(dataset).update_one({}, {"$push": {"auto_in_review.detections.$[].tags": "mine"}})
        actions.reject(run, Selection(label_ids=(weak,)), "ann")
        staged = labels_in(dataset, "auto_in_review")
        assert sorted(staged[strong]["tags"]) == ["approved", "mine"]
        assert sorted(staged[weak]["tags"]) == ["mine", "rejected"]
        assert staged[dog]["tags"] == ["mine"]

    def test_repairs_tags_that_somebody_took_away(self, tmp_path: Path) -> None:
        dataset = make_dataset(tmp_path, predictions=[[("cat", 0.9), ("dog", 0.4)]])
        run = make_run(dataset)
        strong, weak = ids_where(run)
        database.samples_of(dataset).update_one({}, {"$set": {"auto_in_review.detections.$[].tags": []}})
        actions.reject(run, Selection(label_ids=(weak,)), "ann")
        staged = labels_in(dataset, "auto_in_review")
        assert (staged[strong]["tags"], staged[weak]["tags"]) == (["approved"], ["rejected"])

    def test_a_sample_without_review_field_stays_without(self, tmp_path: Path) -> None:
        dataset = make_dataset(tmp_path, predictions=[*HALF, *HALF])
        run = make_run(dataset)
        gone = dataset.first().id
        database.samples_of(dataset).update_one({"_id": ObjectId(gone)}, {"$unset": {"auto_in_review": ""}})
        actions.reject(run, Selection(all=True), "ann")
        assert len(labels_in(dataset, "auto_in_review")) == 2
        dataset.reload()
        assert dataset[gone]["auto_in_review"] is None

    def test_what_a_dead_process_did_not_show_is_shown_by_the_next(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dataset = make_dataset(tmp_path, predictions=[*HALF, *HALF])
        run = make_run(dataset)
        first, second = ids_where(run, label="dog")
        with monkeypatch.context() as dying:
            dying.setattr(mirroring, "mirror_soon", lambda *_: None)
            actions.reject(run, Selection(label_ids=(second,)), "bob")
        assert labels_in(dataset, "auto_in_review")[second]["tags"] == []
        actions.reject(run, Selection(label_ids=(first,)), "ann")
        staged = labels_in(dataset, "auto_in_review")
        assert (staged[first]["tags"], staged[second]["tags"]) == (["rejected"], ["rejected"])


class TestCandidates:
    SAMPLE = ObjectId("0" * 24)

    def keep(self, *labels: dict, floor: float = 0.2, classes: frozenset | None = None) -> list[dict]:
        return candidates(list(labels), "run", self.SAMPLE, min_confidence=floor, classes=classes)

    @pytest.mark.parametrize(
        ("confidence", "kept"),
        [
            pytest.param(0.2, True, id="at-the-floor"),
            pytest.param(0.19, False, id="below"),
            pytest.param(None, True, id="none"),
            pytest.param(float("nan"), True, id="nan"),
        ],
    )
    def test_the_floor(self, confidence: float | None, kept: bool) -> None:
        found = self.keep({"label": "cat", "confidence": confidence, "bounding_box": [0, 0, 1, 1]})
        assert bool(found) is kept
        if kept and confidence != 0.2:
            assert found[0]["confidence"] is None

    def test_classes(self) -> None:
        labels = [{"label": "cat"}, {"label": "dog"}, {}]
        assert [d["label"] for d in self.keep(*labels, classes=frozenset({"dog"}))] == ["dog"]

    def test_ids_depend_on_run_sample_and_place_alone(self) -> None:
        labels = [{"_id": ObjectId(), "label": c, "confidence": n} for c, n in (("a", 0.1), ("b", 0.9))]
        (kept,) = self.keep(*labels)
        assert kept["_id"] == label_id("run", self.SAMPLE, 1)
        assert kept["_id"] == self.keep(*labels)[0]["_id"]
        assert len({label_id(r, s, i) for r in "ab" for s in (ObjectId(), ObjectId()) for i in (0, 1)}) == 8

    def test_workflow_marks_of_earlier_runs_are_taken_off(self) -> None:
        (kept,) = self.keep(
            {
                "label": "cat",
                "tags": ["approved", "mine", "invalid"],
                "run": "old",
                "source": "auto",
                "colour": "red",
            }
        )
        assert kept["tags"] == ["mine"]
        assert "run" not in kept
        assert "source" not in kept
        assert kept["colour"] == "red"

    def test_a_label_without_class_or_box_keeps_its_place_in_every_column(self) -> None:
        (kept,) = self.keep({"confidence": 0.9})
        assert (kept["label"], kept["bounding_box"]) == (None, None)
