"""Strict checking of an expectation's arguments, before there is a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

from expectations.suite import PARAMETERS, TABLES, columns_in, condition_columns_in, with_parameters
from expectations.wording import nearest

# Great Expectations accepts these inside kwargs too, where they would silently win.
_BESIDE_KWARGS = ("severity", "description", "notes", "meta")
_NOT_FOR_SUITES = ("id", "batch_id", "result_format", "catch_exceptions", "rendered_content", "windows")
_ROW_CONDITION = '{type: comparison, column: {name: source}, operator: "==", parameter: auto}'


def kwargs_problems(expectation: type[Any], kwargs: Mapping[str, Any], table: str) -> list[str]:
    """Everything that is wrong with the arguments of one check.

    Args:
        expectation: the Expectation class.
        kwargs: its arguments as written, ``{$PARAMETER: name}`` included.
        table: the table that the suite reads.

    Returns:
        One text per problem, in plain words.
    """
    problems = [
        *_misplaced(kwargs),
        *_parameter_problems(kwargs),
        *_condition_problems(kwargs),
        *_column_problems(kwargs, table),
    ]
    if problems:
        return problems
    return [*_type_problems(expectation, kwargs), *_bound_problems(expectation, kwargs)]


def _misplaced(kwargs: Mapping[str, Any]) -> Iterator[str]:
    for key in kwargs:
        if key in _BESIDE_KWARGS:
            yield f"{key!r} stands beside kwargs, not in it; move it out"
        elif key in _NOT_FOR_SUITES:
            yield f"{key!r} is set by the gate; remove it"
        elif key == "condition_parser":
            yield "'condition_parser' is outdated; give the row condition as a mapping and remove it"


def _parameter_problems(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        special = [key for key in value if isinstance(key, str) and key.startswith("$")]
        if special and (special != ["$PARAMETER"] or len(value) > 1):
            yield f"expected exactly {{$PARAMETER: name}}; found {dict(value)}"
        elif special:
            name = value["$PARAMETER"]
            if name not in PARAMETERS:
                yield f"unknown $PARAMETER {name!r}; {nearest(name, PARAMETERS)}"
        else:
            for inner in value.values():
                yield from _parameter_problems(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _parameter_problems(inner)


def _condition_problems(kwargs: Mapping[str, Any]) -> Iterator[str]:
    condition = kwargs.get("row_condition")
    if isinstance(condition, str):
        yield f"expected row_condition as a mapping, e.g. {_ROW_CONDITION}; found the text {condition!r}"


def _column_problems(kwargs: Mapping[str, Any], table: str) -> Iterator[str]:
    for column in dict.fromkeys([*columns_in(kwargs), *condition_columns_in(kwargs.get("row_condition"))]):
        if column not in TABLES[table]:
            yield f"the {table} table has no column {column!r}; {nearest(column, TABLES[table])}"


def _type_problems(expectation: type[Any], kwargs: Mapping[str, Any]) -> Iterator[str]:
    from great_expectations.compatibility.pydantic import ValidationError

    examples = {name: parameter.example for name, parameter in PARAMETERS.items()}
    values = with_parameters(kwargs, examples)
    try:
        built = expectation(**values)
    except ValidationError as error:
        yield from _readable(error.errors(), expectation, values)
        return
    except Exception as error:  # noqa: BLE001  a class of the user's may raise anything
        yield f"{type(error).__name__}: {error}"
        return
    for key, value in values.items():
        taken = getattr(built, key, value)
        if isinstance(value, Real) and isinstance(taken, Real) and taken != value:
            yield f"{key}: expected a whole number; found {value}, which would be taken as {taken}"


def _readable(errors: Any, expectation: type[Any], values: Mapping[str, Any]) -> Iterator[str]:
    """Pydantic names every member of a union; one line per argument says enough."""
    told: set[str] = set()
    for error in errors:
        key = str(error["loc"][0])
        # A wrong bound also counts as no bound: the second message would only confuse.
        if key in told or (key == "__root__" and told):
            continue
        told.add(key)
        if error["type"] == "value_error.extra":
            yield f"unknown argument {key!r}; {nearest(key, _arguments(expectation))}"
        elif error["type"] == "value_error.missing":
            yield f"the argument {key!r} is missing"
        elif key == "row_condition":
            yield f"expected a row_condition like {_ROW_CONDITION}; found {values[key]!r}"
        elif key == "__root__":
            yield error["msg"]
        else:
            yield f"{key}: {error['msg']}; found {values.get(key)!r}"


def _bound_problems(expectation: type[Any], kwargs: Mapping[str, Any]) -> Iterator[str]:
    if not expectation.expectation_type.endswith("_between"):
        return  # others inherit the arguments without using them
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    if low is None and high is None:
        yield "neither min_value nor max_value is given; without a bound the check passes everything"
    elif isinstance(low, Real) and isinstance(high, Real) and low > high:
        yield f"min_value {low} is above max_value {high}; nothing could pass"


def _arguments(expectation: type[Any]) -> list[str]:
    hidden = {*_BESIDE_KWARGS, *_NOT_FOR_SUITES, "condition_parser"}
    return [name for name in expectation.__fields__ if name not in hidden]
