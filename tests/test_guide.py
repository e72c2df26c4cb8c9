"""What the guide to this workflow tells its readers to run afterwards works unchanged on our result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.builders import bring_to, ids_where, make_dataset, make_run
from valflow import actions, runs
from valflow.selections import Selection
from valflow.states import State


@pytest.fixture
def finalized(tmp_path: Path) -> Any:
    """A dataset after a finalized run with default settings, in which one label was tagged and rejected."""
    dataset = make_dataset(tmp_path, samples=5)
    run = make_run(dataset, label_field="auto_labels")
    rejected = ids_where(run, state="approved", label="cat")[0]
    selection = Selection(label_ids=(rejected,))
    actions.tag(run, "needs_correction", selection, "ann")
    actions.reject(run, selection, "ann")
    bring_to(run, dataset, State.FINALIZED)
    dataset.reload()
    return dataset


def test_schema_and_counts(finalized: Any) -> None:
    assert "auto_labels" in finalized.get_field_schema()
    assert "auto_labels_in_review" not in finalized.get_field_schema()
    labelled = sum(1 for s in finalized if s.auto_labels is not None and s.auto_labels.detections)
    assert finalized.exists("auto_labels").count() == labelled == 4
    assert finalized.count_values("auto_labels.detections.label") == {"cat": 3, "dog": 4}


def test_problem_tags_are_found_on_samples(finalized: Any) -> None:
    assert len(finalized.match_tags("needs_correction")) == 1
    assert len(finalized.load_saved_view("needs_correction")) == 1


def test_coco_export(finalized: Any, tmp_path: Path) -> None:
    import fiftyone as fo

    folder = tmp_path / "coco"
    finalized.export(
        export_dir=str(folder), dataset_type=fo.types.COCODetectionDataset, label_field="auto_labels"
    )
    again = fo.Dataset.from_dir(
        dataset_dir=str(folder),
        dataset_type=fo.types.COCODetectionDataset,
        label_types="detections",
        label_field="found",
    )
    assert again.count("found.detections") == 7


def test_evaluation(finalized: Any, capsys: pytest.CaptureFixture[str]) -> None:
    results = finalized.evaluate_detections("auto_labels", gt_field="ground_truth", eval_key="val_eval")
    results.print_report()
    assert "precision" in capsys.readouterr().out
    finalized.load_evaluation_results("val_eval").print_report()
    assert finalized.list_evaluations() == ["val_eval"]


def test_correction_loop(finalized: Any) -> None:
    for sample in finalized.exists("auto_labels"):
        for detection in sample.auto_labels.detections:
            if detection.label == "dog":
                detection.label = "puppy"
        sample.save()
    finalized.reload()
    assert finalized.count_values("auto_labels.detections.label") == {"cat": 3, "puppy": 4}


def test_deleting_the_field_and_running_again_with_other_thresholds(finalized: Any) -> None:
    finalized.delete_sample_field("auto_labels")
    run = make_run(
        finalized, State.FINALIZED, label_field="auto_labels", approval={"mode": "fixed", "threshold": 0.9}
    )
    finalized.reload()
    assert runs.load(run)["counts"]["samples"] == 5
    assert finalized.count_values("auto_labels.detections.label") == {"cat": 4}
