"""Tables that meet every shipped check, and the parameters of their run."""

from __future__ import annotations

from typing import Any

import pandas as pd

NAN = float("nan")
# (label_id, sample_id, class, confidence, box, source, threshold)
_ROWS = [
    ("label-0", "sample-0", "cat", 0.95, (0.0, 0.0, 0.5, 0.5), "auto", 0.7),
    ("label-1", "sample-0", "dog", 0.80, (0.5, 0.5, 0.5, 0.5), "auto", 0.8),
    ("label-2", "sample-0", "cat", None, (0.2, 0.2, 0.1, 0.1), "human", None),
    ("label-3", "sample-1", "dog", 0.30, (0.1, 0.1, 0.3, 0.3), "edited", None),
    ("label-4", "sample-1", "cat", 0.75, (0.0, 0.0, 1.0, 1.0), "auto", 0.7),
    ("label-5", "sample-1", "dog", None, (0.4, 0.1, 0.2, 0.2), "auto", None),
]


def make_labels(row: int | None = None, **changes: Any) -> pd.DataFrame:
    """Labels that pass; ``make_labels(3, x=-0.2)`` changes one row, without a number the whole column."""
    columns = ["label_id", "sample_id", "label", "confidence", "box", "source", "threshold"]
    table = pd.DataFrame(_ROWS, columns=columns).astype({"confidence": float, "threshold": float})
    boxes = pd.DataFrame(table.pop("box").tolist(), columns=["x", "y", "w", "h"])
    table = pd.concat([table, boxes], axis=1)
    table["filepath"] = "/images/" + table["sample_id"] + ".png"
    table["duplicate_iou"] = 0.0
    table = table.astype(dict.fromkeys(("label_id", "sample_id", "filepath", "label", "source"), "str"))
    table = _changed(table, row, changes)
    table["x2"], table["y2"] = table["x"] + table["w"], table["y"] + table["h"]
    return table


def make_samples(row: int | None = None, **changes: Any) -> pd.DataFrame:
    """Samples that pass; changed as by ``make_labels``."""
    table = pd.DataFrame({"sample_id": ["sample-0", "sample-1"], "file_exists": True, "labels": [3, 3]})
    table["filepath"], table["file_problem"] = "/images/" + table["sample_id"] + ".png", None
    texts = dict.fromkeys(("sample_id", "filepath", "file_problem"), "str")
    return _changed(table.astype(texts), row, changes)


def make_certificate(row: int | None = None, **changes: Any) -> pd.DataFrame:
    """A certificate that passes, of two proven groups and one about which nothing is; changed as by ``make_labels``."""
    columns = ["group", "labels", "drawn_from", "drawn", "wrong", "certified", "approved", "most_wrong"]
    rows = [("cat", 800, 600, 153, 1, 600, 447, 18.0), ("dog", 700, 500, 153, 0, 500, 360, 18.0)]
    table = pd.DataFrame([*rows, ("rare", 500, 500, 153, 40, 0, 0, NAN)], columns=columns)
    table["bound"] = table["most_wrong"] / table["approved"]
    table["max_error"], table["problem"] = 0.05, None
    table["allowed_wrong"] = (table["max_error"] * table["approved"]).round(9) // 1
    return _changed(table.astype({"group": "str", "problem": "str"}), row, changes)


def make_audit(row: int | None = None, **changes: Any) -> pd.DataFrame:
    """A draw of four labels, all judged; changed as by ``make_labels``."""
    table = pd.DataFrame({"label_id": [f"label-{n}" for n in range(4)], "sample_id": "sample-0"})
    table["group"], table["number"], table["label"] = "cat", range(1, 5), "cat"
    table["confidence"], table["probability"], table["reviewer"] = 0.9, 0.25, "ann"
    table["verdict"] = ["correct", "wrong_class", "unsure", "correct"]
    texts = dict.fromkeys(("label_id", "sample_id", "group", "label", "verdict", "reviewer"), "str")
    return _changed(table.astype(texts), row, changes)


def make_tables(
    labels: pd.DataFrame | None = None, samples: pd.DataFrame | None = None
) -> dict[str, pd.DataFrame]:
    """Both tables; what is not given passes."""
    return {
        "labels": make_labels() if labels is None else labels,
        "samples": make_samples() if samples is None else samples,
    }


def make_parameters(**changes: Any) -> dict[str, Any]:
    """Parameters of a run that had one before it."""
    mix = {"values": ["cat", "dog"], "weights": [0.5, 0.5]}
    return {"classes": ["cat", "dog"], "max_labels_per_sample": 10, "previous_class_mix": mix, **changes}


def _changed(table: pd.DataFrame, row: int | None, changes: dict[str, Any]) -> pd.DataFrame:
    for column, value in changes.items():
        table.loc[slice(None) if row is None else row, column] = value
    return table
