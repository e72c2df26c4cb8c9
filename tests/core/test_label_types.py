"""Every label type through all stages: what becomes final, and what each stage makes of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
import pytest
from bson import ObjectId

from tests.kinds import (
    BY_KIND,
    KINDS,
    Kind,
    everything_else,
    finalize,
    kind_config,
    make_kind,
    open_review,
    stored,
)
from valflow import (
    actions,
    app_edits,
    audit_sheet,
    audits,
    completeness,
    database,
    decisions,
    explaining,
    ledger,
    opening,
    promotion,
    reporting,
    rolling_back,
    run_exports,
    runs,
    undoing,
)
from valflow.errors import AuditError, ConfigError, DecisionRefused, LabelsVanished
from valflow.selections import Selection


@pytest.fixture(params=KINDS, ids=lambda k: k.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
def dataset(kind: Kind, tmp_path: Path) -> Iterator[Any]:
    dataset = make_kind(kind, tmp_path)
    yield dataset
    fo.delete_dataset(dataset.name)


def ids(run: str, **wanted: Any) -> list[str]:
    """Ids of the labels whose ledger entries hold these values, in order of samples."""
    return [
        str(e["_id"])
        for d in database.ledger().find({"run": run}).sort("sample_id", 1)
        for e in d.get("labels", [])
        if all(e.get(k) == v for k, v in wanted.items())
    ]


def in_review(dataset: Any, kind: Kind) -> dict[str, dict[str, Any]]:
    """The labels in the review field, by id."""
    labels = stored(dataset, "auto_in_review", kind.type.in_review).values()
    return {str(d["_id"]): d for d in itertools.chain.from_iterable(labels)}


def final(dataset: Any, kind: Kind) -> dict[str, dict[str, Any]]:
    """The labels in the label field, by id."""
    labels = stored(dataset, "auto", kind.type).values()
    return {str(d["_id"]): d for d in itertools.chain.from_iterable(labels)}


def edit_in_review(dataset: Any, kind: Kind, label_id: str, **changes: Any) -> None:
    """Change a label as a person does in the App: on its sample, which is saved."""
    dataset.reload()
    path = kind.type.in_review.list_path("auto_in_review")
    found = database.samples_of(dataset).find_one({f"{path}._id": ObjectId(label_id)}, {"_id": 1})
    assert found is not None
    sample = dataset[str(found["_id"])]
    label = next(d for d in sample["auto_in_review"][kind.type.in_review.list_name] if d.id == label_id)
    for name, value in changes.items():
        label[name] = value
    sample.save()


def remove_in_review(dataset: Any, kind: Kind, label_id: str) -> None:
    """Delete a label from the review field."""
    path = kind.type.in_review.list_path("auto_in_review")
    database.samples_of(dataset).update_one(
        {f"{path}._id": ObjectId(label_id)}, {"$pull": {path: {"_id": ObjectId(label_id)}}}
    )


def draw_in_review(dataset: Any, kind: Kind, sample_id: str, label: str = "cow") -> str:
    """Add a label by hand, as the App does: an id of its own, no confidence."""
    dataset.reload()
    sample, review = dataset[sample_id], kind.type.in_review
    drawn = kind.label(4, label)
    if sample["auto_in_review"] is None:
        sample["auto_in_review"] = review.fiftyone_class()()
    sample["auto_in_review"][review.list_name].append(drawn)
    sample.save()
    return str(drawn.id)


class TestTheWholeWay:
    def test_what_is_approved_becomes_final_and_nothing_else_changes(self, dataset: Any, kind: Kind) -> None:
        before = everything_else(dataset)
        predicted = {
            (str(s), d["label"]): d for s, found in stored(dataset, "pred", kind.type).items() for d in found
        }
        run = open_review(kind, dataset)
        record = runs.load(run)
        assert record["label_type"] == kind.name
        assert record["counts"]["predicted"] == kind.labels
        assert record["counts"]["approved"] == kind.labels // 2
        assert record["counts"]["invalid"] == 0
        assert dataset.count_label_tags("auto_in_review") == {"approved": kind.labels // 2}
        dogs, birds = ids(run, label="dog"), ids(run, label="bird")
        actions.approve(run, Selection(classes=("bird",)), "ann")
        actions.reject(run, Selection(label_ids=(dogs[0],)), "ann")
        edit_in_review(dataset, kind, birds[0], label="dog")
        record = finalize(run, dataset)
        assert record["counts"]["finalized"] == 8
        assert fo.load_dataset(dataset.name).get_field("auto").document_type is kind.type.fiftyone_class()
        labels = final(dataset, kind)
        assert set(labels) == {*ids(run, label="cat"), *dogs[1:], *birds}
        assert {labels[i]["source"] for i in ids(run, label="cat")} == {"auto"}
        assert (labels[birds[0]]["label"], labels[birds[0]]["source"]) == ("dog", "edited")
        assert [labels[i]["source"] for i in birds[1:]] == ["human", "human"]
        assert all(d["run"] == run and d["tags"] == [] for d in labels.values())
        compared = ("confidence", *kind.type.geometry)
        for sample, found in stored(dataset, "auto", kind.type).items():
            for label in found:
                was = predicted[sample, "bird" if str(label["_id"]) in birds else label["label"]]
                assert {k: label.get(k) for k in compared} == {k: was.get(k) for k in compared}
        assert everything_else(dataset, "auto") == before
        assert record["verification"]["changed_elsewhere_count"] == 0
        assert not dataset.has_field("auto_in_review")

    def test_figures_equal_those_of_fiftyone(self, dataset: Any, kind: Kind) -> None:
        from tasks.evaluate import measure_run

        run = open_review(kind, dataset)
        actions.approve(run, Selection(classes=("bird",)), "ann")
        finalize(run, dataset)
        metrics = measure_run(run)
        approved = metrics["run"]["approved"]
        assert (approved["tp"], approved["fp"]) == (6, 3)
        assert approved["precision"] == pytest.approx(6 / 9)
        assert metrics["run"]["all"]["tp"] == 9  # the ants would have been right, too
        assert runs.load(run)["metrics"] == runs.as_json(metrics)
        dataset.reload()
        if kind.name == "classifications":
            assert dataset.list_evaluations() == []
            assert metrics["run"]["accuracy"] == 0.0
            assert metrics["run"]["approved"]["mAP"] == pytest.approx(2 / 4)  # of cat, dog, ant and cow
            return
        ours = dataset.load_evaluation_results("val_eval")
        if kind.name == "classification":
            theirs = dataset.evaluate_classifications("auto", "ground_truth", eval_key="theirs")
            assert ours.report() == theirs.report()
            assert metrics["run"]["accuracy"] == pytest.approx(theirs.metrics()["accuracy"])
            assert dataset.values("val_eval") == [bool(v) for v in dataset.values("theirs")]
            confusion = {(r["true"], r["predicted"]): r["images"] for r in metrics["run"]["confusion"]}
            assert confusion["cat", "cat"] == 3
            assert confusion["dog", "bird"] == 3
            assert confusion["ant", "(none)"] == 3
            return
        theirs = dataset.evaluate_detections(
            "auto",
            "ground_truth",
            eval_key="theirs",
            method="coco",
            compute_mAP=True,
            use_masks=kind.type.needs_masks,
        )
        assert ours.report() == theirs.report()
        assert approved["mAP"] == pytest.approx(theirs.mAP())
        for part in ("_tp", "_fp", "_fn"):
            assert dataset.values(f"val_eval{part}") == dataset.values(f"theirs{part}")

    def test_the_report_shows_its_labels(self, dataset: Any, kind: Kind) -> None:
        from tasks.evaluate import measure_run

        run = open_review(kind, dataset)
        finalize(run, dataset)
        measure_run(run)
        artifacts = reporting.write_run_report(runs.load(run))
        page = Path(artifacts["report"]).read_text(encoding="utf-8")
        assert "Evaluation against ground truth" in page
        assert ("IoU" in page) == kind.type.has_boxes
        assert ("What was taken for what" in page) == kind.type.is_single

    def test_why_knows_the_label_to_its_end(self, dataset: Any, kind: Kind) -> None:
        run = open_review(kind, dataset)
        finalize(run, dataset)
        cat = ids(run, label="cat")[0]
        facts = explaining.explain(cat)
        assert facts["final"]["label"] == "cat"
        assert facts["predicted"]["confidence"] == 0.95

    def test_a_crash_in_the_middle_of_the_promotion_is_gone_over(
        self, dataset: Any, kind: Kind, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from tasks.validate import pass_gate

        run = open_review(kind, dataset)
        decisions.submit(run, decisions.Decision("finalize", "ann"))
        pass_gate(run)
        monkeypatch.setattr(promotion, "BATCH", 1)

        def die(_: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            promotion.promote(runs.load(run), dataset, die)
        assert len(final(dataset, kind)) == kind.labels // 2 // (6 if kind.type.is_single else 3)
        record = promotion.promote(runs.load(run), dataset)
        assert record["state"] == "FINALIZED"
        assert set(final(dataset, kind)) == set(ids(run, state="approved"))


class TestRollback:
    def test_takes_out_exactly_what_the_run_brought(self, dataset: Any, kind: Kind) -> None:
        before = everything_else(dataset)
        run = open_review(kind, dataset)
        finalize(run, dataset)
        rolling_back.roll_back(run, "ann")
        dataset.reload()
        assert everything_else(dataset) == before
        assert not dataset.has_field("auto")

    @pytest.mark.parametrize("including_edited", [False, True], ids=["kept", "taken"])
    def test_what_somebody_edited_since(self, dataset: Any, kind: Kind, including_edited: bool) -> None:
        run = open_review(kind, dataset)
        finalize(run, dataset)
        cat = ids(run, label="cat")[0]
        path = kind.type.path("auto")
        update: dict[str, Any] = {"$set": {f"{path}.label": "tiger"}}
        filters = None
        if not kind.type.is_single:
            update, filters = {"$set": {f"{path}.$[l].label": "tiger"}}, [{"l._id": ObjectId(cat)}]
        database.samples_of(dataset).update_one({f"{path}._id": ObjectId(cat)}, update, array_filters=filters)
        rolling_back.roll_back(run, "ann", including_edited=including_edited)
        dataset.reload()
        assert set(final(dataset, kind)) == (set() if including_edited else {cat})
        assert dataset.has_field("auto") != including_edited

    def test_a_run_is_taken_back_into_its_review(self, dataset: Any, kind: Kind) -> None:
        run = open_review(kind, dataset)
        cat = ids(run, label="cat")[0]
        edit_in_review(dataset, kind, cat, label="cow")
        finalize(run, dataset)
        before = final(dataset, kind)
        rolling_back.roll_back(run, "ann", reopen=True)
        dataset.reload()
        assert not dataset.has_field("auto")
        assert in_review(dataset, kind)[cat]["label"] == "cow"
        assert len(in_review(dataset, kind)) == kind.labels
        finalize(run, dataset)
        assert {i: d["label"] for i, d in final(dataset, kind).items()} == {
            i: d["label"] for i, d in before.items()
        }

    def test_a_rollback_is_taken_back_from_its_copy(self, dataset: Any, kind: Kind) -> None:
        run = open_review(kind, dataset)
        finalize(run, dataset)
        before = final(dataset, kind)
        rolling_back.roll_back(run, "ann")
        assert final(dataset, kind) == {}
        rolling_back.roll_back(run, "ann", from_copy="latest")
        assert final(dataset, kind) == before

    def test_leaves_labels_of_others_in_a_field_of_theirs(self, dataset: Any, kind: Kind) -> None:
        dataset.add_sample_field(
            "auto", fo.EmbeddedDocumentField, embedded_doc_type=kind.type.fiftyone_class()
        )
        sample = dataset.first()
        sample["auto"] = kind.value([kind.label(4, "cow")])
        sample.save()
        before, theirs = everything_else(dataset), set(final(dataset, kind))
        run = open_review(kind, dataset, append=True)
        record = finalize(run, dataset)
        assert theirs < set(final(dataset, kind))
        assert (
            record["counts"]["finalized"] == (kind.labels - 1) // 2
            if kind.type.is_single
            else kind.labels // 2
        )
        rolling_back.roll_back(run, "ann")
        assert everything_else(dataset) == before
        assert set(final(dataset, kind)) == theirs


class TestDestructiveCases:
    def test_a_label_that_vanished_stops_the_finalization(self, dataset: Any, kind: Kind) -> None:
        run = open_review(kind, dataset)
        cat = ids(run, label="cat")[0]
        remove_in_review(dataset, kind, cat)
        with pytest.raises(LabelsVanished, match=cat):
            decisions.submit(run, decisions.Decision("finalize", "ann"))
        actions.reject(run, Selection(label_ids=(cat,)), "ann")
        assert finalize(run, dataset)["counts"]["finalized"] == kind.labels // 2 - 1

    def test_tags_that_a_person_put_on_are_taken_over(self, dataset: Any, kind: Kind) -> None:
        run = open_review(kind, dataset)
        ants, cats = ids(run, label="ant"), ids(run, label="cat")
        edit_in_review(dataset, kind, ants[0], tags=["approved"])
        edit_in_review(dataset, kind, cats[0], tags=["approved", "rejected"])
        found = app_edits.read_edits(run)
        assert (found.approved, found.rejected) == (1, 1)
        assert set(finalize(run, dataset) and final(dataset, kind)) == {
            ants[0],
            *cats[1:],
            *ids(run, label="dog"),
        }

    def test_a_label_drawn_by_hand_becomes_final(self, dataset: Any, kind: Kind) -> None:
        run = open_review(kind, dataset)
        empty = str(dataset.last().id)
        drawn = draw_in_review(dataset, kind, empty)
        assert app_edits.read_edits(run).drawn == 1
        finalize(run, dataset)
        assert final(dataset, kind)[drawn]["source"] == "human"

    def test_problem_tags_stay_on_label_and_sample(self, dataset: Any, kind: Kind) -> None:
        run = open_review(kind, dataset)
        cat, ant = ids(run, label="cat")[0], ids(run, label="ant")[0]
        actions.tag(run, "wrong_class", Selection(label_ids=(cat, ant)), "ann")
        assert dataset.count_label_tags("auto_in_review")["wrong_class"] == 2
        finalize(run, dataset)
        assert final(dataset, kind)[cat]["tags"] == ["wrong_class"]
        assert len(dataset.match_tags("wrong_class")) == (2 if kind.type.is_single else 1)
        assert dataset.has_saved_view("wrong_class")

    def test_undo_takes_everything_back(self, dataset: Any, kind: Kind) -> None:
        run = open_review(kind, dataset)
        before = in_review(dataset, kind)
        actions.approve(run, Selection(all=True), "ann")
        actions.tag(run, "ambiguous", Selection(all=True), "ann")
        undoing.undo(run, "ann")
        undoing.undo(run, "ann")
        assert in_review(dataset, kind) == before

    def test_a_discarded_run_leaves_nothing(self, dataset: Any, kind: Kind) -> None:
        before = everything_else(dataset)
        run = open_review(kind, dataset)
        decisions.submit(run, decisions.Decision("discard", "ann"))
        dataset.reload()
        assert everything_else(dataset) == before
        assert not dataset.has_field("auto_in_review")

    def test_a_class_that_is_none_of_the_allowed_reopens_the_review(self, dataset: Any, kind: Kind) -> None:
        from tasks.validate import pass_gate

        run = open_review(kind, dataset)
        cat = ids(run, label="cat")[0]
        edit_in_review(dataset, kind, cat, label="unicorn")
        decisions.submit(run, decisions.Decision("finalize", "ann"))
        assert not pass_gate(run).passed
        assert runs.load(run)["state"] == "IN_REVIEW"
        assert ids(run, state="undecided", label="cat") == [cat]
        assert "invalid" in in_review(dataset, kind)[cat]["tags"]


class TestAudits:
    def test_the_spot_check_and_its_sheet(self, dataset: Any, kind: Kind) -> None:
        run = open_review(kind, dataset)
        audit = audits.draw(run, "ann", seed=1)
        assert audit_sheet.draw_sheet(runs.load(run), audit).is_file()
        first, *rest = [i["number"] for i in audit["items"]]
        if not kind.type.has_boxes:
            with pytest.raises(AuditError, match="'bad_box' is no verdict"):
                audits.judge(run, {first: "bad_box"}, "ann")
        audits.judge(run, {first: "wrong_class", **dict.fromkeys(rest, "correct")}, "ann")
        assert finalize(run, dataset)["counts"]["finalized"] == kind.labels // 2 - 1

    def test_images_that_are_searched_for_what_is_missing(self, dataset: Any, kind: Kind) -> None:
        run = open_review(kind, dataset, review={"completeness": {"images": 3}, "checklist": []})
        audit = completeness.drawn(run)
        assert audit is not None
        assert audit_sheet.draw_image_sheet(runs.load(run), audit).is_file()

    def test_ground_truth_judges_a_certificate(self, dataset: Any, kind: Kind) -> None:
        from valflow.truth import verdicts_by_truth

        run = open_review(kind, dataset, approval={"mode": "review_all"})
        entries = [
            (d["sample_id"], e) for d in database.ledger().find({"run": run}) for e in d.get("labels", [])
        ]
        items = [
            {"number": n, "label_id": e["_id"], "sample_id": sample, "label": e["label"]}
            for n, (sample, e) in enumerate(entries)
        ]
        verdicts = verdicts_by_truth(runs.load(run), items, "ground_truth")
        named = {i["label"]: verdicts[i["number"]] for i in items}
        assert named == {"cat": "correct", "dog": "correct", "ant": "correct", "bird": "wrong_class"}


def test_the_next_run_goes_on_with_the_field(kind: Kind, dataset: Any, tmp_path: Path) -> None:
    run = open_review(kind, dataset)
    finalize(run, dataset)
    dataset.clone_sample_field("pred", "other")
    again = opening.open_run(kind_config(kind, dataset))
    assert again.outcome == "nothing_new"
    changes = {"model": {"kind": "field", "field": "other"}, "target": {"only": "remaining"}}
    opened = opening.open_run(kind_config(kind, dataset, **changes))
    left = len(kind.rows) - (kind.labels // 2 if kind.type.is_single else len(kind.rows) - 1)
    assert opened.run is not None
    record = opening.prepare(runs.load(opened.run), dataset)
    assert record["target"]["samples"] == left


class TestOneLabelPerSample:
    """What only a single label per sample can get wrong."""

    @pytest.fixture
    def kind(self) -> Kind:
        return BY_KIND["classification"]

    def test_a_second_approved_label_is_refused_until_one_is_rejected(self, dataset: Any, kind: Kind) -> None:
        run = open_review(kind, dataset)
        drawn = draw_in_review(dataset, kind, str(dataset.first().id))
        with pytest.raises(DecisionRefused, match="have several approved labels"):
            decisions.submit(run, decisions.Decision("finalize", "ann"))
        actions.reject(run, Selection(label_ids=(ids(run, label="cat")[0],)), "ann")
        finalize(run, dataset)
        assert drawn in final(dataset, kind)

    def test_a_label_that_somebody_put_there_meanwhile_is_not_overwritten(
        self, dataset: Any, kind: Kind
    ) -> None:
        dataset.add_sample_field("auto", fo.EmbeddedDocumentField, embedded_doc_type=fo.Classification)
        run = open_review(kind, dataset, append=True)
        sample = dataset.first()
        sample["auto"] = fo.Classification(label="mine")
        sample.save()
        with pytest.raises(DecisionRefused, match=f"hold a label in 'auto' already: {sample.id}"):
            decisions.submit(run, decisions.Decision("finalize", "ann"))
        actions.reject(run, Selection(sample_ids=(sample.id,)), "ann")
        assert finalize(run, dataset)["counts"]["finalized"] == 5
        assert dataset[sample.id]["auto"].label == "mine"

    def test_all_samples_are_those_without_a_final_label(self, dataset: Any, kind: Kind) -> None:
        run = open_review(kind, dataset)
        finalize(run, dataset)
        opened = opening.open_run(kind_config(kind, dataset, target={"only": "all"}))
        assert opened.run is not None
        record = opening.prepare(runs.load(opened.run), dataset)
        assert record["target"]["samples"] == len(kind.rows) - 6


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (kind.name, wanted)
        for kind, wanted in [
            (BY_KIND["detections"], "csv"),
            (BY_KIND["detections"], "coco"),
            (BY_KIND["classifications"], "csv"),
            (BY_KIND["classifications"], "fiftyone"),
            (BY_KIND["classifications"], "fiftyone_classifications"),
            (BY_KIND["classification"], "csv"),
            (BY_KIND["classification"], "classification_tree"),
            (BY_KIND["classification"], "fiftyone_classifications"),
            (BY_KIND["classification"], "fiftyone"),
            (BY_KIND["instances"], "coco"),
            (BY_KIND["instances"], "fiftyone"),
        ]
    ],
)
def test_exports_are_read_back(name: str, wanted: str, tmp_path: Path) -> None:
    kind = BY_KIND[name]
    dataset = make_kind(kind, tmp_path)
    run = open_review(kind, dataset, export=[{"format": wanted, "dir": str(tmp_path / "exports")}])
    finalize(run, dataset)
    record = runs.load(run)
    (entry,) = run_exports.export_run(record, run_exports.missing_exports(record))
    assert (entry["labels"], entry["verified"]) == (kind.labels // 2, True)
    folder = Path(entry["dir"])
    if wanted == "csv":
        lines = (folder / "labels.csv").read_text().splitlines()
        assert lines[0] == "image,label,confidence" + (",x,y,width,height" if kind.type.has_boxes else "")
        assert len(lines) == 1 + kind.labels // 2
    if wanted == "classification_tree":
        read = fo.Dataset.from_dir(str(folder), fo.types.ImageClassificationDirectoryTree, label_field="auto")
        assert read.count_values("auto.label") == {"cat": 3, "dog": 3}


@pytest.mark.parametrize(
    ("name", "wanted", "why"),
    [
        ("classifications", "coco", "it holds boxes, and these labels have none"),
        ("classifications", "classification_tree", "it holds one class for an image"),
        ("classification", "yolov5", "it holds boxes, and these labels have none"),
        ("instances", "yolov5", "the masks would be lost"),
        ("instances", "csv", "the masks would be lost"),
        ("detections", "fiftyone_classifications", "the boxes would be lost"),
    ],
)
def test_formats_that_would_lose_something_are_refused(
    name: str, wanted: str, why: str, tmp_path: Path
) -> None:
    dataset = make_kind(BY_KIND[name], tmp_path)
    with pytest.raises(ConfigError, match=why):
        opening.open_run(kind_config(BY_KIND[name], dataset, export=[{"format": wanted}]))
    assert runs.list_runs(dataset.name) == []


@pytest.mark.parametrize(
    ("name", "why"),
    [("../up", "names of folders"), ("a/b", "names of folders"), ("CAT", "upper and lower case")],
)
def test_a_folder_per_class_takes_no_class_out_of_its_place(name: str, why: str, tmp_path: Path) -> None:
    from valflow.errors import ExportError
    from valflow.exporting import export_labels

    dataset = make_kind(BY_KIND["classification"], tmp_path)
    sample = dataset.last()
    sample["pred"] = fo.Classification(label=name)
    sample.save()
    with pytest.raises(ExportError, match=why):
        export_labels(dataset, "pred", "classification_tree", tmp_path / "out", "r", scope="field")
    assert list(tmp_path.rglob("up")) == []


class TestRefusals:
    """What cannot work is told before anything is written."""

    @pytest.fixture
    def dataset(self, tmp_path: Path) -> Any:
        dataset = make_kind(BY_KIND["classification"], tmp_path)
        sample = dataset.first()
        sample["lines"] = fo.Polylines(polylines=[fo.Polyline(label="road", points=[[(0, 0), (1, 1)]])])
        sample["points"] = fo.Keypoints(keypoints=[fo.Keypoint(label="eye", points=[(0.5, 0.5)])])
        sample["pixels"] = fo.Segmentation(mask_path="/nowhere.png")
        sample["number"] = fo.Regression(value=1.0)
        sample["heat"] = fo.Heatmap(map_path="/nowhere.png")
        sample["span"] = fo.TemporalDetections(detections=[fo.TemporalDetection(label="a", support=[1, 2])])
        sample["boxes"] = fo.Detections(detections=[fo.Detection(label="cat", bounding_box=[0, 0, 1, 1])])
        sample["box"] = fo.Detection(label="cat", bounding_box=[0, 0, 1, 1])
        sample.save()
        return dataset

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"model": {"kind": "field", "field": "lines"}}, "outlines"),
            ({"model": {"kind": "field", "field": "points"}}, "points"),
            ({"model": {"kind": "field", "field": "pixels"}}, "a map of pixels has no single labels"),
            ({"model": {"kind": "field", "field": "number"}}, "a number has no class"),
            ({"model": {"kind": "field", "field": "heat"}}, "a map of values"),
            ({"model": {"kind": "field", "field": "span"}}, "videos"),
            ({"model": {"kind": "field", "field": "box"}}, "put it into Detections"),
            ({"label_type": "classifications"}, "expected a field of Classifications"),
            ({"evaluation": {"ground_truth": "boxes"}}, "expected a field of Classification,"),
            ({"label_field": "boxes", "append": True}, "expected a field of Classification,"),
            ({"label_type": "polylines"}, "label_type: input should be 'auto', 'detections'"),
        ],
        ids=lambda v: None if isinstance(v, dict) else v.split()[-1],
    )
    def test_unsupported(self, dataset: Any, changes: dict[str, Any], why: str) -> None:
        settings = {"label_type": "auto", "evaluation": None, **changes}
        with pytest.raises(ConfigError, match=why):
            opening.open_run(kind_config(BY_KIND["classification"], dataset, **settings))
        assert runs.list_runs(dataset.name) == []

    def test_a_field_keeps_its_type(self, tmp_path: Path) -> None:
        kind = BY_KIND["instances"]
        dataset = make_kind(kind, tmp_path)
        run = open_review(kind, dataset)
        finalize(run, dataset)
        with pytest.raises(ConfigError, match="was made for labels of the type 'instances'"):
            opening.open_run(kind_config(kind, dataset, label_type="detections", target={"only": "all"}))


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_auto_takes_the_type_of_the_predictions(kind: Kind, tmp_path: Path) -> None:
    dataset = make_kind(kind, tmp_path)
    opened = opening.open_run(kind_config(kind, dataset, label_type="auto"))
    assert opened.run is not None
    record = opening.prepare(runs.load(opened.run), dataset)
    assert record["label_type"] == ("detections" if kind.name == "instances" else kind.name)
    assert ledger.status_counts(opened.run) == {"pending": len(kind.rows)}


class TestMasks:
    """Where masks are kept, and what becomes of those that are missing, broken or too large."""

    @pytest.fixture
    def kind(self) -> Kind:
        return BY_KIND["instances"]

    def test_in_files(self, dataset: Any, kind: Kind, tmp_path: Path) -> None:
        from tasks.evaluate import measure_run
        from valflow import masks

        first = next(iter(stored(dataset, "pred", kind.type).values()))
        before = {d["label"]: masks.read_mask(d) for d in first}
        folder = tmp_path / "masks"
        export = [{"format": "coco", "dir": str(tmp_path)}]
        run = open_review(kind, dataset, mask_dir=str(folder), export=export)
        assert len(list((folder / run).iterdir())) == kind.labels
        finalize(run, dataset)
        for label in final(dataset, kind).values():
            assert label["mask_path"] == str(folder / run / f"{label['_id']}.png")
            assert "mask" not in label
            assert (masks.read_mask(label) == before[label["label"]]).all()
        approved = measure_run(run)["run"]["approved"]
        assert (approved["tp"], approved["fp"]) == (6, 0)
        record = runs.load(run)
        (entry,) = run_exports.export_run(record, run_exports.missing_exports(record))
        assert entry["labels"] == 6

    def test_an_edited_mask_makes_the_label_edited(self, dataset: Any, kind: Kind) -> None:
        run = open_review(kind, dataset)
        cat = ids(run, label="cat")[0]
        edit_in_review(dataset, kind, cat, mask=np.ones((30, 12), bool))
        finalize(run, dataset)
        assert final(dataset, kind)[cat]["source"] == "edited"

    def test_those_without_a_mask_or_with_an_empty_one_are_not_approved(
        self, dataset: Any, kind: Kind
    ) -> None:
        sample = dataset.first()
        sample["pred"].detections[0].mask = None
        sample["pred"].detections[1].mask = np.zeros((30, 12), bool)
        sample.save()
        run = open_review(kind, dataset)
        record = runs.load(run)
        assert (record["counts"]["approved"], record["counts"]["invalid"]) == (4, 2)
        entries = [d for e in database.ledger().find({"run": run}) for d in e.get("labels", [])]
        reasons = [reason for entry in entries for reason in entry["invalid"]]
        assert any("must have a mask" in r for r in reasons)
        assert any("must cover some of its box" in r for r in reasons)

    def test_masks_that_no_document_could_hold_fail_their_sample(
        self, dataset: Any, kind: Kind, tmp_path: Path
    ) -> None:
        from tests.builders import infer

        noise = np.random.default_rng(0).integers(0, 255, (1500, 1500)).astype(np.uint8)
        sample = dataset.first()
        for label in sample["pred"].detections:
            label.mask = noise
        sample.save()
        changes = {"max_failed_share": 0.5}
        opened = opening.open_run(kind_config(kind, dataset, **changes))
        assert opened.run is not None
        infer(opening.prepare(runs.load(opened.run), dataset), dataset)
        (failed,) = runs.load(opened.run)["failed"]
        assert failed["filepath"] == sample.filepath
        assert "mask_dir" in failed["reason"]
        assert ledger.status_counts(opened.run) == {"failed": 1, "labelled": 2, "empty": 1}
        decisions.submit(opened.run, decisions.Decision("discard", "ann"))
        run = open_review(kind, dataset, mask_dir=str(tmp_path / "masks"))
        assert runs.load(run)["counts"]["predicted"] == kind.labels

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"label_type": "detections", "mask_dir": "m"}, "only label_type: instances has masks"),
            ({"mask_dir": __file__}, "mask_dir: expected a folder"),
            ({"model": {"kind": "field", "field": "bare"}}, "no label in 'bare' has one"),
        ],
        ids=["of boxes", "no folder", "no masks"],
    )
    def test_refused(self, dataset: Any, kind: Kind, changes: dict[str, Any], why: str) -> None:
        dataset.add_sample_field("bare", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
        with pytest.raises(ConfigError, match=why):
            opening.open_run(kind_config(kind, dataset, **changes))


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_a_model_of_each_type(kind: Kind, tmp_path: Path) -> None:
    dataset = make_kind(kind, tmp_path)
    model = {"kind": "python", "path": "tests.kinds:Finder", "kwargs": {"name": kind.name}}
    run = open_review(kind, dataset, model=model)
    per_sample = 1 if kind.type.is_single else 2
    assert runs.load(run)["counts"]["predicted"] == per_sample * len(kind.rows)
    finalize(run, dataset)
    wanted = {"cat"} if kind.type.is_single else {"cat", "dog"}
    assert {d["label"] for d in final(dataset, kind).values()} == wanted
