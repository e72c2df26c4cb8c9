"""What people read about a certificate: in the report, on the page of a run, in the terminal, for a single label."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.builders import bring_to, entries
from tests.certified import judge_honestly, make_certified_run, make_large_dataset
from tests.core.report_cases import make_record, waiting
from tests.core.test_report import Page
from valflow import audits, runs, undoing
from valflow.cli import views
from valflow.explaining import explain, in_words
from valflow.report import charts, render_markdown, render_report, write_report
from valflow.report.content import report_of
from valflow.reporting import current_view
from valflow.review_page import waiting_markdown

START = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)


def make_group(name: str = "cat", **changes: Any) -> dict[str, Any]:
    """A group about which the promise is proven."""
    tests = [
        {"labels": 500, "audited": 98, "wrong": 0, "p_value": 0.01, "bound": 0.02, "passed": True},
        {"labels": 800, "audited": 150, "wrong": 3, "p_value": 0.06, "bound": 0.0431, "passed": True},
        {"labels": 1000, "audited": 180, "wrong": 9, "p_value": 0.4, "bound": 0.081, "passed": False},
    ]
    return {
        "name": name,
        "classes": 1,
        "labels": 1000,
        "audit": 180,
        "reason": "",
        "drawn_from": 1000,
        "risk": 0.1,
        "certified": 800,
        "approved": 650,
        "audited": 150,
        "wrong": 3,
        "estimate": 0.02,
        "bound": 0.0431,
        "most_wrong": 28,
        "sentence": f"{name}: of 650 labels that nobody looked at, at most 28 (4.4 %) are wrong",
        "tests": tests,
        "by_class": [{"label": name, "approved": 650, "audited": 150, "wrong": 3}],
        **changes,
    }


UNPROVEN = make_group(
    "dog",
    certified=0,
    approved=0,
    estimate=None,
    bound=None,
    most_wrong=None,
    sentence="dog: nothing is proven; every label needs a look",
    tests=[{"labels": 400, "audited": 60, "wrong": 12, "p_value": 0.9, "bound": 0.3, "passed": False}],
    audited=60,
    wrong=12,
    by_class=[],
)
RARE = {**UNPROVEN, "name": "rare", "labels": 30, "audit": 0, "reason": "only 30 labels", "tests": []}


def make_certificate(**changes: Any) -> dict[str, Any]:
    """A certificate of one proven group."""
    return {
        "state": "certified",
        "promise": {"max_error": 0.05, "confidence": 0.9, "miss_rate": 0.0},
        "groups": [make_group()],
        "labels": 1000,
        "audit": 180,
        "audited": 180,
        "wrong": 9,
        "approved": 650,
        "queue": 170,
        "looks": 350,
        "seed": 7,
        "digest": "ab" * 32,
        "fingerprint": "cd" * 32,
        "history": 0,
        "history_runs": [],
        "history_dropped": 0,
        "withdrawn": 0,
        "drift": [],
        "drift_suspected": False,
        "verdicts_from": {"ann": 120, "ground truth (truth)": 60},
        "certified_at": START,
        **changes,
    }


def text_of(certificate: dict[str, Any] | None, **changes: Any) -> str:
    return Page(render_report(make_record(certificate=certificate, **changes))).text


def section_of(certificate: dict[str, Any], **changes: Any) -> str:
    """Text of the section alone."""
    text = text_of(certificate, **changes)
    start = text.rindex("What is proven", 0, text.rindex("Classes and thresholds"))
    return text[start : text.index("Classes and thresholds", start)]


DRIFT = [
    {"name": "cat", "statistic": 0.3, "p_value": 0.0021, "suspected": True},
    {"name": "audit", "statistic": 0.2, "p_value": 1e-20, "suspected": True},
]
LOT = {
    "arrivals": [
        {"at": START, "total": 900, "samples": 90},
        {"at": START + timedelta(days=2), "total": 2100},
    ],
    "labels": 2100,
    "min_labels": 2000,
    "due": START + timedelta(days=7),
    "closed": "full",
    "closed_at": START + timedelta(days=2, hours=4),
}


class TestSection:
    def test_figures_and_grounds(self) -> None:
        text = section_of(make_certificate())
        for words in (
            "at most 5 % are wrong, with 90 % confidence for each group",
            "Promise kept",
            "cat: of 650 labels that nobody looked at, at most 28 (4.4 %) are wrong.",
            "cat 1,000 800 150 3 2.0 % 4.4 % 650",
            "350 looks instead of 1,000",
            "180 labels were judged in the draw, 170 are left to look at, 650 (65.0 %) need none",
            "ann (120) and ground truth (truth) (60)",
            "no earlier verdicts on this model (cold start)",
            "abababababababab",
            "cdcdcdcdcdcdcdcd",
            "hypergeometric",
        ):
            assert words in text, words

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            pytest.param(
                {"groups": [make_group(), UNPROVEN]},
                ["Nothing proven", "Of 60 labels drawn from the best 400, 12 were wrong: too many."],
                id="a group that failed",
            ),
            pytest.param(
                {"groups": [make_group(), RARE]},
                ["Nothing was drawn from it: only 30 labels."],
                id="a group that was not audited",
            ),
            pytest.param(
                {"groups": [make_group(), make_group("dog")]},
                ["holds with at least 80 % confidence", "all 2,000 1,600 300 6 2.0 % 4.4 % 1,300"],
                id="the whole is less sure than its parts",
            ),
            pytest.param(
                {"groups": [make_group(f"class {i}") for i in range(10)]},
                ["is not stated, for no confidence is left", "The 6 largest of 10 groups"],
                id="too many groups for a bound on all",
            ),
            pytest.param(
                {"groups": [UNPROVEN], "approved": 0, "queue": 820, "looks": 1000},
                ["1,000 looks, one for each label"],
                id="nothing saved",
            ),
            pytest.param(
                {
                    "groups": [
                        make_group(
                            "pooled",
                            by_class=[
                                {"label": "ant", "approved": 600, "audited": 140, "wrong": 1},
                                {"label": "bee", "approved": 50, "audited": 10, "wrong": 2},
                            ],
                        )
                    ]
                },
                ["not about each of its classes", "Worst in the draw was “bee”: 2 wrong of 10."],
                id="classes of a pooled group",
            ),
            pytest.param(
                {"drift": DRIFT, "drift_suspected": True},
                ["the scores of “cat” are not those of the run before (p = 0.0021)", "(p < 0.0001)"],
                id="drift",
            ),
            pytest.param(
                {"history": 298, "history_runs": ["a", "b"]},
                ["learned from 298 verdicts of 2 earlier runs of this model"],
                id="history",
            ),
            pytest.param(
                {"history_dropped": 298}, ["298 earlier verdicts no longer fit"], id="history dropped"
            ),
            pytest.param(
                {"withdrawn": 1}, ["withdrawn once", "computed from the verdicts given"], id="withdrawn"
            ),
            pytest.param(
                {"promise": {"max_error": 0.05, "confidence": 0.9, "miss_rate": 0.1}},
                ["reviewers who overlook 10 % of the wrong labels"],
                id="reviewers who overlook",
            ),
        ],
    )
    def test_what_else_there_is(self, changes: dict[str, Any], words: list[str]) -> None:
        text = section_of(make_certificate(**changes))
        assert [w for w in words if w not in text] == []

    def test_abstained_says_why(self) -> None:
        text = section_of(make_certificate(state="abstained", reason="cat: only 30 labels", groups=[]))
        assert "nothing was drawn: every label needs a look. Why: cat: only 30 labels." in text
        assert "Promise kept" not in text
        assert "seed" not in text

    def test_before_the_verdicts_nothing_of_a_withdrawn_one_is_claimed(self) -> None:
        text = section_of(make_certificate(state="audit", digest=None, withdrawn=1))
        assert "180 labels were drawn at random and wait for verdicts" in text
        assert "its approvals went with it" in text
        assert "at most 28" not in text
        assert "looks instead" not in text
        assert "ann (120)" not in text

    def test_groups_that_nothing_is_drawn_from_are_told_at_once(self) -> None:
        text = section_of(make_certificate(state="audit", groups=[make_group(), RARE]))
        assert "rare 30 1,000 0 all for review: only 30 labels" in text

    def test_labels_that_waited_together(self) -> None:
        text = section_of(make_certificate(), lot=LOT)
        assert "2,100 labels of 2 starts; the first waited 2 d 4 h; closed because they were enough" in text

    def test_none_without_a_certificate(self) -> None:
        assert "What is proven" not in text_of(None)

    def test_markdown_tells_the_same(self) -> None:
        markdown = re.sub(r"\\(.)", r"\1", render_markdown(make_record(certificate=make_certificate())))
        assert "## What is proven" in markdown
        assert "- [x] Promise kept: cat: of 650 labels" in markdown
        assert "| cat | 1,000 | 800 | 150 | 3 | 2.0 % | 4.4 % | 650 |" in markdown
        assert "**350 looks instead of 1,000**" in markdown

    def test_pictures_become_files(self, tmp_path: Path) -> None:
        write_report(make_record(certificate=make_certificate()), tmp_path, {})
        assert "promise 5 %" in (tmp_path / "pictures" / "risk.svg").read_text()
        assert "review everything" in (tmp_path / "pictures" / "looks.svg").read_text()
        assert "pictures/risk.svg" in (tmp_path / "report.md").read_text()


class TestPicture:
    def test_bounds_lie_below_the_promise_where_a_region_passed(self) -> None:
        tests = [charts.TestedRegion(0.5, 0.0, 0.02, True), charts.TestedRegion(1.0, 0.05, 0.08, False)]
        svg = charts.risk_over_coverage("cat", tests, 0.05, 0.5, 1000)
        (line,) = re.findall(r'class="threshold"[^>]* y1="([\d.]+)"', svg)
        tops = {c: float(y) for c, y in re.findall(r'class="whisker (\w+)"[^>]* y2="([\d.]+)"', svg)}
        assert tops["rejected"] < float(line) < tops["approved"]  # up is less
        assert 'class="region"' in svg
        assert "certified up to 50.0 %" in svg

    @pytest.mark.parametrize(
        ("tests", "promise"),
        [
            pytest.param([], 0.05, id="no region"),
            pytest.param([charts.TestedRegion(1.0, 1.0, 1.0, False)], 0.01, id="all wrong"),
            pytest.param([charts.TestedRegion(1.0, 0.5, 0.9, True)], 0.99, id="a lax promise"),
            pytest.param([charts.TestedRegion(1.0, 0.0, 0.0, True)], 0.05, id="nothing left to be wrong"),
        ],
    )
    def test_stays_inside_of_its_frame(self, tests: list[charts.TestedRegion], promise: float) -> None:
        svg = charts.risk_over_coverage("cat", tests, promise, 0.0, 10)
        heights = [float(y) for y in re.findall(r' (?:y1|y2|cy)="([\d.-]+)"', svg)]
        assert all(0 <= y <= 208 for y in heights)
        assert 'class="region"' not in svg


class TestTop:
    def test_headlines_and_summary(self) -> None:
        report = report_of(
            make_record(certificate=make_certificate(groups=[make_group(), make_group("dog", bound=0.05)]))
        )
        figures = {h.name: (h.figure, h.note) for h in report.headlines}
        assert figures["wrong among those not looked at"] == (
            "≤ 5 %",
            "in each of 2 groups, 90 % sure per group",
        )
        assert figures["labels to look at"] == ("350", "of 1,000")
        assert len(report.headlines) <= 6
        summary = text_of(make_certificate())
        assert (
            "650 labels were approved without a look by the certificate: at most 4.4 % of them are wrong"
            in summary
        )

    def test_nothing_proven(self) -> None:
        text = text_of(make_certificate(groups=[UNPROVEN], approved=0, looks=1000))
        assert "The certificate proves nothing: every label needs a look." in text
        assert "wrong among those not looked at" not in text

    def test_what_to_do_first(self) -> None:
        text = Page(render_report(waiting(certificate=make_certificate(state="audit")))).text
        assert (
            "First judge the 180 labels drawn for the certificate, in the App or with valflow audit" in text
        )
        assert "Decide with" not in text

    @pytest.mark.parametrize(
        ("certificate", "step"),
        [
            pytest.param(make_certificate(), ("180 drawn", "for the certificate"), id="drawn"),
            pytest.param(
                make_certificate(state="abstained", audit=0),
                ("nothing drawn", "all for review"),
                id="not drawn",
            ),
        ],
    )
    def test_the_stage(self, certificate: dict[str, Any], step: tuple[str, str]) -> None:
        triage = report_of(make_record(certificate=certificate)).steps[1]
        assert (triage.figure, triage.note) == step

    def test_no_threshold_is_spoken_of(self) -> None:
        text = text_of(make_certificate(), thresholds={"default": None, "per_class": {}})
        assert "the certificate decides which labels may skip the review" in text
        assert "every label waited for a person" not in text

    def test_a_run_that_waits_for_more(self) -> None:
        lot = {**LOT, "closed": None, "closed_at": None, "labels": 900}
        record = waiting(lot=lot)
        text = Page(render_report({**record, "state": "PREDICTED"})).text
        assert "Waiting for more" in text
        assert "waits for more: 900 of 2,000 labels for a certificate" in text
        assert "or on 8 Mar 2026, 02:00 UTC" in text
        assert "Waiting for more" not in Page(render_report(record)).text

    def test_the_draw_is_no_spot_check(self) -> None:
        audit = {"kind": "certificate", "drawn": 180, "population": 1000, "judged": 180, "wrong": 9}
        text = text_of(make_certificate(), audit=audit | {"verdicts": {"correct": 171, "duplicate": 9}})
        assert "180 of 180 drawn labels are judged" in text
        assert "nothing is proven yet" not in text


class TestRealRun:
    """The same from a run whose certificate was computed."""

    @pytest.fixture
    def dataset(self, tmp_path: Path) -> Any:
        return make_large_dataset(tmp_path)

    @pytest.fixture
    def run(self, dataset: Any) -> str:
        return make_certified_run(dataset)

    def test_report_repeats_each_sentence(self, dataset: Any, run: str) -> None:
        judge_honestly(run, dataset)
        record = bring_to(run, dataset, "FINALIZED")
        text = Page(render_report(runs.as_json(record))).text
        assert len(record["certificate"]["groups"]) == 2
        for group in record["certificate"]["groups"]:
            assert " ".join(group["sentence"].split()) in text
            assert [t["bound"] <= 0.1 for t in group["tests"]] == [t["passed"] for t in group["tests"]]

    def test_page_and_terminal_say_what_to_do(self, dataset: Any, run: str) -> None:
        page, told = waiting_markdown(runs.load(run)), views.describe(current_view(runs.load(run)))
        drawn = runs.load(run)["certificate"]["audit"]
        assert f"First judge the {drawn} labels that were drawn for the certificate" in page
        assert "by threshold" not in page
        assert "valflow approve" not in page
        assert "next: judge what was drawn for the certificate" in told
        judge_honestly(run, dataset)
        page, told = waiting_markdown(runs.load(run)), views.describe(current_view(runs.load(run)))
        assert "First judge" not in page
        assert "valflow approve" in page
        for sentence in (g["sentence"] for g in runs.load(run)["certificate"]["groups"]):
            assert sentence in told
        assert "next: valflow approve" in told

    def test_json_has_the_certificate(self, dataset: Any, run: str) -> None:
        judge_honestly(run, dataset)
        document = views.document_of(current_view(runs.load(run)))
        assert document["certificate"]["state"] == "certified"
        assert document["lot"] is None

    def test_a_run_that_waits_for_more_is_called_so(self, run: str) -> None:
        lot = {**LOT, "closed": None}
        record = {**runs.load(run), "state": "PREDICTED", "lot": lot, "certificate": None}
        assert "Waiting for more" in views.describe(record).splitlines()[0]
        assert "--set approval.lot=null" in views.describe(record)
        assert "Waiting for more" not in views.describe({**record, "lot": LOT})

    def test_why_a_label_was_approved(self, dataset: Any, run: str) -> None:
        judge_honestly(run, dataset)
        certificate = runs.load(run)["certificate"]
        label, entry = next((i, e) for i, e in entries(run).items() if e["action"] == certificate["action"])
        facts = explain(label)
        group = next(g for g in certificate["groups"] if g["name"] == entry["label"])
        assert facts["certificate"] == {
            "digest": certificate["digest"],
            "group": group["name"],
            "sentence": group["sentence"],
        }
        assert f"approved by certificate {certificate['digest'][:12]}: {group['sentence']}" in in_words(facts)
        undoing.undo(run, "ann")
        assert explain(label)["certificate"] is None

    def test_why_a_label_was_judged(self, dataset: Any, run: str) -> None:
        judge_honestly(run, dataset)
        audit = audits.certificate_audit(run)
        assert audit is not None
        item = audit["items"][0]
        facts = explain(str(item["label_id"]))
        assert facts["certificate"] is None
        assert f"drawn at random with probability {item['probability']:.3g} (number 1)" in in_words(facts)
        assert f"judged {item['verdict']} by ann" in in_words(facts)
