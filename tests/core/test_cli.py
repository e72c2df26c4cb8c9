"""The command line as other tools meet it: exit codes, one JSON document, errors that say what to do."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders import counts, entries, judge_all, make_dataset, make_run
from valflow import database, decisions, prefect_api, runs
from valflow.cli import main
from valflow.cli.parser import build_parser
from valflow.cli.views import COUNTS
from valflow.decisions import Decision
from valflow.stack import Stack
from valflow.states import State

COMMANDS = (
    "init", "run", "merge", "plan", "runs", "show", "compare", "queue", "approve", "reject", "undo", "tag", "audit",
    "finalize", "discard", "rollback", "report", "export", "why", "calibration", "schedule", "unschedule", "notify",
    "up", "doctor",
)  # fmt: skip
RUN_KEYS = {
    "run", "dataset", "label_field", "state", "config", "counts", "history", "artifacts", "metrics",
}  # fmt: skip
NOBODY_THERE = "http://127.0.0.1:9/api"


@dataclass(frozen=True)
class Answer:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        assert self.out.count("\n") == 1, self.out
        assert "Traceback" not in self.err
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


Call = Callable[..., Answer]


class Person(io.StringIO):
    """Somebody at a terminal, who types these lines."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def valflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Calls a command as ann, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VALFLOW_REVIEWER", "ann")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "stdin", io.StringIO())

    def call(*words: str) -> Answer:
        # Streams that stay open: Prefect keeps the first that it saw.
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([*words])
        return Answer(code, out.getvalue(), err.getvalue())

    return call


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    """One sample with cat 0.95, dog 0.8, cat 0.6, dog 0.3."""
    return make_dataset(tmp_path, samples=1, empty=0)


@pytest.fixture
def run(dataset: Any) -> str:
    return make_run(dataset)


@pytest.fixture(scope="module")
def finalized(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finalized run, for commands that change nothing."""
    dataset = make_dataset(tmp_path_factory.mktemp("finalized"), samples=1, empty=0)
    return make_run(dataset, State.FINALIZED)


@pytest.fixture(scope="module")
def in_review(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run in review, for commands that are refused."""
    return make_run(make_dataset(tmp_path_factory.mktemp("review"), samples=1, empty=0))


def write_config(dataset: Any, folder: Path, **changes: Any) -> str:
    values = {"dataset": dataset.name, "label_field": "auto", "model": {"kind": "field", "field": "pred"}}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**values, **changes}))
    return str(path)


def is_one_paragraph(text: str) -> bool:
    return text.startswith("valflow: ") and "\n\n" not in text.strip() and "Traceback" not in text


# -- help and usage


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert text.startswith(f"usage: valflow {name}")
    assert "--json" in text
    assert "--debug" in text
    assert callable(build_parser().parse_args([name, *_needed(name)]).command)


def _needed(name: str) -> list[str]:
    needs_one = {"init", "run", "plan", "show", "why", "unschedule", "report", "export"}
    if name in ("compare", "merge"):
        return ["a", "b", *(["--into", "c"] if name == "merge" else [])]
    needs_run = {"approve", "reject", "undo", "audit", "finalize", "discard", "rollback", "queue"}
    return ["latest", "wrong_class"] if name == "tag" else ["latest"] if name in needs_one | needs_run else []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "COMMAND"),
        (["aprove", "latest"], "invalid choice: 'aprove'"),
        (["approve"], "RUN"),
        (["tag", "latest"], "TAG"),
        (["approve", "latest", "--min-confidence", "high"], "invalid float value"),
        (["finalize", "latest", "--yes", "--digest", "x"], "not allowed with"),
        (["run", "c.yaml", "--deploy", "--dry-run"], "not allowed with"),
        (["export", "latest", "--scope", "all"], "invalid choice: 'all'"),
    ],
    ids=[
        "nothing",
        "unknown",
        "no run",
        "no tag",
        "no number",
        "confirmed twice",
        "two ways",
        "unknown scope",
    ],
)
def test_usage(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


# -- one JSON document


JSON_CASES: dict[str, tuple[list[str], set[str], set[str]]] = {
    "approve": (["approve", "RUN", "--class", "cat"], {"run", "action", "event", "changed", "left"}, set()),
    "reject": (["reject", "RUN", "--all"], {"run", "action", "event", "changed", "left"}, set()),
    "tag": (
        ["tag", "RUN", "wrong_class", "--sample", "SAMPLE"],
        {"run", "action", "event", "changed", "left"},
        set(),
    ),
    "audit": (
        ["audit", "RUN", "--seed", "1"],
        {"run", "sheet", "drawn", "judged", "wrong", "upper_bound", "seed", "sentence", "items"},
        set(),
    ),
    "preview": (
        ["finalize", "RUN", "--preview"],
        {"run", "label_field", "labels", "samples", "per_class", "digest", "missing", "checklist"},
        set(),
    ),
    "show": (["show", "RUN"], RUN_KEYS, {"next:"}),
    "report": (["report", "RUN"], {"run", "artifacts"}, set()),
    "discard": (["discard", "RUN", "--yes"], RUN_KEYS, set()),
    "why": (["why", "LABEL"], {"label_id", "run", "state", "predicted", "actions", "final"}, set()),
    "plan": (
        ["run", "CONFIG", "--dry-run"],
        {"dataset", "label_field", "samples", "shards", "open_run", "trial", "estimate"},
        set(),
    ),
    "init": (["init", "DATASET"], {"config", "dataset"}, set()),
    "runs": (["runs", "--dataset", "DATASET"], {"runs"}, set()),
}


def filled(words: list[str], run: str, dataset: Any, folder: Path) -> list[str]:
    label_id, entry = next(iter(entries(run).items()))
    known = {"RUN": run, "SAMPLE": entry["sample_id"], "LABEL": label_id, "DATASET": dataset.name}
    return [write_config(dataset, folder) if w == "CONFIG" else known.get(w, w) for w in words]


class TestJson:
    @pytest.mark.parametrize(("words", "keys", "says"), JSON_CASES.values(), ids=JSON_CASES)
    def test_is_one_document_and_text_says_the_same(
        self,
        words: list[str],
        keys: set[str],
        says: set[str],
        run: str,
        dataset: Any,
        tmp_path: Path,
        valflow: Call,
    ) -> None:
        words = filled(words, run, dataset, tmp_path)
        answer = valflow(*words, "--json")
        assert (answer.code, keys - answer.document.keys()) == (0, set()), answer
        if words[0] in ("show", "runs", "why", "report"):
            plain = valflow(*words)
            assert plain.code == 0
            assert run in plain.out or words[0] == "report"
            assert [s for s in says if s not in plain.out] == []

    @pytest.mark.parametrize(
        "state",
        ["CREATED", "PREDICTED", "IN_REVIEW", "REVIEWED", "VALIDATED", "FINALIZED", "DISCARDED", "FAILED"],
    )
    def test_a_run_can_be_shown_and_reported_in_every_state(
        self, state: str, dataset: Any, valflow: Call
    ) -> None:
        run = make_run(dataset, state)
        document = valflow("show", run, "--json").document
        assert document.keys() >= RUN_KEYS
        assert (document["run"], document["state"]) == (run, state)
        assert document["counts"].keys() >= set(COUNTS)
        assert all(isinstance(document["counts"][c], int) for c in COUNTS)
        assert isinstance(document["metrics"], dict)
        assert document["history"][0]["event"] == "create"
        assert valflow("show", run).out.startswith(run)
        report = valflow("report", run, "--json")
        assert report.code == 0, report.err
        assert Path(report.document["artifacts"]["report"]).is_file()

    def test_figures_of_a_discarded_run_are_those_of_its_end(self, run: str, valflow: Call) -> None:
        valflow("reject", run, "--class", "dog")
        figures = valflow("discard", run, "--yes", "--json").document["counts"]
        expected = {
            "predicted": 4,
            "approved": 1,
            "rejected": 2,
            "undecided": 1,
            "finalized": 0,
            "discarded": 4,
        }
        assert {k: figures[k] for k in expected} == expected
        assert valflow("show", run, "--json").document["counts"] == figures

    def test_doctor(self, valflow: Call) -> None:
        answer = valflow("doctor", "--json")
        assert answer.document.keys() == {"healthy", "findings", "mended"}
        assert answer.code == (0 if answer.document["healthy"] else 1)

    def test_runs_of_a_dataset_without_any(self, valflow: Call) -> None:
        assert valflow("runs", "--dataset", "nothing", "--json").document == {"runs": []}
        assert "no labeling run yet" in valflow("runs", "--dataset", "nothing").out


# -- errors


ERRORS: dict[str, tuple[list[str], int, str, str]] = {
    # words, exit code, kind of error, what the message says
    "unknown run": (["show", "nobody"], 2, "RunNotFound", "no labeling run is named 'nobody'"),
    "nothing selected": (["approve", "RUN"], 2, "SelectionError", "the selection is empty"),
    "nothing to reject": (["reject", "RUN"], 2, "SelectionError", "the selection is empty"),
    "nothing to tag": (["tag", "RUN", "wrong_class"], 2, "SelectionError", "the selection is empty"),
    "no match": (
        ["approve", "RUN", "--class", "cat", "--min-confidence", "0.99"], 2, "SelectionError", "no label of run"
    ),
    "no confidence": (["approve", "RUN", "--min-confidence", "7"], 2, "SelectionError", "between 0 and 1"),
    "unknown class": (["reject", "RUN", "--class", "horse"], 2, "SelectionError", "its classes: cat, dog"),
    "unknown label": (["approve", "RUN", "--label", "0" * 24], 2, "SelectionError", "has no label"),
    "no label id": (["approve", "RUN", "--label", "x"], 2, "SelectionError", "24 hexadecimal digits"),
    "unknown sample": (["approve", "RUN", "--sample", "0" * 24], 2, "SelectionError", "on sample"),
    "nothing to undo": (["undo", "RUN"], 2, "SelectionError", "no action of a person left to undo"),
    "a tag of the workflow": (["tag", "RUN", "approved", "--all"], 2, "SelectionError", "the workflow's"),
    "the name of the machine": (
        ["approve", "RUN", "--all", "--reviewer", "policy"], 2, "SelectionError", "name of the machine"
    ),
    "the machine looks": (
        ["finalize", "RUN", "--preview", "--reviewer", "System"], 2, "SelectionError", "name of the machine"
    ),
    "the machine discards": (
        ["discard", "RUN", "--yes", "--reviewer", "system"], 1, "DecisionRefused", "name of the machine"
    ),
    "no name": (["reject", "RUN", "--all", "--reviewer", " "], 2, "SelectionError", "VALFLOW_REVIEWER"),
    "nobody to ask": (["finalize", "RUN"], 1, "DecisionRefused", "confirm with --yes"),
    "nobody to ask about the end": (["discard", "RUN"], 1, "DecisionRefused", "confirm with --yes"),
    "evidence missing": (["finalize", "RUN", "--yes"], 1, "DecisionRefused", "evidence is missing"),
    "an empty reason": (
        ["finalize", "RUN", "--yes", "--override", " "], 1, "DecisionRefused", "evidence is missing"
    ),
    "another digest": (["finalize", "RUN", "--digest", "f" * 64], 1, "DecisionRefused", "has changed since"),
    "a short digest": (["finalize", "RUN", "--digest", "ab"], 1, "DecisionRefused", "at least 8 characters"),
    "not finalized": (["export", "RUN"], 1, "IllegalTransition", "only finalized labels are exported"),
    "unknown format": (
        ["export", "FINALIZED", "--format", "cocoo"], 2, "ConfigError", "did you mean 'coco'"
    ),
    "review is over": (["approve", "FINALIZED", "--all"], 1, "IllegalTransition", "FINALIZED"),
    "nothing left to discard": (["discard", "FINALIZED", "--yes"], 1, "IllegalTransition", "FINALIZED"),
    "too large a draw": (["audit", "RUN", "--size", "99"], 2, "AuditError", "1 to 2 approved labels"),
    "verdicts on nothing": (["audit", "RUN", "--verdicts", "v.csv"], 2, "AuditError", "cannot read"),
    "unknown label of a story": (["why", "0" * 24], 2, "SelectionError", "no labeling run knows"),
    "configuration missing": (["run", "gone.yaml"], 2, "ConfigError", "cannot read the configuration"),
    "schedule without a clock": (["schedule", "c.yaml"], 2, "ConfigError", "--cron is required"),
    "dataset missing": (["init", "no-such-dataset"], 2, "ConfigError", "there is no dataset"),
}  # fmt: skip


class TestErrors:
    @pytest.mark.parametrize(("words", "code", "kind", "says"), ERRORS.values(), ids=ERRORS)
    def test_one_readable_paragraph(
        self,
        words: list[str],
        code: int,
        kind: str,
        says: str,
        in_review: str,
        finalized: str,
        valflow: Call,
    ) -> None:
        words = [{"RUN": in_review, "FINALIZED": finalized}.get(w, w) for w in words]
        before = (runs.load(in_review)["state"], counts(in_review))
        answer = valflow(*words)
        assert "valflow: " in answer.err, answer
        told = answer.err[answer.err.index("valflow: ") :]
        assert (answer.code, answer.out) == (code, "")
        assert says in told
        assert is_one_paragraph(told)
        answer = valflow(*words, "--json")
        assert answer.code == code
        assert says in answer.document["error"]
        assert answer.document["kind"] == kind
        assert (kind == "ConfigError") == ("problems" in answer.document)
        assert (runs.load(in_review)["state"], counts(in_review)) == before

    def test_a_run_that_failed_before_any_decision(self, dataset: Any, valflow: Call) -> None:
        answer = valflow("finalize", make_run(dataset, State.FAILED), "--yes")
        assert answer.code == 1
        assert "is FAILED; there is nothing to finalize: infer failed; start the same" in answer.err

    @pytest.mark.parametrize(
        ("state", "says"),
        [
            ("REVIEWED", "is REVIEWED, not in review"),
            ("DISCARDED", "is DISCARDED, not in review"),
        ],
    )
    def test_a_preview_decides_nothing_whatever_the_state(
        self, state: str, says: str, dataset: Any, valflow: Call
    ) -> None:
        run = make_run(dataset, state)
        answer = valflow("finalize", run, "--preview")
        assert answer.code == 1
        assert says in answer.err
        assert runs.load(run)["state"] == state

    @pytest.mark.parametrize("debug", [False, True], ids=["told", "with --debug"])
    def test_what_nobody_foresaw(self, debug: bool, run: str, tmp_path: Path, valflow: Call) -> None:
        (tmp_path / "a_file").write_text("in the way")
        database.runs().update_one({"run": run}, {"$set": {"config.output_dir": str(tmp_path / "a_file")}})
        answer = valflow("report", run, *(["--debug"] if debug else []))
        assert answer.code == 1
        assert ("Traceback" in answer.err) is debug
        told = answer.err[answer.err.index("valflow: ") :]
        assert "NotADirectoryError" in told
        assert ("--debug shows where" in told) is not debug

    def test_an_interrupt_is_not_an_error(
        self, run: str, valflow: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Leaving(Person):
            def readline(self, size: int = -1, /) -> str:
                raise KeyboardInterrupt

        monkeypatch.setattr(sys, "stdin", Leaving())
        answer = valflow("discard", run)
        assert (answer.code, runs.load(run)["state"]) == (130, "IN_REVIEW")
        assert "the same command continues" in answer.err


# -- a reviewer's work


class TestReviewing:
    def test_the_reviewer_comes_from_the_option_or_the_environment(
        self, run: str, valflow: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert valflow("approve", run, "--class", "cat").code == 0
        assert valflow("reject", run, "--class", "dog", "--reviewer", "bob").code == 0
        assert _actors(run) == ["policy", "ann", "bob"]
        monkeypatch.delenv("VALFLOW_REVIEWER")
        assert valflow("undo", run).code == 2
        assert _actors(run) == ["policy", "ann", "bob"]

    def test_latest_is_the_run_created_last(self, run: str, valflow: Call) -> None:
        answer = valflow("reject", "latest", "--all", "--json")
        assert (answer.document["run"], answer.document["changed"]) == (run, 4)
        assert valflow("show", "latest", "--json").document["run"] == run

    def test_one_action_is_one_command_and_taken_back_by_one(self, run: str, valflow: Call) -> None:
        answer = valflow("reject", run, "--max-confidence", "0.9", "--class", "dog", "--class", "cat")
        assert answer.out == f"3 labels rejected (action 2; `valflow undo {run}` takes it back)\n"
        assert valflow("approve", run, "--min-confidence", "0.9").code == 2  # nothing left to approve
        assert valflow("undo", run).out.startswith("3 labels as they were before (action 3)")
        assert counts(run) == {"approved": 2, "rejected": 0, "undecided": 2}
        assert valflow("undo", run, "--class", "cat").out.startswith("1 label put back to undecided")
        assert valflow("undo", run, "--all").out.startswith("1 label put back to undecided")
        assert counts(run) == {"approved": 0, "rejected": 0, "undecided": 4}

    def test_labels_left_as_they_are_are_told(self, run: str, valflow: Call) -> None:
        answer = valflow("approve", run, "--all", "--json")
        assert (answer.document["changed"], answer.document["left"]) == (2, {"left as they are": 2})

    def test_a_spot_check_by_file(self, run: str, tmp_path: Path, valflow: Call) -> None:
        drawn = valflow("audit", run, "--sheet", "sheet.png", "--seed", "5").out
        assert "drew 2 of 2 approved labels (seed 5)" in drawn
        assert "judge with: valflow audit" in drawn
        assert (tmp_path / "sheet.png").is_file()
        (tmp_path / "v.csv").write_text("number,verdict\n1,correct\n2,bad_box\n")
        document = valflow("audit", run, "--verdicts", "v.csv", "--json").document
        assert (document["judged"], document["wrong"]) == (2, 1)
        assert document["sentence"].startswith("1 wrong of 2")
        assert [i["verdict"] for i in document["items"]] == ["correct", "bad_box"]
        assert counts(run)["rejected"] == 1

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ("", "expected CSV with the columns number,verdict"),
            ("id,verdict\n1,correct\n", "expected CSV with the columns number,verdict"),
            ("number,verdict\none,correct\n", "v.csv, line 2: expected a number, found 'one'"),
            ("number,verdict\n1\n", "'' is no verdict"),
            ("number,verdict\n7,correct\n", "number 7 was not drawn (1 to 2 were)"),
            ("number,verdict\n1,fine\n", "'fine' is no verdict"),
        ],
        ids=["empty", "other columns", "no number", "no verdict", "not drawn", "unknown verdict"],
    )
    def test_verdicts_that_cannot_be_taken(
        self, content: str, says: str, drawn: str, tmp_path: Path, valflow: Call
    ) -> None:
        (tmp_path / "v.csv").write_text(content)
        answer = valflow("audit", drawn, "--verdicts", "v.csv")
        assert answer.code == 2
        assert says in answer.err
        assert valflow("audit", drawn, "--json").document["judged"] == 0

    @pytest.mark.parametrize(
        ("typed", "code", "state"),
        [("y\n", 0, "DISCARDED"), ("n\n", 1, "IN_REVIEW"), ("\n", 1, "IN_REVIEW")],
        ids=["yes", "no", "just Enter"],
    )
    def test_discarding_asks(
        self, typed: str, code: int, state: str, run: str, valflow: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "stdin", Person(typed))
        answer = valflow("discard", run, "--note", "wrong model")
        assert (answer.code, runs.load(run)["state"]) == (code, state)
        assert "discard run" in answer.out
        assert "with 4 predictions? [y/N]" in answer.out
        decision = runs.load(run)["decision"]
        assert (decision is None) if code else (decision["note"] == "wrong model")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run with a draw that nobody has judged."""
    from valflow import audits

    run = make_run(make_dataset(tmp_path_factory.mktemp("drawn"), samples=1, empty=0))
    audits.draw(run, "ann", seed=1)
    return run


def _actors(run: str) -> list[str]:
    from valflow import actions

    return [a["actor"] for a in actions.history_of(run)]


# -- exports


class TestExporting:
    def test_again_into_the_same_folder_replaces_the_entry(
        self, finalized: str, tmp_path: Path, valflow: Call
    ) -> None:
        before = len(runs.load(finalized)["exports"])
        words = ["export", finalized, "--dir", "out"]
        assert "2 labels on 1 samples, read back and equal" in valflow(*words).out
        (entry,) = valflow(*words, "--media", "none", "--json").document["exports"]
        assert (entry["dir"], entry["media"], entry["labels"]) == (
            str(tmp_path / "out" / finalized / "coco"),
            "none",
            2,
        )
        assert len(runs.load(finalized)["exports"]) == before + 1
        assert list((tmp_path / "out").rglob("*.png")) == []

    @pytest.mark.parametrize(
        ("media", "files", "links"),
        [("copy", 1, 0), ("symlink", 1, 1), ("none", 0, 0)],
    )
    def test_media(
        self, media: str, files: int, links: int, finalized: str, tmp_path: Path, valflow: Call
    ) -> None:
        answer = valflow("export", finalized, "--dir", "out", "--media", media)
        assert answer.code == 0, answer.err
        images = list((tmp_path / "out").rglob("*.png"))
        assert (len(images), sum(i.is_symlink() for i in images)) == (files, links)

    def test_what_the_configuration_asks_for_is_made_once_each(self, tmp_path: Path) -> None:
        from valflow.run_exports import export_run, missing_exports, with_exports

        asked = [
            {"format": "coco", "dir": str(tmp_path / "a"), "media": "none"},
            {"format": "coco", "dir": str(tmp_path / "b")},
            {"format": "voc", "dir": str(tmp_path / "a"), "scope": "field", "media": "symlink"},
        ]
        run = make_run(make_dataset(tmp_path, samples=1, empty=0), State.FINALIZED, export=asked)
        record = runs.load(run)
        made = []
        for entry in export_run(record, missing_exports(record)):
            made.append(entry["media"])
            record = {**record, "exports": with_exports(record, [entry])}
            # As after a crash: what is there is not made again.
            assert len(missing_exports(record)) == 3 - len(made)
        assert made == ["none", "copy", "symlink"]

    def test_of_a_dataset_that_is_gone(self, tmp_path: Path, valflow: Call) -> None:
        dataset = make_dataset(tmp_path, samples=1, empty=0)
        run = make_run(dataset, State.FINALIZED)
        dataset.delete()
        answer = valflow("export", run)
        assert answer.code == 1
        assert is_one_paragraph(answer.err)
        assert "was deleted" in answer.err


# -- with a Prefect server: runs from their start to their end


@pytest.fixture
def server(in_stack: Stack) -> Iterator[Stack]:
    """The stack's Prefect server, also for flows in this process."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: in_stack.api_url}):
        yield in_stack


ONE_IN_A_THOUSAND = """
name: crowd
table: labels
expectations:
  - {type: expect_table_row_count_to_be_between, kwargs: {min_value: 1000}, severity: critical}
"""


@pytest.mark.stack
class TestRunning:
    def test_until_it_awaits_review_then_skipped_then_finalized_then_nothing_new(
        self, server: Stack, dataset: Any, tmp_path: Path, valflow: Call
    ) -> None:
        config = write_config(dataset, tmp_path, run_name="first")
        answer = valflow("run", config, "--set", "approval.threshold=0.9", "--json")
        started = answer.document
        run = started["run"]
        assert (answer.code, started["outcome"], started["state"]) == (0, "awaiting_review", "IN_REVIEW")
        assert started.keys() >= RUN_KEYS
        assert (started["counts"]["predicted"], started["counts"]["approved"]) == (4, 1)
        assert started["config"]["approval"]["threshold"] == 0.9
        assert "running in this process" in answer.err
        assert "temporary directory" not in answer.err

        answer = valflow("run", config, "--json")
        assert (answer.code, answer.document["outcome"], answer.document["run"]) == (0, "skipped", run)

        shown = valflow("finalize", "latest", "--preview", "--json").document
        assert (shown["labels"], shown["samples"], len(shown["missing"])) == (1, 1, 1)
        answer = valflow(
            "finalize",
            run,
            "--digest",
            shown["digest"],
            "--override",
            "a test",
            "--note",
            "n",
            "--no-wait",
            "--json",
        )
        ended = answer.document
        assert (answer.code, ended["state"], ended["counts"]["finalized"]) == (0, "FINALIZED", 1)
        assert (ended["counts"]["discarded"], ended["decision"]["override"]) == (3, "a test")
        assert (ended["decision"]["note"], ended["decision"]["digest"]) == ("n", shown["digest"])
        assert "temporary directory" not in answer.err

        again = valflow("finalize", run, "--yes")
        assert again.code == 1
        assert "is FINALIZED; there is nothing to finalize" in again.err

        answer = valflow("run", config, "--json")
        nothing = answer.document
        assert (answer.code, nothing["outcome"], nothing["run"]) == (0, "nothing_new", None)
        assert nothing.keys() >= RUN_KEYS
        assert nothing["counts"] == dict.fromkeys(COUNTS, 0)
        assert "nothing to label" in valflow("run", config).out

    def test_that_fails(self, server: Stack, dataset: Any, tmp_path: Path, valflow: Call) -> None:
        model = {"kind": "python", "path": "tests.models:Odd", "kwargs": {"on": [0]}}
        config = write_config(dataset, tmp_path, model=model)
        answer = valflow("run", config, "--json")
        assert (answer.code, answer.document["kind"]) == (1, "InferenceFailed")
        assert "1 of 1 samples could not be labelled" in answer.document["error"]
        assert runs.list_runs(dataset.name)[0]["state"] == "FAILED"
        answer = valflow("show", "latest")
        assert "run the same command again to continue" in answer.out

    def test_without_review_what_the_gate_refuses_waits_for_a_person(
        self, server: Stack, dataset: Any, tmp_path: Path, valflow: Call
    ) -> None:
        (tmp_path / "crowd.yaml").write_text(ONE_IN_A_THOUSAND)
        config = write_config(
            dataset, tmp_path, review={"required": False}, validation={"suites": ["./crowd.yaml"]}
        )
        answer = valflow("run", config, "--json")
        document = answer.document
        assert (answer.code, document["outcome"]) == (0, "awaiting_review")
        assert (document["state"], document["round"]) == ("IN_REVIEW", 2)

        answer = valflow("finalize", document["run"], "--yes")
        assert answer.code == 1
        assert answer.out.startswith("the review was reopened (round 3): validation refused")
        assert runs.load(document["run"])["state"] == "IN_REVIEW"

    @pytest.mark.parametrize(
        ("typed", "code", "state"),
        [("n\n", 1, "IN_REVIEW"), ("yes\n", 0, "FINALIZED")],
        ids=["no", "yes"],
    )
    def test_finalizing_asks(
        self,
        typed: str,
        code: int,
        state: str,
        server: Stack,
        run: str,
        valflow: Call,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        judge_all(run)
        monkeypatch.setattr(sys, "stdin", Person(typed))
        answer = valflow("finalize", run)
        assert (answer.code, runs.load(run)["state"]) == (code, state)
        assert "labels to be added  2" in answer.err
        assert "finalize these 2 labels? [y/N]" in answer.out

    def test_a_decision_whose_process_died_is_carried_on(
        self, server: Stack, run: str, valflow: Call
    ) -> None:
        judge_all(run)
        decisions.submit(run, Decision("finalize", "bob"))
        answer = valflow("finalize", run, "--json")
        assert (answer.code, answer.document["state"]) == (0, "FINALIZED")
        assert answer.document["decision"]["reviewer"] == "bob"
        assert "was decided by bob already" in answer.err


@pytest.mark.stack
@pytest.mark.slow
class TestDeployed:
    def test_finalizing_again_after_a_resume_that_failed_only_resumes(
        self, server: Stack, dataset: Any, tmp_path: Path, valflow: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        triggered = valflow("run", write_config(dataset, tmp_path), "--deploy", "--json").document
        assert triggered["outcome"] == "triggered"
        prefect_api.wait_for(triggered["flow_run"], ["Suspended"], timeout=240)
        run = runs.list_runs(dataset.name)[0]["run"]
        judge_all(run)

        with monkeypatch.context() as patch:
            patch.setenv("PREFECT_API_URL", NOBODY_THERE)
            answer = valflow("finalize", run, "--yes")
            assert answer.code == 1
            assert "the decision is recorded, but Prefect could not be told" in answer.err
            assert f"`valflow finalize {run}` again only resumes" in answer.err
        decided = runs.load(run)
        assert (decided["state"], decided["decision"]["reviewer"]) == ("REVIEWED", "ann")

        answer = valflow("finalize", run, "--reviewer", "bob", "--no-wait")
        assert answer.code == 0
        assert "goes on in Prefect" in answer.out
        prefect_api.wait_for(triggered["flow_run"], ["Completed"], timeout=240)
        ended = runs.load(run)
        assert (ended["state"], ended["decision"]) == ("FINALIZED", decided["decision"])
        assert [h["event"] for h in ended["history"]].count("submit") == 1

    def test_discarding_again_after_a_resume_that_failed_only_resumes(
        self, server: Stack, run: str, valflow: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        flow_run = _ask_person()
        prefect_api.wait_for(flow_run, ["Suspended"], timeout=240)
        suspended = {"suspended_in": flow_run, "prefect_url": "the page"}
        database.runs().update_one({"run": run}, {"$set": suspended})
        with monkeypatch.context() as patch:
            patch.setenv("PREFECT_API_URL", NOBODY_THERE)
            answer = valflow("discard", run, "--yes")
            assert answer.code == 1
            assert f"`valflow discard {run}` again only resumes" in answer.err
        assert runs.load(run)["state"] == "DISCARDED"
        answer = valflow("discard", run)
        assert answer.code == 0
        assert "was discarded already" in answer.out
        assert prefect_api.wait_for(flow_run, ["Completed"], timeout=240).is_final

    def test_a_decided_run_whose_prefect_run_has_ended_goes_on_here(
        self, server: Stack, run: str, valflow: Call
    ) -> None:
        judge_all(run)
        decisions.submit(run, Decision("finalize", "bob"))
        flow_run = _ask_person({"type": "CANCELLED", "name": "Cancelled"})
        database.runs().update_one({"run": run}, {"$set": {"suspended_in": flow_run, "prefect_url": "x"}})
        answer = valflow("finalize", run)
        assert (answer.code, runs.load(run)["state"]) == (0, "FINALIZED"), answer.err
        assert "the Prefect run ended as Cancelled" in answer.err


def _ask_person(state: dict[str, Any] | None = None) -> str:
    """A flow run of the smallest deployment: it suspends with a form, unless it is created in another state."""
    deployment = prefect_api.find_deployment("ask-person", "ask-person")
    config = {"dataset": "none", "label_field": "auto", "model": {"kind": "field", "field": "predictions"}}
    body = {"parameters": {"config": config}} | ({"state": state} if state else {})
    made = prefect_api.call("POST", f"/deployments/{deployment['id']}/create_flow_run", body)
    return str(made.json()["id"])


@pytest.mark.stack
def test_schedules_have_documents_too(server: Stack, dataset: Any, tmp_path: Path, valflow: Call) -> None:
    config = write_config(dataset, tmp_path)
    made = valflow("schedule", config, "--cron", "0 2 * * *", "--name", "cli-test", "--json").document
    assert (made["name"], made["cron"], made["timezone"]) == ("cli-test", "0 2 * * *", "UTC")
    listed = valflow("schedule", "--json").document["schedules"]
    assert "cli-test" in [s["name"] for s in listed]
    assert "cli-test" in valflow("schedule").out
    assert valflow("unschedule", "cli-test", "--json").document["name"] == "cli-test"
    assert valflow("unschedule", "cli-test").code == 2
