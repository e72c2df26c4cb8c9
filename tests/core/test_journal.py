"""Every write of valflow waits for the journal; tests/chaos/journal.py kills MongoDB right after some of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.builders import bring_to, judge_all, make_dataset, make_run
from tests.killing import writes_seen
from valflow import actions, database, decisions, rolling_back, undoing
from valflow.selections import Selection


def test_all_writes_to_our_collections_and_to_labels_wait_for_the_journal(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    samples = database.samples_of(dataset).name
    with writes_seen() as seen:
        run = make_run(dataset)
        actions.approve(run, Selection(classes=("cat",)), "ann")
        actions.tag(run, "poor_bbox", Selection(classes=("dog",)), "ann")
        undoing.undo(run, "ann")
        judge_all(run)
        decisions.preview(run, "ann")
        decisions.submit(run, decisions.Decision("finalize", "ann", override="a test"))
        bring_to(run, dataset, "FINALIZED")
        rolling_back.roll_back(run, "ann")
        rolling_back.roll_back(run, "ann", from_copy="latest")
        rolling_back.roll_back(run, "ann", reopen=True)
        decisions.submit(run, decisions.Decision("discard", "ann"))
    written: dict[str, set[bool]] = {}
    for event in seen:
        for name in _targets(event):
            if name.startswith("valflow_"):
                concern = event.command.get("writeConcern") or {}
                written.setdefault(name, set()).add(bool(concern.get("j")))
    expected = {
        database.RUNS,
        database.TARGETS,
        database.LEDGER,
        database.ACTIONS,
        database.AUDITS,
        database.LOCKS,
        database.COPIES,
        database.COPIED,
    }
    assert written == {name: {True} for name in expected}
    into_labels = [e for e in seen if e.command_name == "aggregate" and samples in _targets(e)]
    assert into_labels
    assert all(e.command["writeConcern"]["j"] for e in into_labels)


def _targets(event: Any) -> list[str]:
    if event.command_name != "aggregate":
        return [str(event.command[event.command_name])]
    last = event.command["pipeline"][-1]
    return [last["$merge"]["into"] if "$merge" in last else last["$out"]]
