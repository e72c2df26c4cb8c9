"""Labels for classes that no model was trained for: a zero-shot detector of the FiftyOne Model Zoo.

Needs ``pip install 'valflow[huggingface]'``, and the internet for the weights (about 700 MB, once). Run as
``python -m examples.zero_shot.label DATASET car bicycle "traffic light"``.
"""

from __future__ import annotations

import argparse

from valflow.config import LabelingConfig, config_from_mapping

# Small, and asked in words. Any other zero-shot detector of `fiftyone zoo models list --tags zero-shot` does as well.
MODEL = "grounding-dino-tiny-torch"


def configure(dataset: str, classes: list[str], model: str = MODEL) -> LabelingConfig:
    """What the run shall do.

    The classes go to the model as its question. A zero-shot model is unsure of much that is right and sure of some
    that is wrong, so nothing is approved by a threshold that nobody has tried: every label waits for a person. After
    the first runs, ``approval: {mode: certified}`` finds out which part of the scores may be trusted.
    """
    return config_from_mapping(
        {
            "dataset": dataset,
            "label_field": "zero_shot",
            "model": {
                "kind": "zoo",
                "name": model,
                "params": {"classes": classes, "confidence_thresh": 0.15},
            },
            "min_confidence": 0.15,
            "batch_size": "auto",
            "approval": {"mode": "review_all"},
        }
    )


def main() -> None:
    """Label a dataset, up to its review."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("classes", nargs="+", metavar="class")
    options = parser.parse_args()

    # Prefect is imported here: to build a configuration needs none of it.
    from flows.label_dataset import label_dataset

    # Returns when the labels wait for their review, in the panel or by `valflow review`.
    label_dataset(configure(options.dataset, options.classes))


if __name__ == "__main__":
    main()
