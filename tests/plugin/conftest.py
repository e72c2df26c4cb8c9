"""FiftyOne finds the plugin of this clone, as the App server of a stack does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.builders import make_dataset, make_run
from tests.plugin.screens import Reviewer
from valflow.review_app import plugin_folder


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    import fiftyone as fo

    monkeypatch.setattr(fo.config, "plugins_dir", str(plugin_folder()))


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    """Three samples with cat 0.95, dog 0.8, cat 0.6, dog 0.3 each, and one without; the first two are approved."""
    return make_dataset(tmp_path)


@pytest.fixture
def run(dataset: Any) -> str:
    return make_run(dataset)


@pytest.fixture
def ann(dataset: Any, run: str) -> Reviewer:
    """A reviewer with the run open."""
    return Reviewer(dataset, "ann").open(run)
