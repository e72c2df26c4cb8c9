"""Expectations that Great Expectations does not have.

Importing this module registers them, as ``expect_boxes_to_lie_inside_image`` for example. It costs the import
of great_expectations (seconds), so import it inside functions. A class of your own works the same way: put it
into a module that can be imported and name it in a suite as ``type: "my_package.my_module:ExpectSomething"``.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import pandas as pd
from great_expectations.execution_engine.pandas_execution_engine import PandasExecutionEngine
from great_expectations.expectations.expectation import MulticolumnMapExpectation
from great_expectations.expectations.metrics.map_metric_provider.multicolumn_condition_partial import (
    multicolumn_condition_partial,
)
from great_expectations.expectations.metrics.map_metric_provider.multicolumn_map_metric_provider import (
    MulticolumnMapMetricProvider,
)


class BoxesInsideImage(MulticolumnMapMetricProvider):
    """Per row: does the box lie in the unit square, and has it an area?"""

    condition_metric_name = "multicolumn_values.box_inside_image"
    condition_domain_keys = ("batch_id", "table", "column_list", "row_condition", "ignore_row_if")
    condition_value_keys = ("tolerance",)

    @multicolumn_condition_partial(engine=PandasExecutionEngine)
    def _pandas(cls, column_list: pd.DataFrame, tolerance: float = 0.0, **kwargs: Any) -> pd.Series[bool]:
        x, y, width, height = (column_list.iloc[:, i] for i in range(4))
        # A missing number makes a comparison False: it fails, as it should.
        return (
            (x >= -tolerance)
            & (y >= -tolerance)
            & (x + width <= 1 + tolerance)
            & (y + height <= 1 + tolerance)
            & (width > 0)
            & (height > 0)
        )


class ExpectBoxesToLieInsideImage(MulticolumnMapExpectation):
    """Expect every box to lie inside its image and to have an area.

    ``column_list`` names x, y, width and height, in this order, relative to the image (0 to 1).
    ``tolerance`` is how far a box may stick out, in the same unit.
    """

    tolerance: float = 0.0

    map_metric: ClassVar[str] = "multicolumn_values.box_inside_image"
    success_keys: ClassVar[tuple[str, ...]] = ("mostly", "tolerance")
    args_keys: ClassVar[tuple[str, ...]] = ("column_list", "tolerance")
    # The default leaves rows out whose numbers are all missing; those are the worst.
    ignore_row_if: Literal["all_values_are_missing", "any_value_is_missing", "never"] = "never"
