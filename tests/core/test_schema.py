"""A record of another version: an older one goes on, a newer one is refused in words, and nothing is written to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId, json_util

from tests.builders import bring_to, labels_in, make_config, make_dataset, make_run
from valflow import actions, database, decisions, opening, recovery, runs, schema, trail
from valflow.cli import main as valflow
from valflow.config import LabelingConfig
from valflow.errors import RecordTooNew
from valflow.selections import Selection

# As valflow wrote it before histories were chains; only its folder was shortened.
STORED = Path(__file__).with_name("record_version_1.json")
CURRENT = {"schema_version": schema.VERSION}
CATS = Selection(classes=("cat",))


@pytest.fixture
def dataset(tmp_path: Path) -> Iterator[Any]:
    yield make_dataset(tmp_path)
    # Nothing else here could read them.
    database.runs().delete_many({"schema_version": {"$gt": schema.VERSION}})


def stored() -> dict[str, Any]:
    record: dict[str, Any] = json_util.loads(STORED.read_text())
    return record


def make_old(run: str) -> None:
    """What version 1 did not know goes out of a record of today."""
    history = [
        {k: v for k, v in entry.items() if k not in ("n", "after", "digest")}
        for entry in runs.load(run)["history"]
    ]
    old: Any = {
        "$set": {"schema_version": 1, "history": history},
        "$unset": {"is_cleared": "", "config.max_attempts": "", "config.review.discard_after": ""},
    }
    database.runs().update_one({"run": run}, old)


def make_new(run: str) -> dict[str, Any]:
    database.runs().update_one(
        {"run": run}, {"$set": {"schema_version": schema.VERSION + 1, "state": "PONDERED"}}
    )
    found = database.runs().find_one({"run": run})
    assert found is not None
    return found


class TestChain:
    def test_every_older_version_has_a_step(self) -> None:
        assert sorted(schema._FROM) == list(range(1, schema.VERSION))

    @pytest.mark.parametrize(
        ("record", "changes"),
        [
            pytest.param({"schema_version": schema.VERSION, "state": "IN_REVIEW"}, {}, id="current"),
            pytest.param({"schema_version": 1, "state": "IN_REVIEW"}, CURRENT, id="in-review"),
            pytest.param({"state": "IN_REVIEW"}, CURRENT, id="from-before-versions"),
            pytest.param(
                {"schema_version": 1, "state": "DISCARDED"},
                {**CURRENT, "is_cleared": True},
                id="discarded",
            ),
        ],
    )
    def test_what_an_older_record_needs(self, record: dict[str, Any], changes: dict[str, Any]) -> None:
        before = dict(record)
        assert schema.changes_to_current(record) == changes
        assert record == before, "pure"
        assert schema.changes_to_current({**record, **changes}) == {}


def test_a_stored_record_of_version_1_is_read_and_brought_up_to_date() -> None:
    record = stored()
    record["run"] = f"old_{ObjectId()}"
    record["dataset_id"] = str(ObjectId())
    database.runs().insert_one(dict(record))
    try:
        loaded = runs.load(record["run"])
        assert loaded["schema_version"] == schema.VERSION
        assert {k: v for k, v in loaded.items() if k not in ("_id", "schema_version")} == {
            k: v for k, v in record.items() if k != "schema_version"
        }
        written = database.runs().find_one({"run": record["run"]}, {"schema_version": 1})
        assert written is not None
        assert written["schema_version"] == schema.VERSION
        LabelingConfig.model_validate(loaded["config"])
        assert trail.problems(loaded) == []
    finally:
        database.runs().delete_one({"run": record["run"]})


def test_a_run_suspended_under_the_older_version_goes_on_to_its_end(dataset: Any) -> None:
    run = make_run(dataset, "IN_REVIEW")
    make_old(run)
    actions.approve(run, CATS, "ann")
    decisions.submit(run, decisions.Decision("finalize", "ann", override="a test"))
    done = bring_to(run, dataset, "FINALIZED")
    assert done["schema_version"] == schema.VERSION
    assert done["counts"]["finalized"] == len(labels_in(dataset, "auto")) > 0
    assert trail.problems(done) == []
    assert [h["event"] for h in done["history"]][:3] == ["create", "infer", "triage"]


def test_a_digest_that_was_confirmed_under_the_older_version_still_holds(dataset: Any) -> None:
    run = make_run(dataset, "REVIEWED")
    record = runs.load(run)
    token = record["frozen"]["token"]
    # What version 2 wrote: a digest of the labels alone.
    unbound = {**record, "frozen": {k: v for k, v in record["frozen"].items() if k != "round"}}
    digest = decisions.digest_of(unbound, token)[0]
    assert digest != record["frozen"]["digest"]
    old = {"schema_version": 2, "frozen.digest": digest, "decision.digest": digest}
    database.runs().update_one({"run": run}, {"$set": old, "$unset": {"frozen.round": ""}})
    done = bring_to(run, dataset, "FINALIZED")
    assert (done["schema_version"], done["frozen"]["digest"]) == (schema.VERSION, digest)
    assert done["counts"]["finalized"] == len(labels_in(dataset, "auto")) > 0


@pytest.mark.parametrize(
    "attempt",
    [
        pytest.param(lambda run, config: runs.load(run), id="read"),
        pytest.param(lambda run, config: actions.approve(run, CATS, "ann"), id="approve"),
        pytest.param(lambda run, config: decisions.preview(run, "ann"), id="preview"),
        pytest.param(
            lambda run, config: decisions.submit(run, decisions.Decision("discard", "ann")), id="discard"
        ),
        pytest.param(lambda run, config: opening.open_run(config), id="start-into-the-same-field"),
        pytest.param(
            lambda run, config: opening.open_run(config.model_copy(update={"run_key": run})), id="go-on"
        ),
    ],
)
def test_a_newer_record_is_refused_and_left_as_it_is(
    dataset: Any, attempt: Callable[[str, LabelingConfig], object]
) -> None:
    run = make_run(dataset, "IN_REVIEW")
    config = make_config(dataset)
    before = make_new(run)
    newer, known = schema.VERSION + 1, schema.VERSION
    with pytest.raises(
        RecordTooNew, match=f"{run} .*version {newer}, .*up to {known}.*Nothing was changed.*Update valflow"
    ):
        attempt(run, config)
    assert database.runs().find_one({"run": run}) == before


def test_the_recovery_leaves_a_newer_record_to_a_newer_valflow(dataset: Any) -> None:
    run = make_run(dataset, "CREATED")
    before = make_new(run)
    dead = {"state": "CREATED", "process": "elsewhere:1", "heartbeat_at": None}
    database.runs().update_one({"run": run}, {"$set": dead})
    [step] = [s for s in recovery.look(database.runs(), None) if s.run == run]
    assert not step.is_automatic
    assert "Update valflow" in recovery.carry_out(step, None)
    now = database.runs().find_one({"run": run})
    assert now is not None
    assert now["history"] == before["history"]


def test_the_command_line_says_it_in_one_paragraph(dataset: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(dataset, "IN_REVIEW")
    make_new(run)
    assert valflow(["show", run]) == 1
    said = capsys.readouterr().err
    assert f"valflow: run {run} was written by a newer valflow" in said
    assert "Traceback" not in said
