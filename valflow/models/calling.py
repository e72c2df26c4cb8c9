"""Calling a model so that every input gets an answer of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from valflow.models.source import OutOfMemory

Predict = Callable[[list[Any]], Sequence[Any]]


def predict_readable(predict_batch: Predict, inputs: Sequence[Any]) -> list[Any]:
    """Predictions of a batch; what could not be read stays the exception that it is.

    Where a batch fails as a whole, each input is asked by itself, to blame the right one.

    Raises:
        OutOfMemory: the batch was too large.
    """
    readable = [i for i, one in enumerate(inputs) if not isinstance(one, Exception)]
    predictions = list(inputs)
    for index, prediction in zip(
        readable, _predict(predict_batch, [inputs[i] for i in readable]), strict=True
    ):
        predictions[index] = prediction
    return predictions


def _predict(predict_batch: Predict, inputs: list[Any]) -> list[Any]:
    if len(inputs) <= 1:
        return [_predict_one(predict_batch, one) for one in inputs]
    try:
        found = list(predict_batch(inputs))
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemory(f"{len(inputs)} images at once are too many: {error}") from error
        found = []  # the single calls below say what is wrong
    return found if len(found) == len(inputs) else [_predict_one(predict_batch, one) for one in inputs]


def _predict_one(predict_batch: Predict, one: Any) -> Any:
    try:
        found = list(predict_batch([one]))
        if len(found) != 1:
            raise ValueError(f"expected one prediction for one image, found {len(found)}")
        return found[0]
    except Exception as error:  # noqa: BLE001 - recorded as this sample's failure; too many stop the run
        return RuntimeError(f"the model failed: {type(error).__name__}: {error}")


def is_out_of_memory(error: Exception) -> bool:
    """Whether a smaller batch may do: torch's own error, or one that says so (other frameworks, older drivers)."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ in ("OutOfMemoryError", "ResourceExhaustedError")
        or (isinstance(error, RuntimeError) and "out of memory" in str(error).lower())
    )
