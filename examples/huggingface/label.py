"""A Hugging Face detector from a folder: trained here for a minute, saved, and put to work.

Needs ``pip install 'valflow[huggingface]'``; nothing is downloaded. Run as
``python -m examples.huggingface.label``. In place of the folder, ``model.id`` may be any detector of the hub.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from examples.digits.handwriting import CLASSES, split_handwriting
from examples.digits.scenes import compose_scene, make_scenes
from valflow.config import LabelingConfig, config_from_mapping

SIDE = 128  # pixels to which the model scales a picture


def train(folder: Path, steps: int) -> Path:
    """Train a YOLOS with a few hundred thousand weights on scenes of digits, and save it as its library does.

    It stays a poor detector: what matters here is the way that a model takes, and a poor one shows what the review
    is for.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    names = dict(enumerate(CLASSES))
    settings = transformers.YolosConfig(
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=[SIDE, SIDE],
        num_detection_tokens=24,
        id2label=names,
        label2id={name: number for number, name in names.items()},
    )
    model = transformers.YolosForObjectDetection(settings)
    processor = transformers.YolosImageProcessor(size={"height": SIDE, "width": SIDE})
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    training, _ = split_handwriting()
    chance = np.random.default_rng(0)
    for _ in range(steps):
        scenes = [compose_scene(training, chance) for _ in range(8)]
        inputs = processor(images=[picture for picture, _, _ in scenes], return_tensors="pt")
        truth = [_truth(digits) for _, digits, _ in scenes]
        loss = model(pixel_values=inputs["pixel_values"], labels=truth).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # Both are needed: the processor says how pictures become numbers.
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _truth(digits: list[Any]) -> dict[str, Any]:
    import torch

    boxes = [(x + w / 2, y + h / 2, w, h) for x, y, w, h in (digit.box for digit in digits)]
    return {
        "class_labels": torch.tensor([CLASSES.index(digit.label) for digit in digits]),
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
    }


def configure(dataset: str, weights: Path) -> LabelingConfig:
    """What the run shall do: a low floor, because the model is unsure of everything, and a person for each label."""
    return config_from_mapping(
        {
            "dataset": dataset,
            "label_field": "digits",
            "model": {"kind": "huggingface", "id": str(weights)},
            "min_confidence": 0.05,
            "approval": {"mode": "review_all"},
        }
    )


def write_dataset(folder: Path, scenes: int) -> str:
    """Scenes that the training has not seen, as a FiftyOne dataset."""
    import fiftyone as fo

    dataset = fo.Dataset("huggingface-example", overwrite=True, persistent=True)
    dataset.add_samples([fo.Sample(str(scene.filepath)) for scene in make_scenes(folder, scenes)])
    return str(dataset.name)


def main() -> None:
    """Train, write scenes, label them up to their review."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("demo_output/huggingface"))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--scenes", type=int, default=60)
    options = parser.parse_args()
    weights = train(options.folder.absolute() / "digit-yolos", options.steps)
    dataset = write_dataset(options.folder / "scenes", options.scenes)

    from flows.label_dataset import label_dataset

    # Returns when the labels wait for their review, in the panel or by `valflow review`.
    label_dataset(configure(dataset, weights))


if __name__ == "__main__":
    main()
