"""The shipped suites, loaded once, and suites from a few lines of YAML."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from expectations.loader import load_suite
from expectations.suite import OF_CERTIFICATE, Suite


@pytest.fixture(scope="session")
def shipped() -> list[Suite]:
    return [load_suite(name, Path.cwd()) for name in ("labels", "samples")]


@pytest.fixture(scope="session")
def of_certificate() -> list[Suite]:
    return [load_suite(name, Path.cwd()) for name in OF_CERTIFICATE]


@pytest.fixture
def write_suite(tmp_path: Path) -> Callable[..., str]:
    """Writes a suite and returns its name relative to ``tmp_path``."""

    def write(items: str, name: str = "mine", table: str = "labels") -> str:
        text = f"name: {name}\ntable: {table}\nexpectations:\n{items}\n"
        (tmp_path / f"{name}.yaml").write_text(text)
        return f"{name}.yaml"

    return write


@pytest.fixture
def make_suite(tmp_path: Path, write_suite: Callable[..., str]) -> Callable[..., Suite]:
    return lambda *args, **kwargs: load_suite(write_suite(*args, **kwargs), tmp_path)
