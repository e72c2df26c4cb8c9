"""Comparison with ground truth: pure matching and figures, and FiftyOne's own evaluation written in bulk."""

from valflow.evaluation.comparing import evaluate
from valflow.evaluation.labels import Images, LabelTable, read_labels, read_predicted, table_of
from valflow.evaluation.matching import Comparison, Matches, match, overlap
from valflow.evaluation.scores import (
    COCO_FIGURES,
    Sweep,
    coco_figures,
    detection_metrics,
    precision_recall_points,
    sweep,
)

__all__ = [
    "COCO_FIGURES",
    "Comparison",
    "Images",
    "LabelTable",
    "Matches",
    "Sweep",
    "coco_figures",
    "detection_metrics",
    "evaluate",
    "match",
    "overlap",
    "precision_recall_points",
    "read_labels",
    "read_predicted",
    "sweep",
    "table_of",
]
