"""The page of a suspended run in Prefect leads a person to its review: real server, App and browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import MARKS, page_at
from tests.pets import make_pets
from valflow import prefect_api, review_app, runs
from valflow.config import config_from_mapping
from valflow.decisions import Decision, submit
from valflow.resuming import resume_decided
from valflow.stack import Stack

NAME = "nightly <b>pets</b> [x](https://evil.example)"

pytestmark = MARKS


@pytest.fixture
def waiting(in_stack: Stack, tmp_path: Path) -> Iterator[runs.Record]:
    import fiftyone as fo

    dataset = make_pets("prefect-page-pets", tmp_path, 3)
    config = config_from_mapping(
        {
            "dataset": dataset.name,
            "label_field": "pets",
            "model": {"kind": "field", "field": "predictions"},
            "run_name": NAME,
            "review": {"note": "Look at <i>tails</i>"},
            "output_dir": str(tmp_path / "runs"),
        }
    )
    flow_run = prefect_api.trigger(config)
    prefect_api.wait_for(flow_run, ["Suspended"], timeout=240)
    record = runs.find_by_flow_run(flow_run)
    assert record is not None
    yield record
    resume_decided(submit(record["run"], Decision("discard", "ann")))
    fo.delete_dataset(dataset.name)


def check_summary(place: Any, address: str) -> None:
    """Summary, class table, note, and the link; nothing of it became markup."""
    place.get_by_text("6 wait for a person").wait_for()
    place.get_by_text(NAME, exact=True).first.wait_for()
    place.get_by_text("Look at <i>tails</i>").wait_for()
    rows = place.locator("table").first.locator("tbody tr")
    assert sorted(re.split(r"\s+", row.strip())[:4] for row in rows.all_inner_texts()) == [
        ["cat", "6", "3", "3"],
        ["dog", "6", "3", "3"],
    ]
    link = place.get_by_role("link", name="Review it in the FiftyOne App")
    assert link.get_attribute("href") == address
    assert place.locator("a[href*='evil.example']").count() == 0


def test_the_page_of_a_suspended_run_shows_what_waits_and_opens_it(
    waiting: runs.Record, in_stack: Stack
) -> None:
    address = review_app.address_of(waiting, in_stack.app_url)
    assert address is not None
    with page_at(waiting["prefect_url"]) as page:
        page.get_by_text("Suspended", exact=True).first.wait_for()
        page.get_by_text(f"6 labels wait: {address}").wait_for()  # in the log, on the first screen

        page.get_by_role("button", name="Resume").first.click()
        dialog = page.get_by_role("dialog")
        check_summary(dialog, address)
        page.keyboard.press("Escape")

        page.goto(waiting["prefect_url"])
        page.get_by_text("Artifacts", exact=True).first.click()
        page.get_by_role("link", name=re.compile("valflow-review")).first.click()
        check_summary(page, address)

        with page.context.expect_page() as opened:
            page.get_by_role("link", name="Review it in the FiftyOne App").click()
        app = opened.value
        app.set_default_timeout(90_000)
        app.locator("[data-cy=looker]").first.wait_for()
        app.get_by_text("Add 6 labels for approval").first.wait_for()
