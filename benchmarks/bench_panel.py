"""Every click of the panel on a large run: seconds until the browser gets its answer, and what the database did.

Run as ``python -m benchmarks.bench_panel [--samples 12000]``. The handlers are called as the App server calls them,
and their answers read as the browser reads them; the browser's own drawing is not measured. At the size of the
table 12,000 samples hold about 100,000 labels, none of which anybody has decided yet.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pymongo import monitoring

from benchmarks import scenes, stages
from benchmarks.measuring import Meter, own_database

LABELS_PER_SAMPLE = 8.34
OPENS_WITHIN, ANSWERS_WITHIN = 3.0, 1.0
# A person comes later than the second in which triage ends; until then its own writes are looked through, too.
SETTLES = 6.0
HEAD = ("click", "labels", "s", "queries", "of it s", "slowest query", "limit")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=12_000)
    options = parser.parse_args()
    queries = Queries()
    monitoring.register(queries)
    with own_database() as meter:
        review(Clicks(Meter(meter.server, meter.folder), queries, "warm"), 100)  # imports and first uses
        clicks = Clicks(meter, queries, "large")
        labels = review(clicks, options.samples)
        meter.print_table(f"Panel, {labels:,} labels on {options.samples:,} images", HEAD)


class Queries(monitoring.CommandListener):
    """What the database was asked by the thread of the clicks, and for how long."""

    def __init__(self) -> None:
        self._asked: dict[int, str] = {}
        self.done: list[tuple[float, str]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Remember the collection."""
        name = event.command_name
        collection = event.command.get("collection") if name == "getMore" else event.command.get(name)
        # Those of FiftyOne end in the id of the dataset.
        short = str(collection).removeprefix("valflow_").partition(".")[0]
        self._asked[event.request_id] = f"{name} {short}"

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Keep the time."""
        self.done.append((event.duration_micros / 1e6, self._asked.pop(event.request_id)))

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """See ``succeeded``."""
        self.done.append((event.duration_micros / 1e6, self._asked.pop(event.request_id)))


@dataclass
class Clicks:
    """A reviewer whose clicks are rows of the table."""

    meter: Meter
    queries: Queries
    dataset: str
    reviewer: Any = field(default=None)

    def click(
        self,
        name: str,
        act: Callable[[], Any],
        limit: float | None = ANSWERS_WITHIN,
        labels: int | None = None,
    ) -> None:
        """One row."""
        self.queries.done.clear()
        begin = time.perf_counter()
        act()
        seconds, asked = time.perf_counter() - begin, list(self.queries.done)
        slowest = max(asked, default=(0.0, ""))
        row = (
            name,
            f"{labels:,}" if labels is not None else "",
            f"{seconds:.2f}",
            str(len(asked)),
            f"{sum(s for s, _ in asked):.2f}",
            f"{slowest[1]} {slowest[0]:.2f}",
            "" if limit is None else f"less than {limit:.0f} s",
        )
        self.meter.rows.append(row)

    def decide(self, name: str, handler: str, ids: list[str] | None = None, **params: Any) -> None:
        """A click that changes labels; how many, says its answer."""
        done: list[int] = []

        def act() -> None:
            self.reviewer.click(handler, context={"selected": ids} if ids else None, **params)
            done.append(int(self.reviewer.success().split()[0].replace(",", "")))

        self.click(name, act)
        self.meter.rows[-1] = (name, f"{done[0]:,}", *self.meter.rows[-1][2:])


def review(clicks: Clicks, samples: int) -> int:
    """One review with every button; returns the number of labels."""
    import fiftyone as fo

    from tests.plugin.screens import Reviewer
    from valflow import audits, mirroring, review_app

    fo.config.plugins_dir = str(review_app.plugin_folder())
    run = in_review(clicks, samples)
    time.sleep(SETTLES)
    dataset = fo.load_dataset(clicks.dataset)
    clicks.click("list of runs", lambda: Reviewer(dataset).click("on_load"), OPENS_WITHIN)
    for name in ("open the panel for the first time", "open the panel"):
        ann = clicks.reviewer = Reviewer(dataset, "ann")
        ann.state.update(page="run", run=run)
        clicks.click(name, lambda ann=ann: ann.click("on_load"), OPENS_WITHIN)  # type: ignore[misc]
    labels = int(ann.figures["predicted"])

    clicks.click("class: one more", lambda: ann.click("toggle_class", row=0))
    clicks.click("class: one less", lambda: ann.click("toggle_class", row=0))
    clicks.click("confidence", lambda: ann.click("change_confidence", value=[0.3, 0.9]))
    clicks.click("all classes and confidences", lambda: ann.click("all_classes"))
    pages = int(ann.state["pages"])
    clicks.click("next page", lambda: ann.click("turn_page", number=2))
    clicks.click("last page", lambda: ann.click("turn_page", number=pages))
    clicks.click("samples instead of patches", lambda: ann.click("change_mode", mode="samples"))
    clicks.click("patches again", lambda: ann.click("change_mode", mode="patches"))
    clicks.click("select 20 patches", lambda: ann.select("on_change_selected", ann.grid[:20]))
    clicks.decide("approve 20 patches", "approve", ann.grid[:20])
    clicks.decide("undo", "undo", seq=ann.figures["undo"]["seq"])
    clicks.decide("reject 20 patches", "reject", ann.grid[:20])
    clicks.decide("tag 20 patches", "tag", ann.grid[:20], tag="poor_bbox")

    ann.click("toggle_class", row=0)
    clicks.decide("approve a class", "approve")
    clicks.decide("first click after it: undo it", "undo", seq=ann.figures["undo"]["seq"])
    clicks.decide("tag a class", "tag", tag="ambiguous")
    clicks.click("first click after it: class", lambda: ann.click("all_classes"))
    clicks.decide("undo the tag", "undo", seq=ann.figures["undo"]["seq"])
    ann.click("change_confidence", value=[0.0, 0.4])
    clicks.decide("reject up to 0.4", "reject")
    ann.click("all_classes")
    clicks.decide("approve all others", "approve")
    clicks.click("first click after it: confidence", lambda: ann.click("change_confidence", value=[0.0, 0.9]))
    clicks.decide("undo all", "undo_all")
    clicks.decide("first click after it: undo", "undo", seq=ann.figures["undo"]["seq"])

    clicks.click("tab Approval", lambda: ann.click("change_tab", tab="approval"))
    clicks.click("draw an audit", lambda: ann.click("start_audit"))
    clicks.click("judge one as wrong", lambda: ann.select("judge_selected", ann.grid[:1], verdict="bad_box"))
    clicks.click("confirm the page", lambda: ann.click("confirm_page"))
    while audits.open_items(run):
        ann.click("confirm_page")
    clicks.click("Finalize: the dialog", lambda: ann.click("finalize"), None)
    mirroring.wait(run)
    return labels


def in_review(clicks: Clicks, samples: int) -> str:
    """A run whose labels wait for a person, all of them."""
    import fiftyone as fo

    from benchmarks import stand_in
    from valflow import opening, runs, triage
    from valflow.config import LabelingConfig

    made = scenes.make_scenes(samples, LABELS_PER_SAMPLE)
    folder = clicks.meter.folder / clicks.dataset
    dataset = scenes.write_dataset(clicks.dataset, made, folder=folder / "images")
    stand_in.keep_output(dataset, scenes.PREDICTIONS)
    config = stages.config_of(clicks.dataset, folder).model_dump(mode="json")
    config["approval"] = {"mode": "review_all"}
    opened = opening.open_run(LabelingConfig.model_validate(config))
    assert opened.run is not None, opened
    stages.infer(opened.run)
    dataset = fo.load_dataset(clicks.dataset)
    triage.begin_triage(runs.load(opened.run), dataset)
    triage.finish_triage(runs.load(opened.run), dataset)
    return opened.run


if __name__ == "__main__":
    main()
