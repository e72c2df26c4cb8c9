"""Pictures of every tab of the panel for the documentation: ``python -m scripts.screenshots``.

A real stack of its own, the digits, and a real browser; it ends with the run finalized. Each tab is taken at full
and at half width. Needs a Chromium.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
WIDTHS = {"": (1600, 1000), "-half": (800, 1000)}
COLOURS = 96


def main() -> None:
    """Write the pictures."""
    for name in list(os.environ):
        if name.startswith(("FIFTYONE_", "PREFECT_", "VALFLOW_")):
            del os.environ[name]
    os.environ["FIFTYONE_DO_NOT_TRACK"] = "true"
    from valflow.stack import Stack

    PICTURES.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="valflow-pictures-"))
    try:
        with Stack(home, database="own") as stack:
            os.environ.update(stack.environment)
            take(stack, home)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def take(stack: Any, home: Path) -> None:
    """One review with the mouse, a picture of each of its stations."""
    from tests.e2e.browsing import eventually, opened
    from valflow import review_app, runs

    run = run_in_review(home)
    with opened(str(review_app.address_of(runs.load(run), stack.app_url)), *WIDTHS[""]) as screen:
        screen.button(r"Add \d+ labels for approval").wait_for()
        screen.type("Your name", "ann")
        eventually(lambda: runs.load(run).get("edits_read_at") is not None)
        screen.tiles(100)
        save(screen, "review")
        screen.click("Runs", "Auto Labeling runs")
        screen.tiles(80)
        save(screen, "runs")
        screen.page.locator("td", has_text="digits").first.click()
        screen.click("^Approval$", "Checklist")
        screen.tiles(100)
        save(screen, "approval")
        screen.click("Draw an audit", "0 of 59 judged")
        screen.tiles(30)
        save(screen, "audit")
        screen.click("All other labels", "30 of 59 judged")
        screen.tiles(29)
        screen.click("All other labels", "0 wrong of 59")
        screen.click("Finalize Labels", "Labels to be added")
        save(screen, "finalize")
        screen.click("^Confirm$", "labels added")
        eventually(lambda: bool(runs.load(run).get("completed_at")), 120)
        screen.click("Refresh", "checks passed")
        save(screen, "approved")
        screen.click("Roll back$", "Labels to be removed")
        save(screen, "rollback")


def run_in_review(home: Path) -> str:
    """A run on the digits that waits for a person."""
    from examples.digits.scenes import build_dataset
    from valflow import prefect_api, runs
    from valflow.config import config_from_mapping

    build_dataset("digits", home / "scenes", 80, overwrite=True)
    config = config_from_mapping(
        {
            "dataset": "digits",
            "label_field": "auto_detections",
            "model": {"kind": "python", "path": "examples.digits.model:DigitDetector"},
            "approval": {"threshold": 0.9},
            "evaluation": {"ground_truth": "ground_truth"},
            "run_name": "digits in May",
            "output_dir": str(home / "runs"),
        }
    )
    flow_run = prefect_api.trigger(config)
    prefect_api.wait_for(flow_run, ["Suspended"], timeout=240)
    record = runs.find_by_flow_run(flow_run)
    assert record is not None
    return str(record["run"])


def save(screen: Any, name: str) -> None:
    """A picture at each width, with few colours: a fifth of the bytes."""
    for suffix, (width, height) in WIDTHS.items():
        screen.page.set_viewport_size({"width": width, "height": height})
        screen.page.wait_for_timeout(2500)  # notices go, old tiles too
        screen.page.locator("[data-cy=looker]").first.wait_for()
        screen.page.wait_for_timeout(1000)
        image = Image.open(io.BytesIO(screen.page.screenshot())).convert("RGB")
        path = PICTURES / f"{name}{suffix}.png"
        image.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
            path, optimize=True
        )
        print(path.name, path.stat().st_size // 1024, "KB", flush=True)
    width, height = WIDTHS[""]
    screen.page.set_viewport_size({"width": width, "height": height})


if __name__ == "__main__":
    main()
