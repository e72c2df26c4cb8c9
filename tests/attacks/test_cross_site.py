"""A page from elsewhere against the App and Prefect of a real stack: what it sends must change nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.builders import counts, judge_all, make_dataset, make_run
from valflow import actions, decisions, prefect_api, runs
from valflow.review_app import PLUGIN
from valflow.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.slow]

EVIL = {"origin": "https://evil.example", "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
TEXT = {"content-type": "text/plain;charset=UTF-8"}
JSON = {"content-type": "application/json"}
ATTACKS = {
    "form": {**EVIL, **TEXT},
    "script": {**EVIL, **JSON},
    "sandboxed-frame": {**JSON, "origin": "null"},
    "old-browser-form": TEXT,
    "another-local-server": {**JSON, "origin": "http://127.0.0.1:1"},
    "rebinding": {**JSON, "host": "evil.example:5151", "origin": "http://evil.example:5151"},
}


@pytest.fixture
def waiting(in_stack: Stack, tmp_path: Path) -> Iterator[str]:
    dataset = make_dataset(tmp_path, samples=3, empty=0)
    run = make_run(dataset)
    judge_all(run)
    yield run
    dataset.delete()


def execute(stack: Stack, name: str, params: dict[str, Any], headers: dict[str, str]) -> httpx.Response:
    """Call an operator of the App as a page of a browser does."""
    body = {
        "operator_uri": f"{PLUGIN}/{name}",
        "params": params,
        "dataset_name": runs.load(params["run"])["dataset"],
        "view": [],
    }
    return httpx.post(f"{stack.app_url}/operators/execute", content=json.dumps(body), headers=headers)


def said(answer: httpx.Response) -> dict[str, str]:
    """What an operator answered."""
    assert answer.status_code == 200, answer.text
    assert answer.json().get("result"), answer.text
    result: dict[str, str] = answer.json()["result"]
    return result


def operators(run: str) -> dict[str, dict[str, Any]]:
    """Everything that changes the state of a run in review, with all that a page from elsewhere could not know."""
    named = {"run": run, "reviewer": "ann"}
    digest = decisions.preview(run, "ann").digest
    return {
        "approve_labels": named,
        "reject_labels": named,
        "tag_labels": {**named, "tag": "poor_bbox"},
        "undo_action": named,
        "finalize_labels": {**named, "digest": digest, "preview": {}},
    }


@pytest.mark.parametrize("headers", ATTACKS.values(), ids=ATTACKS)
def test_no_operator_can_be_called_from_elsewhere(
    in_stack: Stack, waiting: str, headers: dict[str, str]
) -> None:
    before = (counts(waiting), actions.history_of(waiting))
    for name, params in operators(waiting).items():
        answer = execute(in_stack, name, params, headers)
        assert answer.status_code == 403, name
        assert answer.text.startswith("refused: "), name
    assert (counts(waiting), actions.history_of(waiting)) == before
    assert runs.load(waiting)["state"] == "IN_REVIEW"


def test_the_apps_own_page_can_call_them_but_finalize_wants_the_digest(in_stack: Stack, waiting: str) -> None:
    own = {**JSON, "origin": str(in_stack.app_url), "sec-fetch-site": "same-origin"}
    named = {"run": waiting, "reviewer": "ann"}
    assert "done" in said(execute(in_stack, "approve_labels", named, own))
    assert counts(waiting)["undecided"] == 0

    named["override"] = "evidence is not what this test is about"
    without = execute(in_stack, "finalize_labels", named, own)
    assert "needs the digest" in said(without)["refused"]
    wrong = execute(in_stack, "finalize_labels", {**named, "digest": "0" * 64}, own)
    assert "has changed since you saw it" in said(wrong)["refused"]
    assert runs.load(waiting)["state"] == "IN_REVIEW"

    digest = decisions.preview(waiting, "ann").digest
    execute(in_stack, "finalize_labels", {**named, "digest": digest}, own)
    assert runs.load(waiting)["state"] == "REVIEWED"


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/media?filepath=/etc/hostname", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}),
        ("/media?filepath=/etc/hostname", {"host": "evil.example"}),
        ("/media?filepath=/etc/hostname", {"origin": "https://evil.example"}),
        ("/", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}),
    ],
    ids=["picture", "rebinding", "script", "frame"],
)
def test_nothing_of_the_app_is_read_from_elsewhere(
    in_stack: Stack, path: str, headers: dict[str, str]
) -> None:
    assert httpx.get(f"{in_stack.app_url}{path}", headers=headers).status_code == 403


@pytest.mark.parametrize("headers", ATTACKS.values(), ids=ATTACKS)
def test_no_page_from_elsewhere_starts_or_resumes_runs(in_stack: Stack, headers: dict[str, str]) -> None:
    deployment = prefect_api.find_deployment("ask-person", "ask-person")["id"]
    config = {"dataset": "none", "label_field": "auto", "model": {"kind": "python", "path": "evil:Model"}}
    url, body = f"{in_stack.api_url}/deployments/{deployment}", {"parameters": {"config": config}}
    answer = httpx.post(f"{url}/create_flow_run", content=json.dumps(body), headers=headers)
    assert answer.status_code == 403
    assert "refused" in answer.text
    one = httpx.post(f"{in_stack.api_url}/flow_runs/{deployment}/resume", content="{}", headers=headers)
    assert one.status_code == 403
    asked = {**headers, "access-control-request-method": "POST", "origin": "https://evil.example"}
    assert "access-control-allow-origin" not in httpx.request("OPTIONS", url, headers=asked).headers
    found = prefect_api.call("POST", "/flow_runs/filter", {"deployments": {"id": {"any_": [deployment]}}})
    assert not [f for f in found.json() if "evil" in json.dumps(f["parameters"])]


def test_prefects_pages_may_be_opened_by_either_name(in_stack: Stack) -> None:
    by_name = in_stack.ui_url.replace("127.0.0.1", "localhost")
    answer = httpx.post(f"{in_stack.api_url}/flow_runs/filter", json={}, headers={"origin": by_name})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == by_name
