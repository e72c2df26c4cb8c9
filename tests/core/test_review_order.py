"""What is left to review comes least certain first, sample by sample."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from tests.builders import ids_where, make_dataset, make_run
from tests.certified import make_certified_run, make_large_dataset
from valflow import actions, batches, database, ledger, review_order, reviewing
from valflow.cli import main
from valflow.ledger import UNDECIDED
from valflow.review_order import rank
from valflow.selections import Selection
from valflow.states import State

ALL = {"approval": {"mode": "review_all"}}


def shown(**filters: Any) -> reviewing.Shown:
    return reviewing.screen([UNDECIDED], **filters)


def names(run: str, **filters: Any) -> list[tuple[str, float | None]]:
    """Class and confidence of what is left to review, in its order."""
    page = reviewing.page_of_labels(run, shown(**filters), 1, 1000, ranking=rank(run, shown(**filters)))
    entries = {e["_id"]: e for d in database.ledger().find({"run": run}) for e in d.get("labels", [])}
    return [(entries[ObjectId(i)]["label"], entries[ObjectId(i)]["confidence"]) for i in page.label_ids]


def make(folder: Path, *predictions: list[tuple[str, float | None]], **changes: Any) -> str:
    return make_run(make_dataset(folder, predictions=predictions), **changes)


class TestByConfidence:
    def test_closest_to_the_middle_first_and_samples_together(self, tmp_path: Path) -> None:
        run = make(
            tmp_path,
            [("cat", 0.95), ("dog", 0.8)],
            [("cat", 0.99), ("dog", 0.51)],
            [("cat", 0.6), ("dog", 0.35), ("cat", 0.97)],
            **ALL,
        )
        assert names(run) == [
            ("dog", 0.51), ("cat", 0.99),
            ("cat", 0.6), ("dog", 0.35), ("cat", 0.97),
            ("dog", 0.8), ("cat", 0.95),
        ]  # fmt: skip

    def test_closest_to_the_threshold_of_its_class(self, tmp_path: Path) -> None:
        fixed = {"mode": "fixed", "threshold": 0.7, "per_class": {"dog": 0.4}}
        run = make(tmp_path, [("cat", 0.5)], [("dog", 0.38)], [("cat", 0.69)], [("dog", 0.2)], approval=fixed)
        assert names(run) == [("cat", 0.69), ("dog", 0.38), ("cat", 0.5), ("dog", 0.2)]

    def test_without_confidence_comes_first(self, tmp_path: Path) -> None:
        run = make(tmp_path, [("cat", 0.51)], [("dog", None)], **ALL)
        assert names(run) == [("dog", None), ("cat", 0.51)]

    def test_decided_labels_leave_and_filters_hold(self, tmp_path: Path) -> None:
        run = make(tmp_path, [("cat", 0.5), ("dog", 0.9)], [("dog", 0.6)], [("cat", 0.8)], **ALL)
        actions.approve(run, Selection(label_ids=(ids_where(run, confidence=0.5)[0],)), "ann")
        assert names(run) == [("dog", 0.6), ("cat", 0.8), ("dog", 0.9)]
        assert names(run, classes=["dog"]) == [("dog", 0.6), ("dog", 0.9)]
        assert names(run, low=0.7) == [("cat", 0.8), ("dog", 0.9)]

    def test_nothing_left(self, tmp_path: Path) -> None:
        run = make(tmp_path, [("cat", 0.9)])
        assert names(run) == []


class TestPages:
    def test_together_they_hold_each_label_once(self, tmp_path: Path) -> None:
        run = make(tmp_path, *[[("cat", 0.2 + 0.03 * i), ("dog", 0.9 - 0.02 * i)] for i in range(11)], **ALL)
        pages = [
            reviewing.page_of_labels(run, shown(), n, 5, ranking=rank(run, shown())) for n in range(1, 6)
        ]
        listed = [i for p in pages for i in p.label_ids]
        assert [len(p.label_ids) for p in pages] == [5, 5, 5, 5, 2]
        assert sorted(listed) == sorted(ids_where(run, state="undecided"))
        whole = reviewing.page_of_labels(run, shown(), 1, 100, ranking=rank(run, shown()))
        assert whole.label_ids == listed
        samples = [
            reviewing.page_of_samples(run, shown(), n, 4, ranking=rank(run, shown())).sample_ids
            for n in (1, 2, 3)
        ]
        assert [i for part in samples for i in part] == whole.sample_ids
        assert reviewing.count_samples(run, shown()) == len(whole.sample_ids)

    def test_the_order_by_samples_stays_the_default(self, tmp_path: Path) -> None:
        run = make(tmp_path, [("cat", 0.9)], [("dog", 0.5)], **ALL)
        page = reviewing.page_of_labels(run, shown(), 1)
        assert page.sample_ids == sorted(page.sample_ids)
        assert reviewing.page_of_samples(run, None, 1).sample_ids == page.sample_ids


class TestByBetterEvidence:
    def test_mistakenness_goes_before_confidence(self, tmp_path: Path) -> None:
        dataset = make_dataset(tmp_path, predictions=[[("cat", 0.5)], [("dog", 0.99)], [("cat", 0.98)]])
        for sample, value in zip(dataset, (None, 0.2, 0.9), strict=True):
            if value is not None:
                sample["pred"].detections[0]["mistakenness"] = value
                sample.save()
        run = make_run(dataset, **ALL)
        assert names(run) == [("cat", 0.98), ("dog", 0.99), ("cat", 0.5)]
        assert review_order.queue(run, 1)["labels"][0]["why"] == "mistakenness 0.90"

    def test_what_was_asked_before_more_predictions_came_is_asked_again(self, tmp_path: Path) -> None:
        run = make_run(make_dataset(tmp_path, predictions=[[("cat", 0.5)]]), **ALL)
        assert "mistakenness" not in review_order.queue(run, 1)["labels"][0]["why"]
        database.ledger().update_many({"run": run}, {"$set": {"predicted.0.mistakenness": 0.9}})
        database.runs().update_one({"run": run}, {"$inc": {"counts.predicted": 1}})
        assert review_order.queue(run, 1)["labels"][0]["why"] == "mistakenness 0.90"

    def test_a_certified_run_goes_by_its_score(self, tmp_path: Path) -> None:
        dataset = make_large_dataset(tmp_path)
        run = make_certified_run(dataset)
        batch, quality = batches.load_batch(run)
        # Far from the order of the confidences.
        batches.store_batch(run, batch, 1 - quality / 2)
        scores = dict(zip(batch.label_ids.tolist(), (1 - quality / 2).tolist(), strict=True))
        ranking = review_order.rank(run, shown())
        assert len(ranking) > 100
        assert set(ranking.reason.tolist()) == {"score"}
        first = scores[ranking.label_ids[0].tobytes()]
        left = [scores[i] for i in ranking.label_ids.tolist()]
        assert abs(first - 0.5) == min(abs(s - 0.5) for s in left)
        row = review_order.queue(run, 3)["labels"][0]
        assert row["score"] == pytest.approx(first)
        assert row["why"] == f"right with probability {first:.2f}, by the run's score"

    def test_a_second_opinion_that_disagrees_comes_first(self, tmp_path: Path) -> None:
        import fiftyone as fo

        dataset = make_large_dataset(tmp_path, samples=60)
        dataset.add_sample_field("other", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
        sample = dataset.skip(20).first()
        same = sample["pred"].detections[3]
        sample["other"] = fo.Detections(
            detections=[fo.Detection(label="horse", bounding_box=same.bounding_box, confidence=0.8)]
        )
        sample.save()
        run = make_certified_run(dataset, second_opinion="other")
        row = review_order.queue(run, 1)["labels"][0]
        assert (row["sample_id"], row["class"]) == (sample.id, same.label)
        assert row["why"] == "the second opinion names another class (0.80)"


class TestCommand:
    @pytest.fixture(autouse=True)
    def _own_path(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "path", [*sys.path])

    def test_lists_what_is_left(self, tmp_path: Path, capsys: Any) -> None:
        run = make(tmp_path, [("cat", 0.69), ("dog", 0.3)], [("dog", None)])
        assert main(["queue", run, "--limit", "2"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == ["label", "sample", "class", "confidence", "score", "why"]
        assert lines[1].endswith("no confidence")
        assert lines[2].endswith("confidence 0.690, near the threshold 0.7")
        assert lines[3] == "and 1 more (--limit)"
        assert main(["queue", run, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["undecided"] == 3
        assert [r["class"] for r in document["labels"]] == ["dog", "cat", "dog"]
        assert [r["label_id"] for r in document["labels"][1:]] == [
            ids_where(run, confidence=c)[0] for c in (0.69, 0.3)
        ]

    def test_says_when_nothing_is_left(self, tmp_path: Path, capsys: Any) -> None:
        run = make(tmp_path, [("cat", 0.9)])
        assert main(["queue", run]) == 0
        assert "nothing is left to review" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("state", "words", "code", "message"),
        [
            pytest.param(State.IN_REVIEW, ["--limit", "0"], 2, "expected 1 or more", id="no limit"),
            pytest.param(State.FINALIZED, [], 1, "is FINALIZED", id="not in review"),
        ],
    )
    def test_is_refused(
        self, tmp_path: Path, state: State, words: list[str], code: int, message: str, capsys: Any
    ) -> None:
        run = make_run(make_dataset(tmp_path, samples=1, empty=0), state)
        assert main(["queue", run, *words]) == code
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_page_of_a_hundred_thousand_labels_takes_less_than_a_second(tmp_path: Path) -> None:
    run = make_certified_run(make_large_dataset(tmp_path, samples=20_000))
    times = []
    for number in (1, 500, 1000):
        start = time.perf_counter()
        assert (
            len(reviewing.page_of_labels(run, shown(), number, ranking=rank(run, shown())).label_ids) == 100
        )
        times.append(time.perf_counter() - start)
    print(f"{ledger.total(run)} labels, seconds per page: {[round(t, 2) for t in times]}")
    assert min(times) < 1.0
