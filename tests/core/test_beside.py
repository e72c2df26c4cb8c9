"""Who reads and writes beside a model: which processes, what they read, and what becomes of one that crashes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests import side_work
from tests.builders import make_dataset, make_run
from valflow import beside, database, inference, runs
from valflow.config import PythonModelConfig, RunnerConfig
from valflow.errors import ConfigError, StaleAttempt
from valflow.models import images
from valflow.models.existing import FieldSource
from valflow.models.python import PythonSource


def source(device: Any = None, read: Any = images.read_array) -> PythonSource:
    """One whose model says where it computes."""
    model = SimpleNamespace(device=device) if device is not None else SimpleNamespace()
    config = PythonModelConfig(path="tests.models:Whatever")
    return PythonSource(config, model, lambda batch: batch, read=read)


@pytest.fixture
def up() -> Iterator[Callable[..., beside.Processes]]:
    """A function that gives processes beside a model, when they are there."""
    made = []

    def make(of: PythonSource) -> beside.Processes:
        processes = beside.processes_for(of, RunnerConfig(beside="process", readers=1))
        assert processes is not None
        made.append(processes)
        for some in (processes._reading, processes._writing):
            side_work.wait_until_up(some)
        return processes

    yield make
    for processes in made:
        processes.close()
    beside._processes.cache_clear()


@pytest.mark.parametrize(
    ("setting", "of", "wanted"),
    [
        pytest.param("auto", source(), False, id="no word of a device"),
        pytest.param("auto", source("cpu"), False, id="a CPU"),
        pytest.param("auto", source("cuda:1"), True, id="a GPU by name"),
        pytest.param("auto", source(SimpleNamespace(type="cuda")), True, id="a GPU as torch has it"),
        pytest.param("auto", source("mps"), True, id="a GPU of Apple"),
        pytest.param("auto", source("cuda", lambda path: path), False, id="a reader that cannot travel"),
        pytest.param("auto", FieldSource("predictions"), False, id="nothing to read"),
        pytest.param("thread", source("cuda"), False, id="not wanted"),
        pytest.param("process", source("cpu"), True, id="wanted"),
        pytest.param("process", FieldSource("predictions"), False, id="wanted, and nothing to read"),
    ],
)
def test_processes_stand_beside_a_gpu_and_where_they_are_wanted(setting: str, of: Any, wanted: bool) -> None:
    found = beside.processes_for(of, RunnerConfig(beside=setting, readers=1))
    assert (found is not None) == wanted
    if found is not None:
        found.close()


def test_a_reader_that_cannot_travel_is_refused_where_processes_are_wanted() -> None:
    with pytest.raises(ConfigError, match=r"runner.beside: .* use thread"):
        beside.processes_for(source(read=lambda path: path), RunnerConfig(beside="process"))


@pytest.fixture
def files(tmp_path: Path) -> Any:
    """A function that makes files of these names, which are images to nobody but the reader of these tests."""

    def make(*names: str) -> list[str]:
        from PIL import Image

        paths = [tmp_path / f"{name}.png" for name in names]
        for path in paths:
            Image.new("RGB", (4, 4)).save(path)
        return [str(path) for path in paths]

    return make


def test_images_come_in_order_and_each_has_its_own_failure(
    files: Any, up: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = files("a-1", "broken-2", "a-3", "deadly-4", "a-5")
    monkeypatch.setattr(images, "paths_of", lambda dataset, ids: [*paths, None])
    found = up(source(read=side_work.read_or_die)).fetch(None, [])
    assert [np.unique(one).tolist() for one in found[0:5:2]] == [[1], [3], [5]]
    assert [one.shape for one in found[0:5:2]] == [(64, 512, 3)] * 3
    assert [str(one) for one in (found[1], found[3], found[5])] == [
        "not a readable image: cut off",
        "not a readable image: the process that was reading it ended by signal 11",
        "the sample was deleted",
    ]


def test_a_write_is_done_once_more_where_its_process_crashed(up: Any, tmp_path: Path) -> None:
    assert up(source()).write(side_work.die_once, str(tmp_path)) == "done"


class TestARun:
    @pytest.fixture
    def dataset(self, tmp_path: Path) -> Any:
        return make_dataset(tmp_path, samples=10, empty=0)

    def run(self, dataset: Any, **changes: Any) -> str:
        model = {"kind": "python", "path": "tests.models:Odd", "kwargs": {"on": [32], "how": "raise"}}
        return make_run(dataset, model=model, batch_size=4, max_failed_share=0.2, **changes)

    def found(self, run: str) -> list[Any]:
        entries = database.ledger().find({"run": run}).sort("sample_id", 1)
        return [
            (e["sample_id"], e["status"], e.get("reason"), _without_ids(e.get("predicted"))) for e in entries
        ]

    def test_finds_the_same_with_processes_as_with_threads(self, dataset: Any, up: Any) -> None:
        processes = up(source())
        with_threads = self.found(self.run(dataset, label_field="one", runner={"beside": "thread"}))
        readers = {"beside": "process", "readers": processes.readers}
        assert self.found(self.run(dataset, label_field="two", runner=readers)) == with_threads
        assert len(with_threads) == 10
        assert [status for _, status, _, _ in with_threads].count("failed") == 1

    def test_that_somebody_else_has_taken_over_is_not_written_to(self, dataset: Any, up: Any) -> None:
        record = runs.load(self.run(dataset, state="CREATED"))
        with pytest.raises(StaleAttempt, match="attempt 99"):
            up(source()).write(inference.write_predictions, {**record, "attempt": 99}, [], [])

    def test_that_this_process_lost_is_not_written_to_by_the_one_beside_it(
        self, dataset: Any, up: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runner = {"beside": "process", "readers": up(source()).readers}
        run = self.run(dataset, state="CREATED", runner=runner)
        # What the record says meanwhile is the attempt of somebody else.
        monkeypatch.setitem(runs._held, run, runs.load(run)["attempt"] - 1)
        with pytest.raises(StaleAttempt):
            inference.infer_shard(run, 0)
        assert database.ledger().count_documents({"run": run}) == 0


@pytest.mark.parametrize(
    ("runner", "cores", "readers"),
    [
        pytest.param({}, 16, 8, id="more cores than are of use"),
        pytest.param({}, 4, 3, id="some cores"),
        pytest.param({}, 1, 1, id="one core"),
        pytest.param({"kind": "process", "workers": 5}, 16, 3, id="several models"),
        pytest.param({"kind": "process", "workers": 64}, 16, 1, id="more models than cores"),
        pytest.param({"readers": 12}, 16, 12, id="as configured"),
    ],
)
def test_readers_share_the_cores(
    runner: dict[str, Any], cores: int, readers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(beside, "_processes", lambda read, number: number)
    assert beside.processes_for(source(), RunnerConfig(beside="process", **runner)) == readers


def _without_ids(labels: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    return [{k: v for k, v in label.items() if k != "_id"} for label in labels or []]
