"""The page: complete, escaped, and nothing in it comes from elsewhere."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from expectations.gate import validate
from expectations.page import render_page
from tests.expectations.tables import make_labels, make_parameters, make_samples, make_tables


class Tree(HTMLParser):
    """Text of a page, and whether its tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in ("meta", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def read(page: str) -> Tree:
    tree = Tree()
    tree.feed(page)
    assert tree.open == []
    return tree


@pytest.fixture
def render(shipped):
    def render(tables, title="a run", **changes):
        outcome = validate(tables, shipped, make_parameters(**changes))
        return render_page(json.loads(json.dumps(outcome.to_json())), title)

    return render


def test_a_passed_page(render):
    text = read(render(make_tables(), previous_class_mix=None)).text
    assert "✓ Passed" in text
    assert "There are no warnings." in text
    assert "skipped: no earlier run" in text
    assert "16 of 19" in text
    assert "to correct" in text
    assert "great-expectations" in text


def test_a_passed_page_with_a_warning(render):
    text = read(render(make_tables(), previous_class_mix={"values": ["cat"], "weights": [1.0]})).text
    assert "✓ Passed" in text
    assert "1 warning below." in text
    assert "dog 1% → 50%" in text


def test_a_failed_page_names_checks_and_labels(render):
    labels = make_labels(0, x=-0.5).drop(columns="threshold")
    text = read(render(make_tables(labels, make_samples(1, file_exists=False)))).text
    assert "✗ Failed: nothing was finalized" in text
    assert "1 of 6 labels out of line" in text
    assert 'could not run: The column "threshold" in BatchData does not exist.' in text
    assert "Labels to correct" in text
    assert "label-0" in text
    assert "found x -0.5" in text
    assert "Samples to correct" in text
    assert "sample-1" in text


def test_only_the_first_labels_are_listed(render):
    labels = make_labels(0, label="zebra").loc[[0] * 450].assign(label_id=[f"id-{n:03d}" for n in range(450)])
    text = read(render(make_tables(labels))).text
    assert "the first 200 of 450" in text
    assert "id-199" in text
    assert "id-200" not in text


def test_text_of_others_cannot_act(render):
    evil = "<script>alert('x')</script>\"&"
    page = render(make_tables(make_labels(0, label=evil, label_id="<img src=x>")), title=evil)
    tree = read(page)
    assert not tree.tags & {"script", "img", "link", "iframe"}
    assert evil in tree.text


def test_nothing_is_loaded_from_elsewhere(render):
    page = render(make_tables(make_labels(0, x=-0.5)))
    assert not re.search(r"https?:|@import|url\(|src=|href=", page)
