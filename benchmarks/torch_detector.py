"""Torchvision's own detectors with fixed, untrained weights: nothing is downloaded. Rather faster than trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


def write_manifest(folder: Path, name: str, labels: int, least_size: int) -> Path:
    """An entry of the zoo as those of torchvision's trained detectors are."""
    config = {
        "entrypoint_fcn": "benchmarks.torch_detector.load",
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
