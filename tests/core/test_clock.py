"""The clock is set back by an hour in the middle of a run: nobody waits for it, is taken for dead, or overlooked."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.builders import bring_to, entries, labels_in, make_dataset, make_run
from valflow import actions, app_edits, database, decisions, recovery, runs, trail, undoing
from valflow.certify.lots import LotPolicy, closes
from valflow.errors import IllegalTransition
from valflow.prefect_api import FlowRunState
from valflow.selections import Selection

HOUR = timedelta(hours=1)
CATS = Selection(classes=("cat",))


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    return make_dataset(tmp_path)


@pytest.fixture
def set_back(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Sets the clock back by an hour, as far as valflow reads it."""
    present = database.now

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) - HOUR

    def back() -> None:
        monkeypatch.setattr(database, "now", lambda: present() - HOUR)
        monkeypatch.setattr(runs, "datetime", Clock)
        monkeypatch.setattr(recovery, "datetime", Clock)

    return back


def test_a_run_goes_through_in_the_order_in_which_things_happened(
    dataset: Any, set_back: Callable[[], None]
) -> None:
    run = make_run(dataset, "IN_REVIEW")
    actions.approve(run, CATS, "ann")
    set_back()
    actions.reject(run, Selection(max_confidence=0.4), "bob")
    assert undoing.undo(run, "bob", own=True)
    decisions.submit(run, decisions.Decision("finalize", "ann", override="a test"))
    done = bring_to(run, dataset, "FINALIZED")
    times = [h["time"] for h in done["history"]]
    assert times != sorted(times), "the clock really went back"
    assert [h["event"] for h in done["history"]] == [
        "create", "infer", "triage", "submit", "validate", "begin_finalize", "finalize",
    ]  # fmt: skip
    assert trail.problems(done, actions.history_of(run)) == []
    numbers = [a["seq"] for a in actions.history_of(run)]
    assert numbers == sorted(numbers)
    assert done["review"]["seconds"] >= 0
    assert len(labels_in(dataset, "auto")) == done["counts"]["finalized"] > 0


def test_a_process_that_lives_is_not_given_up_for_dead(dataset: Any, set_back: Callable[[], None]) -> None:
    run = make_run(dataset, "CREATED")
    database.runs().update_one(
        {"run": run}, {"$set": {"process": "elsewhere:1", "heartbeat_at": database.now()}}
    )
    set_back()
    assert runs.is_alive(runs.load(run))
    assert [s for s in recovery.look(database.runs(), None) if s.run == run] == []


def test_a_tag_given_in_the_app_after_it_is_seen(dataset: Any, set_back: Callable[[], None]) -> None:
    run = make_run(dataset, "IN_REVIEW")
    app_edits.read_edits(run)
    set_back()
    label = next(i for i, e in entries(run).items() if e["state"] is None or e["state"] == "undecided")
    holder = database.ledger().find_one({"run": run, "labels._id": entries(run)[label]["_id"]})
    assert holder is not None
    samples, staging = database.samples_of(dataset), runs.load(run)["staging_field"]
    samples.update_one(
        {"_id": holder["sample_id"], f"{staging}.detections._id": entries(run)[label]["_id"]},
        {
            "$push": {f"{staging}.detections.$.tags": "approved"},
            "$set": {"last_modified_at": database.now()},
        },
    )
    app_edits.read_edits(run)
    assert entries(run)[label]["state"] == "approved"


def test_a_confirmation_that_was_broken_off_blocks_no_longer_than_otherwise(
    dataset: Any, set_back: Callable[[], None]
) -> None:
    run = make_run(dataset, "IN_REVIEW")
    claim = {"token": "t", "by": "ann", "at": database.now()}
    database.runs().update_one({"run": run}, {"$set": {"freezing": claim}})
    with pytest.raises(IllegalTransition, match="is being confirmed by ann"):
        actions.approve(run, CATS, "bob")
    set_back()
    actions.approve(run, CATS, "bob")


def test_the_recovery_waits_no_longer_than_otherwise(dataset: Any) -> None:
    run = make_run(dataset, "CREATED")
    ahead = database.now() + HOUR
    database.runs().update_one(
        {"run": run},
        {
            "$set": {
                "process": "elsewhere:1",
                "heartbeat_at": None,
                "updated_at": ahead,
                "flow_run_id": f"flow-of-{run}",
                "recovery": {"stage": ["CREATED", 1], "attempts": 1, "at": ahead, "given_up": False},
            }
        },
    )
    flow = FlowRunState("RUNNING", "Running", None, datetime.now(UTC) + HOUR, True)
    step = recovery.plan(runs.load(run), flow, datetime.now(UTC))
    assert step is not None
    assert (step.kind, step.attempt) == ("go_on", 2)


def test_a_lot_is_not_kept_open_by_arrivals_that_run_backwards() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    policy = LotPolicy(100, timedelta(hours=2))
    arrivals = [start, start + HOUR, start]
    assert closes(10, arrivals, start + timedelta(hours=2), policy) == "waited"
    assert closes(10, arrivals, start + HOUR / 2, policy) is None
