"""Whatever is done to a run behind its back, it comes to a defined end, with a message that says what to do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.builders import (
    bring_to,
    counts,
    edit_label,
    entries,
    judge_all,
    labels_in,
    make_config,
    make_dataset,
    make_run,
)
from valflow import (
    actions,
    database,
    decisions,
    inference,
    opening,
    promotion,
    rolling_back,
    runs,
    schema_changes,
)
from valflow.decisions import Decision
from valflow.errors import (
    DatabaseError,
    IllegalTransition,
    InferenceFailed,
    LabelsVanished,
    PromotionError,
    RollbackRefused,
    RunBusy,
    ValflowError,
)
from valflow.selections import Selection

STAGED, FINAL = "auto_in_review", "auto"
ELSEWHERE = {"process": "elsewhere:1"}
FINALIZE = Decision("finalize", "bob", override="a test")


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    """Three samples with cat 0.95, dog 0.8, cat 0.6, dog 0.3 each, and one without labels."""
    return make_dataset(tmp_path)


@dataclass(frozen=True)
class End:
    """One way to disturb a run.

    Attributes:
        state: of the run before.
        disturb: what happens behind its back.
        go_on: what its process, or a person, does next.
        error: what that is refused with; None where it goes through.
        says: what the message names.
        state_then: of the run in the end.
        remedy: what the message asks for, and what must then go through.
    """

    state: str
    disturb: Callable[[str, Any], Any]
    go_on: Callable[[str, Any], Any]
    error: type[ValflowError] | None
    says: str
    state_then: str
    remedy: Callable[[str, Any], Any] | None = None


def alive(run: str, _: Any) -> None:
    """Another process works on it."""
    database.runs().update_one({"run": run}, {"$set": {**ELSEWHERE, "heartbeat_at": database.now()}})


def rolling(run: str, dataset: Any) -> None:
    """Somebody is rolling it back."""
    rollback = {"reviewer": "ann", "including_edited": False, "announced": 6, "note": None}
    runs.transition(runs.load(run), runs.Event.BEGIN_ROLLBACK, actor="ann", changes={"rollback": rollback})
    alive(run, dataset)


def again(run: str, dataset: Any) -> None:
    """The flow comes again, or the scheduler's next tick."""
    opened = opening.open_run(make_config(dataset, run_key=None), "another-flow-run")
    if opened.outcome == "skipped":
        raise RunBusy(opened.message, str(opened.run))


def its_flow(run: str, dataset: Any) -> None:
    """The flow of this very run comes again."""
    opened = opening.open_run(make_config(dataset, run_key=run))
    if opened.outcome == "skipped":
        raise RunBusy(opened.message, str(opened.run))


def infer(run: str, dataset: Any) -> None:
    inference.infer_shard(run, 0)


def promote(run: str, dataset: Any) -> None:
    promotion.promote(runs.load(run), dataset)


def decide(run: str, dataset: Any) -> None:
    decisions.submit(run, FINALIZE)


def roll_back(run: str, dataset: Any) -> None:
    rolling_back.roll_back(run, "bob")


def half_promoted(run: str, dataset: Any) -> None:
    """Its finalization was broken off before anything was written."""
    runs.transition(
        runs.load(run), runs.Event.BEGIN_FINALIZE, actor="system", changes={"creates_field": True}
    )


def delete(run: str, dataset: Any) -> None:
    import fiftyone as fo

    fo.delete_dataset(dataset.name)


def rename(run: str, dataset: Any) -> None:
    dataset.name = f"{dataset.name}-renamed"


def without_field(name: str) -> Callable[[str, Any], None]:
    def deleted(run: str, dataset: Any) -> None:
        dataset.reload()
        dataset.delete_sample_field(name)

    return deleted


def renamed_field(name: str) -> Callable[[str, Any], None]:
    def renamed(run: str, dataset: Any) -> None:
        dataset.reload()
        dataset.rename_sample_field(name, "elsewhere")

    return renamed


def rename_back(run: str, dataset: Any) -> None:
    dataset.reload()
    dataset.rename_sample_field("elsewhere", STAGED)
    decide(run, dataset)


def discard(run: str, dataset: Any) -> None:
    decisions.submit(run, Decision("discard", "ann"))


def discard_with_reason(run: str, dataset: Any) -> None:
    decisions.submit(run, Decision("discard", "ann", override="the dataset is gone"))


def without_first_sample(run: str, dataset: Any) -> None:
    dataset.reload()
    dataset.delete_samples([dataset.first().id])


GONE = "was deleted"
ENDS = {
    # Two of a kind.
    "two finalizes": End(
        "REVIEWED", lambda *_: None, decide, IllegalTransition, "ann decided to finalize", "REVIEWED"
    ),
    "a flow while another finalizes": End("VALIDATED", alive, its_flow, RunBusy, "elsewhere:1", "VALIDATED"),
    "two ticks, one at work": End("CREATED", alive, again, RunBusy, "is at work", "CREATED"),
    "two ticks, one in review": End(
        "IN_REVIEW", lambda *_: None, again, RunBusy, "awaits review", "IN_REVIEW"
    ),
    "two workers, one flow run": End("CREATED", alive, its_flow, RunBusy, "elsewhere:1", "CREATED"),
    "two rollbacks": End("FINALIZED", rolling, roll_back, RunBusy, "ann is rolling run", "ROLLING_BACK"),
    # Finalize and roll back.
    "a rollback of what is not final": End(
        "VALIDATED", lambda *_: None, roll_back, RollbackRefused, "only a run that is FINALIZED", "VALIDATED"
    ),
    "a rollback while it is finalized": End(
        "VALIDATED", half_promoted, roll_back, RollbackRefused, "is FINALIZING", "FINALIZING", promote
    ),
    "a finalize while it is rolled back": End(
        "FINALIZED", rolling, its_flow, RunBusy, "is being taken back", "ROLLING_BACK"
    ),
    "a rollback while it is evaluated or exported": End(
        "FINALIZED", alive, roll_back, RunBusy, "still evaluates or exports", "FINALIZED"
    ),
    # The dataset is deleted or renamed.
    "deleted in inference": End("CREATED", delete, infer, DatabaseError, GONE, "CREATED", discard),
    "deleted in review": End("IN_REVIEW", delete, decide, DatabaseError, GONE, "IN_REVIEW", discard),
    "deleted before finalize": End(
        "VALIDATED",
        delete,
        lambda run, _: database.dataset_of(runs.load(run)),
        DatabaseError,
        GONE,
        "VALIDATED",
        discard_with_reason,
    ),
    "deleted before rollback": End("FINALIZED", delete, roll_back, DatabaseError, GONE, "FINALIZED"),
    "renamed in inference": End("CREATED", rename, infer, None, "", "CREATED"),
    "renamed in review": End("IN_REVIEW", rename, decide, None, "", "REVIEWED"),
    "renamed before finalize": End("VALIDATED", rename, promote, None, "", "FINALIZED"),
    "renamed before rollback": End("FINALIZED", rename, roll_back, None, "", "ROLLED_BACK"),
    # Fields are deleted or renamed by hand.
    "review field deleted in inference": End(
        "CREATED",
        without_field(STAGED),
        infer,
        InferenceFailed,
        "deleted or renamed while",
        "CREATED",
        discard,
    ),
    "review field deleted in review": End(
        "IN_REVIEW",
        without_field(STAGED),
        decide,
        LabelsVanished,
        "bring the field back",
        "IN_REVIEW",
        discard,
    ),
    "review field renamed in review": End(
        "IN_REVIEW",
        renamed_field(STAGED),
        decide,
        LabelsVanished,
        "bring the field back",
        "IN_REVIEW",
        rename_back,
    ),
    "review field deleted after the decision": End(
        "VALIDATED", without_field(STAGED), promote, None, "", "FINALIZED"
    ),
    "label field deleted before rollback": End(
        "FINALIZED", without_field(FINAL), roll_back, None, "", "ROLLED_BACK"
    ),
    "label field renamed before rollback": End(
        "FINALIZED", renamed_field(FINAL), roll_back, None, "", "ROLLED_BACK"
    ),
    # Samples are deleted.
    "sample deleted in inference": End("CREATED", without_first_sample, infer, None, "", "CREATED"),
    "sample deleted after the decision": End(
        "VALIDATED", without_first_sample, promote, None, "", "FINALIZED"
    ),
    "sample deleted before rollback": End(
        "FINALIZED", without_first_sample, roll_back, None, "", "ROLLED_BACK"
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_end_is_defined(dataset: Any, name: str) -> None:
    end = ENDS[name]
    run = make_run(dataset, end.state)
    if end.state in ("REVIEWED", "VALIDATED", "FINALIZED"):
        runs.release(runs.fence_of(runs.load(run)))
    end.disturb(run, dataset)
    if end.error is None:
        end.go_on(run, dataset)
    else:
        with pytest.raises(end.error, match=end.says):
            end.go_on(run, dataset)
    assert runs.load(run)["state"] == end.state_then
    if end.remedy is not None:
        end.remedy(run, dataset)
        assert runs.load(run)["state"] != end.state_then
    if end.disturb is not delete:
        dataset.reload()
        assert len(list(dataset)) >= 3  # FiftyOne can read every sample


def test_the_label_field_is_deleted_while_it_is_finalized(
    dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(dataset, "VALIDATED")
    monkeypatch.setattr(promotion, "BATCH", 1)

    def then_delete(written: int) -> None:
        if dataset.has_field(FINAL):
            dataset.delete_sample_field(FINAL)

    with pytest.raises(PromotionError, match="goes on"):
        promotion.promote(runs.load(run), dataset, then_delete)
    dataset.reload()
    assert len(list(dataset)) == 4
    promotion.promote(runs.load(run), dataset)
    assert len(labels_in(dataset, FINAL)) == 6
    assert dataset.get_field(FINAL).info["valflow"]["created"]


def test_a_reviewer_edits_while_another_confirms(dataset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The label enters as it was when it was copied, the digest says so, and the late edit is not confirmed."""
    run = make_run(dataset)
    judge_all(run)
    shown = decisions.preview(run, "ann")
    label = next(i for i, e in entries(run).items() if e["state"] == "approved")
    digest_of = decisions.digest_of

    def edited_meanwhile(*arguments: Any) -> Any:
        edit_label(dataset, STAGED, label, label="horse")
        with pytest.raises(IllegalTransition, match="being confirmed by ann just now"):
            actions.reject(run, Selection(label_ids=(label,)), "bob")
        return digest_of(*arguments)

    monkeypatch.setattr(decisions, "digest_of", edited_meanwhile)
    decisions.submit(run, Decision("finalize", "ann", digest=shown.digest))
    monkeypatch.undo()
    bring_to(run, dataset, "FINALIZED")
    assert labels_in(dataset, FINAL)[label]["label"] != "horse"
    # Edited before the copy, the same confirmation is refused.
    assert counts(run)["approved"] == 6


class TestChangesOfDeclarations:
    def test_one_at_a_time(self, dataset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(schema_changes, "PATIENCE", 0.1)
        with (
            schema_changes.changing(dataset),
            pytest.raises(DatabaseError, match=f"process .*:{os.getpid()} has been changing the fields"),
            schema_changes.changing(dataset),
        ):
            pass
        assert database.locks().count_documents({}) == 0

    @pytest.mark.parametrize("who", ["dead", "silent"])
    def test_what_a_process_left_behind_is_taken(self, dataset: Any, who: str) -> None:
        long_ago = database.now() - 2 * schema_changes.EXPIRES
        process = (
            "elsewhere:1" if who == "silent" else runs.sign_of_life()["process"].split(":")[0] + ":4194305"
        )
        beat = long_ago if who == "silent" else database.now()
        database.locks().insert_one(
            {"_id": str(dataset._doc.id), "token": "old", "process": process, "heartbeat_at": beat}
        )
        with schema_changes.changing(dataset):
            assert database.locks().find_one({})["token"] != "old"
        assert database.locks().count_documents({}) == 0

    def test_what_others_declared_meanwhile_is_kept(self, dataset: Any) -> None:
        import fiftyone as fo

        program = "import sys, fiftyone as fo; fo.load_dataset(sys.argv[1]).add_sample_field('theirs', fo.StringField)"
        subprocess.run([sys.executable, "-c", program, dataset.name], check=True, timeout=120)
        with schema_changes.changing(dataset):
            dataset.add_sample_field("ours", fo.StringField)
        dataset.reload()
        assert {"ours", "theirs"} <= set(dataset.get_field_schema())
        assert schema_changes.is_declared(dataset, "ours")


ZOMBIE = """
import os, signal, sys
from valflow import database, inference, promotion, rolling_back, runs
from valflow.errors import StaleAttempt
run, module, name = sys.argv[1], *sys.argv[2].split(".")
module = {"inference": inference, "rolling_back": rolling_back}[module]
original, calls = getattr(module, name), []
def stop_before(*arguments):
    calls.append(1)
    if len(calls) == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    return original(*arguments)
setattr(module, name, stop_before)
try:
    if module is inference:
        with runs.holding(run):
            inference.infer_shard(run, 0)
    else:
        rolling_back.roll_back(run, "zombie")
    print("through")
except StaleAttempt as fenced:
    print("fenced:", fenced)
"""


@pytest.mark.parametrize(
    ("state", "stops_before", "labels"),
    [
        pytest.param("CREATED", "inference._write_batch", 12, id="infer"),
        pytest.param("FINALIZED", "rolling_back._remove_batch", 0, id="roll-back"),
        pytest.param("FINALIZED", "rolling_back._remove_traces", 0, id="roll-back-at-its-end"),
    ],
)
def test_a_process_given_up_for_dead_wakes_up_and_writes(
    dataset: Any, state: str, stops_before: str, labels: int
) -> None:
    run = make_run(dataset, state)
    runs.release(runs.fence_of(runs.load(run)))
    zombie = subprocess.Popen(
        [sys.executable, "-c", ZOMBIE, run, stops_before],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        os.waitid(os.P_PID, zombie.pid, os.WSTOPPED)
        assert psutil.Process(zombie.pid).status() == psutil.STATUS_STOPPED
        long_ago = database.now() - 2 * schema_changes.EXPIRES
        database.runs().update_one({"run": run}, {"$set": {"heartbeat_at": long_ago}})
        if state == "CREATED":
            with runs.holding(run):
                bring_to(run, dataset, "IN_REVIEW")
            actions.reject(run, Selection(all=True), "ann")
        else:
            rolling_back.go_on(run)
            again = make_run(dataset, "FINALIZED")
        before = documents_without_times(dataset)
        os.kill(zombie.pid, signal.SIGCONT)
        out, err = zombie.communicate(timeout=120)
    finally:
        zombie.kill()
    assert out.startswith("fenced:"), out + err
    assert documents_without_times(dataset) == before
    if state == "CREATED":
        assert counts(run)["rejected"] == labels
    else:
        assert runs.load(run)["state"] == "ROLLED_BACK"
        assert runs.load(again)["state"] == "FINALIZED"
        assert again in dataset.list_runs()


def documents_without_times(dataset: Any) -> Any:
    dataset.reload()
    found = database.samples_of(dataset).find({}, {"last_modified_at": 0}).sort("_id", 1)
    return list(found), sorted(dataset.get_field_schema())
