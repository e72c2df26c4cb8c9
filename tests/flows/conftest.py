"""Flows run in this process, against Prefect's own test server: started once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pets import make_pets
from valflow import schedules
from valflow.config import LabelingConfig, config_from_mapping


@pytest.fixture(scope="session", autouse=True)
def prefect_server() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def deployed_on(prefect_server: None) -> str:
    """Address of the API of that server, with our deployment; no worker is there."""
    from prefect.settings import PREFECT_API_URL

    api = str(PREFECT_API_URL.value())
    schedules.ensure_deployment(api=api)
    return api


@pytest.fixture
def config(tmp_path: Path) -> Iterator[LabelingConfig]:
    import fiftyone as fo

    dataset = make_pets(f"deployed-{tmp_path.name}", tmp_path, 3)
    yield config_from_mapping(
        {
            "dataset": dataset.name,
            "label_field": "pets",
            "model": {"kind": "field", "field": "predictions"},
            "review": {"checklist": []},
            "output_dir": str(tmp_path / "runs"),
        }
    )
    fo.delete_dataset(dataset.name)
