"""`valflow calibration` and `valflow plan`, as people and other tools call them."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tests.builders import judge_all, make_dataset, make_run
from tests.certified import judge_honestly, make_certified_run, make_large_dataset
from valflow import calibration, database, runs
from valflow.certify import Promise, forecast
from valflow.cli import main

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command in a folder of its own: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "stdin", io.StringIO())

    def run_command(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([*words])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run_command


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> runs.Record:
    """A certified run that is judged in full; tests do not change its verdicts."""
    folder = tmp_path_factory.mktemp("judged")
    dataset = make_large_dataset(folder)
    run = make_certified_run(dataset)
    judge_honestly(run, dataset)
    return runs.load(run)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """2,000 predictions that no run has seen."""
    return make_large_dataset(tmp_path_factory.mktemp("plan"), samples=400)


class TestCalibration:
    def test_nothing_yet(self, call: Call) -> None:
        database.audits().delete_many({})
        assert call("calibration")[:2] == (0, "no verdicts yet; they come with `valflow audit`\n")

    def test_lists_what_is_known(self, call: Call, judged: runs.Record) -> None:
        start = judged["fingerprint"][:12]
        code, out, _ = call("calibration", "--fingerprint", start)
        assert code == 0
        line = out.splitlines()[1]
        audited = judged["certificate"]["audited"]
        right = 1 - judged["certificate"]["wrong"] / audited
        assert line.split()[:6] == [start, "pred", judged["dataset"], "1", str(audited), f"{right:.1%}"]

    def test_json_tells_the_same(self, call: Call, judged: runs.Record) -> None:
        document = json.loads(call("calibration", "--fingerprint", judged["fingerprint"], "--json")[1])
        (row,) = document["fingerprints"]
        certificate = judged["certificate"]
        assert row["runs"] == [judged["run"]]
        assert (row["verdicts"], row["forgotten"]) == (certificate["audited"], 0)
        assert row["share_correct"] == pytest.approx(1 - certificate["wrong"] / certificate["audited"])

    def test_an_unknown_fingerprint_is_bad_input(self, call: Call, judged: runs.Record) -> None:
        code, out, err = call("calibration", "--fingerprint", "xyz")
        assert (code, out) == (2, "")
        assert "none begins with 'xyz'" in err
        assert judged["fingerprint"][:12] in err

    def test_exports_every_verdict(self, call: Call, judged: runs.Record, tmp_path: Path) -> None:
        code, out, _ = call("calibration", "--export", "v.csv", "--fingerprint", judged["fingerprint"])
        assert code == 0
        rows = list(csv.DictReader((tmp_path / "v.csv").open()))
        assert out == f"wrote {judged['certificate']['audited']} verdicts to v.csv\n"
        stored = calibration.verdicts(judged["fingerprint"])
        assert [r["label_id"] for r in rows] == [str(v["label_id"]) for v in stored]
        assert [r["verdict"] for r in rows] == [v["verdict"] for v in stored]
        assert [float(r["log_area"]) for r in rows] == [v["log_area"] for v in stored]

    def test_exports_to_standard_output(self, call: Call, judged: runs.Record) -> None:
        words = ("calibration", "--export", "-", "--fingerprint", judged["fingerprint"])
        rows = list(csv.DictReader(io.StringIO(call(*words)[1])))
        assert len(rows) == judged["certificate"]["audited"]
        assert len(json.loads(call(*words, "--json")[1])["verdicts"]) == len(rows)

    def test_a_folder_that_is_not_there_is_named(self, call: Call) -> None:
        code, _, err = call("calibration", "--export", "nowhere/v.csv")
        assert code == 2
        assert "cannot write nowhere/v.csv: No such file or directory" in err


class TestForget:
    @pytest.fixture
    def fingerprint(self, tmp_path: Path) -> str:
        run = make_run(make_dataset(tmp_path))
        judge_all(run)
        return str(runs.load(run)["fingerprint"])

    def test_leaves_verdicts_out_and_on_record(self, call: Call, fingerprint: str) -> None:
        before = len(calibration.verdicts(fingerprint))
        code, out, _ = call("calibration", "--forget", fingerprint[:16], "--reviewer", "ann", "--yes")
        assert code == 0
        assert out.startswith(f"{before} verdicts of {fingerprint[:12]} count no more")
        assert len(calibration.history(fingerprint)) == 0
        kept = calibration.verdicts(fingerprint)
        assert [v["forgotten"] for v in kept] == [True] * before
        code, out, _ = call("calibration", "--forget", fingerprint, "--reviewer", "ann", "--yes")
        assert (code, out) == (0, f"nothing of {fingerprint[:12]} is left to forget\n")

    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            pytest.param(["--yes"], 2, "--reviewer NAME", id="nobody's name"),
            pytest.param(["--reviewer", "policy", "--yes"], 2, "the machine", id="the machine's name"),
            pytest.param(["--reviewer", "ann"], 1, "confirm with --yes", id="nobody to ask"),
            pytest.param(["--reviewer", "ann", "--export", "-"], 2, "give it alone", id="two wishes at once"),
        ],
    )
    def test_is_refused(
        self, call: Call, fingerprint: str, words: list[str], code: int, message: str, monkeypatch: Any
    ) -> None:
        monkeypatch.delenv("VALFLOW_REVIEWER", raising=False)
        answer = call("calibration", "--forget", fingerprint, *words)
        assert answer[0] == code
        assert message in answer[2]
        assert len(calibration.history(fingerprint)) > 0

    @pytest.mark.parametrize(("answer", "left"), [("y", 0), ("n", 6), ("", 6)])
    def test_asks_at_a_terminal(
        self, call: Call, fingerprint: str, monkeypatch: pytest.MonkeyPatch, answer: str, left: int
    ) -> None:
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", lambda question: answer)
        code, _, _ = call("calibration", "--forget", fingerprint, "--reviewer", "ann")
        assert code == (0 if left == 0 else 1)
        assert len(calibration.history(fingerprint)) == left


CERTIFIED = {"mode": "certified", "max_error": 0.05, "confidence": 0.9}


class TestPlan:
    @pytest.fixture
    def config(self, dataset: Any, tmp_path: Path) -> Callable[..., str]:
        def write(**changes: Any) -> str:
            values = {
                "dataset": dataset.name,
                "label_field": "auto",
                "model": {"kind": "field", "field": "pred"},
            }
            path = tmp_path / "c.yaml"
            path.write_text(yaml.safe_dump({**values, "approval": CERTIFIED, **changes}))
            return str(path)

        return write

    def plan(self, call: Call, *words: str) -> dict[str, Any]:
        code, out, err = call("plan", *words, "--json")
        assert code == 0, err
        document: dict[str, Any] = json.loads(out)
        return document

    def test_counts_what_the_field_holds(self, call: Call, config: Callable[..., str], dataset: Any) -> None:
        shown = [c for labels in dataset.values("pred.detections.confidence") for c in labels]
        above = sum(c >= 0.6 for c in shown)
        plan = self.plan(call, config(min_confidence=0.6))
        assert 0 < above < len(shown)
        assert (plan["samples"], plan["labels"]) == (400, above)
        cats = sum(c == "cat" for labels in dataset.values("pred.detections.label") for c in labels)
        assert self.plan(call, config(classes=["cat"]))["labels"] == cats

    def test_unscored_labels_count_as_in_a_run(self, call: Call, tmp_path: Path) -> None:
        odd = [("cat", None), ("cat", float("nan")), ("dog", 0.1), ("dog", 0.9)]
        small = make_dataset(tmp_path, predictions=[odd])
        path = tmp_path / "small.yaml"
        values = {"dataset": small.name, "label_field": "auto", "model": {"kind": "field", "field": "pred"}}
        path.write_text(yaml.safe_dump(values))
        plan = self.plan(call, str(path))
        record = runs.load(make_run(small))
        assert plan["labels"] == record["counts"]["predicted"] == 3
        assert plan["looks"] == 2 + 1  # two without confidence, and a spot-check of the one that is approved

    def test_the_table_is_what_the_statistics_say(self, call: Call, config: Callable[..., str]) -> None:
        plan = self.plan(call, config(), "--labels", "10000")
        assert (plan["labels"], plan["labels_source"]) == (10_000, "as given")
        row = next(r for r in plan["rows"] if r["total"] == 10_000 and r["multiple"] == pytest.approx(1 / 3))
        same = forecast(10_000, plan["share"], 0.05 / 3, Promise())
        assert (row["audit"], row["allowed"], row["power"]) == (same.audit, same.allowed, same.power)
        assert row["looks"] == same.looks
        assert row["looks_per_1000"] == pytest.approx(same.looks / 10)
        assert row["minutes"] == pytest.approx(same.looks * 4 / 60)
        assert {r["total"] for r in plan["rows"]} == {2500, 10_000, 40_000}

    def test_a_fixed_audit_is_planned_with(self, call: Call, config: Callable[..., str]) -> None:
        settings = {**CERTIFIED, "audit": 200}
        plan = self.plan(call, config(approval=settings), "--labels", "10000")
        assert {r["audit"] for r in plan["rows"]} == {200}
        by_error = [r["power"] for r in plan["rows"] if r["total"] == 10_000]
        assert by_error == sorted(by_error, reverse=True)
        assert by_error[0] > 0.99 > by_error[-1]

    def test_an_audit_of_the_whole_region_saves_nothing(self, call: Call, config: Callable[..., str]) -> None:
        plan = self.plan(call, config(approval={**CERTIFIED, "audit": 400}), "--labels", "100")
        assert all(r["looks"] == r["total"] for r in plan["rows"] if r["total"] < 400)

    def test_says_that_it_assumes(self, call: Call, config: Callable[..., str]) -> None:
        code, out, _ = call("plan", config())
        assert code == 0
        assert "expected error: nothing is known about this model yet: assumed values" in out
        assert "(assumed)" in out

    def test_uses_what_audits_said(self, call: Call, config: Callable[..., str], judged: runs.Record) -> None:
        path = config(dataset=judged["dataset"], label_field="other")
        plan = self.plan(call, path)
        past = calibration.history(judged["fingerprint"])
        assert plan["fingerprint"] == judged["fingerprint"]
        assert plan["error"] == pytest.approx(1 - past.correct.mean())
        known = [r for r in plan["rows"] if r["known"]]
        assert [r["expected_error"] for r in known] == [pytest.approx(plan["error"])] * 3
        assert plan["share_source"] == f"as in run {judged['run']}"
        out = call("plan", path)[1]
        assert f"{int((~past.correct).sum())} wrong of {len(past)} verdicts" in out
        assert " *" in out

    def test_other_modes_are_told_what_they_cost(self, call: Call, config: Callable[..., str]) -> None:
        everything = self.plan(call, config(approval={"mode": "review_all"}))
        assert everything["looks"] == everything["labels"] == 2000
        fixed = self.plan(
            call, config(approval={"mode": "fixed", "threshold": 0.9, "per_class": {"dog": 1.0}})
        )
        assert 59 < fixed["looks"] < 2000
        out = call("plan", config(approval={"mode": "fixed", "threshold": 0.9}))[1]
        assert "promises nothing" in out

    def test_draws_a_picture(self, call: Call, config: Callable[..., str], tmp_path: Path) -> None:
        code, out, _ = call("plan", config(), "--picture", "plan.png")
        assert (code, out.splitlines()[-1]) == (0, "picture: plan.png")
        with Image.open(tmp_path / "plan.png") as picture:
            assert picture.size == (1100, 429)

    def test_a_model_that_never_ran_needs_the_number(
        self, call: Call, config: Callable[..., str], dataset: Any
    ) -> None:
        path = config(model={"kind": "python", "path": "tests.models:Corner"})
        code, _, err = call("plan", path)
        assert code == 2
        assert "plan with --labels N" in err
        assert self.plan(call, path, "--labels", "3000")["labels"] == 3000

    @pytest.mark.parametrize(
        ("words", "changes", "message"),
        [
            pytest.param(["--labels", "0"], {}, "--labels: expected 1 or more, found 0", id="no labels"),
            pytest.param(["--picture", "no/where.png"], {}, "cannot write no/where.png", id="no folder"),
            pytest.param(["--picture", "plan.txt"], {}, "cannot write plan.txt", id="no picture"),
            pytest.param(
                ["--picture", "p.png"], {"approval": {"mode": "review_all"}}, "approval.mode is review_all",
                id="nothing to draw",
            ),
            pytest.param([], {"dataset": "no-such"}, "there is no dataset 'no-such'", id="no dataset"),
            pytest.param([], {"target": {"tags": ["x"]}}, "there is no sample tag", id="no tag"),
        ],
    )  # fmt: skip
    def test_bad_input(
        self, call: Call, config: Callable[..., str], words: list[str], changes: dict[str, Any], message: str
    ) -> None:
        code, out, err = call("plan", config(**changes), *words)
        assert (code, out) == (2, "")
        assert message in err
