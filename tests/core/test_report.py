"""The report of a run, whatever state the run is in."""

from __future__ import annotations

import json
import re
import time
import xml.etree.ElementTree as ElementTree
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.core.report_cases import failed, make_class, make_record, save_image, waiting
from valflow.report import Tile, charts, error_tiles, formats, render_markdown, render_report, write_report
from valflow.report.content import report_of
from valflow.states import SHOWN_AS, State

EVIL = '<script>alert("x")</script> | `a` *b* [c](javascript:d) & \x00\u202e'
HOSTILE = ["<b>bold</b>", "a|b", "`tick`", "żółw 猫", "x" * 300, "line\nbreak", "\x0bvertical", "\ud800", ""]


class Page(HTMLParser):
    """What a browser would make of a page: tags, addresses and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def markdown_tables(text: str) -> list[list[str]]:
    """Lines of every table."""
    groups = re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE)
    return [group.strip().split("\n") for group in groups]


RECORDS = [
    make_record(),  # everything there
    waiting(),  # awaits its review
    waiting(round=2),  # review opened again
    make_record(state="CREATED", counts={}, class_table=[], history=[], metrics=None),  # just begun
    make_record(state="DISCARDED", decision={"decision": "discard", "reviewer": "bo", "note": "blurred"}),
    make_record(class_table=[], counts={"samples": 3, "predicted": 0, "finalized": 0}),  # no labels
    make_record(metrics=None, config={}),  # no evaluation
    make_record(audit=None, checklist=[]),  # no spot-check
    make_record(thresholds={"default": None, "per_class": {}}),  # review_all
    make_record(class_table=[make_class(mean_confidence=None, without_confidence=100, histogram=[0] * 20)]),
    make_record(class_table=[make_class(f"class {i:04d}", 1203 - i) for i in range(1203)]),  # LVIS
    make_record(name=EVIL, dataset=EVIL, label_field=EVIL),  # text that wants to be markup
    {},  # nothing known
    {"state": "TELEPORTED", "run": "from_the_future"},  # a later version wrote it
    failed("CREATED"),  # the model failed
    failed("FINALIZING"),  # writing failed
]
NAMES = [
    "finalized",
    "in review",
    "second round",
    "created",
    "discarded",
    "no labels",
    "no evaluation",
    "no spot-check",
    "review all",
    "no confidence",
    "1203 classes",
    "hostile names",
    "empty record",
    "unknown state",
    "failed in infer",
    "failed in finalize",
]


@pytest.mark.parametrize("record", RECORDS, ids=NAMES)
def test_every_run_has_a_report(record):
    page = Page(render_report(record))
    assert page.open == []
    assert "Settings and versions" in page.text
    markdown = render_markdown(record)
    assert markdown.startswith("# ")
    for table in markdown_tables(markdown):
        # An escaped | is no border.
        assert len({re.sub(r"\\.", "", line).count("|") for line in table}) == 1


@pytest.mark.parametrize("state", list(State))
def test_states_are_shown_in_the_words_of_the_app(state):
    record = make_record(state=state.value)
    assert SHOWN_AS[state] in Page(render_report(record)).text
    assert f"**{SHOWN_AS[state]}**" in render_markdown(record)


def test_a_finalized_run_says_what_it_did():
    text = Page(render_report(make_record())).text
    for words in (
        "92 of 120 predicted labels",
        "1 wrong of 59: at most 7.8 % wrong (95 %)",
        "Decided by ana on 1 Mar 2026, 02:50 UTC",
        "“cat” at 0.85",
        "Approval raised the precision from 79.2 % to 97.8 %; recall went from 95.0 % to 90.0 %",
        "Of 28 discarded labels, 5 were right",
        'dataset.match_tags("needs_correction")',
        "often a wolf",
        "92 announced, 92 written",
        "cannot identify image file",
        "All checks with their results",
        "50 min 00 s",
    ):
        assert words in text, words


def test_html_and_markdown_tell_the_same():
    record = make_record()
    text = Page(render_report(record)).text
    markdown = re.sub(r"\\(.)", r"\1", render_markdown(record))
    for section in report_of(record).sections:
        assert section.title in text
        assert f"## {section.title}" in markdown
    for words in (
        "at most 7.8 % wrong (95 %)",
        "Approval raised the precision from 79.2 %",
        "seed 7",
        "9f2c",
    ):
        assert words in text
        assert words in markdown


@pytest.mark.parametrize("label", HOSTILE, ids=[ascii(h)[:20] for h in HOSTILE])
def test_names_are_only_text(label):
    row = make_class(label)
    record = make_record(
        name=label,
        class_table=[row],
        thresholds={"default": 0.5, "per_class": {label: 0.9}},
        decision={"decision": "finalize", "reviewer": label, "note": label, "override": label},
        issues={label: [label]},
        problem_tags={label: 1},
        failed=[{"reason": label, "filepath": label}],
    )
    tiles = {"approved": [Tile("/missing.png", None, label, None, label)]}
    html = render_report(record, {}, tiles)
    page = Page(html)
    assert "b" not in {tag for tag, _ in page.tags}
    html.encode("utf-8")
    render_markdown(record, (), tiles).encode("utf-8")
    for svg in (
        charts.confidence_histogram(label, row["histogram"], 0.7, 100),
        charts.decision_bars([(label, [("approved", 3)])]),
    ):
        ElementTree.fromstring(svg)


def test_markup_in_notes_stays_text():
    record = make_record(
        name=EVIL, decision={"decision": "finalize", "reviewer": "ana", "note": EVIL, "override": EVIL}
    )
    html = render_report(record)
    tags = [tag for tag, _ in Page(html).tags]
    assert "script" not in tags
    assert "\x00" not in html
    assert "\u202e" not in html
    assert 'alert("x")' in Page(html).text
    markdown = render_markdown(record)
    assert "<script>" not in markdown
    assert not re.search(r"(?<!\\)\]\(javascript", markdown)


def test_a_page_asks_nobody_for_anything(tmp_path):
    tiles = {"approved": [Tile(save_image(tmp_path / "a.png"), (0.1, 0.1, 0.5, 0.5), "cat", 0.9)]}
    files = write_report(make_record(), tmp_path / "out", tiles)
    html = Path(files["report"]).read_text(encoding="utf-8")
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    sources = [attributes["src"] for _, attributes in page.tags if "src" in attributes]
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert "@import" not in html
    assert "url(" not in html
    policy = [
        a["content"]
        for tag, a in page.tags
        if tag == "meta" and "content" in a and "default-src" in a["content"]
    ]
    assert policy[0].startswith("default-src 'none'")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://127.0.0.1:4200/runs/1", "http://127.0.0.1:4200/runs/1"),
        ("https://example.org/a b", "https://example.org/a%20b"),
        ("validation r1.html", "validation%20r1.html"),
        ("../other/#1?.json", "../other/%231%3F.json"),
        ("/srv/exports", "/srv/exports"),
        ("javascript:alert(1)", ""),
        (" JavaScript:alert(1)", ""),
        ("java\x00script:alert(1)", "java%EF%BF%BDscript%3Aalert(1)"),
        ("data:text/html,x", ""),
        ("vbscript:x", ""),
        ("//elsewhere.example", ""),
        ("\\\\elsewhere", ""),
        ("", ""),
    ],
)
def test_only_addresses_of_pages_and_files_are_links(address, expected):
    assert formats.address(address) == expected
    page = Page(render_report(make_record(artifacts={"x": address}, prefect_url=address)))
    assert all((a["href"] or "").startswith(("#", expected or "#")) for tag, a in page.tags if tag == "a")


def test_checks_that_are_open_are_seen():
    record = make_record(
        checklist=[
            {"item": "spot_check", "title": "Judged", "ok": False, "evidence": "none", "required": True}
        ]
    )
    assert "required" in Page(render_report(record)).text
    assert "- [ ] Judged (required): none" in render_markdown(record)


@pytest.mark.parametrize(
    ("record", "progress"),
    [
        (waiting(), "done done now ahead ahead ahead ahead ahead"),
        (make_record(), "done done done done done done done done"),
        (
            make_record(metrics=None),
            "done done done done done ahead done done",
        ),  # evaluation wanted, not there
        (make_record(config={}, exports=[], metrics=None), "done done done done done skipped skipped done"),
        (make_record(state="REVIEWED"), "done done done now ahead ahead ahead ahead"),
        (make_record(state="FINALIZING"), "done done done done now ahead ahead ahead"),
        (make_record(state="CREATED"), "now ahead ahead ahead ahead ahead ahead ahead"),
        (failed("CREATED"), "failed ahead ahead ahead ahead ahead ahead ahead"),
        (failed("REVIEWED"), "done done done failed ahead ahead ahead ahead"),
        (failed("FINALIZING"), "done done done done failed ahead ahead ahead"),
        (
            make_record(state="DISCARDED", history=[{"from": "IN_REVIEW", "to": "DISCARDED"}]),
            "done done done skipped skipped skipped skipped skipped",
        ),
        (
            make_record(state="DISCARDED", history=[{"from": "CREATED", "to": "DISCARDED"}]),
            "skipped skipped skipped skipped skipped skipped skipped skipped",
        ),
        ({}, "now ahead ahead ahead ahead ahead ahead ahead"),
    ],
)
def test_the_strip_of_stages_shows_how_far_the_run_came(record, progress):
    assert " ".join(step.progress for step in report_of(record).steps) == progress


def test_a_failed_run_says_where_and_why():
    text = Page(render_report(failed("REVIEWED"))).text
    assert "The run stopped in the stage validate. disk is full" in text


def test_many_classes_are_shown_as_the_twelve_largest_and_a_table_of_all():
    record = make_record(class_table=[make_class(f"class {i:04d}", 1 + i) for i in range(1203)])
    html = render_report(record)
    assert html.count('class="chart" viewBox="0 0 244') == 12
    assert "The 12 largest of 1,203 classes" in html
    assert html.count("<tr") > 1203
    markdown = render_markdown(record)
    assert "… and 1,163 more rows" in markdown
    assert markdown.index("class 1202") < markdown.index("class 1201")


def test_thirty_classes_with_pictures_are_quick_and_small(tmp_path):
    path = save_image(tmp_path / "a.png", (640, 480))
    tiles = [Tile(path, (0.1 + i / 100, 0.2, 0.2, 0.3), "cat", 0.9) for i in range(40)]
    record = make_record(class_table=[make_class(f"class {i}") for i in range(30)])
    start = time.perf_counter()
    files = write_report(record, tmp_path / "out", {"approved": tiles, "rejected": tiles, "errors": tiles})
    assert time.perf_counter() - start < 2
    assert Path(files["report"]).stat().st_size < 2_000_000


def test_written_files_are_complete_and_can_be_written_again(tmp_path):
    image = save_image(tmp_path / "a.png")
    tiles = {
        "approved": [Tile(image, (0.1, 0.1, 0.5, 0.5), f"class {i}", 0.5) for i in range(50)],
        "rejected": [],
    }
    record = make_record(
        artifacts={"validation": str(tmp_path / "out" / "validation-r1.html"), "report": "old"}
    )
    files = write_report(record, tmp_path / "out", tiles)
    assert sorted(files) == ["report", "report_markdown", "run_record"]
    plain = json.loads(Path(files["run_record"]).read_text(encoding="utf-8"))
    assert plain["run"] == "digits_run"
    assert "_id" not in plain
    assert plain["created_at"].startswith("2026-03-01T02:00")
    markdown = Path(files["report_markdown"]).read_text(encoding="utf-8")
    shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", markdown)
    # Three charts, twelve of fifty approved, none rejected, and the two errors that the evaluation listed.
    assert len(shown) == 17
    assert all((tmp_path / "out" / place).is_file() for place in shown)
    assert "](<validation-r1.html>)" in markdown
    html = Path(files["report"]).read_text(encoding="utf-8")
    assert html.count("data:image/jpeg;base64,") == 14
    assert "No rejected labels to show." in html
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    write_report(record, tmp_path / "out", tiles)
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}


def test_writing_leaves_other_files_alone(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "holiday-01.jpg").write_bytes(b"mine")
    write_report(make_record(), tmp_path, {})
    assert (tmp_path / "pictures" / "holiday-01.jpg").read_bytes() == b"mine"


def test_charts_as_files_are_complete_svg(tmp_path):
    write_report(make_record(), tmp_path, {})
    names = sorted(p.name for p in (tmp_path / "pictures").glob("*.svg"))
    assert names == ["confidence.svg", "decisions.svg", "precision-recall.svg"]
    for name in names:
        text = (tmp_path / "pictures" / name).read_text(encoding="utf-8")
        ElementTree.fromstring(text)
        assert "prefers-color-scheme: dark" in text


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.126, "12.6 %"), (0.9999, "99.9 %"), (0.00001, "0.1 %"), (1, "100 %"), (0, "0 %"), (None, "–")],
)
def test_percent_never_rounds_to_all_or_nothing(value, expected):
    assert formats.percent(value) == expected


@pytest.mark.parametrize(
    ("bound", "expected"),
    [
        (0.0495, "5 %"),
        (0.0744, "7.5 %"),
        (0.05, "5 %"),
        (0.0778, "7.8 %"),
        (1.0, "100 %"),
        (0.00001, "0.1 %"),
    ],
)
def test_an_upper_bound_is_rounded_up(bound, expected):
    assert formats.percent_at_most(bound) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.01, "<0.1 s"),
        (0.84, "0.8 s"),
        (9.96, "10 s"),  # not 10.0 s
        (59.6, "1 min 00 s"),  # not 60 s
        (192, "3 min 12 s"),
        (7500, "2 h 05 min"),
        (273600, "3 d 4 h"),
        (None, "–"),
        (-1, "–"),  # a clock that went back
        (float("nan"), "–"),
    ],
)
def test_durations_read_well(seconds, expected):
    assert formats.duration(seconds) == expected


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (datetime(2026, 11, 3, 9, 5), "3 Nov 2026, 09:05 UTC"),  # naive is UTC, as MongoDB returns it
        ("2026-11-03T10:05:00.000+01:00", "3 Nov 2026, 09:05 UTC"),
        ("yesterday", "yesterday"),
        (None, "–"),
    ],
)
def test_times_are_utc(moment, expected):
    assert formats.when(moment) == expected


def test_confidences_below_one_never_read_as_one():
    assert formats.decimal(0.999) == "0.99"
    assert formats.decimal(1.0) == "1.00"
    assert formats.threshold(0.725) == "0.725"


def test_error_tiles_are_those_of_the_evaluation():
    wrong, missed = error_tiles(make_record())
    assert (wrong.label, wrong.confidence, wrong.caption) == ("cat", 0.99, "wrong class, truly dog")
    assert wrong.box == (0.1, 0.1, 0.2, 0.2)
    assert (missed.filepath, missed.box, missed.caption) == ("", None, "missed")
    assert error_tiles({}) == []
