"""Masks of instances: where they are kept, and what they look like in the whole image.

A mask is a picture of its label's box. FiftyOne keeps it inside the label (``mask``, compressed), or as an image
file (``mask_path``). Labels of a sample lie in one document of the database, in the review field and in the
ledger, which MongoDB bounds at 16 MB: large masks need files.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from valflow.label_types import LabelDict, box_of
from valflow.places import inside, write_inside

Mask = NDArray[np.bool_]
Rle = dict[str, Any]

# Where nothing tells how large an image is, masks are compared on a canvas of this many pixels.
CANVAS = (1024, 1024)


def has_mask(label: Mapping[str, Any]) -> bool:
    """Whether a label has a mask of either kind."""
    return label.get("mask") is not None or bool(label.get("mask_path"))


def read_mask(label: Mapping[str, Any]) -> Mask | None:
    """The mask of a label over its box, (H, W); None where it has none.

    Raises:
        ValueError: it cannot be read.
    """
    import fiftyone.core.utils as fou

    try:
        if label.get("mask") is not None:
            pixels = np.asarray(fou.deserialize_numpy_array(label["mask"]))
        elif label.get("mask_path"):
            with Image.open(label["mask_path"]) as image:
                pixels = np.asarray(image)
        else:
            return None
    except Exception as error:
        raise ValueError(f"the mask of label {label.get('_id')} cannot be read: {error}") from error
    found = np.asarray(pixels.any(axis=2) if pixels.ndim == 3 else pixels > 0)
    if found.ndim != 2:
        raise ValueError(
            f"expected a mask of two dimensions on label {label.get('_id')}, found {pixels.shape}"
        )
    return found


def share_of_box(label: Mapping[str, Any]) -> float:
    """How much of its box a mask covers, in [0, 1]; NaN where there is none, or none that can be read."""
    try:
        mask = read_mask(label)
    except ValueError:
        return float("nan")
    return float("nan") if mask is None or not mask.size else float(mask.mean())


def write_to_files(labels: Sequence[LabelDict], folder: Path) -> list[LabelDict]:
    """Labels whose masks stand in files, named by label id; those that have a file already keep it.

    Args:
        labels: with ids.
        folder: where the files go; made when missing. A file that is there is written again: idempotent.

    Returns:
        The labels with ``mask_path`` in place of ``mask``.

    Raises:
        ValueError: a mask cannot be read.
    """
    moved = []
    for label in labels:
        mask = read_mask(label) if label.get("mask") is not None else None
        if mask is None:
            moved.append(label)
            continue
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{label['_id']}.png"
        picture = io.BytesIO()
        Image.fromarray(mask.astype(np.uint8) * 255).save(picture, "PNG")
        write_inside(path, picture.getvalue())
        moved.append({**{k: v for k, v in label.items() if k != "mask"}, "mask_path": str(path)})
    return moved


def in_files(labels: list[LabelDict], folder: Path, run: str) -> tuple[list[LabelDict], str | None]:
    """Labels of a run with their masks in files below a folder, or the reason why one cannot be read."""
    try:
        return write_to_files(labels, inside(folder, run)), None
    except ValueError as error:
        return labels, str(error)


def canvas_of(width: float | None, height: float | None) -> tuple[int, int]:
    """The size in pixels on which masks of an image are compared."""
    if not width or not height or np.isnan(width) or np.isnan(height):
        return CANVAS
    return int(width), int(height)


def as_rle(label: Mapping[str, Any], width: int, height: int) -> Rle:
    """A label's mask in its whole image, in COCO's run lengths; all of its box where it has no mask.

    Raises:
        ValueError: the mask cannot be read.
    """
    from hotcoco import mask as rle

    whole = np.zeros((height, width), np.uint8)
    box, mask = box_of(label), read_mask(label)
    if box is not None:
        x, y, w, h = box
        left, top = round(x * width), round(y * height)
        right, bottom = max(left + 1, round((x + w) * width)), max(top + 1, round((y + h) * height))
        part = np.ones((bottom - top, right - left), np.uint8)
        if mask is not None and mask.size:
            image = Image.fromarray(mask.astype(np.uint8)).resize(
                (right - left, bottom - top), Image.Resampling.NEAREST
            )
            part = np.asarray(image)
        inside = part[max(-top, 0) : height - top, max(-left, 0) : width - left]
        x0, y0 = max(left, 0), max(top, 0)
        whole[y0 : y0 + inside.shape[0], x0 : x0 + inside.shape[1]] = inside
    encoded = rle.encode(whole)
    counts = encoded["counts"]
    return {**encoded, "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}


def overlaps(a: Sequence[Rle], b: Sequence[Rle], b_is_crowd: Sequence[bool]) -> NDArray[np.float64]:
    """Intersection over union of masks in one image, (N,), (M,) -> (N, M); against a crowd as in COCO."""
    from hotcoco import mask as rle

    return np.asarray(rle.iou(_raw(a), _raw(b), [int(c) for c in b_is_crowd]), float).reshape(len(a), len(b))


def _raw(masks: Sequence[Rle]) -> list[Rle]:
    return [{**m, "counts": m["counts"].encode("ascii")} for m in masks]
