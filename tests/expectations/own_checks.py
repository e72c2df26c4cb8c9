"""Expectations as a user would write them, right and wrong."""

from __future__ import annotations

from typing import Any, ClassVar

from great_expectations.execution_engine.pandas_execution_engine import PandasExecutionEngine
from great_expectations.expectations.expectation import ColumnMapExpectation
from great_expectations.expectations.metrics.map_metric_provider.column_condition_partial import (
    column_condition_partial,
)
from great_expectations.expectations.metrics.map_metric_provider.column_map_metric_provider import (
    ColumnMapMetricProvider,
)


class StartsWith(ColumnMapMetricProvider):
    """Per row: does the text start with a prefix?"""

    condition_metric_name = "column_values.starts_with"
    condition_value_keys = ("prefix",)

    @column_condition_partial(engine=PandasExecutionEngine)
    def _pandas(cls, column: Any, prefix: str, **kwargs: Any) -> Any:
        return column.str.startswith(prefix)


class ExpectTextsToStartWith(ColumnMapExpectation):
    """Expect every text to start with a prefix."""

    prefix: str

    map_metric: ClassVar[str] = "column_values.starts_with"
    success_keys: ClassVar[tuple[str, ...]] = ("mostly", "prefix")


class ExpectMetricThatIsNotThere(ColumnMapExpectation):
    """Names a metric that nobody defined."""

    map_metric: ClassVar[str] = "column_values.nobody_defined_this"


class ExpectPreparationToWork(ColumnMapExpectation):
    """Raises while Great Expectations prepares it."""

    map_metric: ClassVar[str] = "column_values.starts_with"

    def get_validation_dependencies(self, *args: Any, **kwargs: Any) -> Any:
        """Never returns."""
        raise RuntimeError("no preparation today")


class ExpectNamesOfItsOwn(ColumnMapExpectation):
    """Names failing rows by something that is not a row number."""

    map_metric: ClassVar[str] = "column_values.nonnull"

    def _validate(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {"success": False, "result": {"unexpected_count": 1, "unexpected_index_list": ["label-0"]}}


class ExpectSomethingUnfinished(ColumnMapExpectation):
    """Has no map_metric."""


class NotAnExpectation:
    """Something else."""
