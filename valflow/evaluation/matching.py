"""Which prediction is which true object: COCO's greedy matching, for all images and classes at once.

Within an image and a class the predictions choose in order of confidence; each takes the true object that
overlaps it most among those still free (pycocotools ``COCOeval.evaluateImg``). Labels without a confidence
choose last, as in FiftyOne. Of two true objects with exactly the same overlap the later one is taken, as in
pycocotools; FiftyOne follows the order of its spatial index, which is the same for up to about a hundred
true objects of a class in an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from valflow import masks
from valflow.evaluation.labels import LabelTable

# COCO's primary challenge metric: ten thresholds, the 100 most confident labels per image and class.
IOU_THRESHOLDS = tuple(x / 100 for x in range(50, 100, 5))
MAX_PREDICTIONS = 100
# Pairs of one image and class that are compared at a time: bounds the memory at a few hundred MB.
_PAIR_BLOCK = 2_000_000


@dataclass(frozen=True)
class Pairs:
    """Predictions and true labels of the same image and class that overlap.

    Sorted by ``turn``, prediction, and preference within a prediction (the last one is the best).

    Attributes:
        prediction: (M,) positions in the predictions.
        truth: (M,) positions in the true labels.
        iou: (M,) overlap in (0, 1].
        turn: (M,) when the prediction chooses among those of its image and class that overlap anything.
        rank: (N,) place of every prediction in its image and class, the most confident first.
        crowd: (G,) bool, the true labels that stand for a group.
    """

    prediction: np.ndarray
    truth: np.ndarray
    iou: np.ndarray
    turn: np.ndarray
    rank: np.ndarray
    crowd: np.ndarray


@dataclass(frozen=True)
class Matches:
    """The outcome at one IoU threshold.

    Attributes:
        truth: (N,) position of the true label of each prediction, -1 for a false positive.
        iou: (N,) overlap with it, NaN for a false positive.
        prediction: (G,) position of the prediction of each true label, -1 for a missed object.
    """

    truth: np.ndarray
    iou: np.ndarray
    prediction: np.ndarray


def overlap(a: np.ndarray, b: np.ndarray, b_is_crowd: np.ndarray | bool = False) -> np.ndarray:
    """Intersection over union, row by row, of boxes ``x, y, w, h``: (N, 4), (N, 4) -> (N,).

    Against a crowd the area of ``a`` counts as the union, as in COCO. The order of the operations is
    FiftyOne's, so that the figures are the same to the last bit.
    """
    width = np.minimum(a[:, 0] + a[:, 2], b[:, 0] + b[:, 2]) - np.maximum(a[:, 0], b[:, 0])
    height = np.minimum(a[:, 1] + a[:, 3], b[:, 1] + b[:, 3]) - np.maximum(a[:, 1], b[:, 1])
    shared = np.where((width > 0) & (height > 0), height * width, 0.0)
    area_a, area_b = a[:, 3] * a[:, 2], b[:, 3] * b[:, 2]
    union = np.where(b_is_crowd, area_a, area_a + area_b - shared)
    return np.minimum(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0), 1.0)


def _mask_overlap(
    predictions: LabelTable, truth: LabelTable, p: np.ndarray, g: np.ndarray, of_boxes: np.ndarray
) -> np.ndarray:
    """The same for masks, image by image; where boxes share nothing, masks do not either."""
    assert predictions.masks is not None
    assert truth.masks is not None
    result = np.zeros(len(p))
    near = np.flatnonzero(of_boxes > 0)
    near = near[np.argsort(predictions.sample[p[near]], kind="stable")]
    images = predictions.sample[p[near]]
    for rows in np.split(near, np.flatnonzero(np.diff(images)) + 1) if len(near) else ():
        ours, place = np.unique(p[rows], return_inverse=True)
        theirs, other = np.unique(g[rows], return_inverse=True)
        ious = masks.overlaps(
            predictions.masks[ours].tolist(), truth.masks[theirs].tolist(), truth.crowd[theirs].tolist()
        )
        result[rows] = ious[place, other]
    return result


@dataclass(frozen=True)
class Comparison:
    """Predicted and true labels of the same images; what was computed once is kept.

    Attributes:
        predictions: predicted labels.
        truth: true labels.
        iou: least overlap of a match, in (0, 1].
    """

    predictions: LabelTable
    truth: LabelTable
    iou: float = 0.5

    @cached_property
    def pairs(self) -> Pairs:
        """Everything that can match at ``iou`` or at one of COCO's thresholds."""
        return candidate_pairs(self.predictions, self.truth, min(self.iou, IOU_THRESHOLDS[0]))

    @cached_property
    def matches(self) -> Matches:
        """The outcome at ``iou``."""
        return matches_at(self.pairs, assign(self.pairs, [self.iou])[0])

    @cached_property
    def chosen(self) -> np.ndarray:
        """The outcome at COCO's ten thresholds, (10, N) as in :func:`assign`."""
        return assign(self.pairs, IOU_THRESHOLDS, MAX_PREDICTIONS)


def match(predictions: LabelTable, truth: LabelTable, iou: float = 0.5) -> Matches:
    """Match predictions with true labels at one threshold.

    Args:
        predictions: predicted labels.
        truth: true labels of the same images.
        iou: least overlap of a match, in (0, 1].

    Returns:
        Who matched whom.
    """
    return Comparison(predictions, truth, iou).matches


def candidate_pairs(predictions: LabelTable, truth: LabelTable, least_iou: float) -> Pairs:
    """All pairs of the same image and class that overlap by at least ``least_iou``, in choosing order."""
    group, true_group = _groups(predictions, truth)
    order, rank = _ranked(predictions, group)
    # Crowds last, then in the order of the labels: the order in which FiftyOne looks at them.
    true_order = np.lexsort((truth.crowd, true_group))
    sorted_groups = true_group[true_order]
    start = np.searchsorted(sorted_groups, group[order], side="left")
    count = np.searchsorted(sorted_groups, group[order], side="right") - start
    least = _effective(least_iou)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for part in _blocks(count):
        sizes = count[part]
        p = np.repeat(order[part], sizes)
        within = np.arange(len(p)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        place = np.repeat(start[part], sizes) + within
        g = true_order[place]
        ious = overlap(predictions.boxes[p], truth.boxes[g], truth.crowd[g])
        if predictions.masks is not None and truth.masks is not None:
            ious = _mask_overlap(predictions, truth, p, g, ious)
        keep = (ious >= least) & (ious > 0)
        found.append((p[keep], place[keep], ious[keep]))
    p, place, ious = (np.concatenate([f[i] for f in found]) if found else np.zeros(0, int) for i in range(3))
    g = true_order[place.astype(np.int64)]
    turn = _turns(p, group, rank)
    best_last = np.lexsort((place, ious, ~truth.crowd[g], p, turn))
    return Pairs(p[best_last], g[best_last], ious[best_last], turn[best_last], rank, truth.crowd)


def assign(pairs: Pairs, thresholds: Sequence[float], max_rank: int | None = None) -> np.ndarray:
    """Let the predictions choose, at several thresholds at once.

    Args:
        pairs: from :func:`candidate_pairs`, for a least IoU at or below every threshold.
        thresholds: least overlaps of a match, (T,).
        max_rank: only this many predictions per image and class take part (COCO's ``maxDets``).

    Returns:
        (T, N) position in ``pairs`` of each prediction's match, -1 where it has none.
    """
    least = np.array([_effective(t) for t in thresholds])
    chosen = np.full((len(least), len(pairs.rank)), -1, dtype=np.int64)
    taken = np.zeros((len(pairs.crowd), len(least)), dtype=bool)
    last_turn = int(pairs.turn[-1]) if len(pairs.turn) else -1
    bounds = np.searchsorted(pairs.turn, np.arange(last_turn + 2))
    for begin, end in pairwise(bounds):
        # One prediction per image and class chooses in a turn, so these do not compete.
        place = np.arange(begin, end)
        prediction, truth = pairs.prediction[place], pairs.truth[place]
        free = (pairs.iou[place, None] >= least) & ~taken[truth]
        if max_rank is not None:
            free &= (pairs.rank[prediction] < max_rank)[:, None]
        first = np.flatnonzero(np.diff(prediction, prepend=-1))
        best = np.maximum.reduceat(np.where(free, place[:, None], -1), first, axis=0)
        chosen[:, prediction[first]] = best.T
        row, at = np.nonzero(best >= 0)
        matched = pairs.truth[best[row, at]]
        # A crowd can be matched any number of times.
        taken[matched, at] = ~pairs.crowd[matched]
    return chosen


def matches_at(pairs: Pairs, chosen: np.ndarray) -> Matches:
    """The outcome at one threshold, from one row of :func:`assign`."""
    hit = chosen >= 0
    truth = np.where(hit, pairs.truth[chosen] if len(pairs.truth) else -1, -1)
    iou = np.where(hit, pairs.iou[chosen] if len(pairs.iou) else np.nan, np.nan)
    prediction = np.full(len(pairs.crowd), -1, dtype=np.int64)
    # The most confident prediction of a crowd is written last and so stays.
    hits = np.flatnonzero(hit)
    hits = hits[np.argsort(-pairs.rank[hits], kind="stable")]
    prediction[truth[hits]] = hits
    return Matches(truth, iou, prediction)


def _effective(iou: float) -> float:
    """A threshold of 1 still accepts a box that differs by rounding, as in pycocotools."""
    return min(iou, 1 - 1e-10)


def _groups(predictions: LabelTable, truth: LabelTable) -> tuple[np.ndarray, np.ndarray]:
    """A number for every pair of image and class."""
    classes = tuple(dict.fromkeys((*predictions.classes, *truth.classes)))
    # A label without a class is of the class "none", as in FiftyOne.
    size = len(classes) + 1
    return (
        predictions.sample * size + predictions.codes(classes) + 1,
        truth.sample * size + truth.codes(classes) + 1,
    )


def _ranked(predictions: LabelTable, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions by group and falling confidence, and each prediction's place in its group."""
    # A confidence of 0 counts as none, as in FiftyOne.
    key = np.where(predictions.confidence > 0, predictions.confidence, -1.0)
    order = np.lexsort((-key, group))
    ordered = group[order]
    first = np.searchsorted(ordered, ordered, side="left")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order)) - first
    return order, rank


def _turns(prediction: np.ndarray, group: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """(M,) place of each pair's prediction among those of its group that have a pair."""
    active, inverse = np.unique(prediction, return_inverse=True)
    order = np.lexsort((rank[active], group[active]))
    ordered = group[active][order]
    turn = np.empty(len(active), dtype=np.int64)
    turn[order] = np.arange(len(order)) - np.searchsorted(ordered, ordered, side="left")
    return turn[inverse]


def _blocks(count: np.ndarray) -> list[slice]:
    """Slices of predictions with about ``_PAIR_BLOCK`` pairs each."""
    if not len(count):
        return []
    block = np.cumsum(count) // _PAIR_BLOCK
    edges = np.concatenate([[0], np.flatnonzero(np.diff(block)) + 1, [len(count)]])
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]
