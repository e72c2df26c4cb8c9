"""Labels that speak about whole images: samples are what is looked at, selected and judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.kinds import BY_KIND, Kind, make_kind, open_review
from tests.plugin.screens import Reviewer
from valflow import audits, database, ledger
from valflow.review_app import PLUGIN


@pytest.fixture(params=["classification", "classifications"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return BY_KIND[request.param]


@pytest.fixture
def dataset(kind: Kind, tmp_path: Path) -> Any:
    return make_kind(kind, tmp_path)


@pytest.fixture
def run(kind: Kind, dataset: Any) -> str:
    return open_review(kind, dataset)


@pytest.fixture
def ann(dataset: Any, run: str) -> Reviewer:
    return Reviewer(dataset, "ann").open(run)


def samples_with(run: str, state: str) -> set[str]:
    found = database.ledger().find({"run": run, "labels.state": state}, {"sample_id": 1})
    return {str(d["sample_id"]) for d in found}


def test_the_grid_shows_whole_samples(ann: Reviewer, run: str) -> None:
    assert set(ann.grid) == samples_with(run, "undecided")
    assert "Patches" not in ann.drawn()
    assert "ToPatches" not in str(ann.was_asked("set_view"))


def test_selected_samples_are_their_labels(ann: Reviewer, run: str) -> None:
    first = ann.grid[0]
    ann.select("approve", [first])
    assert "approved" in ann.success()
    assert first not in ann.grid
    assert ledger.count_labels(run, {"state": "approved"}) > 6 - 1


def test_labels_can_be_corrected_in_a_form_of_their_type(ann: Reviewer, dataset: Any) -> None:
    ann.click("change_mode", mode="correct")
    dataset.reload()
    assert dataset.active_label_schemas == ["auto_in_review"]
    assert dataset.label_schemas["auto_in_review"]["type"] == "classifications"
    assert len(ann.grid) > 0
    assert "ToPatches" not in str(ann.was_asked("set_view"))


def test_a_label_added_by_hand_is_taken_over(ann: Reviewer, dataset: Any, run: str) -> None:
    import fiftyone as fo

    ann.click("change_mode", mode="draw")
    dataset.reload()
    sample = dataset.last()
    sample["auto_in_review"] = fo.Classifications(classifications=[fo.Classification(label="cow")])
    sample.save()
    ann.click("change_mode", mode="patches")
    assert ledger.count_labels(run, {"label": "cow", "state": "approved"}) == 1


def test_an_audit_judges_samples(ann: Reviewer, run: str, kind: Kind) -> None:
    ann.click("change_tab", tab="approval").click("start_audit")
    page = audits.open_items(run)
    assert len(page) == 6
    assert len(ann.grid) == (6 if kind.type.is_single else 3)
    assert "Bad box" not in ann.drawn()
    wrong = next(i for i in page if str(i["label_id"]) == ann.grid[0])
    ann.select("judge_selected", [str(wrong["sample_id"])], verdict="wrong_class")
    judged = {str(i["label_id"]): i["verdict"] for i in audits.latest(run)["items"] if i["verdict"]}  # type: ignore[index]
    assert judged == {str(wrong["label_id"]): "wrong_class"}
    while audits.open_items(run):
        ann.click("confirm_page")
    assert audits.summary(audits.latest(run))["wrong"] == 1  # type: ignore[arg-type]


def test_one_by_one(dataset: Any, run: str) -> None:
    Reviewer(dataset, "ann").open(run).click("change_tab", tab="approval").click("start_audit")
    item = audits.open_items(run)[0]
    judge = Reviewer(dataset, "ann", panel=f"{PLUGIN}/judge_labels")
    here = {"current_sample": str(item["sample_id"])}
    judge.click("on_load", context=here)
    assert judge.state["label"] == str(item["label_id"])
    assert "Bad box" not in judge.drawn()
    judge.click("judge", context=here, verdict="correct")
    assert len(audits.open_items(run)) == 5
    [opened] = judge.was_asked("open_sample")
    assert opened["id"] == str(audits.open_items(run)[0]["sample_id"])
