"""Two models on the same five samples, with ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.builders import box, make_dataset

# By sample: class, place of the box, confidence.
A = [[("cat", 0, 0.9), ("dog", 1, 0.8)], [("cat", 0, 0.7)], [("cat", 0, 0.9)], [], [("dog", 2, 0.4)]]
B = [[("cat", 0, 0.5), ("dog", 1, 0.6)], [("dog", 0, 0.9)], [("cat", 3, 0.6)], [], [("dog", 2, 0.8)]]
TRUE = [[("cat", 0), ("dog", 1)], [("cat", 0)], [("cat", 0)], [], [("dog", 2)]]


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    """Fields ``a`` and ``b`` of two models, and ``truth``."""
    import fiftyone as fo

    dataset = make_dataset(tmp_path, samples=5, with_truth=False)
    for field, labels in (("a", A), ("b", B)):
        found = [
            fo.Detections(
                detections=[
                    fo.Detection(label=name, bounding_box=box(place), confidence=confidence)
                    for name, place, confidence in of_sample
                ]
            )
            for of_sample in labels
        ]
        dataset.set_values(field, found)
    true = [
        fo.Detections(
            detections=[fo.Detection(label=name, bounding_box=box(place)) for name, place in of_sample]
        )
        for of_sample in TRUE
    ]
    dataset.set_values("truth", true)
    return dataset
