"""Weights made once per session; nothing here is downloaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NEEDED = ("torch", "torchvision", "transformers", "ultralytics")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip = pytest.mark.skip(reason=f"{', '.join(MISSING)} not installed; `make test-models` runs these tests")
    for item in items:
        if MISSING and item.get_closest_marker("torch"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders and files of trained models, by name, and the manifest of the zoo."""
    import torch

    from tests.model_kinds import weights as made

    folder = tmp_path_factory.mktemp("weights")
    torch.set_num_threads(1)  # small models only wait for one another in more
    torch.use_deterministic_algorithms(True)
    return {
        "manifest": made.write_manifest(folder),
        "detector": made.save_detector(folder),
        "classifier": made.save_classifier(folder),
        "segmenter": made.save_segmenter(folder),
        "yolo": made.save_yolo(folder),
        "yolo_masks": made.save_yolo(folder, "-seg"),
        "yolo_names": made.save_yolo(folder, "-cls"),
    }


@pytest.fixture
def zoo(weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """FiftyOne knows the manifest, as it would by FIFTYONE_MODEL_ZOO_MANIFEST_PATHS."""
    import fiftyone as fo

    monkeypatch.setattr(fo.config, "model_zoo_manifest_paths", [str(weights["manifest"])])
    return


@pytest.fixture
def digits(tmp_path: Path) -> Any:
    """Twelve pictures of digits, with their truth."""
    import fiftyone as fo
    from PIL import Image

    from tests.model_kinds.weights import scenes

    pictures, truths = scenes(12, 77)
    dataset = fo.Dataset(persistent=True)
    samples = []
    for number, (picture, truth) in enumerate(zip(pictures, truths, strict=True)):
        path = tmp_path / f"{number}.png"
        Image.fromarray(picture).save(path)
        true = [fo.Detection(label=str(label), bounding_box=box) for label, box in truth]
        samples.append(fo.Sample(str(path), ground_truth=fo.Detections(detections=true)))
    dataset.add_samples(samples)
    return dataset
