"""The audit trail: what somebody does to it by hand in the database is noticed, and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from tests.builders import ids_where, judge_all, make_dataset, make_run
from valflow import actions, database, decisions, runs, trail, undoing
from valflow.doctor import diagnose
from valflow.reporting import write_run_report
from valflow.review_page import report_markdown
from valflow.selections import Selection
from valflow.states import Event

History = list[dict[str, Any]]


@pytest.fixture
def finalized(tmp_path: Path) -> str:
    """A run that a person reviewed and confirmed, with its report."""
    dataset = make_dataset(tmp_path, samples=3, empty=0)
    run = make_run(dataset)
    actions.approve(run, Selection(label_ids=(ids_where(run, state="undecided")[0],)), "bob")
    judge_all(run)
    decisions.submit(run, decisions.Decision("finalize", "ann"))
    runs.note(run, "look", actor="eve", text="nice")
    paths = write_run_report(runs.load(run))
    database.runs().update_one({"run": run}, {"$set": {"artifacts": paths}})
    return run


def problems(run: str) -> list[str]:
    return trail.problems(runs.load(run), actions.history_of(run))


def change_actor(history: History) -> History:
    history[3]["actor"] = "eve"
    return history


def change_figures(history: History) -> History:
    history[3]["figures"]["labels"] = 99
    return history


def change_time(history: History) -> History:
    history[1]["time"] = history[0]["time"]
    return history


def remove_one(history: History) -> History:
    return history[:1] + history[2:]


def remove_the_last(history: History) -> History:
    return history[:-2]


def remove_all(history: History) -> History:
    return []


def swap(history: History) -> History:
    history[1], history[2] = history[2], history[1]
    return history


def insert(history: History) -> History:
    return [*history[:2], {**history[1], "actor": "eve"}, *history[2:]]


def strip_the_links(history: History) -> History:
    return [{k: v for k, v in e.items() if k not in ("n", "after", "digest")} for e in history]


def replace_with_fitting_digest(history: History) -> History:
    forged = {k: v for k, v in history[1].items() if k != "digest"} | {"actor": "eve"}
    history[1] = {**forged, "digest": trail._digest(forged)}
    return history


@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        pytest.param(change_actor, "entry 4 (submit by eve) was changed", id="another-reviewer"),
        pytest.param(change_figures, "entry 4 (submit by ann) was changed", id="another-count"),
        pytest.param(change_time, "entry 2 (infer by system) was changed", id="another-time"),
        pytest.param(remove_one, "entry 2 was removed; entry 3 (triage by policy)", id="one-removed"),
        pytest.param(remove_the_last, "entries were removed at the end", id="the-last-removed"),
        pytest.param(remove_all, "the history is gone", id="all-removed"),
        pytest.param(
            swap, "entry 3 (triage by policy) stands in place 2: entries were reordered", id="reordered"
        ),
        pytest.param(insert, "entry 2 (infer by eve) was changed", id="inserted"),
        pytest.param(
            replace_with_fitting_digest, "entry 3 (triage by policy) does not follow", id="replaced"
        ),
    ],
)
def test_what_was_done_to_the_history_is_named(
    finalized: str, tamper: Callable[[History], History], says: str
) -> None:
    assert problems(finalized) == []
    changed = tamper(runs.load(finalized)["history"])
    database.runs().update_one({"run": finalized}, {"$set": {"history": changed}})
    assert any(says in problem for problem in problems(finalized)), problems(finalized)


@pytest.mark.parametrize("tamper", [strip_the_links, remove_the_last])
def test_the_report_keeps_what_the_database_forgot(
    finalized: str, tamper: Callable[[History], History]
) -> None:
    record = runs.load(finalized)
    assert trail.departs_from_report(record) is None
    departed = trail.departs_from_report({**record, "history": tamper(record["history"])})
    assert departed is not None
    assert "no entry of the history any more" in departed


def test_a_chain_written_anew_departs_from_the_report(finalized: str) -> None:
    record = runs.load(finalized)
    forged: dict[str, Any] = {**record, "history": []}
    for entry in record["history"]:
        bare = {k: v for k, v in entry.items() if k not in ("n", "after", "digest")}
        forged["history"].append(trail.next_entry(forged, {**bare, "actor": "eve"}))
    assert trail.problems(forged, actions.history_of(finalized)) == []  # in itself it holds
    assert "no entry of the history" in (trail.departs_from_report(forged) or "")


@pytest.mark.parametrize(
    "tamper",
    [
        pytest.param({"$set": {"actor": "eve"}}, id="another-person"),
        pytest.param({"$set": {"selector": {"all": True}}}, id="another-selection"),
        pytest.param(None, id="removed"),
    ],
)
def test_actions_before_a_decision_are_sealed_by_it(finalized: str, tamper: dict[str, Any] | None) -> None:
    one = {"run": finalized, "event": "approve", "actor": "bob"}
    assert database.actions().count_documents(one) == 1
    if tamper is None:
        database.actions().delete_one(one)
    else:
        database.actions().update_one(one, tamper)
    [problem] = problems(finalized)
    assert "were changed after entry 4 (submit by ann)" in problem


def test_undoing_an_earlier_action_in_the_next_round_is_no_tampering(finalized: str) -> None:
    decisions.reopen(runs.load(finalized), reason="again")
    undoing.undo(finalized, "bob", own=True)
    assert problems(finalized) == []


def test_every_report_carries_the_head(finalized: str) -> None:
    record = runs.load(finalized)
    head = trail.head(record)
    folder = Path(record["artifacts"]["report"]).parent
    for name in ("report.html", "report.md", "run.json"):
        assert head in (folder / name).read_text(encoding="utf-8"), name
    assert head in report_markdown(record)
    # And whoever has only the file can check it.
    assert trail.problems(json.loads((folder / "run.json").read_text(encoding="utf-8"))) == []


def test_a_record_of_before_the_chain_goes_on_with_one(finalized: str) -> None:
    old = strip_the_links(runs.load(finalized)["history"])
    database.runs().update_one({"run": finalized}, {"$set": {"history": old}})
    runs.note(finalized, "look", actor="ann", text="after the update")
    runs.transition(runs.load(finalized), Event.DISCARD, actor="ann")
    assert problems(finalized) == []
    database.runs().update_one({"run": finalized}, {"$set": {"history.1.actor": "eve"}})
    assert "does not follow the entry before it" in problems(finalized)[0]


def test_writers_at_once_make_one_chain(tmp_path: Path) -> None:
    import threading

    run = make_run(make_dataset(tmp_path, samples=1, empty=0))
    barrier = threading.Barrier(6)

    def write(name: str) -> None:
        barrier.wait()
        for turn in range(5):
            runs.note(run, "look", actor=name, text=str(turn))

    threads = [threading.Thread(target=write, args=(f"thread-{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([e for e in runs.load(run)["history"] if e["event"] == "look"]) == 30
    assert problems(run) == []


def test_a_note_in_between_does_not_stop_a_transition(tmp_path: Path) -> None:
    run = make_run(make_dataset(tmp_path, samples=1, empty=0))
    read_before = runs.load(run)
    runs.note(run, "skip", actor="system", text="a start met this open run")
    after = runs.transition(read_before, Event.DISCARD, actor="ann")
    assert [e["event"] for e in after["history"]][-2:] == ["skip", "discard"]
    assert problems(run) == []


def test_the_doctor_names_the_run_and_the_entry(
    tmp_path: Path, finalized: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = database.connection().client[f"trails-{ObjectId()}"]
    db[database.RUNS].insert_one(runs.load(finalized))
    db[database.ACTIONS].insert_many(actions.history_of(finalized))
    for collection in (database.ledger(), database.audits()):
        if documents := list(collection.find({"run": finalized})):
            db[collection.name].insert_many(documents)
    monkeypatch.setenv("FIFTYONE_DATABASE_NAME", db.name)
    try:
        [sound] = [f for f in diagnose(tmp_path) if f.check == "audit trail"]
        assert (sound.ok, sound.detail) == (True, "1 runs, every entry where and as it was written")
        db[database.RUNS].update_one({"run": finalized}, {"$set": {"history.3.actor": "eve"}})
        [found] = [f for f in diagnose(tmp_path) if f.check == "audit trail"]
        assert (found.ok, found.detail) == (False, f"run {finalized}: entry 4 (submit by eve) was changed")
        assert "by hand" in (found.remedy or "")
    finally:
        db.client.drop_database(db.name)
