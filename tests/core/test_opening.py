"""Which run does a start mean: a new one, the one before, somebody else's, or none?"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.builders import add_samples, bring_to, decide, documents, make_config, make_dataset, make_run
from valflow import actions, database, ledger, opening, runs
from valflow.errors import ConfigError
from valflow.opening import Opened, open_run
from valflow.selections import Selection
from valflow.states import Event, State

# A process of another machine, of which only the heartbeat can be seen.
ELSEWHERE = "elsewhere:1"
ALIVE, DEAD = timedelta(seconds=1), timedelta(minutes=10)


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    """Three samples with cat 0.95, dog 0.8, cat 0.6, dog 0.3 each, and one without labels."""
    return make_dataset(tmp_path)


def held_elsewhere(run: str, last_beat: timedelta) -> None:
    database.runs().update_one(
        {"run": run}, {"$set": {"process": ELSEWHERE, "heartbeat_at": database.now() - last_beat}}
    )


def left_in(run: str, dataset: Any, state: str, last_beat: timedelta = DEAD) -> None:
    """Bring a run to a state in which its process was killed."""
    bring_to(run, dataset, state)
    held_elsewhere(run, last_beat)


def failed_from(run: str, dataset: Any, state: str) -> None:
    record = bring_to(run, dataset, state)
    changes = {"failed_from": state, "failed_stage": "a stage", "error": "RuntimeError: a test"}
    runs.transition(record, Event.FAIL, actor="system", changes={**changes, "heartbeat_at": None})


def events(run: str) -> list[str]:
    return [entry["event"] for entry in runs.load(run)["history"]]


def run_count(dataset: Any) -> int:
    return len(runs.list_runs(dataset.name))


class TestANewRun:
    def test_is_created_with_its_targets_still_to_be_chosen(self, dataset: Any) -> None:
        opened = open_run(make_config(dataset, run_name="the first"), flow_run_id="flow-new")
        assert opened.run is not None
        record = runs.load(opened.run)
        assert opened == Opened("run", record["run"], f"run {record['run']} created")
        assert (record["state"], record["name"], record["flow_run_id"]) == (
            "CREATED",
            "the first",
            "flow-new",
        )
        assert record.get("target") is None
        dataset.reload()
        assert not dataset.has_field("auto_in_review")

    def test_may_be_given_its_key(self, dataset: Any) -> None:
        key = f"first_of_{dataset.name}".replace("-", "_")
        assert open_run(make_config(dataset, run_key=key)).run == key

    def test_preparing_it_twice_changes_nothing(self, dataset: Any, tmp_path: Path) -> None:
        run = make_run(dataset, State.CREATED)
        first = runs.load(run)
        assert first["target"] == {"samples": 4, "shards": 1, "shard_size": 128}
        assert first["model"] == {"kind": "field", "name": "pred", "field": "pred"}
        add_samples(dataset, tmp_path, [()])
        opening.prepare(runs.load(run), dataset)
        assert runs.load(run)["target"] == first["target"]

    def test_takes_away_what_a_run_discarded_in_a_crash_left_behind(self, dataset: Any) -> None:
        run = make_run(dataset)
        database.runs().update_one({"run": run}, {"$set": {"state": "DISCARDED", "open": False}})
        assert open_run(make_config(dataset)).outcome == "run"
        dataset.reload()
        assert not dataset.has_field("auto_in_review")
        assert all("auto_in_review" not in d for d in documents(dataset).values())

    def test_is_not_created_where_something_is_wrong(self, dataset: Any) -> None:
        with pytest.raises(ConfigError, match="a suite is missing") as refused:
            open_run(make_config(dataset, target={"view": "best"}), more_problems=["a suite is missing"])
        assert len(refused.value.problems) == 2
        assert run_count(dataset) == 0

    @pytest.mark.parametrize("state", ["FINALIZED", "DISCARDED"])
    def test_may_follow_one_that_has_ended(self, dataset: Any, state: str) -> None:
        first = make_run(dataset, state)
        opened = open_run(make_config(dataset, target={"only": "all"}))
        assert opened.outcome == "run"
        assert opened.run != first

    def test_into_another_field_is_nobody_elses_business(self, dataset: Any) -> None:
        make_run(dataset)
        assert open_run(make_config(dataset, label_field="other")).outcome == "run"


class TestNothingNew:
    @pytest.mark.parametrize(
        ("only", "samples"),
        [("new", 0), ("remaining", 1), ("all", 4)],
        ids=["new: all were seen", "remaining: one has no label", "all: always"],
    )
    def test_after_a_finalized_run(self, dataset: Any, only: str, samples: int) -> None:
        make_run(dataset, State.FINALIZED)
        opened = open_run(make_config(dataset, target={"only": only}))
        assert opened.outcome == ("run" if samples else "nothing_new")
        if opened.run is None:
            assert opened.message == f"nothing to label in {dataset.name} (target.only: new)"
            assert run_count(dataset) == 1
        else:
            assert opening.prepare(runs.load(opened.run), dataset)["target"]["samples"] == samples

    def test_on_an_empty_dataset(self, tmp_path: Path) -> None:
        dataset = make_dataset(tmp_path, samples=1, empty=0)
        config = make_config(dataset)
        dataset.delete_samples(list(documents(dataset)))
        assert open_run(config).outcome == "nothing_new"

    def test_new_samples_are_new(self, dataset: Any, tmp_path: Path) -> None:
        make_run(dataset, State.FINALIZED)
        (added,) = add_samples(dataset, tmp_path, [[("cat", 0.9)]])
        run = make_run(dataset, State.CREATED)
        assert [str(i) for shard in ledger.shards(run) for i in shard["sample_ids"]] == [added]

    def test_a_deleted_label_field_makes_every_sample_new_again(self, dataset: Any) -> None:
        make_run(dataset, State.FINALIZED)
        dataset.reload()
        dataset.delete_sample_field("auto")
        run = make_run(dataset, State.FINALIZED, approval={"threshold": 0.9})
        record = runs.load(run)
        assert (record["target"]["samples"], record["counts"]["finalized"]) == (4, 3)
        dataset.reload()
        assert dataset.count("auto.detections") == 3
        assert open_run(make_config(dataset)).outcome == "nothing_new"

    def test_samples_of_a_discarded_run_are_new_again(self, dataset: Any) -> None:
        make_run(dataset, State.DISCARDED)
        assert runs.load(make_run(dataset, State.CREATED))["target"]["samples"] == 4


class TestATickThatMeetsAnOpenRun:
    @pytest.mark.parametrize(
        ("state", "last_beat", "changes", "says"),
        [
            ("IN_REVIEW", DEAD, {}, "awaits review"),
            ("IN_REVIEW", DEAD, {"min_confidence": 0.5}, "awaits review"),
            ("IN_REVIEW", ALIVE, {}, "awaits review"),
            ("CREATED", ALIVE, {}, "is at work (CREATED)"),
            ("PREDICTED", ALIVE, {"min_confidence": 0.5}, "is at work (PREDICTED)"),
            ("VALIDATED", ALIVE, {}, "is at work (VALIDATED)"),
        ],
        ids=[
            "in review",
            "in review, other settings",
            "in review, held",
            "inferring",
            "in triage, other settings",
            "finalizing",
        ],
    )
    def test_is_skipped_and_recorded(
        self, dataset: Any, state: str, last_beat: timedelta, changes: dict[str, Any], says: str
    ) -> None:
        run = make_run(dataset, State.CREATED)
        left_in(run, dataset, state, last_beat)
        before = runs.load(run)
        opened = open_run(make_config(dataset, **changes), flow_run_id=f"tick-{run}")
        assert opened == Opened("skipped", run, f"skipped: run {run} {says}")
        after = runs.load(run)
        assert (after["state"], after["attempt"], after["process"]) == (state, before["attempt"], ELSEWHERE)
        assert after.get("flow_run_id") == before.get("flow_run_id")
        assert [e["event"] for e in after["history"]][len(before["history"]) :] == ["skip"]
        assert after["history"][-1]["actor"] == "system"
        assert run_count(dataset) == 1

    def test_of_two_at_once_one_creates_and_the_other_is_skipped(
        self, dataset: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The other start comes between the look for an open run and the insert.
        find_targets = opening.find_targets

        def late(*args: Any) -> Any:
            monkeypatch.setattr(opening, "find_targets", find_targets)
            make_run(dataset, State.CREATED)
            return find_targets(*args)

        monkeypatch.setattr(opening, "find_targets", late)
        opened = open_run(make_config(dataset))
        assert (opened.outcome, opened.run) == ("skipped", runs.list_runs(dataset.name)[0]["run"])
        assert run_count(dataset) == 1


class TestTakingOver:
    @pytest.mark.parametrize("state", ["CREATED", "PREDICTED", "REVIEWED", "VALIDATED"])
    def test_a_run_whose_process_died_is_continued(self, dataset: Any, state: str) -> None:
        run = make_run(dataset, State.CREATED)
        left_in(run, dataset, state)
        attempt = runs.load(run)["attempt"]
        opened = open_run(make_config(dataset), flow_run_id=f"next-{run}")
        assert opened == Opened("run", run, f"run {run} continued ({state})")
        record = runs.load(run)
        assert (record["attempt"], record["flow_run_id"]) == (attempt + 1, f"next-{run}")
        assert record["process"] != ELSEWHERE
        assert bring_to(run, dataset, State.FINALIZED)["counts"]["finalized"] == 6

    @pytest.mark.parametrize("state", ["CREATED", "VALIDATED"])
    def test_a_failed_run_goes_back_to_where_it_failed(self, dataset: Any, state: str) -> None:
        run = make_run(dataset, State.CREATED)
        failed_from(run, dataset, state)
        assert open_run(make_config(dataset)).run == run
        assert runs.load(run)["state"] == state
        assert events(run)[-2:] == ["fail", "retry"]
        assert runs.load(run)["history"][-1]["note"] == "retried after a stage"

    def test_settings_without_a_say_in_the_predictions_may_change(self, dataset: Any) -> None:
        run = make_run(dataset, State.CREATED)
        failed_from(run, dataset, "CREATED")
        changes = {"run_name": "again", "max_failed_share": 0.5, "output_dir": str(Path.cwd())}
        assert open_run(make_config(dataset, **changes)).run == run


class TestChangedSettings:
    """The run that they meet belongs to other settings; what a person did with it is never thrown away."""

    CHANGED: dict[str, Any] = {"approval": {"threshold": 0.9}}  # noqa: RUF012

    @pytest.mark.parametrize(
        ("state", "leave"),
        [("CREATED", failed_from), ("PREDICTED", left_in), ("PREDICTED", failed_from)],
        ids=["failed in inference", "killed in triage", "failed in triage"],
    )
    def test_replace_a_run_that_nobody_has_reviewed(
        self, dataset: Any, state: str, leave: Callable[[str, Any, str], None]
    ) -> None:
        run = make_run(dataset, State.CREATED)
        leave(run, dataset, state)
        opened = open_run(make_config(dataset, **self.CHANGED))
        assert opened.outcome == "run"
        assert opened.run != run
        old = runs.load(run)
        assert (old["state"], old["open"]) == ("DISCARDED", False)
        assert (old["decision"]["reviewer"], old["decision"]["via"]) == ("system", "policy")
        assert "changed settings" in old["history"][-1]["note"]
        dataset.reload()
        assert not dataset.has_field("auto_in_review")
        bring_to(str(opened.run), dataset, State.FINALIZED)
        assert runs.load(str(opened.run))["counts"]["finalized"] == 3

    @pytest.mark.parametrize("leave", [left_in, failed_from], ids=["killed", "failed"])
    def test_do_not_replace_one_that_a_person_has_decided(
        self, dataset: Any, leave: Callable[[str, Any, str], None]
    ) -> None:
        run = make_run(dataset, State.CREATED)
        leave(run, dataset, "REVIEWED")
        opened = open_run(make_config(dataset, **self.CHANGED))
        assert (opened.outcome, opened.run) == ("run", run)
        assert "the settings it began with" in opened.message
        assert runs.load(run)["state"] == "REVIEWED"
        assert runs.load(run)["config"]["approval"]["threshold"] == 0.7

    def test_nor_one_that_failed_once_before_its_review(self, dataset: Any) -> None:
        run = make_run(dataset, State.CREATED)
        failed_from(run, dataset, "CREATED")
        assert open_run(make_config(dataset)).run == run  # retried
        record = bring_to(run, dataset, State.IN_REVIEW)
        actions.reject(run, Selection(classes=("dog",)), "ann")
        decide(record, dataset)
        held_elsewhere(run, DEAD)
        opened = open_run(make_config(dataset, **self.CHANGED))
        assert (opened.outcome, opened.run) == ("run", run)
        assert runs.load(run)["state"] == "REVIEWED"

    def test_nor_one_that_is_half_promoted(self, dataset: Any) -> None:
        run = make_run(dataset, State.VALIDATED)
        record = runs.transition(runs.load(run), Event.BEGIN_FINALIZE, actor="system")
        changes = {"failed_from": "FINALIZING", "failed_stage": "finalize", "creates_field": True}
        runs.transition(record, Event.FAIL, actor="system", changes={**changes, "heartbeat_at": None})
        assert open_run(make_config(dataset, **self.CHANGED)).run == run
        assert runs.load(run)["state"] == "FINALIZING"

    def test_with_nothing_left_to_do_still_end_the_old_run(self, dataset: Any) -> None:
        run = make_run(dataset, State.CREATED)
        left_in(run, dataset, "PREDICTED")
        dataset.save_view("none", dataset.match({"filepath": "nothing"}))
        opened = open_run(make_config(dataset, target={"view": "none"}))
        assert (opened.outcome, runs.load(run)["state"]) == ("nothing_new", "DISCARDED")


class TestTheSameRun:
    """Found by its key or its flow run, whatever else is going on."""

    @pytest.mark.parametrize("state", ["CREATED", "IN_REVIEW", "REVIEWED", "FINALIZED", "DISCARDED"])
    def test_is_continued(self, dataset: Any, state: str) -> None:
        flow_run = f"flow-{dataset.name}"
        run = open_run(make_config(dataset), flow_run_id=flow_run).run
        assert run is not None
        bring_to(run, dataset, state)
        for opened in (
            open_run(make_config(dataset, run_key=run)),
            open_run(make_config(dataset), flow_run_id=flow_run),
        ):
            assert opened == Opened("run", run, f"run {run} continued ({state})")
        assert runs.load(run)["flow_run_id"] == flow_run

    def test_failed_is_retried(self, dataset: Any) -> None:
        run = make_run(dataset, State.FAILED)
        assert open_run(make_config(dataset, run_key=run)).message == f"run {run} continued (FAILED)"
        assert runs.load(run)["state"] == "CREATED"

    def test_is_left_to_the_process_that_works_on_it(self, dataset: Any) -> None:
        run = make_run(dataset, State.PREDICTED)
        held_elsewhere(run, ALIVE)
        opened = open_run(make_config(dataset, run_key=run))
        assert (opened.outcome, opened.run) == ("skipped", run)
        assert ELSEWHERE in opened.message

    def test_is_left_to_the_flow_run_in_which_its_review_is_suspended(self, dataset: Any) -> None:
        run = make_run(dataset)
        database.runs().update_one({"run": run}, {"$set": {"suspended_in": "a", "flow_run_id": f"a-{run}"}})
        opened = open_run(make_config(dataset, run_key=run), flow_run_id=f"b-{run}")
        assert (opened.outcome, opened.run) == ("skipped", run)
        assert events(run)[-1] == "skip"
        assert open_run(make_config(dataset), flow_run_id=f"a-{run}").outcome == "run"

    def test_a_key_means_a_run_of_this_dataset(self, dataset: Any, tmp_path: Path) -> None:
        run = make_run(dataset)
        other = make_dataset(tmp_path)
        with pytest.raises(ConfigError, match=f"run_key: '{run}' is a run into {dataset.name}.auto"):
            open_run(make_config(other, run_key=run))
        assert runs.load(run)["attempt"] == 1

    def test_a_new_key_beside_an_open_run_is_skipped(self, dataset: Any) -> None:
        run = make_run(dataset)
        opened = open_run(make_config(dataset, run_key=f"{run}_b"))
        assert (opened.outcome, opened.run) == ("skipped", run)
