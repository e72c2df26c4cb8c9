"""Small real models, trained for seconds on handwritten digits and saved the way their library saves them."""

from __future__ import annotations

import itertools
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

SIDE, CELLS = 96, 12  # pixels of a picture, and places for a digit along a side
CLASSES = [str(digit) for digit in range(10)]


@cache
def scenes(number: int, seed: int) -> tuple[np.ndarray, list[list[tuple[int, list[float]]]]]:
    """Pictures (number, 96, 96, 3) with one to three digits; per digit its class and box, x y w h in [0, 1]."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    rng = np.random.default_rng(seed)
    pictures, truths = [], []
    for _ in range(number):
        picture, truth = rng.integers(0, 40, (SIDE, SIDE)).astype(np.uint8), []
        for corner in rng.permutation(4)[: rng.integers(1, 4)]:
            which = int(rng.integers(len(digits.target)))
            x, y = (int(48 * c + rng.integers(0, 24)) for c in divmod(int(corner), 2))
            ink = np.kron(digits.images[which], np.ones((3, 3))) * 13
            place = picture[y : y + 24, x : x + 24]
            np.maximum(place, ink.astype(np.uint8), out=place)
            truth.append((int(digits.target[which]), [x / SIDE, y / SIDE, 24 / SIDE, 24 / SIDE]))
        pictures.append(np.repeat(picture[..., None], 3, axis=2))
        truths.append(truth)
    return np.stack(pictures), truths


class GridDetector(nn.Module):
    """One digit at most per cell of a grid; gives what torchvision's detectors give."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 12, 24, 32)
        self.body = nn.Sequential(
            *(
                layer
                for a, b in itertools.pairwise(widths)
                for layer in (nn.Conv2d(a, b, 5, 2, 2), nn.BatchNorm2d(b), nn.ReLU())
            ),
            nn.Conv2d(32, 32, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(32, 11, 1),
        )

    def cells(self, pictures: torch.Tensor) -> torch.Tensor:
        """(N, 11, 12, 12) scores of the ten digits and of nothing."""
        return self.body(pictures)

    def forward(self, pictures: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        scores = self.cells(pictures).softmax(1)[:, :10]
        best, labels = scores.max(1)
        found = []
        for level, label in zip(best, labels, strict=True):
            rows, columns = torch.nonzero(level > 0.5, as_tuple=True)
            center = torch.stack([columns, rows], 1).float() * (SIDE / CELLS) + SIDE / CELLS / 2
            boxes = torch.cat([center - 12, center + 12], 1).clamp(0, SIDE)
            found.append({"boxes": boxes, "labels": label[rows, columns], "scores": level[rows, columns]})
        return found


def load_grid_detector(path: str) -> GridDetector:
    """The entry point that a manifest of the zoo names."""
    model = GridDetector()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


class MaskDetector(GridDetector):
    """Gives what torchvision's Mask R-CNN gives: a mask of the whole image for each box."""

    def forward(self, pictures: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        found = super().forward(pictures)
        for one, picture in zip(found, pictures, strict=True):
            ink = (picture.mean(0) > 0.3).float()
            one["masks"] = ink.expand(len(one["boxes"]), 1, *ink.shape)
        return found


class GridClassifier(GridDetector):
    """The digit that stands out most."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.cells(pictures)[:, :10].amax((2, 3))


def load_mask_detector(path: str) -> MaskDetector:
    """The entry point of the one with masks."""
    model = MaskDetector()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


def load_grid_classifier(path: str) -> GridClassifier:
    """The entry point of the one that names images."""
    model = GridClassifier()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


HUNGER = 1 << 29  # bytes per image
eaten: list[int] = []


class HungryDetector(GridDetector):
    """Needs much memory for each image; ``eaten`` are the batches that fitted."""

    def forward(self, pictures: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        work = torch.empty(len(pictures) * HUNGER, dtype=torch.uint8, device=pictures.device)
        found = super().forward(pictures)
        del work
        eaten.append(len(pictures))
        return found


def load_hungry_detector(path: str) -> HungryDetector:
    """The entry point of the one that needs much memory."""
    model = HungryDetector()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


def save_grid_detector(folder: Path) -> Path:
    """Train it, and save its weights."""
    torch.manual_seed(0)
    pictures, truths = scenes(256, 1)
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    wanted = torch.full((len(pictures), CELLS, CELLS), 10)
    for number, truth in enumerate(truths):
        for label, (x, y, w, h) in truth:
            wanted[number, int((y + h / 2) * CELLS), int((x + w / 2) * CELLS)] = label
    model = GridDetector()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(100):
        part = torch.randperm(len(images))[:32]
        weight = torch.ones(11)
        weight[10] = 0.1
        loss = functional.cross_entropy(model.cells(images[part]), wanted[part], weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    path = folder / "digit-grid.pth"
    torch.save(model.state_dict(), path)
    return path


def write_manifest(folder: Path) -> Path:
    """A manifest of the zoo with the detector, and one of a kind that has no review."""
    config = {
        "entrypoint_fcn": "tests.model_kinds.weights.load_grid_detector",
        "entrypoint_args": {"path": str(save_grid_detector(folder))},
        "output_processor_cls": "fiftyone.utils.torch.DetectorOutputProcessor",
        "labels_string": ",".join(CLASSES),
    }
    model = {
        "base_name": "digit-grid-torch",
        "base_filename": None,
        "version": "1.0",
        "description": "Digits on a grid",
        "source": "https://example.org/digit-grid",
        "default_deployment_config_dict": {"type": "fiftyone.utils.torch.TorchImageModel", "config": config},
        "requirements": {"packages": ["torch", "torchvision"]},
        "tags": ["detection", "torch"],
        "date_added": "2026-01-01 00:00:00",
    }
    others = [
        _like(model, "digit-masks-torch", "load_mask_detector", "InstanceSegmenterOutputProcessor"),
        _like(model, "digit-names-torch", "load_grid_classifier", "ClassifierOutputProcessor"),
    ]
    elsewhere = {
        **model,
        "base_name": "digit-elsewhere",
        "requirements": {"packages": ["no-such-package>=2"]},
    }
    path = folder / "manifest-digits.json"
    path.write_text(json.dumps({"models": [model, elsewhere, *others]}))
    return path


def _like(model: dict[str, Any], name: str, load: str, processor: str) -> dict[str, Any]:
    """The same weights, seen by another model."""
    copy = json.loads(json.dumps({**model, "base_name": name}))
    copy["default_deployment_config_dict"]["config"] |= {
        "entrypoint_fcn": f"tests.model_kinds.weights.{load}",
        "output_processor_cls": f"fiftyone.utils.torch.{processor}",
    }
    return copy


def save_detector(folder: Path) -> Path:
    """A YOLOS of a few thousand weights, trained for some steps, in the folder that its library writes."""
    import transformers

    torch.manual_seed(0)
    config = transformers.YolosConfig(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128, image_size=[SIDE, SIDE],
        patch_size=12, num_detection_tokens=6, id2label=dict(enumerate(CLASSES)),
        label2id={c: i for i, c in enumerate(CLASSES)}, hidden_dropout_prob=0.0, eos_coefficient=0.4,
    )  # fmt: skip
    model = transformers.YolosForObjectDetection(config)
    processor = transformers.YolosImageProcessor(size={"height": SIDE, "width": SIDE})
    pictures, truths = scenes(64, 2)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for step in range(8):
        part = [(step * 16 + i) % len(pictures) for i in range(16)]
        labels = [
            {
                "class_labels": torch.tensor([label for label, _ in truths[i]]),
                "boxes": torch.tensor([[x + w / 2, y + h / 2, w, h] for _, (x, y, w, h) in truths[i]]),
            }
            for i in part
        ]
        inputs = processor(images=[pictures[i] for i in part], return_tensors="pt")
        loss = model(pixel_values=inputs["pixel_values"], labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return _save(folder / "digit-yolos", model, processor)


def save_classifier(folder: Path) -> Path:
    """A small ViT that names the digit of a picture."""
    import transformers

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, image_size=SIDE,
        patch_size=24, id2label=dict(enumerate(CLASSES)), label2id={c: i for i, c in enumerate(CLASSES)},
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    processor = transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE})
    pictures, truths = scenes(64, 3)
    wanted = torch.tensor([truth[0][0] for truth in truths])
    inputs = processor(images=list(pictures), return_tensors="pt")["pixel_values"]
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(8):
        loss = model(pixel_values=inputs, labels=wanted).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return _save(folder / "digit-vit", model, processor)


def save_segmenter(folder: Path) -> Path:
    """A semantic segmenter, untrained: its masks have no review, whatever they show."""
    import transformers

    config = transformers.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16], patch_sizes=[7, 3], strides=[4, 2],
        num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=16, id2label={0: "paper", 1: "ink"},
    )  # fmt: skip
    model = transformers.SegformerForSemanticSegmentation(config)
    processor = transformers.SegformerImageProcessor(size={"height": SIDE, "width": SIDE})
    return _save(folder / "digit-segformer", model, processor)


def save_yolo(folder: Path, kind: str = "") -> Path:
    """The smallest YOLO, as it begins: what it finds is of any confidence, but real.

    Args:
        folder: of the file.
        kind: ``-seg`` for one with masks, ``-cls`` for one that names images.
    """
    import ultralytics

    torch.manual_seed(0)
    model = ultralytics.YOLO(f"yolov8n{kind}.yaml")
    model.model.names = dict(enumerate(CLASSES + [f"thing {i}" for i in range(10, len(model.model.names))]))
    path = folder / f"digit-yolo{kind}.pt"
    model.save(path)
    return path


def _save(folder: Path, model: Any, processor: Any) -> Path:
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_zero_shot(folder: Path) -> Path:
    """A small OWL-ViT, untrained, with a vocabulary of letters: it is asked in words like a real one."""
    import transformers

    torch.manual_seed(0)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = ["<|startoftext|>", "<|endoftext|>", "!", *letters, *(f"{c}</w>" for c in letters)]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), pad_token="!"
    )
    text = {"vocab_size": len(tokens), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 2, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": SIDE, "patch_size": 24}  # fmt: skip
    config = transformers.OwlViTConfig(text_config=text, vision_config=vision, projection_dim=32)
    model = transformers.OwlViTForObjectDetection(config)
    pictures = transformers.OwlViTImageProcessor(size={"height": SIDE, "width": SIDE})
    processor = transformers.OwlViTProcessor(pictures, tokenizer)
    return _save(folder / "tiny-owl", model, processor)


def write_zero_shot_manifest(folder: Path, weights: Path) -> Path:
    """The entry of a zero-shot model, as the zoo's own ones are written, but for the place of its weights."""
    model = {
        "base_name": "tiny-owl-torch",
        "base_filename": None,
        "version": None,
        "description": "A zero-shot detector",
        "source": "https://example.org/tiny-owl",
        "default_deployment_config_dict": {
            "type": "fiftyone.utils.transformers.FiftyOneZeroShotTransformerForObjectDetection",
            "config": {"name_or_path": str(weights)},
        },
        "requirements": {"packages": ["torch", "torchvision", "transformers"]},
        "tags": ["detection", "torch", "transformers", "zero-shot"],
        "date_added": "2026-01-01 00:00:00",
    }
    path = folder / "manifest-owl.json"
    path.write_text(json.dumps({"models": [model]}))
    return path
