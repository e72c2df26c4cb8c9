"""What code a configuration, a suite or a file can make run here: only what is allowed, and none by being read."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from expectations.loader import check_suites
from valflow import config as configuration
from valflow.allowed_imports import ALLOWED, check_allowed
from valflow.config import PythonModelConfig, load_config
from valflow.errors import ConfigError, SuiteError
from valflow.models import open_model

ROOT = Path(__file__).resolve().parents[2]
CODE = ("valflow", "flows", "tasks", "expectations", "plugin", "examples", "benchmarks", "scripts", "deploy")


@pytest.mark.parametrize(
    ("listed", "path", "is_allowed"),
    [
        (None, "anything:Goes", True),
        ("", "my_models:Net", False),
        (" , ", "my_models:Net", False),
        ("my_models:Net", "my_models:Net", True),
        ("my_models:Net", "my_models:Net2", False),
        ("my_models:Net", "my_models:net", False),
        ("my_models:Net", "xmy_models:Net", False),
        ("other:A, my_models:*", "my_models:Net", True),
        ("my_models:*", "my_models.evil:Net", False),
        ("my_models.*:*", "my_models.v2:Net", True),
        ("my_models", "my_models:Net", False),
        ("*:Net", "os:system", False),
        ("my_models:N?t", "my_models:Not", True),
    ],
)
def test_patterns(monkeypatch: pytest.MonkeyPatch, listed: str | None, path: str, is_allowed: bool) -> None:
    monkeypatch.delenv(ALLOWED, raising=False)
    if listed is not None:
        monkeypatch.setenv(ALLOWED, listed)
    if is_allowed:
        check_allowed(path)
        return
    with pytest.raises(ConfigError) as refusal:
        check_allowed(path)
    assert path in str(refusal.value)
    assert "VALFLOW_ALLOWED_MODELS allows" in str(refusal.value)


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that leaves a mark when it is imported."""
    mark = tmp_path / "was-run"
    (tmp_path / "trap_module.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "trap_module", raising=False)
    return mark


def test_a_model_that_is_not_allowed_is_not_even_imported(
    trap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = PythonModelConfig(path="trap_module:Net")
    monkeypatch.setenv(ALLOWED, "tests.models:*")
    with pytest.raises(ConfigError, match=r"may not be imported here: .* allows one of tests.models:\*"):
        open_model(wanted)
    assert not trap.exists()
    monkeypatch.setenv(ALLOWED, "tests.models:*,trap_module:*")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        open_model(wanted)
    assert trap.exists()  # so the trap is one


def test_nor_is_a_check_of_a_suite(trap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = tmp_path / "mine.yaml"
    item = {"type": "trap_module:ExpectIt", "kwargs": {"column": "label"}}
    suite.write_text(yaml.safe_dump({"name": "mine", "table": "labels", "expectations": [item]}))
    monkeypatch.setenv(ALLOWED, "my_checks:*")
    found = "; ".join(map(str, suite_problems(suite, tmp_path)))
    assert "trap_module:ExpectIt may not be imported here" in found
    assert not trap.exists()
    monkeypatch.setenv(ALLOWED, "trap_module:*")
    suite_problems(suite, tmp_path)
    assert trap.exists()


def suite_problems(suite: Path, folder: Path) -> list[Any]:
    try:
        return list(check_suites([str(suite)], folder))
    except SuiteError as error:
        return [error]


BOMBS = [
    "!!python/object/apply:os.system ['touch {mark}']",
    "!!python/object/new:os.system ['touch {mark}']",
    "!!python/name:os.system",
    "!!python/module:trap_module",
]


@pytest.mark.parametrize("bomb", BOMBS)
def test_no_yaml_runs_code(tmp_path: Path, trap: Path, bomb: str) -> None:
    text = bomb.format(mark=trap)
    path = tmp_path / "evil.yaml"
    path.write_text(f"dataset: {text}\nlabel_field: f\nmodel: {{kind: field, field: p}}\n")
    with pytest.raises(ConfigError, match="not valid YAML: could not determine a constructor"):
        load_config(path)
    path.write_text("dataset: d\nlabel_field: f\nmodel: {kind: field, field: p}\n")
    with pytest.raises(ConfigError, match="not a YAML value"):
        load_config(path, [f"run_name={text}"])
    path.write_text(f"name: {text}\ntable: labels\nexpectations: []\n")
    assert "not valid YAML" in "; ".join(map(str, suite_problems(path, tmp_path)))
    assert not trap.exists()


# A name, and where it may stand all the same.
UNSAFE = {
    # Between us and a process that we have started, over a pair of sockets that nobody else has.
    "pickle": ("valflow/side_process.py",),
    "cPickle": (),
    "dill": (),
    "cloudpickle": (),
    "shelve": (),
    "marshal": (),
    "joblib": (),
    "eval": (),
    "exec": (),
    "unsafe_load": (),
    "full_load": (),
    "FullLoader": (),
    "UnsafeLoader": (),
    "loads_pickle": (),
    "persist_result": (),  # Prefect would pickle what a task returns
    "result_serializer": (),
}


def test_nothing_is_loaded_that_could_run_code() -> None:
    found = []
    files = [p for folder in CODE for p in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    for path in files:
        place = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for name in names_in(node):
                if name in UNSAFE and place not in UNSAFE[name]:
                    found.append(f"{place}:{getattr(node, 'lineno', '?')} {name}")
            if isinstance(node, ast.Call) and is_yaml_load(node):
                loaders = [ast.unparse(a) for a in [*node.args[1:], *(k.value for k in node.keywords)]]
                assert loaders == ["_StrictLoader"], place
            if isinstance(node, ast.keyword) and node.arg in ("shell", "allow_pickle"):
                assert ast.unparse(node.value) == "False", place
    assert found == []
    assert issubclass(configuration._StrictLoader, yaml.SafeLoader)


def names_in(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        module = getattr(node, "module", None) or ""
        return [n.split(".")[0] for n in [module, *(a.name for a in node.names)]]
    if isinstance(node, ast.Call):
        # Methods of that name, such as re.compile's or a regular expression's, are something else.
        return [node.func.id] if isinstance(node.func, ast.Name) else []
    if isinstance(node, ast.Attribute):
        return [node.attr] if node.attr not in ("eval", "exec") else []
    return [node.arg] if isinstance(node, ast.keyword) and node.arg else []


def is_yaml_load(node: ast.Call) -> bool:
    return ast.unparse(node.func) in ("yaml.load", "yaml.load_all", "load_yaml")


def test_no_task_keeps_results_as_pickles() -> None:
    from prefect import Task

    import flows.label_dataset as flow
    from tasks import evaluate, export, finalize, infer, report, review, start, triage, validate

    modules = (flow, evaluate, export, finalize, infer, report, review, start, triage, validate)
    tasks = [v for module in modules for v in vars(module).values() if isinstance(v, Task)]
    assert len(tasks) >= 8
    assert [t.name for t in tasks if t.persist_result or t.result_storage] == []
    assert not flow.label_dataset.persist_result
