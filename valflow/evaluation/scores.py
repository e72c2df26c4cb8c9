"""Figures from matches: precision, recall, F1, average precision, curves, and the twelve of COCO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from valflow.evaluation.labels import Images, LabelTable
from valflow.evaluation.matching import IOU_THRESHOLDS, MAX_PREDICTIONS, Comparison

RECALLS = np.linspace(0, 1, 101)

COCO_FIGURES = (
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP_medium",
    "AP_large",
    "AR1",
    "AR10",
    "AR100",
    "AR_small",
    "AR_medium",
    "AR_large",
)
_NEED_SIZES = frozenset(name for name in COCO_FIGURES if name.endswith(("small", "medium", "large")))


@dataclass(frozen=True)
class Sweep:
    """Precision over recall at every IoU threshold and class; -1 where a class has no true label.

    Attributes:
        classes: K class names.
        precision: (T, K, 101) at the recalls 0, 0.01, ... 1.
        confidence: (T, K, 101) confidence at which that precision is reached.
        recall: (T, K) greatest recall.
    """

    classes: list[str]
    precision: np.ndarray
    confidence: np.ndarray
    recall: np.ndarray

    def class_ap(self) -> dict[str, float | None]:
        """COCO's AP@[.5:.95] of every class, None for a class without true labels."""
        means = self.precision.mean(axis=(0, 2))
        return {c: (float(v) if v > -1 else None) for c, v in zip(self.classes, means, strict=True)}

    def mean_ap(self, threshold: int | None = None) -> float | None:
        """AP averaged over the classes, at all thresholds or at one of them (by position)."""
        precision = self.precision if threshold is None else self.precision[threshold]
        valid = precision[precision > -1]
        return float(valid.mean()) if valid.size else None


def detection_metrics(comparison: Comparison, classes: Sequence[str] | None = None) -> dict[str, Any]:
    """Precision, recall and F1 at the comparison's IoU threshold, over all labels and per class.

    Args:
        comparison: predicted and true labels.
        classes: classes to list; None lists all that occur.

    Returns:
        ``{precision, recall, f1, tp, fp, fn, labels, per_class: [{label, support, tp, ...}]}``; a ratio
        without anything to divide by is None. ``support`` is the number of true labels.
    """
    predictions, truth = comparison.predictions, comparison.truth
    hit = comparison.matches.truth >= 0
    missed = comparison.matches.prediction < 0
    names = list(classes) if classes is not None else classes_of(predictions, truth)
    predicted_class, true_class = predictions.codes(names), truth.codes(names)

    def count(codes: np.ndarray) -> np.ndarray:
        return np.bincount(codes[codes >= 0], minlength=len(names))

    tp, fp = count(predicted_class[hit]), count(predicted_class[~hit])
    fn, support = count(true_class[missed]), count(true_class)
    per_class = [
        {"label": name, "support": int(support[i]), **_ratios(int(tp[i]), int(fp[i]), int(fn[i]))}
        for i, name in enumerate(names)
    ]
    return {
        **_ratios(int(tp.sum()), int(fp.sum()), int(fn.sum())),
        "labels": int(tp.sum() + fp.sum()),
        "per_class": per_class,
    }


def sweep(comparison: Comparison, classes: Sequence[str] | None = None, *, true_first: bool = False) -> Sweep:
    """Precision-recall curves at COCO's ten IoU thresholds (pycocotools ``COCOeval.accumulate``).

    Labels without a confidence are ranked behind all others.

    Args:
        comparison: predicted and true labels.
        classes: classes of the result; None takes all that occur.
        true_first: among equal confidences rank the true positives first, as FiftyOne does; otherwise
            the order of the images decides, as in pycocotools.

    Returns:
        The curves.
    """
    predictions, truth, pairs, chosen = (
        comparison.predictions,
        comparison.truth,
        comparison.pairs,
        comparison.chosen,
    )
    names = list(classes) if classes is not None else classes_of(predictions, truth)
    hit = chosen >= 0
    on_crowd = np.zeros_like(hit)
    if pairs.crowd.any():
        on_crowd = hit & pairs.crowd[pairs.truth[chosen]]
    shape = (len(IOU_THRESHOLDS), len(names))
    result = Sweep(names, np.full((*shape, 101), -1.0), np.full((*shape, 101), -1.0), np.full(shape, -1.0))
    true_class = truth.codes(names)[~truth.crowd]
    support = np.bincount(true_class[true_class >= 0], minlength=len(names))
    key = np.where(np.isnan(predictions.confidence), -1.0, predictions.confidence)
    for code, members in enumerate(_by_class(predictions, names, pairs.rank)):
        if not support[code]:
            continue
        # Sorted once for all thresholds; only ties may have another order at each.
        members = members[np.argsort(-key[members], kind="stable")]
        has_ties = true_first and bool((np.diff(key[members]) == 0).any())
        for t in range(len(IOU_THRESHOLDS)):
            rows = members[~on_crowd[t, members]]
            if has_ties:
                rows = rows[np.lexsort((~hit[t, rows], -key[rows]))]
            precision, confidence, recall = _curve(hit[t, rows], key[rows], int(support[code]))
            result.precision[t, code], result.confidence[t, code] = precision, confidence
            result.recall[t, code] = recall
    return result


def _by_class(predictions: LabelTable, classes: Sequence[str], rank: np.ndarray) -> list[np.ndarray]:
    """The predictions of every class that take part, by image and then by rank."""
    codes = predictions.codes(classes)
    order = np.lexsort((rank, predictions.sample, codes))
    order = order[rank[order] < MAX_PREDICTIONS]
    bounds = np.searchsorted(codes[order], np.arange(len(classes) + 1))
    return [order[a:b] for a, b in pairwise(bounds)]


def _curve(hit: np.ndarray, confidence: np.ndarray, support: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Interpolated precision and confidence at 101 recalls, and the greatest recall."""
    precision, level = np.zeros(101), np.zeros(101)
    if not len(hit):
        return precision, level, 0.0
    true = np.cumsum(hit).astype(float)
    envelope = np.maximum.accumulate((true / np.arange(1, len(hit) + 1))[::-1])[::-1]
    recall = true / support
    place = np.searchsorted(recall, RECALLS, side="left")
    reached = place < len(hit)
    precision[reached] = envelope[place[reached]]
    level[reached] = np.maximum(confidence[place[reached]], 0.0)
    return precision, level, float(recall[-1])


def precision_recall_points(comparison: Comparison, points: int = 101) -> dict[str, list[float]]:
    """Precision and recall of all classes together, for every confidence from the highest down.

    Labels without a confidence come last. Of many labels about ``points`` are kept, at even steps of recall.

    Returns:
        ``{recall: [...], precision: [...], confidence: [...]}``, with confidence in [0, 1].
    """
    matches, given = comparison.matches, comparison.predictions.confidence
    key = np.where(np.isnan(given), -1.0, given)
    order = np.argsort(-key, kind="stable")
    hit = matches.truth[order] >= 0
    confidence = key[order]
    if not len(hit) or not len(comparison.truth):
        return {"recall": [], "precision": [], "confidence": []}
    true = np.cumsum(hit)
    # A threshold takes all labels of equal confidence or none.
    last = np.flatnonzero(np.diff(confidence, append=-2.0))
    recall, precision = (
        true[last] / max(int(true[-1] + (matches.prediction < 0).sum()), 1),
        true[last] / (last + 1),
    )
    if len(last) > points:
        wanted = np.linspace(recall[0], recall[-1], points)
        keep = np.unique(
            np.concatenate([np.searchsorted(recall, wanted), [len(last) - 1]]).clip(0, len(last) - 1)
        )
    else:
        keep = np.arange(len(last))
    return {
        "recall": recall[keep].tolist(),
        "precision": precision[keep].tolist(),
        "confidence": np.maximum(confidence[last][keep], 0.0).tolist(),
    }


def coco_figures(
    predictions: LabelTable, truth: LabelTable, images: Images, classes: Sequence[str] | None = None
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """COCO's twelve figures and the AP of every class, through hotcoco.

    Args:
        predictions: predicted labels; those without a confidence are ranked last.
        truth: true labels.
        images: their images; without sizes the figures by object area are None.
        classes: classes that count; None takes all that occur.

    Returns:
        The figures by name, and AP@[.5:.95] by class; None where COCO says -1 ("nothing to measure").
    """
    from hotcoco import COCO, COCOeval

    names = list(classes) if classes is not None else classes_of(predictions, truth)
    predictions, truth = predictions.of_classes(names), truth.of_classes(names)
    has_sizes = bool(np.isfinite(images.sizes).all())
    # Overlaps do not depend on the sizes, areas do.
    sizes = images.sizes if has_sizes else np.ones_like(images.sizes)
    if not len(predictions) or not len(truth):
        nothing: float | None = 0.0 if len(truth) else None
        supported = set(classes_of(truth))
        return dict.fromkeys(COCO_FIGURES, nothing), {n: (0.0 if n in supported else None) for n in names}
    pictures = [{"id": i, "width": w, "height": h} for i, (w, h) in enumerate(sizes.astype(int).tolist(), 1)]
    categories = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    true, found = _coco_columns(truth, names, sizes), _coco_columns(predictions, names, sizes)
    true_side = COCO.from_arrays(
        pictures, categories, true.image, true.category, true.boxes, area=true.area, iscrowd=true.crowd
    )
    found_side = true_side.load_res(
        np.column_stack([found.image, found.boxes, found.confidence, found.category])
    )
    evaluation = COCOeval(true_side, found_side, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summary_lines()  # fills `stats`; `summarize` would print them, too
    figures = {
        name: (None if value < 0 or (name in _NEED_SIZES and not has_sizes) else float(value))
        for name, value in zip(COCO_FIGURES, evaluation.stats, strict=True)
    }
    accumulated = evaluation.eval
    assert accumulated is not None
    by_class = accumulated["precision"][:, :, :, 0, -1].mean(axis=(0, 1))
    return figures, {name: (float(by_class[i]) if by_class[i] > -1 else None) for i, name in enumerate(names)}


def classes_of(*tables: LabelTable) -> list[str]:
    """All class names that occur, sorted."""
    found = {table.classes[i] for table in tables for i in np.unique(table.class_id).tolist() if i >= 0}
    return sorted(found)


class _CocoColumns(NamedTuple):
    """Labels as COCO counts them: numbers from 1, boxes in pixels, a score below all others where there is none."""

    image: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    confidence: np.ndarray


def _coco_columns(table: LabelTable, names: Sequence[str], sizes: np.ndarray) -> _CocoColumns:
    scale = sizes[table.sample]
    pixels = table.boxes * np.concatenate([scale, scale], axis=1)
    return _CocoColumns(
        image=table.sample + 1,
        category=table.codes(names) + 1,
        boxes=pixels,
        area=pixels[:, 2] * pixels[:, 3],
        crowd=table.crowd.astype(np.int64),
        confidence=np.where(np.isnan(table.confidence), -1.0, table.confidence),
    )


def _ratios(tp: int, fp: int, fn: int) -> dict[str, Any]:
    return {
        "precision": tp / (tp + fp) if tp + fp else None,
        "recall": tp / (tp + fn) if tp + fn else None,
        "f1": 2 * tp / (2 * tp + fp + fn) if tp + fp and tp + fn else None,
        "tp": tp,
        "fp": fp,
        "fn": fn,
    }
