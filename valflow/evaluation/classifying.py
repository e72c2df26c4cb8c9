"""Labels of whole images against ground truth: accuracy and confusion, and FiftyOne's own record of them."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import numpy as np

from valflow import database, references
from valflow.evaluation.labels import Images, LabelTable
from valflow.evaluation.matching import Comparison
from valflow.evaluation.storing import delete, save_results
from valflow.label_types import LabelType
from valflow.schema_changes import changing

# What FiftyOne calls it where an image has no label.
NONE = "(none)"
_WRITE_BATCH = 10_000


def figures(comparison: Comparison, images: int, label_type: LabelType) -> dict[str, Any]:
    """Figures that only labels of whole images have.

    Args:
        comparison: predicted and true labels of the same images.
        images: number of images with ground truth.
        label_type: whether an image has one label or many.

    Returns:
        ``accuracy``: the share of the images whose labels are exactly the true ones, None without images; of a
        single label per image also ``confusion``: rows of ``true, predicted, images``, the most frequent first,
        ``(none)`` where an image lacks one.
    """
    predictions, truth, matches = comparison.predictions, comparison.truth, comparison.matches
    bad = np.union1d(predictions.sample[matches.truth < 0], truth.sample[matches.prediction < 0])
    result: dict[str, Any] = {"accuracy": 1 - len(bad) / images if images else None}
    if label_type.is_single:
        pairs = Counter(zip(*_sides(comparison, images)[:2], strict=True))
        counted = sorted(pairs.items(), key=lambda p: (-p[1], p[0]))
        result["confusion"] = [
            {"true": true, "predicted": predicted, "images": n} for (true, predicted), n in counted
        ]
    return result


def simple_config(label_field: str, ground_truth: str, run_key: str) -> Any:
    """FiftyOne's configuration of the evaluation, signed with our run."""
    from fiftyone.utils.eval.classification import SimpleEvaluationConfig

    return SimpleEvaluationConfig(label_field, ground_truth, valflow_run=run_key)


def store(
    dataset: Any, config: Any, eval_key: str, images: Images, comparison: Comparison, whole_dataset: bool
) -> None:
    """What ``dataset.evaluate_classifications(..., method="simple")`` leaves behind, written in bulk.

    An earlier evaluation under this key, which must be ours, is removed with its marks.

    Args:
        dataset: a FiftyOne dataset.
        config: from :func:`simple_config`.
        eval_key: checked by ``check_key``.
        images: the images that were evaluated.
        comparison: the labels of both fields on them.
        whole_dataset: whether these are all images of the dataset.
    """
    method = config.build()
    with changing(dataset):
        references.adopt(dataset, "evaluations", eval_key)
        delete(dataset, eval_key)
        # The run comes first: after a crash it still says that the fields are ours.
        method.register_run(dataset, eval_key)
        method.register_samples(dataset, eval_key)
    same = {"$eq": [f"${config.pred_field}.label", f"${config.gt_field}.label"]}
    for start in range(0, len(images), _WRITE_BATCH):
        batch = {"_id": {"$in": images.ids[start : start + _WRITE_BATCH].tolist()}}
        database.samples_of(dataset).update_many(
            batch, [{"$set": {eval_key: same, "last_modified_at": "$$NOW"}}]
        )
    dataset.sync_last_modified_at()
    dataset.reload()
    build = functools.partial(_results, method, eval_key, comparison, len(images))
    with changing(dataset):
        save_results(dataset, method, eval_key, build, mark=eval_key, whole_dataset=whole_dataset)


def _results(method: Any, eval_key: str, comparison: Comparison, images: int, samples: Any) -> Any:
    from fiftyone.utils.eval.classification import ClassificationResults

    true, predicted, confidence, true_ids, predicted_ids = _sides(comparison, images)
    return ClassificationResults(
        samples,
        method.config,
        eval_key,
        [None if label == NONE else label for label in true],
        [None if label == NONE else label for label in predicted],
        confs=confidence,
        ytrue_ids=true_ids,
        ypred_ids=predicted_ids,
        missing=NONE,
        backend=method,
    )


def _sides(comparison: Comparison, images: int) -> tuple[list[Any], ...]:
    """Per image: true and predicted class, confidence, and the ids of both labels."""
    predictions, truth = comparison.predictions, comparison.truth
    confidence = [None if c != c else c for c in predictions.confidence.tolist()]
    return (
        _by_image(truth, truth.label.tolist(), images, NONE),
        _by_image(predictions, predictions.label.tolist(), images, NONE),
        _by_image(predictions, confidence, images, None),
        _by_image(truth, truth.id_texts, images, None),
        _by_image(predictions, predictions.id_texts, images, None),
    )


def _by_image(table: LabelTable, values: list[Any], images: int, absent: Any) -> list[Any]:
    column = [absent] * images
    for place, value in zip(table.sample.tolist(), values, strict=True):
        column[place] = absent if value is None else value
    return column
