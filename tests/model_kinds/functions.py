"""Plain functions of images."""

from __future__ import annotations

from typing import Any

import fiftyone as fo
import numpy as np


def find_ink(images: list[Any], level: int = 100) -> list[list[dict[str, Any]]]:
    """One box around all that is bright."""
    return [_box_of(image.max(axis=2) > level) for image in images]


def name_it(images: list[Any]) -> list[dict[str, Any]]:
    """Bright or dark."""
    return [{"label": "bright" if image.mean() > 60 else "dark", "confidence": 0.8} for image in images]


def name_all(images: list[Any], least: int = 0) -> list[list[dict[str, Any]]]:
    """Several names for each whose first pixel is red enough, none for the others."""
    names = [{"label": "bright", "confidence": 0.9}, {"label": "picture", "confidence": 0.6}]
    return [names if image[0, 0, 0] >= least else [] for image in images]


def outline(images: list[Any]) -> list[Any]:
    """What has no review."""
    line = fo.Polyline(label="ink", points=[[(0.1, 0.1), (0.9, 0.9)]])
    return [fo.Polylines(polylines=[line]) for _ in images]


def cut_out(images: list[Any]) -> list[list[dict[str, Any]]]:
    """One box on each, with a mask of its lower half."""
    half = np.arange(12).repeat(8).reshape(12, 8) > 5
    box = [0.1, 0.1, 0.5, 0.5]
    return [[{"label": "half", "bounding_box": box, "confidence": 0.9, "mask": half}] for _ in images]


def one_too_many(images: list[Any]) -> list[Any]:
    """Does not know how many images there are."""
    return [[] for _ in images] + [[]]


def odd_box(images: list[Any]) -> list[Any]:
    """Three sides."""
    return [[{"label": "ink", "bounding_box": [0.1, 0.2, 0.3], "confidence": 0.5}] for _ in images]


def _box_of(bright: np.ndarray) -> list[dict[str, Any]]:
    rows, columns = np.nonzero(bright)
    if not len(rows):
        return []
    height, width = bright.shape
    box = [columns.min() / width, rows.min() / height, np.ptp(columns) / width, np.ptp(rows) / height]
    return [
        {
            "label": "ink",
            "bounding_box": box,
            "confidence": np.float32(len(rows) / bright.size),
            "dots": 7,
        }
    ]
