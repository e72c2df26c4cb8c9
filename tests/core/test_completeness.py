"""Missed objects: random images, the question whether anything is missing, and what the answers prove."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.builders import counts, ids_where, make_config, make_dataset, make_run
from tests.certified import honest_verdicts, make_certified_run, make_large_dataset
from valflow import (
    actions,
    audits,
    calibration,
    checklist,
    completeness,
    database,
    decisions,
    ledger,
    runs,
    triage,
    undoing,
)
from valflow.audit_sheet import draw_image_sheet
from valflow.certify import incomplete_images
from valflow.cli import main
from valflow.errors import AuditError, ConfigError, DecisionRefused, IllegalTransition
from valflow.reporting import current_view, write_run_report
from valflow.selections import Selection
from valflow.states import State

ASKED = {"completeness": {"images": 6}}


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    """Ten images, the last two without predictions."""
    return make_dataset(tmp_path, samples=10, empty=2)


@pytest.fixture
def run(dataset: Any) -> str:
    return make_run(dataset, review=ASKED)


def judge(run: str, *incomplete: int, unsure: tuple[int, ...] = ()) -> dict[str, Any]:
    """Judge all images: these incomplete, these unsure, the others complete."""
    verdicts = {i["number"]: "complete" for i in completeness.current(run)["items"]}
    verdicts |= dict.fromkeys(incomplete, "incomplete") | dict.fromkeys(unsure, "unsure")
    return completeness.summary(completeness.judge(run, verdicts, "ann"))


def evidence(run: str) -> dict[str, dict[str, Any]]:
    record = runs.load(run)
    return {i["item"]: i for i in checklist.evidence(record, ledger.class_table(run))}


def tagged(dataset: Any) -> set[str]:
    dataset.reload()
    return set(dataset.match_tags("missing_object").values("id"))


class TestDraw:
    def test_is_a_sample_of_all_images_without_replacement(self, run: str, dataset: Any) -> None:
        audit = completeness.current(run)
        drawn = [str(i["sample_id"]) for i in audit["items"]]
        assert audit["population"] == 10
        assert len(set(drawn)) == 6
        assert set(drawn) <= set(dataset.values("id"))
        assert [i["number"] for i in audit["items"]] == [1, 2, 3, 4, 5, 6]
        ordered = sorted(dataset.values("id"))
        again = np.random.default_rng(audit["seed"]).choice(10, size=6, replace=False)
        assert drawn == [ordered[i] for i in again.tolist()]

    def test_every_image_is_drawn_as_often_as_any_other(self, run: str) -> None:
        record, seen = runs.load(run), []
        for seed in range(120):
            audit = completeness.draw(record, 3, seed)
            assert audit is not None
            seen += [i["sample_id"] for i in audit["items"]]
        _, times = np.unique([str(s) for s in seen], return_counts=True)
        # Each of 10 images in 36 of 120 draws on average, with a deviation of 5.
        assert len(times) == 10
        assert 16 < times.min() <= times.max() < 56

    def test_takes_all_where_there_are_fewer(self, dataset: Any) -> None:
        run = make_run(dataset, review={"completeness": {"images": 500}})
        assert len(completeness.current(run)["items"]) == 10

    def test_a_repeated_triage_draws_once(self, dataset: Any) -> None:
        run = make_run(dataset, State.PREDICTED, review=ASKED)
        record = runs.load(run)
        for _ in range(2):
            triage.begin_triage(record, dataset)
            triage.finish_triage(record, dataset)
            database.runs().update_one({"run": run}, {"$set": {"state": "PREDICTED"}})
        assert database.audits().count_documents({"run": run, "kind": "completeness"}) == 1

    def test_nothing_is_drawn_unless_asked_for(self, dataset: Any) -> None:
        run = make_run(dataset)
        assert completeness.drawn(run) is None
        assert "completeness" not in evidence(run)
        with pytest.raises(AuditError, match=r"do not say `review.completeness"):
            completeness.judge(run, {1: "complete"}, "ann")

    def test_the_audit_of_labels_does_not_see_it(self, run: str) -> None:
        assert audits.latest(run) is None
        audit = audits.draw(run, "ann", seed=1)
        judge(run)
        latest = audits.latest(run)
        assert latest is not None
        assert latest["_id"] == audit["_id"]
        assert len(calibration.history(runs.load(run)["fingerprint"])) == 0


class TestVerdicts:
    @pytest.mark.parametrize(
        ("incomplete", "unsure", "wrong"),
        [
            pytest.param((), (), 0, id="nothing missing"),
            pytest.param((2, 5), (), 2, id="two incomplete"),
            pytest.param((1,), (3,), 2, id="unsure counts as incomplete"),
        ],
    )
    def test_bound_is_exact(
        self, run: str, incomplete: tuple[int, ...], unsure: tuple[int, ...], wrong: int
    ) -> None:
        result = judge(run, *incomplete, unsure=unsure)
        assert (result["incomplete"], result["judged"]) == (wrong, 6)
        assert result["upper_bound"] == incomplete_images(wrong, 6, 0.9)
        assert result["sentence"].startswith(f"{wrong} of 6 images incomplete: at most ")

    def test_sixty_complete_images_prove_what_the_docs_say(self) -> None:
        items = [{"number": n, "verdict": "complete", "reviewer": "ann"} for n in range(60)]
        audit = {"items": items, "population": 900, "seed": 1, "drawn_at": database.now()}
        assert completeness.summary(audit)["sentence"] == (
            "0 of 60 images incomplete: at most 3.8 % of the images miss an object (90 %)"
        )

    def test_incomplete_images_are_a_work_list(self, run: str, dataset: Any) -> None:
        judge(run, 2, 5, unsure=(3,))
        items = completeness.current(run)["items"]
        assert tagged(dataset) == {str(items[1]["sample_id"]), str(items[4]["sample_id"])}
        assert counts(run)["rejected"] == 0

    def test_undo_takes_verdicts_and_tags_back(self, run: str, dataset: Any) -> None:
        had = str(completeness.current(run)["items"][0]["sample_id"])
        sample = dataset[had]
        sample.tags.append("missing_object")
        sample.save()
        judge(run, 1, 2)
        assert len(tagged(dataset)) == 2
        undoing.undo(run, "ann")
        assert tagged(dataset) == {had}
        assert all(i["verdict"] is None for i in completeness.current(run)["items"])
        assert database.ledger().count_documents({"run": run, "sample_tags.0": {"$exists": True}}) == 0
        judge(run, 3)
        assert len(tagged(dataset)) == 2

    @pytest.mark.parametrize("first", ["ann", "bob"])
    def test_an_image_keeps_the_tag_that_somebody_else_put_on_too(
        self, run: str, dataset: Any, first: str
    ) -> None:
        drawn = {i["number"]: str(i["sample_id"]) for i in completeness.current(run)["items"]}
        number, sample = next((n, s) for n, s in drawn.items() if ids_where(run, sample_id=s))
        label = ids_where(run, sample_id=sample)[0]

        def tag() -> None:
            actions.tag(run, "missing_object", Selection(label_ids=(label,)), "ann")

        if first == "ann":
            tag()
        completeness.judge(run, {number: "incomplete"}, "bob")
        if first == "bob":
            tag()
        undoing.undo(run, first, own=True)
        assert tagged(dataset) == {sample}
        undoing.undo(run, "carl")
        assert tagged(dataset) == set()

    def test_undo_leaves_the_certificate_alone(self, tmp_path: Path) -> None:
        large = make_large_dataset(tmp_path)
        run = make_certified_run(large)
        completeness.draw(runs.load(run), 5, 1)
        audits.judge(run, honest_verdicts(run, large), "ann")
        before = runs.load(run)["certificate"]
        judge(run, 1)
        undoing.undo(run, "ann")
        assert before["state"] == "certified"
        assert runs.load(run)["certificate"] == before

    @pytest.mark.parametrize(
        ("verdicts", "message"),
        [
            pytest.param({7: "complete"}, r"number 7 was not drawn \(1 to 6 were\)", id="not drawn"),
            pytest.param({1: "correct"}, "'correct' is no verdict", id="a verdict on labels"),
            pytest.param({1: "complete", 2: ""}, "number 2: '' is no verdict", id="an empty one"),
        ],
    )
    def test_bad_verdicts_record_nothing(self, run: str, verdicts: dict[int, str], message: str) -> None:
        with pytest.raises(AuditError, match=message):
            completeness.judge(run, verdicts, "ann")
        assert completeness.summary(completeness.current(run))["judged"] == 0

    def test_a_verdict_stands_until_it_is_undone(self, run: str) -> None:
        completeness.judge(run, {1: "incomplete"}, "ann")
        with pytest.raises(AuditError, match="number 1 was judged 'incomplete' by ann"):
            completeness.judge(run, {1: "complete"}, "bob")
        assert completeness.judge(run, {1: "incomplete"}, "bob")["items"][0]["reviewer"] == "ann"

    def test_is_refused_outside_a_review(self, dataset: Any) -> None:
        run = make_run(dataset, State.FINALIZED, review=ASKED)
        with pytest.raises(IllegalTransition, match="FINALIZED"):
            completeness.judge(run, {1: "complete"}, "ann")


class TestEvidence:
    def test_checklist_says_what_is_missing_and_what_is_proven(self, run: str) -> None:
        item = evidence(run)["completeness"]
        assert (item["ok"], item["required"]) == (False, False)
        assert (
            f"0 of 6 images judged, 0 incomplete so far; judge them with `valflow audit {run}"
            in item["evidence"]
        )
        sentence = judge(run, 1)["sentence"]
        item = evidence(run)["completeness"]
        assert item["ok"]
        assert item["evidence"].startswith(f"{sentence}, seed ")
        assert item["evidence"].endswith("judged by ann")

    def test_demanded_evidence_must_be_there(self, dataset: Any) -> None:
        run = make_run(dataset, review={**ASKED, "checklist": ["completeness"]})
        with pytest.raises(DecisionRefused, match="0 of 6 images judged"):
            decisions.submit(run, decisions.Decision("finalize", "ann"))
        sentence = judge(run, 4)["sentence"]
        record = decisions.submit(run, decisions.Decision("finalize", "ann"))
        assert record["state"] == "REVIEWED"
        assert record["completeness"]["sentence"] == sentence

    def test_demanding_what_is_not_drawn_is_refused(self, dataset: Any) -> None:
        with pytest.raises(ConfigError, match="no images are drawn for it"):
            make_config(dataset, review={"checklist": ["completeness"]})

    @pytest.mark.parametrize("images", [0, -1, 2.5, "many", 10_001])
    def test_a_bad_number_of_images_is_refused(self, dataset: Any, images: Any) -> None:
        with pytest.raises(ConfigError, match=r"review\.completeness\.images"):
            make_config(dataset, review={"completeness": {"images": images}})

    def test_report_and_show_say_it(self, run: str, tmp_path: Path) -> None:
        sentence = judge(run, 2)["sentence"]
        assert current_view(runs.load(run))["completeness"]["sentence"] == sentence
        paths = write_run_report(runs.load(run))
        text = Path(paths["report"]).read_text(encoding="utf-8")
        assert "Missed objects" in text
        assert sentence in text
        assert "missing_object" in text

    def test_finalization_saves_the_work_list_as_a_view(self, dataset: Any) -> None:
        from tests.builders import bring_to

        run = make_run(dataset, review=ASKED)
        judge(run, 1)
        bring_to(run, dataset, State.FINALIZED)
        dataset.reload()
        assert len(dataset.load_saved_view("missing_object")) == 1


class TestSheet:
    def test_shows_whole_images_with_the_boxes_that_stand(
        self, run: str, dataset: Any, tmp_path: Path
    ) -> None:
        actions.reject(run, Selection(classes=("dog",)), "ann")
        found = completeness.images(runs.load(run), completeness.current(run))
        with_labels = [i for i in found if i["labels"]]
        assert {tuple(d["label"] for d in i["labels"]) for i in with_labels} == {("cat", "cat")}
        path = draw_image_sheet(runs.load(run), completeness.current(run), tmp_path / "sheet.png")
        with Image.open(path) as sheet:
            # Two rows of up to four images of 460 pixels.
            assert sheet.width > 4 * 460
            assert 2 * 460 < sheet.height < 3 * 460

    def test_a_deleted_image_can_still_be_judged(self, run: str, dataset: Any, tmp_path: Path) -> None:
        audit = completeness.current(run)
        dataset.delete_samples([str(audit["items"][0]["sample_id"])])
        assert draw_image_sheet(runs.load(run), audit, tmp_path / "s.png").exists()
        assert judge(run, unsure=(1,))["incomplete"] == 1


class TestCommand:
    @pytest.fixture(autouse=True)
    def _in_a_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("VALFLOW_REVIEWER", "ann")
        monkeypatch.setattr(sys, "path", [*sys.path])

    def test_takes_verdicts_from_a_file(self, run: str, dataset: Any, capsys: Any) -> None:
        Path("v.csv").write_text("number,verdict\n1,incomplete\n2,complete\n")
        assert main(["audit", run, "--completeness", "--verdicts", "v.csv", "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert (document["judged"], document["incomplete"], document["upper_bound"]) == (2, 1, None)
        assert Path(document["sheet"]).exists()
        assert len(tagged(dataset)) == 1

    def test_asks_at_a_terminal(self, run: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
        answers = iter(["", "i", "x", "u", "q"])
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", lambda question: next(answers))
        assert main(["audit", run, "--completeness"]) == 0
        given = [i["verdict"] for i in completeness.current(run)["items"]]
        assert given == ["complete", "incomplete", "unsure", None, None, None]
        assert "3 of 6 images judged, 2 incomplete so far" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            pytest.param(["--size", "3"], "cannot change them", id="a size"),
            pytest.param(["--seed", "3"], "cannot change them", id="a seed"),
            pytest.param(["--verdicts", "none.csv"], "cannot read the verdicts", id="no file"),
        ],
    )
    def test_bad_input(self, run: str, words: list[str], message: str, capsys: Any) -> None:
        assert main(["audit", run, "--completeness", *words]) == 2
        assert message in capsys.readouterr().err
