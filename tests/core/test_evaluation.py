"""Evaluation: the pure matching and figures, and what FiftyOne finds afterwards."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import fiftyone as fo
import numpy as np
import pytest
from bson import ObjectId
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pymongo.errors import AutoReconnect

from valflow import database, evaluation
from valflow.errors import EvaluationError
from valflow.evaluation import storing
from valflow.evaluation.storing import MARKS, coco_config, write_marks

RUN = "run_1"
WIDTH, HEIGHT = 320, 240

Box = tuple[float, float, float, float]


def label(
    name: str | None, box: Box, confidence: float | None = None, *, image: int = 0, **extra: Any
) -> tuple[int, dict[str, Any]]:
    """One raw label of an image."""
    entry = {"_id": ObjectId(), "_cls": "Detection", "tags": [], "attributes": {}, "label": name}
    entry["bounding_box"] = list(box)
    if confidence is not None:
        entry["confidence"] = confidence
    return image, entry | extra


def table(*labels: tuple[int, dict[str, Any]]) -> evaluation.LabelTable:
    return evaluation.table_of(labels)


# A box, and others that overlap it by about 0.8, 0.6 and 0.33.
A: Box = (0.1, 0.1, 0.2, 0.2)
A_80: Box = (0.1, 0.1, 0.2, 0.25)
A_60: Box = (0.1, 0.15, 0.2, 0.2)
A_33: Box = (0.2, 0.1, 0.2, 0.2)
FAR: Box = (0.7, 0.7, 0.2, 0.2)


@pytest.mark.parametrize(
    ("predictions", "truth", "iou", "expected"),
    [
        ([label("a", A, 0.9)], [label("a", A)], 0.5, [0]),  # same box
        ([label("a", A_80, 0.9)], [label("a", A)], 0.5, [0]),  # overlaps enough
        ([label("a", A_33, 0.9)], [label("a", A)], 0.5, [-1]),  # overlaps too little
        ([label("a", A_33, 0.9)], [label("a", A)], 0.3, [0]),  # enough for a lower threshold
        ([label("a", A, 0.9)], [label("a", A)], 1.0, [0]),  # a threshold of one accepts the same box
        ([label("b", A, 0.9)], [label("a", A)], 0.5, [-1]),  # other class
        ([label(None, A, 0.9)], [label("a", A)], 0.5, [-1]),  # no class
        ([label("a", A, 0.9, image=1)], [label("a", A)], 0.5, [-1]),  # other image
        (
            [label("a", A, 0.5), label("a", A_80, 0.9)],
            [label("a", A)],
            0.5,
            [-1, 0],
        ),  # the confident one chooses
        ([label("a", A, None), label("a", A_80, 0.1)], [label("a", A)], 0.5, [-1, 0]),  # none chooses last
        ([label("a", A, 0.0), label("a", A_80)], [label("a", A)], 0.5, [0, -1]),  # zero counts as none
        ([label("a", A, float("nan")), label("a", A_80, 0.1)], [label("a", A)], 0.5, [-1, 0]),  # NaN is none
        ([label("a", A, 0.9)], [label("a", A_60), label("a", A_80)], 0.5, [1]),  # the better overlap
        (
            [label("a", A, 0.9)],
            [label("a", A_80), label("a", A_80)],
            0.5,
            [1],
        ),  # equal overlaps: the later one
        (
            [label("a", A, 0.9), label("a", A, 0.8)],
            [label("a", A), label("a", A_60)],
            0.5,
            [0, 1],
        ),  # second best
        (
            [label("a", A, 0.9), label("a", A, 0.8)],
            [label("a", A, iscrowd=1)],
            0.5,
            [0, 0],
        ),  # a crowd takes many
        (
            [label("a", A, 0.9)],
            [label("a", A, iscrowd=1), label("a", A_60)],
            0.5,
            [1],
        ),  # one object before a crowd
        ([label("a", (0.1, 0.1, 0, 0.2), 0.9)], [label("a", (0.1, 0.1, 0, 0.2))], 0.5, [-1]),  # no area
        ([], [label("a", A)], 0.5, []),  # nothing predicted
        ([label("a", A, 0.9)], [], 0.5, [-1]),  # nothing there
        ([], [], 0.5, []),  # nothing at all
    ],
)
def test_match(predictions: list[Any], truth: list[Any], iou: float, expected: list[int]) -> None:
    outcome = evaluation.match(table(*predictions), table(*truth), iou)
    assert outcome.truth.tolist() == expected
    for position, partner in enumerate(outcome.prediction.tolist()):
        assert partner == -1 or expected[partner] == position


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"iscrowd": 1}, True),  # dynamic attribute
        ({"iscrowd": True}, True),
        ({"iscrowd": 0}, False),
        ({"iscrowd": None}, False),
        ({"iscrowd": float("nan")}, False),
        ({}, False),
        ({"attributes": {"iscrowd": {"value": 1}}}, True),  # where old datasets have it
    ],
)
def test_crowd_flag_is_read_where_fiftyone_looks(attributes: dict[str, Any], expected: bool) -> None:
    assert table(label("a", A, **attributes)).crowd.tolist() == [expected]


def test_detection_metrics_by_hand() -> None:
    predictions = table(label("a", A, 0.9), label("a", FAR, 0.8), label("b", A, 0.7))
    truth = table(label("a", A), label("b", FAR), label("c", FAR))
    metrics = evaluation.detection_metrics(evaluation.Comparison(predictions, truth))
    per_class = {row["label"]: row for row in metrics.pop("per_class")}
    assert metrics == {
        "precision": pytest.approx(1 / 3),
        "recall": pytest.approx(1 / 3),
        "f1": pytest.approx(1 / 3),
        "tp": 1,
        "fp": 2,
        "fn": 2,
        "labels": 3,
    }
    assert per_class["a"] | {"f1": None} == {
        "label": "a", "support": 1, "precision": 0.5, "recall": 1.0, "f1": None, "tp": 1, "fp": 1, "fn": 0,
    }  # fmt: skip
    assert per_class["c"]["precision"] is None  # nothing predicted: nothing to divide by
    assert per_class["c"]["recall"] == 0.0


@pytest.mark.parametrize(
    ("predictions", "truth"),
    [([], []), ([], [label("a", A)]), ([label("a", A, 0.5)], [])],
    ids=["nothing", "nothing predicted", "nothing there"],
)
def test_figures_without_anything_to_measure_are_none(predictions: list[Any], truth: list[Any]) -> None:
    comparison = evaluation.Comparison(table(*predictions), table(*truth))
    metrics = evaluation.detection_metrics(comparison)
    assert metrics["precision"] == (0.0 if predictions else None)
    assert metrics["recall"] == (0.0 if truth else None)
    assert metrics["f1"] is None
    images = evaluation.Images(np.array([ObjectId()], dtype=object), np.array([[8.0, 8.0]]), np.array([True]))
    figures, by_class = evaluation.coco_figures(comparison.predictions, comparison.truth, images)
    assert set(figures) == set(evaluation.COCO_FIGURES)
    assert figures["AP"] == (0.0 if truth else None)
    assert evaluation.sweep(comparison).mean_ap() == figures["AP"]
    assert by_class == evaluation.sweep(comparison).class_ap()
    assert evaluation.precision_recall_points(comparison)["recall"] == []


def test_precision_recall_points_take_equal_confidences_together() -> None:
    predictions = table(label("a", A, 0.9), label("a", FAR, 0.9), label("b", FAR, 0.5), label("b", A))
    truth = table(label("a", A), label("b", FAR))
    points = evaluation.precision_recall_points(evaluation.Comparison(predictions, truth))
    assert points == {
        "recall": [0.5, 1.0, 1.0],
        "precision": [0.5, pytest.approx(2 / 3), 0.5],
        "confidence": [0.9, 0.5, 0.0],
    }


def test_many_labels_give_few_points() -> None:
    predictions, truth = random_labels(3, images=40)
    points = evaluation.precision_recall_points(evaluation.Comparison(predictions, truth), points=20)
    assert 10 < len(points["recall"]) <= 21
    assert points["recall"] == sorted(points["recall"])


def random_labels(
    seed: int, images: int = 30, *, crowds: bool = False, ties: bool = False, missing: bool = False
) -> tuple[evaluation.LabelTable, evaluation.LabelTable]:
    predicted, truth = random_rows(seed, images, crowds=crowds, ties=ties, missing=missing)
    return table(*predicted), table(*truth)


def random_rows(
    seed: int, images: int = 30, *, crowds: bool = False, ties: bool = False, missing: bool = False
) -> tuple[list[tuple[int, dict[str, Any]]], list[tuple[int, dict[str, Any]]]]:
    """Few classes and large boxes, so that labels compete; ``missing`` leaves out some confidences."""
    rng = np.random.default_rng(seed)
    predicted, truth = [], []
    for image in range(images):
        for _ in range(rng.integers(0, 12)):
            name = "abc"[rng.integers(3)]
            size = rng.uniform(0.05, 0.6, 2)
            box = (*(rng.uniform(0, 1, 2) * (1 - size)), *size)
            if rng.random() < 0.9:
                extra = {"iscrowd": int(rng.random() < 0.3)} if crowds else {}
                truth.append(label(name, box, image=image, **extra))
            for _ in range(rng.integers(0, 4)):
                moved = tuple(float(v) for v in np.array(box) + rng.normal(0, 0.02, 4).clip(-0.04, 0.04))
                confidence = float(rng.beta(2, 2))
                if ties:
                    confidence = round(confidence, 1)
                if missing and rng.random() < 0.2:
                    confidence = None
                named = name if rng.random() < 0.9 else "d"
                predicted.append(label(named, moved, confidence, image=image, run=RUN, source="auto"))
    return predicted, truth


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("options", [{}, {"crowds": True}, {"ties": True}], ids=["plain", "crowds", "ties"])
def test_average_precision_equals_pycocotools(seed: int, options: dict[str, bool]) -> None:
    predictions, truth = random_labels(seed, **options)
    images = images_of(30)
    figures, by_class = evaluation.coco_figures(predictions, truth, images)
    oracle = pycocotools(predictions, truth, 30)
    expected = [None if v < 0 else pytest.approx(v, abs=1e-12) for v in oracle.stats]
    assert list(figures.values()) == expected
    curves = evaluation.sweep(evaluation.Comparison(predictions, truth))
    precision = oracle.eval["precision"][:, :, :, 0, -1].transpose(0, 2, 1)
    np.testing.assert_allclose(curves.precision, precision, atol=1e-12)
    np.testing.assert_allclose(curves.recall, oracle.eval["recall"][:, :, 0, -1], atol=1e-12)
    assert curves.mean_ap() == expected[0]
    assert curves.mean_ap(0) == expected[1]
    assert curves.class_ap() == {c: pytest.approx(v) if v is not None else None for c, v in by_class.items()}


def test_only_the_hundred_most_confident_labels_count_for_average_precision() -> None:
    boxes = [(0.01 * i, 0.0, 0.005, 0.005) for i in range(100)] + [FAR]
    predictions = table(*(label("a", box, 1 - i / 200) for i, box in enumerate(boxes)))
    truth = table(label("a", FAR))
    assert evaluation.match(predictions, truth).prediction.tolist() == [100]
    assert evaluation.sweep(evaluation.Comparison(predictions, truth)).mean_ap() == 0.0
    assert evaluation.coco_figures(predictions, truth, images_of(1))[0]["AP"] == 0.0


def test_figures_by_area_need_sizes() -> None:
    predictions, truth = random_labels(1)
    images = images_of(30)
    images.sizes[3] = np.nan
    figures, _ = evaluation.coco_figures(predictions, truth, images)
    assert figures["AP_small"] is None
    assert figures["AR_large"] is None
    mean = evaluation.sweep(evaluation.Comparison(predictions, truth)).mean_ap()
    assert figures["AP"] == pytest.approx(mean, abs=1e-12)


def test_pairs_are_compared_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    predictions, truth = random_labels(5)
    whole = evaluation.match(predictions, truth)
    monkeypatch.setattr("valflow.evaluation.matching._PAIR_BLOCK", 7)
    parts = evaluation.match(predictions, truth)
    assert parts.truth.tolist() == whole.truth.tolist()


def images_of(count: int) -> evaluation.Images:
    ids = np.empty(count, dtype=object)
    ids[:] = [ObjectId() for _ in range(count)]
    return evaluation.Images(
        ids, np.tile([float(WIDTH), float(HEIGHT)], (count, 1)), np.ones(count, dtype=bool)
    )


def pycocotools(predictions: evaluation.LabelTable, truth: evaluation.LabelTable, images: int) -> COCOeval:
    names = sorted({*predictions.label, *truth.label})
    sides = []
    for labels in (truth, predictions):
        coco = COCO()
        scale = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
        coco.dataset = {
            "images": [{"id": i, "width": WIDTH, "height": HEIGHT} for i in range(1, images + 1)],
            "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)],
            "annotations": [
                {
                    "id": i + 1,
                    "image_id": int(labels.sample[i]) + 1,
                    "category_id": names.index(labels.label[i]) + 1,
                    "bbox": (labels.boxes[i] * scale).tolist(),
                    "area": float((labels.boxes[i] * scale)[2:].prod()),
                    "iscrowd": int(labels.crowd[i]),
                    "score": float(labels.confidence[i]),
                }
                for i in range(len(labels))
            ],
        }
        coco.createIndex()
        sides.append(coco)
    oracle = COCOeval(*sides, "bbox")
    oracle.evaluate()
    oracle.accumulate()
    oracle.summarize()
    return oracle


# Stored in FiftyOne


@pytest.fixture
def make_dataset(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Builds datasets with raw labels in ``final`` and ``truth``, and deletes them afterwards."""

    def make(
        predicted: list[tuple[int, dict[str, Any]]],
        truth: list[tuple[int, dict[str, Any]]],
        images: int,
        *,
        unannotated: tuple[int, ...] = (),
        unlabelled: tuple[int, ...] = (),
    ) -> Any:
        dataset = fo.Dataset(f"evaluation_{uuid.uuid4().hex}")
        request.addfinalizer(dataset.delete)
        metadata = fo.ImageMetadata(width=WIDTH, height=HEIGHT)
        dataset.add_samples([fo.Sample(f"/nowhere/{i}.png", metadata=metadata) for i in range(images)])
        for field in ("final", "truth"):
            dataset.add_sample_field(field, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
        for attribute in ("run", "source"):
            dataset.add_sample_field(f"final.detections.{attribute}", fo.StringField)
        collection = database.samples_of(dataset)
        for place, sample_id in enumerate(dataset.values("_id")):
            fields = {}
            for field, rows, without in (("final", predicted, unlabelled), ("truth", truth, unannotated)):
                if place not in without:
                    labels = [entry for image, entry in rows if image == place]
                    fields[field] = {"_cls": "Detections", "detections": labels}
            if fields:
                collection.update_one({"_id": sample_id}, {"$set": fields})
        dataset.reload()
        return dataset

    return make


def enter_ledger(
    dataset: Any, run: str = RUN, discarded: dict[int, list[dict[str, Any]]] | None = None
) -> None:
    """The ledger of a run that predicted the labels in the field and, per image, some that were rejected."""
    entries = []
    for place, document in enumerate(database.samples_of(dataset).find()):
        approved = (document.get("final") or {}).get("detections", [])
        rejected = (discarded or {}).get(place, [])
        states = [{"state": "approved"}] * len(approved) + [{"state": "rejected"}] * len(rejected)
        entries.append(
            {
                "run": run,
                "sample_id": document["_id"],
                "status": "labelled" if approved or rejected else "empty",
                "labels": states,
                "predicted": approved + rejected,
            }
        )
    database.ledger().insert_many(entries)


@pytest.fixture(autouse=True)
def _clean_ledger() -> Any:
    yield
    database.ledger().delete_many({"run": RUN})


def marks_of(dataset: Any, key: str) -> dict[str, Any]:
    """Everything that an evaluation wrote on labels and samples."""
    found = {}
    for document in database.samples_of(dataset).find():
        for suffix in ("tp", "fp", "fn"):
            found[document["_id"], suffix] = document.get(f"{key}_{suffix}")
        for field in ("final", "truth"):
            for entry in (document.get(field) or {}).get("detections", []):
                found[entry["_id"]] = tuple(entry.get(k, "absent") for k in (key, f"{key}_id", f"{key}_iou"))
    return found


@pytest.mark.parametrize("iou", [0.3, 0.5, 0.75])
@pytest.mark.parametrize(
    "options",
    [{}, {"crowds": True}, {"ties": True}, {"missing": True}],
    ids=["plain", "crowds", "ties", "missing confidences"],
)
def test_marks_and_results_equal_fiftyone(
    make_dataset: Callable[..., Any], iou: float, options: dict[str, bool]
) -> None:
    has_map = "missing" not in options  # FiftyOne refuses mAP when a confidence is missing
    dataset = make_dataset(*random_rows(7, 10, **options), 10, unlabelled=(3,))
    ids = dataset.values("id")
    metrics = evaluation.evaluate(dataset, "final", "truth", "ours", run_key=RUN, iou=iou, sample_ids=ids)
    theirs = dataset.evaluate_detections(
        "final", "truth", "theirs", method="coco", iou=iou, compute_mAP=has_map
    )
    assert marks_of(dataset, "ours") == marks_of(dataset, "theirs")
    mine = dataset.load_evaluation_results("ours", cache=False)
    assert type(mine).__name__ == "COCODetectionResults"
    assert mine.report() == theirs.report()
    assert mine.metrics()["precision"] == metrics["run"]["approved"]["precision"]
    mine.print_report()
    assert match_set(mine) == match_set(theirs)
    if has_map:
        assert mine.mAP() == theirs.mAP()
        assert mine.mAR() == theirs.mAR()
        np.testing.assert_array_equal(mine.precision, theirs.precision)
        np.testing.assert_array_equal(mine.thresholds, theirs.thresholds)
        assert list(mine.classes) == list(theirs.classes)
    if options == {}:
        assert metrics["run"]["approved"]["mAP"] == pytest.approx(theirs.mAP(), abs=1e-12)
        assert metrics["dataset"]["approved"]["mAP"] == pytest.approx(theirs.mAP(), abs=1e-12)


def match_set(results: Any) -> set[tuple[Any, ...]]:
    columns = (
        results.ytrue,
        results.ypred,
        results.ious,
        results.confs,
        results.ytrue_ids,
        results.ypred_ids,
    )
    return set(zip(*(column.tolist() for column in columns), strict=True))


def test_fiftyone_finds_the_evaluation(make_dataset: Callable[..., Any]) -> None:
    dataset = make_dataset(*random_rows(1, 6), 6)
    before = dataset.values("last_modified_at")
    evaluation.evaluate(dataset, "final", "truth", "val_eval", run_key=RUN, sample_ids=dataset.values("id"))
    assert dataset.list_evaluations() == ["val_eval"]
    assert dataset.load_evaluation_view("val_eval").values("id") == dataset.values("id")
    config = dataset.get_evaluation_info("val_eval").config
    assert (config.pred_field, config.gt_field, config.method) == ("final", "truth", "coco")
    assert dataset.count("final.detections.val_eval") == dataset.count("final.detections")
    assert dataset.get_field("truth.detections.val_eval_iou") is not None
    assert all(now > then for now, then in zip(dataset.values("last_modified_at"), before, strict=True))
    assert dataset.match_tags("x").count() == 0  # the dataset still loads
    assert len(dataset.to_evaluation_patches("val_eval")) > 0
    assert "val_eval" in [group.name for group in dataset.app_config.sidebar_groups]
    dataset.delete_evaluation("val_eval")
    assert dataset.get_field("val_eval_tp") is None


@pytest.mark.parametrize("again", ["evaluated", "removed"])
def test_a_database_that_is_away_while_an_evaluation_is_deleted_leaves_no_fields_of_nobody(
    make_dataset: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    dataset = make_dataset(*random_rows(1, 6), 6)

    def evaluate() -> None:
        ids = dataset.values("id")
        evaluation.evaluate(dataset, "final", "truth", "val_eval", run_key=RUN, sample_ids=ids)

    evaluate()
    with monkeypatch.context() as patch:
        patch.setattr(type(dataset), "delete_sample_fields", raise_away)
        with pytest.raises(AutoReconnect):
            evaluate()
    if again == "evaluated":
        evaluate()
        assert dataset.list_evaluations() == ["val_eval"]
    else:
        storing.remove_evaluation(dataset, "val_eval", RUN)
        assert dataset.get_field("val_eval_tp") is None
        assert not dataset.list_evaluations()


def raise_away(*_: Any, **__: Any) -> None:
    raise AutoReconnect("the database is away")


def test_only_annotated_images_of_the_run_are_stored(make_dataset: Callable[..., Any]) -> None:
    dataset = make_dataset(*random_rows(2, 10), 10, unannotated=(1, 8))
    ids = dataset.values("id")
    metrics = evaluation.evaluate(dataset, "final", "truth", "ours", run_key=RUN, sample_ids=ids[:5])
    wanted = [i for place, i in enumerate(ids[:5]) if place != 1]
    assert dataset.load_evaluation_view("ours").values("id") == wanted
    assert (metrics["run"]["images"], metrics["run"]["images_without_ground_truth"]) == (4, 1)
    assert (metrics["dataset"]["images"], metrics["dataset"]["images_without_ground_truth"]) == (8, 2)
    theirs = dataset.select(wanted).evaluate_detections("final", "truth", "theirs", compute_mAP=True)
    assert marks_of(dataset, "ours") == marks_of(dataset, "theirs")
    assert dataset.load_evaluation_results("ours", cache=False).mAP() == theirs.mAP()
    whole = dataset.exists("truth").evaluate_detections("final", "truth", compute_mAP=True)
    assert metrics["dataset"]["approved"]["mAP"] == pytest.approx(whole.mAP(), abs=1e-12)


def test_repeating_replaces_only_what_we_wrote(make_dataset: Callable[..., Any]) -> None:
    dataset = make_dataset(*random_rows(3, 8), 8)
    ids = dataset.values("id")
    dataset.evaluate_detections("final", "truth", "mine")
    first = evaluation.evaluate(dataset, "final", "truth", "ours", run_key=RUN, sample_ids=ids)
    mine = marks_of(dataset, "mine")
    evaluation.evaluate(dataset, "final", "truth", "ours", run_key="later", iou=0.9, sample_ids=ids[:3])
    assert dataset.load_evaluation_view("ours").values("id") == ids[:3]
    assert dataset.values("ours_tp")[3:] == [None] * 5
    again = evaluation.evaluate(dataset, "final", "truth", "ours", run_key=RUN, sample_ids=ids)
    assert again == first
    assert marks_of(dataset, "mine") == mine
    assert dataset.list_evaluations() == ["mine", "ours"]
    assert database.connection()[MARKS].count_documents({}) == 0


def test_an_evaluation_that_was_interrupted_is_repeated(make_dataset: Callable[..., Any]) -> None:
    dataset = make_dataset(*random_rows(3, 4), 4)
    method = coco_config("final", "truth", 0.5, RUN).build()
    method.register_run(dataset, "ours")  # and then the power went
    method.register_samples(dataset, "ours")
    evaluation.evaluate(dataset, "final", "truth", "ours", run_key=RUN, sample_ids=dataset.values("id"))
    assert dataset.load_evaluation_results("ours", cache=False).mAP() > 0


def test_labels_that_change_meanwhile_are_not_lost(make_dataset: Callable[..., Any]) -> None:
    dataset = make_dataset([label("a", A, 0.9), label("a", FAR, 0.8)], [label("a", A)], 1)
    images, predicted, truth = evaluation.read_labels(dataset, "final", "truth")
    collection = database.samples_of(dataset)
    drawn = label("a", FAR, 0.7)[1]
    collection.update_one({}, {"$push": {"final.detections": {"$each": [drawn], "$position": 0}}})
    collection.update_one({}, {"$pull": {"final.detections": {"_id": predicted.ids[1]}}})
    method = coco_config("final", "truth", 0.5, RUN).build()
    method.register_samples(dataset, "ours")
    write_marks(dataset, method.config, "ours", images, evaluation.Comparison(predicted, truth))
    found = collection.find_one()["final"]["detections"]
    assert [entry["_id"] for entry in found] == [drawn["_id"], predicted.ids[0]]
    assert found[0] == drawn  # a label that was not seen stays as it is
    assert found[1]["ours"] == "tp"


def test_samples_without_the_field_stay_without_it(make_dataset: Callable[..., Any]) -> None:
    dataset = make_dataset([], [label("a", A)], 2, unlabelled=(0, 1))
    evaluation.evaluate(dataset, "final", "truth", "ours", run_key=RUN, sample_ids=dataset.values("id"))
    assert dataset.exists("final").count() == 0
    assert dataset.values("ours_fn") == [1, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_field": "nothing"}, "no such field; its fields of that type: final, truth"),
        ({"ground_truth": "metadata"}, "found ImageMetadata"),
        ({"ground_truth": "filepath"}, "found another type"),
        ({"ground_truth": "final"}, "found 'final' twice"),
        ({"eval_key": "val eval"}, "expected an evaluation key that is a Python identifier"),
        ({"eval_key": "theirs"}, "that valflow did not make"),
        ({"eval_key": "user"}, "found user_tp"),
        ({"eval_key": "source"}, "found final.detections.source"),
        ({"iou": 0.0}, "above 0 and at most 1, found 0.0"),
        ({"iou": 1.5}, "found 1.5"),
        ({"sample_ids": "unannotated"}, "on some of the 1 images of run 'run_1', found none"),
        ({"sample_ids": []}, "on some of the 0 images"),
        ({"sample_ids": None, "run_key": "unknown"}, "on some of the 0 images of run 'unknown'"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_refusals_write_nothing(
    make_dataset: Callable[..., Any], arguments: dict[str, Any], message: str
) -> None:
    dataset = make_dataset(*random_rows(4, 4), 4, unannotated=(2,))
    dataset.evaluate_detections("final", "truth", "theirs")
    dataset.add_sample_field("user_tp", fo.IntField)
    ids = dataset.values("id")
    if arguments.get("sample_ids") == "unannotated":
        arguments = arguments | {"sample_ids": [ids[2]]}
    before = list(database.samples_of(dataset).find()), list(dataset.get_field_schema(flat=True))
    usual = {
        "label_field": "final",
        "ground_truth": "truth",
        "eval_key": "ours",
        "run_key": RUN,
        "sample_ids": ids,
    }
    with pytest.raises(EvaluationError, match=message):
        evaluation.evaluate(dataset, **(usual | arguments))
    dataset.reload()
    assert (list(database.samples_of(dataset).find()), list(dataset.get_field_schema(flat=True))) == before
    assert dataset.list_evaluations() == ["theirs"]


def test_metrics_of_approved_discarded_and_all(make_dataset: Callable[..., Any]) -> None:
    mine = {"run": RUN, "source": "auto"}
    predicted = [
        label("a", A, 0.9, **mine),  # right
        label("a", FAR, 0.8, **mine),  # wrong
        label("b", FAR, 0.7, image=1, run="earlier", source="auto"),  # of another run
    ]
    truth = [label("a", A), label("a", A, image=1), label("b", FAR, image=1), label("a", A, image=2)]
    dataset = make_dataset(predicted, truth, 3)
    discarded = {0: [label("a", A_80, 0.5)[1]], 1: [label("a", A, 0.4)[1]]}
    enter_ledger(dataset, discarded=discarded)
    # The other run's label was not predicted by this one.
    query = {"run": RUN, "predicted": {"$elemMatch": {"run": "earlier"}}}
    database.ledger().update_one(query, {"$pop": {"predicted": -1, "labels": -1}})
    metrics = evaluation.evaluate(dataset, "final", "truth", "ours", run_key=RUN)
    counts = {
        name: [metrics["run"][name][c] for c in ("tp", "fp", "fn")]
        for name in ("approved", "discarded", "all")
    }
    assert counts == {"approved": [1, 1, 3], "discarded": [2, 0, 2], "all": [2, 2, 2]}
    assert metrics["run"]["approved"]["precision"] == 0.5
    assert [metrics["dataset"]["approved"][c] for c in ("tp", "fp", "fn")] == [2, 1, 2]
    assert metrics["dataset"]["images_with_labels"] == 2
    assert metrics["run"]["ground_truth_labels"] == 4
    assert [row["label"] for row in metrics["run"]["per_class"]] == ["a", "b"]
    assert metrics["run"]["per_class"][1] == {
        "label": "b", "support": 1, "precision": None, "recall": 0.0, "f1": None,
        "tp": 0, "fp": 0, "fn": 1, "ap": 0.0,
    }  # fmt: skip
    assert dataset.count_values("final.detections.ours") == {"tp": 2, "fp": 1}  # the field as a whole
    json.dumps(metrics, allow_nan=False)


def test_classes_restrict_the_figures(make_dataset: Callable[..., Any]) -> None:
    predicted, truth = random_rows(6, 6)
    dataset = make_dataset(predicted, truth, 6)
    enter_ledger(dataset)
    metrics = evaluation.evaluate(dataset, "final", "truth", "ours", run_key=RUN, classes=["a", "z"])
    theirs = dataset.evaluate_detections("final", "truth", "theirs", classes=["a", "z"], compute_mAP=True)
    mine = dataset.load_evaluation_results("ours", cache=False)
    assert mine.report() == theirs.report()
    assert mine.mAP() == theirs.mAP()
    assert metrics["run"]["approved"]["mAP"] == pytest.approx(theirs.mAP(), abs=1e-12)
    assert [row["label"] for row in metrics["run"]["per_class"]] == ["a", "z"]
    assert metrics["run"]["all"] == metrics["run"]["approved"] | {
        "mAP": pytest.approx(theirs.mAP()),
        "mAP50": pytest.approx(metrics["run"]["approved"]["mAP50"]),
    }


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        (label("b", A, 0.9), {"cause": "wrong_class", "true_label": "a", "iou": 1.0}),
        (label("a", A_80, 0.5), {"cause": "duplicate"}),
        (label("c", (0.75, 0.6, 0.2, 0.2), 0.9), {"cause": "bad_box", "iou": pytest.approx(0.23, abs=0.01)}),
        (label("a", (0.4, 0.4, 0.1, 0.1), 0.9), {"cause": "not_an_object"}),
    ],
    ids=lambda value: value.get("cause") if isinstance(value, dict) else "",
)
def test_worst_errors_say_what_is_wrong(
    make_dataset: Callable[..., Any], predicted: tuple[int, dict[str, Any]], expected: dict[str, Any]
) -> None:
    right = label("a", A, 0.95, run=RUN)
    predicted[1]["run"] = RUN
    dataset = make_dataset([right, predicted], [label("a", A), label("c", FAR)], 1)
    metrics = evaluation.evaluate(
        dataset, "final", "truth", "ours", run_key=RUN, sample_ids=dataset.values("id")
    )
    wrong, missed = metrics["worst"]
    assert wrong == {
        "sample_id": dataset.first().id,
        "filepath": dataset.first().filepath,
        "label_id": str(predicted[1]["_id"]),
        "kind": "false_positive",
        "label": predicted[1]["label"],
        "confidence": predicted[1]["confidence"],
        "bounding_box": list(predicted[1]["bounding_box"]),
        **expected,
    }
    assert (missed["kind"], missed["label"], missed["confidence"]) == ("missed", "c", None)


def test_worst_errors_are_the_most_confident(make_dataset: Callable[..., Any]) -> None:
    predicted, truth = random_rows(8, 30)
    dataset = make_dataset(predicted, truth, 30)
    metrics = evaluation.evaluate(
        dataset, "final", "truth", "ours", run_key=RUN, sample_ids=dataset.values("id")
    )
    worst = [entry["confidence"] for entry in metrics["worst"]]
    assert len(worst) == 24
    wrong = dataset.filter_labels("final", fo.ViewField("ours") == "fp").values(
        "final.detections.confidence", unwind=True
    )
    assert worst == sorted(wrong, reverse=True)[:24]
