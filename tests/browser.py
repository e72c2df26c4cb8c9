"""The browser of the tests: Debian's Chromium through playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
PATIENCE = 90_000  # milliseconds; a busy machine with two cores needs a part of it
OPTIONS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]

# Of a module whose tests look at pages of a real stack.
MARKS = [
    pytest.mark.stack,
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium"),
]


@contextmanager
def page_at(address: str, width: int = 1600, height: int = 1250) -> Iterator[Any]:
    """A page of the browser at an address; FiftyOne's pop-over, which would take the clicks, was seen before."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        page = browser.new_page(viewport={"width": width, "height": height})
        page.add_init_script('localStorage.setItem("fiftyone-enterprise-tooltip-seen", "true")')
        page.set_default_timeout(PATIENCE)
        page.goto(address, wait_until="commit")
        yield page
        browser.close()
