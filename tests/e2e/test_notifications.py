"""From the command to the message: real Prefect server, automation, worker and an HTTP receiver."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pets import make_pets
from tests.receiver import Receiver
from valflow import notifications, prefect_api, review_app, runs
from valflow.cli import main
from valflow.config import LabelingConfig, config_from_mapping
from valflow.decisions import Decision, submit
from valflow.errors import ConfigError, StackError
from valflow.prefect_api import call
from valflow.processes import free_port
from valflow.resuming import resume_decided
from valflow.stack import Stack

SETTLED = 4.0  # seconds after which a second message would have come: Prefect's services act within one
NAME = "nightly <https://evil.example|click> @all {{url}}"

pytestmark = [pytest.mark.stack]


@pytest.fixture
def pets(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    import fiftyone as fo

    dataset = make_pets(f"told-{abs(hash(request.node.name))}", tmp_path, 2)
    yield dataset
    fo.delete_dataset(dataset.name)


@pytest.fixture
def receiver(in_stack: Stack) -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver
    notifications.remove()


def configure(dataset: Any, folder: Path, **changes: Any) -> LabelingConfig:
    values = {
        "dataset": dataset.name,
        "label_field": "pets",
        "model": {"kind": "field", "field": "predictions"},
        "review": {"checklist": []},
        "output_dir": str(folder / "runs"),
    }
    return config_from_mapping({**values, **changes})


def suspended(config: LabelingConfig) -> runs.Record:
    flow_run = prefect_api.trigger(config)
    prefect_api.wait_for(flow_run, ["Suspended"], timeout=240)
    record = runs.find_by_flow_run(flow_run)
    assert record is not None
    return record


def automations() -> list[dict[str, Any]]:
    found = call("POST", "/automations/filter", {}).json()
    return [a for a in found if a["name"].startswith("valflow")]


@pytest.mark.slow
def test_one_message_when_a_run_waits_and_one_when_it_is_final(
    receiver: Receiver, pets: Any, tmp_path: Path, in_stack: Stack
) -> None:
    for _ in range(2):  # the second time changes nothing
        assert main(["notify", "--webhook", receiver.url]) == 0
    assert len(automations()) == 1

    record = suspended(configure(pets, tmp_path, run_name=NAME))
    receiver.wait_for(lambda: len(receiver.messages) > 0)
    [waiting] = receiver.messages
    assert waiting["subject"].startswith("valflow: Review waiting: nightly")
    assert "4 of 8 labels on 2 samples wait for a person; 4 are approved, 0 fail a check." in waiting["text"]
    assert f"dataset {pets.name}, label field pets, run {record['run']}" in waiting["text"]
    lines = waiting["text"].splitlines()
    assert f"Prefect: {prefect_api.ui_url(record['flow_run_id'])}" in lines
    assert f"Review: {review_app.address_of(record, in_stack.app_url)}" in lines
    assert record["workspace"] in waiting["text"]
    for markup in ("<", ">", "@", "{", "https://"):
        assert markup not in waiting["text"] + waiting["subject"]

    decided = submit(record["run"], Decision("finalize", "ann *the* <b>boss"))
    assert resume_decided(decided).outcome == "resumed"
    receiver.wait_for(lambda: len(receiver.messages) > 1)
    assert receiver.messages[1]["subject"].startswith("valflow: Finalized: nightly")
    assert (
        "4 labels final, 4 discarded, of 8 predicted on 2 samples; decided by ann ∗the∗ ‹b›boss."
        in (receiver.messages[1]["text"])
    )
    prefect_api.wait_for(record["flow_run_id"], ["Completed"], timeout=60)
    time.sleep(SETTLED)
    assert len(receiver.messages) == 2


@pytest.mark.slow
def test_one_message_for_each_way_to_fail(receiver: Receiver, pets: Any, tmp_path: Path) -> None:
    notifications.notify_webhook(receiver.url)

    cannot_start = configure(pets, tmp_path, model={"kind": "field", "field": "nothing"})
    flow_run = prefect_api.trigger(cannot_start)
    prefect_api.wait_for(flow_run, ["Failed"], timeout=240)
    receiver.wait_for(lambda: len(receiver.messages) > 0)
    assert receiver.messages[0]["subject"] == f"valflow: Run failed: {pets.name}"
    assert "It could not start: ConfigError" in receiver.messages[0]["text"]
    assert prefect_api.ui_url(flow_run) in receiver.messages[0]["text"]

    for sample in pets:
        Path(sample.filepath).unlink()
    flow_run = prefect_api.trigger(
        configure(pets, tmp_path, model={"kind": "python", "path": "tests.models:Corner"})
    )
    prefect_api.wait_for(flow_run, ["Failed"], timeout=240)
    receiver.wait_for(lambda: len(receiver.messages) > 1)
    assert "infer failed: InferenceFailed: 2 of 2 samples" in receiver.messages[1]["text"]
    assert prefect_api.ui_url(flow_run) in receiver.messages[1]["text"]
    time.sleep(SETTLED)
    assert len(receiver.messages) == 2


def test_a_crash_which_cannot_tell_of_itself_is_told(receiver: Receiver, in_stack: Stack) -> None:
    notifications.notify_webhook(receiver.url, ["failed"])
    flows = {
        name: call("POST", "/flows/", {"name": name}).json()["id"] for name in (prefect_api.FLOW, "other")
    }
    for flow in flows.values():  # a crash of another flow on the same server is not ours to tell
        body = {"flow_id": flow, "state": {"type": "RUNNING"}}
        flow_run = call("POST", "/flow_runs/", body).json()["id"]
        call("POST", f"/flow_runs/{flow_run}/set_state", {"state": {"type": "CRASHED"}, "force": True})
    receiver.wait_for(lambda: len(receiver.messages) > 0)
    time.sleep(SETTLED)
    [crashed] = receiver.messages
    assert crashed["subject"] == "valflow: Run crashed"
    assert f"Prefect: {in_stack.ui_url}" in crashed["text"]


@pytest.mark.slow
def test_a_run_that_waits_is_told_again_until_it_is_decided(
    receiver: Receiver, pets: Any, tmp_path: Path
) -> None:
    notifications.notify_webhook(receiver.url, ["waiting"])
    record = suspended(configure(pets, tmp_path, review={"checklist": [], "remind_after": "5s"}))
    receiver.wait_for(lambda: len(receiver.messages) > 2, seconds=120)
    subjects = [message["subject"].split(":")[1].strip() for message in receiver.messages[:3]]
    assert subjects == ["Review waiting", "Review still waiting", "Review still waiting"]
    assert "Reminder 1, every 5s." in receiver.messages[1]["text"]
    assert "Reminder 2, every 5s." in receiver.messages[2]["text"]

    decided = submit(record["run"], Decision("discard", "ann"))
    told = len(receiver.messages)
    resume_decided(decided)
    prefect_api.wait_for(planned_reminder(record["run"]), ["NotWaiting"], timeout=120)
    assert len(receiver.messages) <= told + 1  # one may have been on its way
    time.sleep(SETTLED)
    assert len(receiver.messages) <= told + 1
    body = {
        "flow_runs": {
            "name": {"like_": f"remind-{record['run']}"},
            "state": {"type": {"any_": ["SCHEDULED"]}},
        }
    }
    assert call("POST", "/flow_runs/filter", body).json() == []


def planned_reminder(run: str) -> str:
    """Id of the reminder of a run that was planned last."""
    body = {"flow_runs": {"name": {"like_": f"remind-{run}"}}, "sort": "EXPECTED_START_TIME_DESC", "limit": 1}
    [last] = call("POST", "/flow_runs/filter", body).json()
    return str(last["id"])


# -- the command


def test_notifications_are_made_changed_listed_and_removed(
    receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["notify"]) == 0
    assert "nobody is told anything" in capsys.readouterr().out
    assert main(["notify", "--webhook", receiver.url, "--on", "failed,waiting"]) == 0
    assert capsys.readouterr().out == "custom-webhook/valflow is told: waiting, failed\n"
    [automation] = automations()
    call("PATCH", f"/automations/{automation['id']}", {"enabled": False})
    main(["notify", "--json"])
    assert json.loads(capsys.readouterr().out) == {
        "notifications": [
            {
                "block": "custom-webhook/valflow",
                "on": ["waiting", "failed"],
                "is_enabled": False,
                "has_block": True,
            }
        ]
    }
    assert main(["notify", "valflow"]) == 0  # the same block, by its name: on again, with the usual events
    assert [(a["id"], a["enabled"]) for a in automations()] == [(automation["id"], True)]
    assert main(["notify", "--remove", "valflow"]) == 0
    assert automations() == []
    assert main(["notify", "--remove"]) == 0
    assert "nobody was told anything" in capsys.readouterr().out


def test_the_address_of_a_webhook_is_not_shown_by_prefect(receiver: Receiver) -> None:
    notifications.notify_webhook(receiver.url)
    assert "s3cr3t" not in call("POST", "/block_documents/filter", {}).text
    assert "s3cr3t" not in call("POST", "/automations/filter", {}).text


def test_automations_doubled_by_hand_become_one(receiver: Receiver) -> None:
    notifications.notify_webhook(receiver.url)
    [first] = automations()
    copied = {key: first[key] for key in ("name", "enabled", "tags", "trigger", "actions")}
    call("POST", "/automations/", copied)
    assert len(automations()) == 2
    notifications.notify_webhook(receiver.url)
    assert [a["id"] for a in automations()] == [first["id"]]


def test_a_deleted_block_is_seen(receiver: Receiver) -> None:
    notifications.notify_webhook(receiver.url)
    [automation] = automations()
    call("DELETE", f"/block_documents/{automation['actions'][0]['block_document_id']}")
    [left] = notifications.notifications()
    assert not left.has_block
    assert notifications.notify_webhook(receiver.url).has_block  # mended by the same call
    assert [n.has_block for n in notifications.notifications()] == [True]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["valfow"], "no notification block 'valfow'; did you mean 'custom-webhook/valflow'"),
        (["mail"], r"no notification block 'mail' \(there are: custom-webhook/valflow\)"),
        (["valflow", "--on", "waiting,done"], r"expected one or more of waiting, failed, .*found \['done'\]"),
        (["valflow", "--on", ""], "expected one or more of waiting"),
        (["--webhook", "example.org/hook"], "expected an address such as https://"),
        (["--webhook", "file:///etc/passwd"], "expected an address such as https://"),
        (["valflow", "--webhook", "http://127.0.0.1/x"], "not both"),
        (["--remove", "mail"], "no notification goes to 'mail'; there are: custom-webhook/valflow"),
        (["--on", "waiting"], "--on needs to know where to"),
    ],
)
def test_mistakes_are_told(
    receiver: Receiver, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    import re

    notifications.notify_webhook(receiver.url)
    assert main(["notify", *arguments]) == 2
    assert re.search(problem, capsys.readouterr().err)


def test_without_any_block_the_remedy_is_named(in_stack: Stack) -> None:
    with pytest.raises(
        ConfigError, match=r"there is none at all; make one in Prefect's pages .* --webhook URL"
    ):
        notifications.notify("team")


def test_without_a_server_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{free_port()}/api")
    with pytest.raises(StackError, match="valflow up"):
        notifications.notify("team")
