"""Bad data through the whole pipeline: it goes to a person, is mended and told, or is refused; never in silence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from PIL import Image

from flows.label_dataset import label_dataset
from tests import odd_labels
from tests.builders import documents, entries
from valflow import actions, database, decisions, intake, runs
from valflow.cli import main as valflow
from valflow.config import config_from_mapping
from valflow.selections import Selection

GOOD = {"label": "dog", "bounding_box": [0.05, 0.1, 0.3, 0.5], "confidence": 0.95}


@dataclass
class Walked:
    """A run over all cases of a kind, from its start to its report."""

    run: str
    samples: dict[str, str] = field(default_factory=dict)
    in_review: dict[str, dict[str, Any]] = field(default_factory=dict)
    statuses: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    final: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)


def start(**values: Any) -> Any:
    state: Any = label_dataset(config_from_mapping(values), return_state=True)
    return state.result(raise_on_failure=True)


@pytest.fixture(scope="module", params=["field", "python"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def walked(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walked]:
    """All cases in one dataset, an image each, taken through every stage once."""
    import fiftyone as fo

    folder = tmp_path_factory.mktemp(kind)
    dataset = fo.Dataset(f"odd-{kind}", persistent=True)
    cases = odd_labels.cases(kind)
    added = []
    for number in range(len(cases)):
        path = folder / f"{number}.png"
        Image.new("RGB", (80, 60), odd_labels.colour(number)).save(path)
        good = fo.Detections(detections=[fo.Detection(**GOOD)])
        added.append(fo.Sample(str(path), pred=good, truth=good.copy()))
    ids = dataset.add_samples(added)
    added.clear()  # FiftyOne would read again what it holds no valid form of
    if kind == "field":
        for sample_id, odd in zip(ids, cases.values(), strict=True):
            database.samples_of(dataset).update_one(
                {"_id": ObjectId(sample_id)}, {"$push": {"pred.detections": odd_labels.raw_label(odd)}}
            )
    models = {
        "field": {"kind": "field", "field": "pred"},
        "python": {"kind": "python", "path": "tests.odd_labels:Careless"},
    }
    values = {
        "dataset": dataset.name,
        "label_field": "auto",
        "model": models[kind],
        "max_failed_share": 0.3,
        "output_dir": str(folder / "runs"),
        "review": {"checklist": []},
        "evaluation": {"ground_truth": "truth"},
        "export": [
            {"format": name, "dir": str(folder / "exports")} for name in ("coco", "yolov5", "fiftyone")
        ],
    }
    outcome = start(**values)
    assert outcome["outcome"] == "awaiting_review"
    run = outcome["run"]
    result = Walked(run, dict(zip(cases, map(str, ids), strict=True)))
    by_sample = {}
    for entry in entries(run).values():
        by_sample.setdefault(entry["sample_id"], []).append(entry)
    for name, sample_id in result.samples.items():
        result.in_review[name] = next((e for e in by_sample.get(sample_id, [])[1:]), {})
    for document in database.ledger().find({"run": run}):
        place = str(document["sample_id"])
        name = next(n for n, i in result.samples.items() if i == place)
        result.statuses[name] = document["status"], document["reason"]
    invalid = [i for i, e in entries(run).items() if e["invalid"]]
    actions.reject(run, Selection(label_ids=tuple(invalid)), "ann")
    waiting = [i for i, e in entries(run).items() if e["state"] == "undecided"]
    actions.approve(run, Selection(label_ids=tuple(waiting)), "ann")
    decisions.submit(run, decisions.Decision("finalize", "ann"))
    assert start(**values, run_key=run)["outcome"] == "finalized"
    result.record = runs.load(run)
    final = documents(dataset)
    for name, sample_id in result.samples.items():
        result.final[name] = (final[sample_id].get("auto") or {}).get("detections", [])
    yield result
    fo.delete_dataset(dataset.name)


def outcome_of(walked: Walked, name: str) -> str:
    status, _ = walked.statuses[name]
    if status == "failed":
        return odd_labels.FAILED
    entry = walked.in_review[name]
    if not entry:
        return odd_labels.LEFT_OUT
    if entry["state"] == "undecided":
        return odd_labels.INVALID if entry["invalid"] else odd_labels.REVIEW
    return str(entry["state"])


NAMES = list(dict.fromkeys([*odd_labels.cases("field"), *odd_labels.cases("python")]))


@pytest.mark.parametrize("name", NAMES)
def test_an_odd_label(walked: Walked, kind: str, name: str) -> None:
    if name not in walked.samples:
        pytest.skip(f"not possible with model.kind: {kind}")
    odd = odd_labels.cases(kind)[name]
    expected = odd.outcome(kind)
    assert outcome_of(walked, name) == expected, walked.in_review[name]
    told = [*intake.sentences_of(walked.record), *walked.in_review[name].get("invalid", [])]
    told.append(walked.statuses[name][1] or "")
    if kind == "python" and odd.model == odd_labels.FAILED:
        assert "the model failed: " in told[-1]  # FiftyOne's own labels refuse the value
    elif kind == "field" or odd.model is None:  # else FiftyOne's own labels have mended it
        assert any(odd.why in words for words in told), told
    # What is final: the good label beside it always, the odd one where a person or the policy may approve it.
    good = [] if expected == odd_labels.FAILED else ["dog"]
    kept = 1 if expected in (odd_labels.APPROVED, odd_labels.REVIEW) else 0
    assert [d["label"] for d in walked.final[name]][:1] == good
    assert len(walked.final[name]) == len(good) + kept
    for label in walked.final[name]:
        assert len(label["bounding_box"]) == 4
        assert all(0 <= v <= 1 for v in label["bounding_box"])
        assert label.get("confidence") is None or 0 <= label["confidence"] <= 1


def test_all_ids_of_final_labels_are_new_and_different(walked: Walked) -> None:
    ids = [d["_id"] for labels in walked.final.values() for d in labels]
    assert len(set(ids)) == len(ids)
    assert all(isinstance(i, ObjectId) for i in ids)
    assert ObjectId("5" * 24) not in ids


def test_everything_after_the_finalization_went_well(walked: Walked) -> None:
    record = walked.record
    labels = sum(map(len, walked.final.values()))
    assert record["verification"]["written"] == labels
    assert [(e["format"], e["labels"], e["verified"]) for e in record["exports"]] == [
        (name, labels, True) for name in ("coco", "yolov5", "fiftyone")
    ]
    assert record["metrics"]["run"]["approved"]["labels"] == labels


def test_reports_and_terminal_tell_what_was_odd(walked: Walked, capsys: pytest.CaptureFixture[str]) -> None:
    told = intake.sentences_of(walked.record)
    page = Path(walked.record["artifacts"]["report"]).read_text(encoding="utf-8")
    assert "Odd predictions" in page
    assert "was 1 label" not in page
    assert valflow(["show", walked.run]) == 0
    shown = capsys.readouterr().out
    for sentence in told:
        assert f"note: {sentence}" in shown
    assert max(map(len, shown.splitlines())) < 400
    assert "'CAT' and 'cat'" in shown
    assert r"'cafe\u0301' and 'caf\xe9'" in shown
