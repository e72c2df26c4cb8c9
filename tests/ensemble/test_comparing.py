"""`valflow compare`: what it says about two known models."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.builders import edit_label, ids_where, make_run
from tests.kinds import KINDS, Kind, make_kind, open_review
from valflow import reviewing, runs
from valflow.cli import main
from valflow.ensemble.comparing import active_seconds, compare
from valflow.errors import ConfigError, RunNotFound
from valflow.selections import Selection
from valflow.states import State


def labelled(dataset: Any, field: str, state: State = State.IN_REVIEW, **changes: Any) -> str:
    return make_run(
        dataset, state, label_field=f"auto_{field}", model={"kind": "field", "field": field}, **changes
    )


@pytest.fixture
def both(dataset: Any) -> list[str]:
    return [labelled(dataset, "a"), labelled(dataset, "b")]


def test_two_runs(both: list[str]) -> None:
    compared = compare(both, ground_truth="truth")
    assert (compared["samples"], compared["left_out"], compared["clusters"]) == (5, 0, 7)
    first, second = compared["runs"]
    assert (first["labels"], first["alone"]) == (5, 2)
    assert (second["labels"], second["alone"]) == (5, 2)
    assert compared["pairs"] == [{"runs": both, "same": 3, "other_class": 1, "agreement": 3 / 6}]
    assert first["figures"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert second["figures"]["precision"] == pytest.approx(3 / 5)
    by_class = {row["label"]: row for row in compared["classes"]}
    assert by_class["cat"]["by_all"] == 1
    assert [r["alone"] for r in by_class["cat"]["runs"]] == [2, 1]
    assert by_class["dog"]["by_all"] == 2
    assert by_class["cat"]["runs"][1]["figures"]["recall"] == pytest.approx(1 / 3)


def test_what_people_rejected_is_no_label_of_the_run(both: list[str]) -> None:
    assert reviewing.reject(both[0], Selection(classes=("cat",)), "ann") == "3 labels rejected"
    first = compare(both)["runs"][0]
    assert (first["labels"], first["looks"], first["figures"]) == (2, 3, None)


def test_approved_labels_are_those_that_people_left(dataset: Any) -> None:
    a = labelled(dataset, "a")
    [dog] = ids_where(a, label="dog", state="undecided")
    edit_label(dataset, "auto_a_in_review", dog, label="bird")
    reviewing.approve(a, Selection(label_ids=(dog,)), "ann")
    from tests.builders import bring_to

    bring_to(a, dataset, State.FINALIZED)
    b = labelled(dataset, "b", State.FINALIZED)
    compared = compare([a, b], which="approved", ground_truth="truth")
    assert {row["label"] for row in compared["classes"]} == {"cat", "dog", "bird"}
    assert compared["runs"][0]["review"]["open_seconds"] > 0


def test_samples_that_one_run_has_not_seen_are_left_out(dataset: Any) -> None:
    few = labelled(dataset, "a", target={"limit": 2})
    assert {
        k: v for k, v in compare([few, labelled(dataset, "b")]).items() if k in ("samples", "left_out")
    } == {
        "samples": 2,
        "left_out": 3,
    }


REFUSED = [
    pytest.param(lambda d, a: [a], "expected two or more", id="one run"),
    pytest.param(lambda d, a: [a, a], "named more than once", id="the same run twice"),
    pytest.param(
        lambda d, a: [a, labelled(d, "b", State.CREATED)],
        "predictions are not complete",
        id="still predicting",
    ),
]


@pytest.mark.parametrize(("make", "words"), REFUSED)
def test_refusals(dataset: Any, make: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        compare(make(dataset, labelled(dataset, "a")))


def test_runs_of_two_datasets(dataset: Any, tmp_path: Path) -> None:
    from tests.builders import make_dataset

    (tmp_path / "other").mkdir()
    other = make_dataset(tmp_path / "other")
    with pytest.raises(ConfigError, match="expected runs of one dataset"):
        compare([labelled(dataset, "a"), make_run(other)])


def test_undecided_runs_have_no_approved_labels(both: list[str]) -> None:
    with pytest.raises(ConfigError, match="nobody has decided"):
        compare(both, which="approved")


def test_no_such_run_and_no_such_field(both: list[str]) -> None:
    with pytest.raises(RunNotFound):
        compare([both[0], "nobody"])
    with pytest.raises(ConfigError, match="there is no label field 'truht'; did you mean 'truth'"):
        compare(both, ground_truth="truht")


def test_runs_without_common_samples(dataset: Any) -> None:
    ids = dataset.values("id")
    a = labelled(dataset, "a", target={"ids": ids[:2]})
    b = labelled(dataset, "b", target={"ids": ids[2:]})
    with pytest.raises(ConfigError, match="samples that all of them have seen, found none"):
        compare([a, b])


def test_the_command(both: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "compared.png"
    assert main(["compare", *both, "--ground-truth", "truth", "--picture", str(picture)]) == 0
    said = capsys.readouterr().out
    assert (
        "2 runs on 5 samples, predicted labels; the same object from IoU 0.5; figures against truth" in said
    )
    assert "A B" in said
    with Image.open(picture) as image:
        assert image.width > 1000
    assert main(["compare", *both, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["clusters"] == 7
    assert main(["compare", *both, "--iou", "0"]) == 2
    assert "expected more than 0" in capsys.readouterr().err
    assert main(["compare", *both, "--picture", str(tmp_path / "no" / "where.png")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_pauses_are_no_work() -> None:
    start = datetime(2030, 1, 1, tzinfo=UTC)
    moments = [start + timedelta(seconds=s) for s in (0, 30, 3600, 3660)]
    assert active_seconds(moments) == 90
    assert active_seconds([]) == 0


def test_two_runs_side_by_side_become_final_both(dataset: Any, both: list[str]) -> None:
    from tests.builders import bring_to

    for run in both:
        record = bring_to(run, dataset, State.FINALIZED)
        assert record["counts"]["finalized"] == record["counts"]["approved"] > 0
        assert not (runs.load(run).get("verification") or {}).get("changed_samples")


@pytest.mark.parametrize("command", ["compare", "merge"])
@pytest.mark.parametrize("kind", [k for k in KINDS if k.name != "detections"], ids=lambda k: k.name)
def test_runs_of_other_label_types_are_refused_with_the_reason(
    kind: Kind, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_kind(kind, tmp_path)
    keys = [open_review(kind, dataset, label_field=name) for name in ("one", "two")]
    more = ["--into", "both"] if command == "merge" else []
    assert main([command, *keys, *more]) != 0
    told = capsys.readouterr().err
    assert f"makes labels of the type '{kind.name}'; only those of 'detections' are compared" in told
    dataset.reload()
    assert not dataset.has_field("both_in_review")
