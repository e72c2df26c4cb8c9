"""What only a GPU shows: the device, half precision, batches that are brought there ahead, memory that runs out."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from tests.builders import labels_in, make_run
from valflow import runs
from valflow.config import config_from_mapping
from valflow.models import device_batches, open_model


def _sees_a_gpu() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


pytestmark = pytest.mark.skipif(not _sees_a_gpu(), reason="torch sees no GPU")

GPU = "cuda:0"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digit detector, and one that takes half a gigabyte per image."""
    from tests.model_kinds import weights as made

    folder = tmp_path_factory.mktemp("cuda")
    path = made.write_manifest(folder)
    entries = json.loads(path.read_text())
    hungry = json.loads(json.dumps(entries["models"][0]))
    hungry["base_name"] = "digit-hungry-torch"
    deployed = hungry["default_deployment_config_dict"]["config"]
    deployed["entrypoint_fcn"] = "tests.model_kinds.weights.load_hungry_detector"
    deployed["ragged_batches"] = False
    path.write_text(json.dumps({"models": [*entries["models"], hungry]}))
    return path


@pytest.fixture(autouse=True)
def zoo(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fiftyone as fo

    monkeypatch.setattr(fo.config, "model_zoo_manifest_paths", [str(manifest)])


def model(name: str = "digit-grid-torch", **more: Any) -> dict[str, Any]:
    return {"kind": "zoo", "name": name, **more}


def found(digits: Any, field: str, **settings: Any) -> tuple[dict[str, Any], list[tuple[str, Any, float]]]:
    """The record of a run into a field, and what it found, in a fixed order."""
    run = make_run(digits, "IN_REVIEW", label_field=field, min_confidence=0.0, **settings)
    labels = labels_in(digits, f"{field}_in_review").values()
    return runs.load(run), sorted((d["label"], d["bounding_box"], d["confidence"]) for d in labels)


class TestDevice:
    def test_of_the_configuration_computes(self, digits: Any) -> None:
        _, there = found(digits, "there", model=model(device=GPU))
        _, here = found(digits, "here", model=model(device="cpu"))
        assert [one[:2] for one in there] == [one[:2] for one in here]
        assert [one[2] for one in there] == pytest.approx([one[2] for one in here], abs=1e-2)
        assert len(there) > 5

    def test_is_the_gpu_where_nothing_is_said(self) -> None:
        config = config_from_mapping({"dataset": "d", "label_field": "a", "model": model()})
        source: Any = open_model(config.model)
        assert source.model.device.type == "cuda"
        assert next(source.model._model.parameters()).is_cuda

    def test_has_the_images_before_the_model_asks(self, digits: Any) -> None:
        config = config_from_mapping({"dataset": "d", "label_field": "a", "model": model(device=GPU)})
        source: Any = open_model(config.model)
        inputs = source.fetch(digits, [ObjectId(i) for i in digits.values("id")])
        batch = source.prepare(inputs)
        [part] = batch.parts
        assert part.images.is_cuda
        assert part.copied is not None
        plain = device_batches.put_together(source.model, inputs, transformed=True).parts[0]
        assert not plain.images.is_cuda
        assert bool((part.use().cpu() == plain.images).all())


@pytest.mark.parametrize("batch_size", [5, "auto"])
def test_half_precision_finds_nearly_the_same(digits: Any, batch_size: Any) -> None:
    record, half = found(digits, "half", model=model(device=GPU, precision="mixed"), batch_size=batch_size)
    _, whole = found(digits, "whole", model=model(device=GPU), batch_size=batch_size)
    assert record["model"]["kwargs"]["precision"] == "mixed"
    places = {(label, *box) for label, box, _ in whole}
    assert len(places & {(label, *box) for label, box, _ in half}) >= 0.8 * len(places)
    assert [one[2] for one in half] != [one[2] for one in whole]


@pytest.mark.parametrize("batch_size", [12, "auto"])
def test_a_batch_that_does_not_fit_is_asked_again_in_parts(digits: Any, batch_size: Any) -> None:
    import torch

    from tests.model_kinds import weights as made

    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2.75 * made.HUNGER / total)  # two images fit, three do not
    made.eaten.clear()
    try:
        record, labels = found(
            digits, "hungry", model=model("digit-hungry-torch", device=GPU), batch_size=batch_size
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert record["counts"]["failed_samples"] == 0
    assert len(labels) > 5
    assert made.eaten
    assert max(made.eaten) <= 2
