"""Running checks with Great Expectations: one throw-away context, one batch, one finding per check.

Measured with great-expectations 1.24, and why this module looks as it does: a context shared by threads gives
wrong counts; naming failing rows by a column costs 25 to 80 microseconds per row and check, by position 1; a
check that raises while it is prepared takes all others with it; results come back in another order.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from expectations.classes import check_registered, great_expectations
from expectations.suite import Item, with_parameters

# COMPLETE gives every failing row; without column names these are positions, and values are looked up by us.
_RESULT_FORMAT = {
    "result_format": "COMPLETE",
    "exclude_unexpected_values": True,
    "return_unexpected_index_query": False,
}
_OUR_KEY = "valflow_check"
# The "current project" of Great Expectations is one per process.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        success: whether the table meets the check; False where it could not run.
        positions: (K,) row numbers out of line; None for a check of the whole table.
        considered: rows looked at, None for a check of the whole table.
        observed: the figure of a check of the whole table.
        details: what the check adds to it.
        error: why the check could not run; None where it ran.
    """

    success: bool
    positions: NDArray[np.int64] | None = None
    considered: int | None = None
    observed: Any = None
    details: Any = None
    error: str | None = None


def run_checks(table: pd.DataFrame, items: Sequence[Item], parameters: Mapping[str, Any]) -> list[Finding]:
    """Run checks on a table; never raises for a check that cannot run, its finding says so.

    Args:
        table: one row per label or sample.
        items: the checks.
        parameters: values for ``{$PARAMETER: name}``.

    Returns:
        One finding per item, in their order.
    """
    great_expectations()
    findings: dict[int, Finding] = {}
    built: dict[int, Any] = {}
    for number, item in enumerate(items):
        absent = [name for name in sorted(item.parameters) if parameters.get(name) is None]
        if absent:
            findings[number] = _broken(f"the parameter {absent[0]!r} has no value")
            continue
        try:
            built[number] = _expectation(item, parameters, number)
        except Exception as error:  # noqa: BLE001  any reason not to run is a reason to block
            findings[number] = _broken(f"{type(error).__name__}: {error}")
    if built:
        with _one_at_a_time:
            findings |= _run(table.reset_index(drop=True), built)
    missing = _broken("Great Expectations returned no result for this check")
    return [findings.get(number, missing) for number in range(len(items))]


def _expectation(item: Item, parameters: Mapping[str, Any], number: int) -> Any:
    check_registered(item.expectation, item.type)
    kwargs = with_parameters(item.kwargs, parameters)
    return item.expectation(**kwargs, severity=item.severity, meta={**item.meta, _OUR_KEY: number})


def _run(table: pd.DataFrame, built: Mapping[int, Any]) -> dict[int, Finding]:
    gx = great_expectations()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("tables").add_dataframe_asset("table")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": table})
    try:
        suite = gx.ExpectationSuite(name="all", expectations=list(built.values()))
        results = batch.validate(suite, result_format=dict(_RESULT_FORMAT)).results
    except Exception:  # noqa: BLE001  one check took all with it: run them one by one to name it
        return {number: _run_alone(batch, expectation, len(table)) for number, expectation in built.items()}
    return {result.expectation_config.meta[_OUR_KEY]: _finding(result, len(table)) for result in results}


def _run_alone(batch: Any, expectation: Any, rows: int) -> Finding:
    try:
        return _finding(batch.validate(expectation, result_format=dict(_RESULT_FORMAT)), rows)
    except Exception as error:  # noqa: BLE001  any reason not to run is a reason to block
        return _broken(f"{type(error).__name__}: {error}")


def _finding(result: Any, rows: int) -> Finding:
    error = _error_of(result.exception_info)
    if error:
        return _broken(error)
    found = result.result or {}
    positions = found.get("unexpected_index_list")
    if positions is not None:
        # A class of the user's may name rows in a way of its own.
        positions = np.asarray(positions)
        if len(positions) and (
            positions.dtype.kind != "i" or not 0 <= positions.min() <= positions.max() < rows
        ):
            return _broken(f"expected row numbers as unexpected_index_list, found {positions[:3]}")
        positions = positions.astype(np.int64)
    return Finding(
        success=bool(result.success),
        positions=positions,
        considered=found.get("element_count"),
        observed=_plain(found.get("observed_value")),
        details=found.get("details"),
    )


def _error_of(exception_info: Any) -> str | None:
    """The message of an exception, which comes in two shapes: one for the check, or one per metric."""
    if not exception_info:
        return None
    if "raised_exception" in exception_info:
        return str(exception_info.get("exception_message")) if exception_info["raised_exception"] else None
    messages = [
        str(part.get("exception_message"))
        for part in exception_info.values()
        if isinstance(part, Mapping) and part.get("raised_exception")
    ]
    return "; ".join(dict.fromkeys(messages)) or None


def _broken(message: str) -> Finding:
    text = " ".join(message.split()).removeprefix("Error: ")
    return Finding(success=False, error=text[:500] or "unknown error")


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
