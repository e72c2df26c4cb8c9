"""Torchvision's own detectors with fixed, untrained weights: nothing is downloaded. Rather faster than trained.

And a stand-in for them where there is no GPU, which does on a CPU what Python does for a detector on one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

STAND_IN = "stand-in"
CLASSES = ["nothing", *(f"thing {number}" for number in range(1, 91))]


def load(name: str, labels: int, least_size: int) -> Any:
    """The entry point that the manifest names.

    Args:
        name: a detector of ``torchvision.models.detection``.
        labels: how many boxes it gives per image.
        least_size: to which the shorter side of an image is scaled.
    """
    import torch
    import torchvision

    torch.manual_seed(0)
    build = getattr(torchvision.models.detection, name)
    model = build(
        weights=None,
        weights_backbone=None,
        box_detections_per_img=labels,
        rpn_post_nms_top_n_test=100,  # untrained, each proposal finds something; in a trained one few of 1,000 do
        min_size=least_size,
        max_size=2 * least_size,
    )
    with torch.no_grad():
        # Untrained, all classes are as likely as one another: so that scores differ, and not by a hair.
        model.roi_heads.box_predictor.cls_score.weight.mul_(200)
    return model


def load_stand_in(name: str, labels: int, least_size: int) -> Any:
    """The entry point of the stand-in.

    Args:
        name: of the entry.
        labels: how many boxes it gives per image.
        least_size: pairs of small operations that it launches for each image, one after the other.
    """
    import torch

    class Launching(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(64))

        def forward(self, images: Any) -> list[dict[str, Any]]:
            return [self._find() for _ in images]

        def _find(self) -> dict[str, Any]:
            found = torch.ones(64)
            for _ in range(least_size):
                found = found * self.weight + 0.01
            corner = 20.0 * torch.arange(labels)
            boxes = torch.stack([corner, corner, corner + 15, corner + 15], 1)
            scores = torch.linspace(0.5, 0.9, labels)
            return {"boxes": boxes, "labels": torch.ones(labels, dtype=torch.long), "scores": scores}

    return Launching()


def write_manifest(folder: Path, name: str, labels: int, least_size: int) -> Path:
    """An entry of the zoo as those of torchvision's trained detectors are."""
    config = {
        "entrypoint_fcn": f"benchmarks.torch_detector.{'load_stand_in' if name == STAND_IN else 'load'}",
        "entrypoint_args": {"name": name, "labels": labels, "least_size": least_size},
        "output_processor_cls": "fiftyone.utils.torch.DetectorOutputProcessor",
        "labels_string": ",".join(CLASSES),
        "ragged_batches": False,  # all pictures are of one size: else apply_model takes one at a time
    }
    model = {
        "base_name": f"bench-{name}-torch",
        "base_filename": None,
        "version": "1",
        "description": "A detector to measure",
        "source": "https://pytorch.org/vision/main/models.html",
        "default_deployment_config_dict": {"type": "fiftyone.utils.torch.TorchImageModel", "config": config},
        "requirements": {"packages": ["torch", "torchvision"]},
        "tags": ["detection", "torch"],
        "date_added": "2026-01-01 00:00:00",
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"models": [model]}), encoding="utf-8")
    return path
