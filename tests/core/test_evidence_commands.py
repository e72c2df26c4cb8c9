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

from tests.builders import judge_all, make_dataset, make_run
from tests.certified import judge_honestly, make_certified_run, make_large_dataset
from valflow import calibration, database, runs
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
