"""Every kind of model with every label type: each cell runs for real, or is refused before anything is written.

docs/models.md shows the same table, and a test compares the two.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.builders import documents, entries
from tests.kinds import BY_KIND, finalize, make_kind, open_review
from valflow import runs
from valflow.config import config_from_mapping
from valflow.errors import ConfigError
from valflow.label_types import APPROVED

DOCS = Path(__file__).resolve().parents[2] / "docs" / "models.md"
TYPES = ("detections", "instances", "classification", "classifications")
LOW = {"confidence_thresh": 0.0001}


def function(name: str) -> dict[str, Any]:
    return {"kind": "python", "path": f"tests.model_kinds.functions:{name}"}


def yolo(name: str, **more: Any) -> dict[str, Any]:
    return {"kind": "ultralytics", "weights": f"{{{name}}}", **more}


def finder(name: str) -> dict[str, Any]:
    return {"kind": "python", "path": "tests.kinds:Finder", "kwargs": {"name": name}}


_FIELD = {"kind": "field", "field": "pred"}
_ONE_NAME = "this one gives Classification: label_type: classification takes that"
_BOXES = "model: label_type: instances needs masks, this one finds boxes alone"
_NO_MERGE = "only those of 'detections' are compared and merged"
# Rows of the docs -> label type -> settings, or settings and a part of the reason why they are refused.
TABLE: dict[str, dict[str, Any]] = {
    "`python`, a class": {name: finder(name) for name in TYPES},
    "`python`, a function": {
        "detections": function("find_ink"),
        "instances": function("cut_out"),
        "classification": function("name_it"),
        "classifications": function("name_all"),
    },
    "`field`": dict.fromkeys(TYPES, _FIELD),
    "`zoo`": {
        "detections": {"kind": "zoo", "name": "digit-grid-torch"},
        "instances": {"kind": "zoo", "name": "digit-masks-torch"},
        "classification": {"kind": "zoo", "name": "digit-names-torch"},
        "classifications": ({"kind": "zoo", "name": "digit-names-torch"}, _ONE_NAME),
    },
    "`huggingface`": {
        "detections": {"kind": "huggingface", "id": "{detector}"},
        "instances": ({"kind": "huggingface", "id": "{detector}"}, _BOXES),
        "classification": {"kind": "huggingface", "id": "{classifier}"},
        "classifications": ({"kind": "huggingface", "id": "{classifier}"}, _ONE_NAME),
    },
    "`ultralytics`": {
        "detections": yolo("yolo", params=LOW),
        "instances": yolo("yolo_masks", params=LOW),
        "classification": yolo("yolo_names"),
        "classifications": (yolo("yolo_names"), _ONE_NAME),
    },
    "`merge`": {
        "detections": {"kind": "merge"},
        **{name: ({"kind": "merge"}, _NO_MERGE) for name in TYPES[1:]},
    },
}
ON_TORCH = ("`zoo`", "`huggingface`", "`ultralytics`")


def cells(on_torch: bool) -> list[Any]:
    return [
        pytest.param(TABLE[row][name], name, id=f"{row.replace('`', '')}-{name}")
        for row in TABLE
        for name in TYPES
        if (row in ON_TORCH) == on_torch
    ]


def check(cell: Any, name: str, folder: Path, places: dict[str, Path]) -> None:
    """Run a cell until its labels are final, or see it refused."""
    settings, reason = cell if isinstance(cell, tuple) else (cell, None)
    model = {k: v.format(**places) if isinstance(v, str) else v for k, v in settings.items()}
    kind = BY_KIND[name]
    dataset = make_kind(kind, folder)
    if model["kind"] == "merge":
        model["runs"] = [open_review(kind, dataset, label_field=field) for field in ("one", "two")]
    changes = {
        "model": model,
        "min_confidence": 0.0,
        "label_field": "found",
        "evaluation": None,
        "approval": {"mode": "fixed", "threshold": 0.0},
    }
    if reason is not None:
        with pytest.raises(ConfigError, match=re.escape(reason)):
            open_review(kind, dataset, **changes)
        assert runs.find_open(str(dataset._doc.id), "found") is None
        dataset.reload()
        assert not dataset.has_field("found_in_review")
        return
    if model["kind"] in ("zoo", "huggingface", "ultralytics"):
        dataset = with_digits(dataset, folder)
    run = open_review(kind, dataset, **changes)
    record = runs.load(run)
    assert record["counts"]["failed_samples"] == 0
    assert record["label_type"] == name
    held = documents(dataset).values()
    staged = [d for sample in held for d in kind.type.in_review.labels_of(sample, "found_in_review")]
    assert staged
    assert {d["_cls"] for d in staged} == {kind.type.label_class}
    if kind.type.needs_masks:
        assert all(d.get("mask") is not None for d in staged)
    finalize(run, dataset)
    final = [d for sample in documents(dataset).values() for d in kind.type.labels_of(sample, "found")]
    assert {d["_cls"] for d in final} == {kind.type.label_class}
    approved = [entry for entry in entries(run).values() if entry["state"] == APPROVED]
    assert len(final) == len(approved) > 0


def with_digits(dataset: Any, folder: Path) -> Any:
    """The images of a dataset become pictures in which there is something to find."""
    from PIL import Image

    from tests.model_kinds.weights import scenes

    pictures, _ = scenes(len(dataset), 77)
    for path, picture in zip(dataset.values("filepath"), pictures, strict=True):
        Image.fromarray(picture).save(path)
    return dataset


@pytest.mark.parametrize(("cell", "name"), cells(on_torch=False))
def test_without_torch(cell: Any, name: str, tmp_path: Path) -> None:
    check(cell, name, tmp_path, {})


@pytest.mark.torch
@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize(("cell", "name"), cells(on_torch=True))
def test_on_torch(cell: Any, name: str, tmp_path: Path, weights: dict[str, Path]) -> None:
    check(cell, name, tmp_path, weights)


def test_the_docs_show_the_same_table() -> None:
    shown: dict[str, list[str]] = {}
    text = DOCS.read_text(encoding="utf-8").partition("## Which kinds find what")[2].partition("\n## ")[0]
    for line in text.splitlines():
        if line.startswith("| `"):
            row, *columns = [part.strip() for part in line.strip("|").split("|")]
            shown[row] = columns
    expected = {
        row: ["refused" if isinstance(columns[name], tuple) else "yes" for name in TYPES]
        for row, columns in TABLE.items()
    }
    assert shown == expected
    assert f"| | {' | '.join(f'`{name}`' for name in TYPES)} |" in text


def test_settings_of_the_table_are_valid() -> None:
    for columns in TABLE.values():
        for cell in columns.values():
            model = cell[0] if isinstance(cell, tuple) else cell
            if model["kind"] != "merge":
                config = config_from_mapping({"dataset": "d", "label_field": "a", "model": model})
                assert config.model.kind == model["kind"]
