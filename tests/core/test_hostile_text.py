"""Text from data never becomes markup: classes, tags, notes, names, files and errors that try to, in all outputs.

HTML is read by an HTML parser, Markdown by a CommonMark parser with tables; what counts is what these would show.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from PIL import Image

from plugin import panel as panel_of_app
from plugin.approval_tab import _fate
from plugin.operators import _dialog
from tasks.validate import pass_gate
from tests.builders import box, ids_where, judge_all, make_run
from valflow import actions, decisions, promotion, runs
from valflow.audit_sheet import draw_sheet
from valflow.class_names import is_class_name
from valflow.cli import main as valflow
from valflow.notices import notice
from valflow.reporting import current_view, write_run_report
from valflow.review_page import class_rows, markdown_table, report_markdown, waiting_markdown
from valflow.selections import Selection
from valflow.states import State

HTML = '<script>alert("x")</script><img src="http://evil.example/a.png" onerror="alert(1)">'
LINK = "[click](javascript:alert(1)) ![pixel](http://evil.example/p.png) <http://evil.example> http://evil.example"
TABLE = "a | b |\n|---|---|\n| c | d |\n\n# heading\n```\ncode"
CODE = "`</code>` ``` <marquee>`"
TERMINAL = "\x1b[2J\x1b]0;title\x07\x1b[31mred \u202egnp.exe"
MARKUP = {"html": HTML, "link": LINK, "table": TABLE, "code": CODE, "terminal": TERMINAL}
ACTIVE = {"script", "iframe", "object", "embed", "link", "base", "form", "marquee", "math"}


class Page(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def assert_inert_html(text: str) -> None:
    for tag, attributes in Page(text).tags:
        assert tag not in ACTIVE, tag
        assert not [a for a in attributes if a.startswith("on")], attributes
        for name in ("src", "href", "action"):
            assert "evil" not in (attributes.get(name) or ""), attributes
            assert "script:" not in (attributes.get(name) or ""), attributes


def assert_inert_markdown(text: str, links: tuple[str, ...] = ()) -> None:
    """No HTML, no picture from elsewhere, no link but those that begin as said, no table or heading from data."""
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    tokens = parser.parse(text)
    headings = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    assert "heading" not in headings
    for token in tokens:
        assert token.type not in ("html_block",), token.content
        for child in token.children or ():
            assert child.type != "html_inline", child.content
            if child.type in ("link_open", "image"):
                where = str(child.attrs.get("href") or child.attrs.get("src"))
                assert where.startswith(links), where
    # Renderers of GitHub's kind make links of bare addresses, too.
    outside_code = re.sub(r"(`+).*?\1|\]\([^)]*\)|<[^>]*>", "", text, flags=re.DOTALL)
    assert "://evil" not in outside_code.replace("\\://", "")


@pytest.fixture(params=MARKUP.values(), ids=MARKUP)
def hostile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def run(hostile: str, tmp_path: Path) -> str:
    """A run in review in which everything that has a name is hostile."""
    import fiftyone as fo

    folder = tmp_path / re.sub(r"[/\0]", "∕", hostile).strip()[:60]
    folder.mkdir()
    image = folder / (re.sub(r"[/\0]", "∕", hostile)[:60] + ".png")
    Image.new("RGB", (80, 60)).save(image, "PNG")
    name = " ".join(re.sub(r"[\x00-\x1f/]", " ", hostile).split()) + f" {tmp_path.name}"
    dataset = fo.Dataset(name, persistent=True)
    # Line ends and control characters in a class are taken for no class at all, see `tests/flows/test_bad_data.py`.
    kind = hostile if is_class_name(hostile) else " ".join(re.sub(r"[\x00-\x1f\u202e]", " ", hostile).split())
    found = [
        fo.Detection(label=label, bounding_box=box(place), confidence=confidence)
        for place, (label, confidence) in enumerate([(kind, 0.9), ("cat", 0.9), (kind, 0.4), ("cat", 0.3)])
    ]
    dataset.add_sample(fo.Sample(str(image), pred=fo.Detections(detections=found)))
    run = make_run(
        dataset,
        run_name=hostile[:200],
        output_dir=str(folder / "runs"),
        review={"note": hostile, "checklist": []},
        approval={"threshold": 0.7, "per_class": {kind: 0.8}},
    )
    actions.tag(run, hostile, Selection(classes=("cat",)), "ann", note=hostile)
    actions.approve(run, Selection(label_ids=(ids_where(run, state="undecided")[0],)), hostile)
    return run


def outputs_in_review(run: str) -> list[str]:
    record = current_view(runs.load(run))
    return [
        waiting_markdown(record, "http://127.0.0.1:5151/x"),
        markdown_table(class_rows(record)),
        *(part for part in panel_of_app._head(record).values() if isinstance(part, str)),
        _dialog(vars(decisions.preview(run, "ann")), record["name"]),
    ]


LOCAL = ("http://127.0.0.1", "pictures/", "report", "run.json", "validation", "audit", "file://")


def test_pages_of_a_waiting_run(run: str) -> None:
    decisions.reopen(runs.load(run), reason=runs.load(run)["name"], actor="ann")
    for text in outputs_in_review(run):
        assert_inert_markdown(text, LOCAL)


def test_reports_of_a_finished_run(run: str, hostile: str) -> None:
    judge_all(run)
    decision = decisions.Decision("finalize", f"ann {hostile}", note=hostile, override=hostile)
    decisions.submit(run, decision)
    assert pass_gate(run).passed, runs.load(run)["validation"]
    from valflow import database

    record = runs.load(run)
    record = promotion.promote(record, database.dataset_of(record))
    paths = write_run_report(record)
    record = {**record, "artifacts": {**record["artifacts"], **paths}}
    assert_inert_html(Path(paths["report"]).read_text(encoding="utf-8"))
    assert_inert_markdown(Path(paths["report_markdown"]).read_text(encoding="utf-8"), LOCAL)
    assert_inert_markdown(report_markdown(record), LOCAL)
    assert_inert_markdown(_fate(record), LOCAL)
    assert_inert_html(Path(record["artifacts"]["validation"]).read_text(encoding="utf-8"))
    told = notice("finalized", record, record["counts"]).text
    assert "://evil" not in told.replace(": //", "")
    assert "<" not in told.replace("\n", "")


def test_a_failed_run_tells_its_error_as_text(run: str, hostile: str) -> None:
    failed = {
        **runs.load(run),
        "state": "FAILED",
        "failed_from": "CREATED",
        "error": hostile,
        "failed_stage": "infer",
    }
    failed["history"] = [
        *failed["history"],
        {**failed["history"][-1], "to": State.FAILED.value, "note": hostile},
    ]
    paths = write_run_report(failed)
    assert_inert_html(Path(paths["report"]).read_text(encoding="utf-8"))
    assert_inert_markdown(Path(paths["report_markdown"]).read_text(encoding="utf-8"), LOCAL)
    assert_inert_markdown(str(panel_of_app._head(failed)["remark"]))


@pytest.mark.parametrize(
    "command", [["show"], ["queue"], ["runs"], ["finalize", "--preview", "--reviewer", "ann"]]
)
def test_the_terminal_is_not_commanded(
    run: str, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    name, *options = command
    valflow([name, *([] if name == "runs" else [run]), *options])
    shown = capsys.readouterr()
    assert shown.out
    for text in (shown.out, shown.err):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text), text


def test_errors_do_not_command_the_terminal(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    valflow(["approve", run, "--class", "\x1b[2Jgone", "--reviewer", "ann"])
    said = capsys.readouterr().err
    assert "gone" in said
    assert "\x1b" not in said


def test_contact_sheets_are_drawn(run: str) -> None:
    sheet = draw_sheet(runs.load(run), judge_all(run), None)
    with Image.open(sheet) as image:
        assert image.format == "PNG"
