"""What the README shows is true: its commands run, its configuration loads, its lists are complete."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from valflow.cli.parser import build_parser
from valflow.config import LabelingConfig, config_from_mapping
from valflow.stack import Stack

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def digits(tmp_path: Path) -> Iterator[Any]:
    """A few scenes with predictions of the demo's detector."""
    import fiftyone as fo

    from examples.digits.model import DigitDetector
    from examples.digits.scenes import build_dataset

    dataset = build_dataset("digits", tmp_path / "scenes", scenes=6, overwrite=True)
    dataset.apply_model(DigitDetector(), label_field="predictions")
    yield dataset
    fo.delete_dataset("digits")


@pytest.mark.stack
@pytest.mark.slow
def test_the_commands_shown_work_in_their_order(in_stack: Stack, digits: Any, tmp_path: Path) -> None:
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("valflow ")]
    assert len(lines) >= 8
    for line in lines:
        command = [sys.executable, "-m", "valflow.cli", *shlex.split(line, comments=True)[1:]]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    digits.reload()
    assert digits.count("auto_detections.detections") > 0
    assert list((tmp_path / "valflow_runs").glob("*/report.html"))
    assert list((tmp_path / "exports").glob("*/coco/labels.json"))


def test_python_blocks_run() -> None:
    for block in blocks("python"):
        names: dict[str, Any] = {}
        exec(compile(block, "README.md", "exec"), names)
        assert len(names["MyDetector"]().predict(None).detections) == 1


def test_configuration_blocks_load_and_name_every_key() -> None:
    (block,) = blocks("yaml")
    values = yaml.safe_load(block)
    config_from_mapping(values)
    assert set(values) == set(LabelingConfig.model_fields)
    for section in ("target", "review", "validation"):
        fields = LabelingConfig.model_fields[section].annotation
        assert fields is not None
        assert set(values[section]) == set(fields.model_fields)  # type: ignore[attr-defined]


def test_every_command_is_documented() -> None:
    actions = build_parser()._subparsers
    assert actions is not None
    commands = next(iter(actions._group_actions)).choices
    assert commands is not None
    assert [c for c in commands if f"`valflow {c}" not in README] == []


def test_relative_links_exist() -> None:
    targets = [t for t in re.findall(r"\]\(([^)]+)\)", README) if "://" not in t]
    assert targets
    assert [t for t in targets if not (ROOT / t.partition("#")[0]).exists()] == []
