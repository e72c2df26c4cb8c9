"""A rehearsal: a suite on a small made-up table, to find what cannot run before anything is labelled."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from expectations.engine import run_checks
from expectations.suite import PARAMETERS, Suite


def rehearse(suite: Suite) -> list[str]:
    """Checks of a suite that raise an error on a plausible table; whether they pass does not matter.

    Returns:
        One line per check that cannot run.
    """
    # No made-up row may meet the condition, and some checks cannot run on nothing.
    items = [
        dataclasses.replace(item, kwargs={k: v for k, v in item.kwargs.items() if k != "row_condition"})
        for item in suite.items
    ]
    examples = {name: parameter.example for name, parameter in PARAMETERS.items()}
    findings = run_checks(small_table(suite.table), items, examples)
    return [
        f"{item.place}, {item.type}: cannot run: {finding.error}; correct the check or remove it"
        for item, finding in zip(items, findings, strict=True)
        if finding.error
    ]


def small_table(name: str, samples: int = 8, labels_per_sample: int = 6) -> pd.DataFrame:
    """A plausible table: right columns and types, seeded values.

    Args:
        name: of a table in ``expectations.suite.TABLES``.
        samples: number of samples.
        labels_per_sample: labels in each.
    """
    numbers = np.arange(samples)
    files = pd.Series([f"/images/{n:04d}.png" for n in numbers], dtype="str")
    ids = pd.Series([f"{n:024x}" for n in numbers], dtype="str")
    if name == "samples":
        counts = np.full(samples, labels_per_sample)
        table = pd.DataFrame({"sample_id": ids, "filepath": files, "file_exists": True, "labels": counts})
        return table.assign(file_problem=pd.array([None] * len(table), dtype="str"))
    if name == "certificate":
        return _certificate()
    random = np.random.default_rng(0)
    total = samples * labels_per_sample
    if name == "audit":
        return pd.DataFrame(
            {
                "label_id": pd.Series([f"{n + 4096:024x}" for n in range(total)], dtype="str"),
                "sample_id": ids.repeat(labels_per_sample).to_numpy(),
                "group": pd.Series(random.choice(["a", "b"], total), dtype="str"),
                "number": np.arange(1, total + 1),
                "label": pd.Series(random.choice(["a", "b"], total), dtype="str"),
                "confidence": random.uniform(0.5, 1.0, total),
                "probability": 0.25,
                "verdict": pd.Series(random.choice(["correct", "bad_box"], total), dtype="str"),
                "reviewer": pd.Series(["a person"] * total, dtype="str"),
            }
        )
    box = {c: random.uniform(0.05, 0.45, total) for c in ("x", "y", "w", "h")}
    return pd.DataFrame(
        {
            "label_id": pd.Series([f"{n + 4096:024x}" for n in range(total)], dtype="str"),
            "sample_id": ids.repeat(labels_per_sample).to_numpy(),
            "filepath": files.repeat(labels_per_sample).to_numpy(),
            "label": pd.Series(random.choice(["a", "b", "c"], total), dtype="str"),
            "confidence": random.uniform(0.5, 1.0, total),
            **box,
            "x2": box["x"] + box["w"],
            "y2": box["y"] + box["h"],
            "source": pd.Series(random.choice(["auto", "human", "edited"], total), dtype="str"),
            "threshold": 0.4,
            "duplicate_iou": random.uniform(0.0, 0.5, total),
            "mask_share": 0.6,
        }
    )


def _certificate() -> pd.DataFrame:
    """Three groups, of which in the last nothing passed."""
    approved = np.array([447, 600, 0])
    most_wrong = np.array([18.0, 25.0, np.nan])
    return pd.DataFrame(
        {
            "group": pd.Series(["a", "b", "c"], dtype="str"),
            "labels": [800, 900, 500],
            "drawn_from": [600, 800, 500],
            "drawn": [153, 200, 153],
            "wrong": [1, 3, 40],
            "certified": [600, 800, 0],
            "approved": approved,
            "most_wrong": most_wrong,
            "bound": most_wrong / np.where(approved > 0, approved, 1),
            "max_error": 0.05,
            "allowed_wrong": 0.05 * approved,
            "problem": pd.Series([None, None, None], dtype="str"),
        }
    )
