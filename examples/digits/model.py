"""A small digit detector: regions that stand out, and a classifier that knows half of the digits.

Nothing is made up: a confidence is the classifier's probability, a false positive is a mark that looked like
a digit, and a miss is a digit too faint or too entangled to stand out. Training takes about two seconds, once
per process and seed.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import fiftyone as fo
import numpy as np
from fiftyone.core.models import Model
from numpy.typing import NDArray

from examples.digits.handwriting import CLASSES, split_handwriting
from examples.digits.scenes import compose_scene

VERSION = "1"

Image = NDArray[np.uint8]
Boxes = NDArray[np.float32]  # (N, 4) x, y, width, height in pixels

_TRAINING_SCENES = 70
_TRAINING_STREAM = 7  # keeps the training sheets apart from the scenes of an equal seed
_BACKGROUND = len(CLASSES)
_PATCH = 24  # pixels of a side, of which _MARGIN stay empty on each side
_MARGIN = 2
_HOG = cv2.HOGDescriptor((_PATCH, _PATCH), (12, 12), (6, 6), (6, 6), 9)
_SMALLEST, _LARGEST = 11, 96  # height of a region in pixels


class DigitDetector(Model):
    """Finds handwritten digits in RGB pictures of any size.

    Args:
        seed: chooses the training sheets, so another seed is another model.
        levels: contrasts in gray levels at which regions are cut out; fewer are faster and find less.
        nms_iou: of two boxes that overlap by more than this, the less confident goes. A generous value leaves
            doubles.
        floor: detections below this confidence are not returned.

    Attributes:
        name: of the model, for the run record.
        version: of the code behind it.
        classes: that it can name.
        weights_digest: SHA-256 of the fitted parameters.
    """

    def __init__(
        self,
        seed: int = 0,
        levels: Sequence[int] = (10, 22, 45),
        nms_iou: float = 0.75,
        floor: float = 0.05,
    ) -> None:
        self.name = "digit-detector"
        self.version = VERSION
        self.classes = list(CLASSES)
        self._levels = tuple(int(level) for level in levels)
        self._nms_iou = float(nms_iou)
        self._floor = float(floor)
        self._preprocess = False
        self._weights = _train(int(seed), self._levels)
        self.weights_digest = hashlib.sha256(self._weights.astype("<f4").tobytes()).hexdigest()

    @property
    def media_type(self) -> str:
        """Pictures."""
        return "image"

    @property
    def ragged_batches(self) -> bool:
        """False: pictures of different sizes may share a batch."""
        return False

    @property
    def transforms(self) -> None:
        """None: pictures are taken as they are."""
        return

    @property
    def preprocess(self) -> bool:
        """Without meaning, as there are no transforms."""
        return self._preprocess

    @preprocess.setter
    def preprocess(self, value: bool) -> None:
        self._preprocess = value

    def predict(self, arg: Image) -> fo.Detections:
        """Detect the digits of one ``(H, W, 3)`` uint8 RGB picture; boxes are relative to it, in [0, 1]."""
        height, width = arg.shape[:2]
        boxes, labels, confidences = self.detect(arg)
        return fo.Detections(
            detections=[
                fo.Detection(
                    label=CLASSES[label],
                    bounding_box=[float(v) for v in box / (width, height, width, height)],
                    confidence=float(confidence),
                )
                for box, label, confidence in zip(boxes.astype(np.float64), labels, confidences, strict=True)
            ]
        )

    def predict_all(self, args: Iterable[Image]) -> list[fo.Detections]:
        """Detect the digits of several pictures."""
        return [self.predict(arg) for arg in args]

    def detect(self, image: Image) -> tuple[Boxes, NDArray[np.int64], NDArray[np.float32]]:
        """Detect without FiftyOne's types.

        Args:
            image: ``(H, W, 3)`` uint8 RGB.

        Returns:
            Boxes ``(N, 4)`` in pixels, classes ``(N,)`` and confidences ``(N,)``, the most confident first.

        Raises:
            ValueError: it is no such picture.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"expected a uint8 RGB picture (H, W, 3), found {image.dtype} {image.shape}")
        contrast = find_contrast(np.ascontiguousarray(image))
        boxes = propose_regions(contrast, self._levels)
        if not len(boxes):
            return boxes, np.empty(0, np.int64), np.empty(0, np.float32)
        probabilities = _softmax(describe_regions(contrast, boxes) @ self._weights)[:, :_BACKGROUND]
        labels, confidences = probabilities.argmax(axis=1), probabilities.max(axis=1)
        kept = _suppress(boxes, confidences, self._nms_iou, self._floor)
        return boxes[kept], labels[kept], confidences[kept]


def find_contrast(image: Image) -> Image:
    """How much each pixel differs from the sheet around it, in its strongest channel: ``(H, W)`` uint8."""
    height, width = image.shape[:2]
    small = cv2.resize(image, (max(width // 4, 1), max(height // 4, 1)), interpolation=cv2.INTER_AREA)
    sheet = cv2.resize(cv2.medianBlur(small, 19), (width, height), interpolation=cv2.INTER_LINEAR)
    difference = cv2.absdiff(cv2.GaussianBlur(image, (3, 3), 0), sheet)
    r, g, b = cv2.split(difference)
    return np.asarray(cv2.max(cv2.max(r, g), b), np.uint8)


def propose_regions(contrast: Image, levels: Sequence[int]) -> Boxes:
    """Boxes of connected ink at several levels of contrast, and both halves of those too wide for a digit."""
    found: list[NDArray[np.int32]] = []
    for level in levels:
        ink = (contrast > level).view(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(ink, connectivity=8)
        found.append(np.asarray(stats[1:], np.int32))
    x, y, w, h, area = np.concatenate(found).T
    plausible = (
        (h >= _SMALLEST) & (h <= _LARGEST) & (w >= 3) & (w <= 2.6 * h) & (area >= 18) & (area >= 0.08 * w * h)
    )
    boxes = np.column_stack([x, y, w, h])[plausible].astype(np.float32)
    wide = boxes[boxes[:, 2] > 0.95 * boxes[:, 3]]
    half = wide * (1, 1, 0.5, 1)
    other = half + (half[:, 2:3] * (1, 0, 0, 0))
    return _without_twins(np.concatenate([boxes, half, other]).astype(np.float32))


def describe_regions(contrast: Image, boxes: Boxes) -> NDArray[np.float32]:
    """Features ``(N, F)`` of regions: gradient histograms of the ink, its shape, and a constant."""
    strip = np.zeros((len(boxes) * _PATCH, _PATCH), np.uint8)
    inner = _PATCH - 2 * _MARGIN
    shape = np.empty((len(boxes), 6), np.float32)
    for i, (x, y, w, h) in enumerate(boxes.astype(int)):
        region = contrast[y : y + h, x : x + w]
        scale = inner / max(w, h)
        size = max(round(w * scale), 1), max(round(h * scale), 1)
        patch = cv2.resize(region, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        strongest = max(int(patch.max()), 1)
        top, left = i * _PATCH + (_PATCH - size[1]) // 2, (_PATCH - size[0]) // 2
        strip[top : top + size[1], left : left + size[0]] = cv2.convertScaleAbs(patch, alpha=255 / strongest)
        shape[i] = w / h, (w / h) ** 2, patch.mean() / strongest, strongest / 255, h / 64, 1
    histograms = np.asarray(_HOG.compute(strip, (_PATCH, _PATCH), (0, 0)), np.float32).reshape(len(boxes), -1)
    return np.hstack([histograms, shape])


def _without_twins(boxes: Boxes) -> Boxes:
    """Drop boxes that lie within two pixels of an earlier one: the same region at another level."""
    corners = boxes + np.pad(boxes[:, :2], ((0, 0), (2, 0)))
    near = (np.abs(corners[:, None] - corners[None]) <= 2).all(axis=2)
    return boxes[~np.tril(near, -1).any(axis=1)]


def _overlaps(boxes: Boxes, others: Boxes) -> NDArray[np.float32]:
    """Intersection over union, ``(N, M)``."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum((boxes[:, :2] + boxes[:, 2:])[:, None], (others[:, :2] + others[:, 2:])[None])
    common = np.clip(high - low, 0, None).prod(axis=2)
    total = boxes[:, 2:].prod(axis=1)[:, None] + others[:, 2:].prod(axis=1)[None] - common
    return np.asarray(common / np.maximum(total, 1e-9), np.float32)


def _suppress(boxes: Boxes, confidences: NDArray[np.float32], limit: float, floor: float) -> list[int]:
    """Greedy non-maximum suppression over all classes; indices of what stays, the most confident first."""
    overlaps = _overlaps(boxes, boxes)
    alive = confidences >= floor
    kept = []
    for i in np.argsort(-confidences, kind="stable"):
        if alive[i]:
            kept.append(int(i))
            alive &= overlaps[i] <= limit
    return kept


def _softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), np.float32)


@functools.lru_cache(maxsize=4)
def _train(seed: int, levels: tuple[int, ...]) -> NDArray[np.float32]:
    """Fit the classifier on sheets of the training half; ``(F, 11)``, the last class is "no digit"."""
    from sklearn.linear_model import LogisticRegression

    training, _ = split_handwriting()
    features, targets = [], []
    for index in range(_TRAINING_SCENES):
        picture, digits, _ = compose_scene(training, np.random.default_rng([seed, index, _TRAINING_STREAM]))
        height, width = picture.shape[:2]
        truth = np.array([d.box for d in digits], np.float32) * (width, height, width, height)
        contrast = find_contrast(picture)
        boxes = propose_regions(contrast, levels)
        if not len(boxes):
            continue
        overlaps = _overlaps(boxes, truth.astype(np.float32))
        best = overlaps.max(axis=1)
        classes = np.array([CLASSES.index(d.label) for d in digits])[overlaps.argmax(axis=1)]
        clear = (best >= 0.6) | (best < 0.4)
        features.append(describe_regions(contrast, boxes)[clear])
        targets.append(np.where(best >= 0.6, classes, _BACKGROUND)[clear])
    # Hardly regularised, so it is as sure of itself as detectors are: at 0.7 about one in twenty is wrong.
    model: Any = LogisticRegression(C=12.0, max_iter=400, tol=1e-3, fit_intercept=False)
    model.fit(np.concatenate(features), np.concatenate(targets))
    return np.asarray(model.coef_.T, np.float32)
