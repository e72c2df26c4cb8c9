"""What a suite is: the tables it may read, the parameters it may name, and its checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ExpectationClass = type[Any]
SHIPPED = Path(__file__).resolve().parent
SEVERITIES = ("critical", "warning", "info")

# Columns of the tables, and the one that names a row.
TABLES: dict[str, tuple[str, ...]] = {
    "labels": (
        "label_id",
        "sample_id",
        "filepath",
        "label",
        "confidence",
        "x",
        "y",
        "w",
        "h",
        "x2",
        "y2",
        "source",
        "threshold",
        "duplicate_iou",
        "mask_share",
    ),
    "samples": ("sample_id", "filepath", "file_exists", "file_problem", "labels"),
    "certificate": (
        "group",
        "labels",
        "drawn_from",
        "drawn",
        "wrong",
        "certified",
        "approved",
        "most_wrong",
        "bound",
        "max_error",
        "allowed_wrong",
        "problem",
    ),
    "audit": (
        "label_id",
        "sample_id",
        "group",
        "number",
        "label",
        "confidence",
        "probability",
        "verdict",
        "reviewer",
    ),
}
KEYS = {"labels": "label_id", "samples": "sample_id", "certificate": "group", "audit": "label_id"}
# What a row of each is called.
ROWS = {"labels": "labels", "samples": "samples", "certificate": "groups", "audit": "drawn labels"}
# Tables that only some runs have, and why the others have none.
OPTIONAL = dict.fromkeys(("certificate", "audit"), "nothing in this run was certified")
# Columns of the labels table that only some types of labels have, all of a group or none, and why the others have none.
OF_SOME_LABELS = {
    ("x", "y", "w", "h", "x2", "y2"): "labels of this type speak about the whole image and have no box",
    ("mask_share",): "labels of this type have no masks",
}
# Suites that a run is held to, named or not, if its approval rests on a certificate.
OF_CERTIFICATE = ("certificate", "audit")


@dataclass(frozen=True)
class Parameter:
    """A value that the pipeline puts in place of ``{$PARAMETER: name}``.

    Attributes:
        meaning: what it holds, in plain words.
        example: a value of the right type, to try a suite without a run.
        absent: why a check that needs it is skipped when it is None; None where it must be there.
    """

    meaning: str
    example: Any
    absent: str | None = None


PARAMETERS: dict[str, Parameter] = {
    "classes": Parameter("the allowed classes", ["a", "b", "c"], absent="no list of allowed classes"),
    "max_labels_per_sample": Parameter("upper bound of labels per sample", 1000),
    "min_confidence": Parameter("least confidence that a prediction is kept with", 0.15),
    "previous_class_mix": Parameter(
        "share of each class in the last finalized run",
        {"values": ["a", "b", "c"], "weights": [0.5, 0.3, 0.2]},
        absent="no earlier run",
    ),
}


def prepared(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters in the form that Great Expectations takes.

    Classes may come in any collection. The class mix may come as class to share: it becomes a partition object,
    without classes of share 0, against which a single new label would be an infinite divergence.
    """
    values = dict(parameters)
    if isinstance(values.get("classes"), (set, frozenset, tuple)):
        values["classes"] = sorted(values["classes"])
    mix = values.get("previous_class_mix")
    if isinstance(mix, Mapping):
        # Told apart by the content: a class may well be called "values".
        if isinstance(mix.get("values"), (list, tuple)) and isinstance(mix.get("weights"), (list, tuple)):
            mix = dict(zip(mix["values"], mix["weights"], strict=True))
        present = {label: float(share) for label, share in mix.items() if share > 0}
        total = sum(present.values())
        shares = [share / total for share in present.values()]
        values["previous_class_mix"] = {"values": list(present), "weights": shares} if present else None
    return values


@dataclass(frozen=True)
class Item:
    """One check of a suite.

    Attributes:
        place: where it stands, for messages: file, item number and line.
        type: as written: Great Expectations' name, or ``module:Class``.
        expectation: the Expectation class.
        kwargs: as written, ``{$PARAMETER: name}`` still in it.
        is_row_check: whether it judges every row for itself, so that failing rows can be named.
    """

    place: str
    type: str
    expectation: ExpectationClass
    kwargs: Mapping[str, Any]
    severity: str = "critical"
    description: str | None = None
    notes: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    is_row_check: bool = False

    @property
    def parameters(self) -> frozenset[str]:
        """Names of the parameters that the check needs."""
        return frozenset(parameters_in(self.kwargs))

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that the check looks at, in the order of its arguments."""
        return tuple(columns_in(self.kwargs))


@dataclass(frozen=True)
class Suite:
    """A named list of checks of one table."""

    name: str
    table: str
    items: tuple[Item, ...]
    source: str
    notes: str | None = None

    @property
    def parameters(self) -> frozenset[str]:
        """Names of the parameters that the suite needs."""
        return frozenset[str]().union(*(item.parameters for item in self.items))


def parameters_in(value: Any) -> Iterator[str]:
    """Names in every ``{$PARAMETER: name}`` inside a value."""
    if isinstance(value, Mapping):
        if "$PARAMETER" in value:
            yield value["$PARAMETER"]
        else:
            for inner in value.values():
                yield from parameters_in(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from parameters_in(inner)


def with_parameters(value: Any, parameters: Mapping[str, Any]) -> Any:
    """The value with every ``{$PARAMETER: name}`` replaced.

    Raises:
        KeyError: a parameter is missing.
    """
    if isinstance(value, Mapping):
        if "$PARAMETER" in value:
            return parameters[value["$PARAMETER"]]
        return {key: with_parameters(inner, parameters) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [with_parameters(inner, parameters) for inner in value]
    return value


def columns_in(kwargs: Mapping[str, Any]) -> Iterator[str]:
    """Columns that the arguments of a check name as its subject; a row condition's are not among them."""
    for key in ("column", "column_A", "column_B"):
        if isinstance(kwargs.get(key), str):
            yield kwargs[key]
    for column in kwargs.get("column_list") or ():
        if isinstance(column, str):
            yield column


def condition_columns_in(condition: Any) -> Iterator[str]:
    """Columns that a row condition names."""
    if isinstance(condition, Mapping):
        column = condition.get("column")
        if isinstance(column, Mapping) and isinstance(column.get("name"), str):
            yield column["name"]
        for inner in condition.get("conditions") or ():
            yield from condition_columns_in(inner)
