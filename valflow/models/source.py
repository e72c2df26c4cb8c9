"""The seam: what every source of predictions can do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from bson import ObjectId

from valflow.label_types import LabelDict


class OutOfMemory(Exception):
    """A batch was too large for the device."""


@dataclass(frozen=True, slots=True)
class RawLabels:
    """Labels of one image as documents hold them, and of which type they are.

    Attributes:
        field_class: name of the FiftyOne class that a sample field would have.
        labels: one dict each.
    """

    field_class: str
    labels: list[LabelDict]


def class_of(prediction: Any) -> str | None:
    """Name of the FiftyOne class of a prediction; None where it does not say, or there is none."""
    if prediction is None or isinstance(prediction, Exception | list):
        return None
    return prediction.field_class if isinstance(prediction, RawLabels) else type(prediction).__name__


def device_type_of(model: Any) -> str | None:
    """Where a model computes, such as ``cpu`` or ``cuda``; None where it does not say."""
    device = getattr(model, "device", None)
    return None if device is None else str(getattr(device, "type", device)).partition(":")[0]


class Source(Protocol):
    """Gives predictions for samples.

    ``fetch`` and ``predict`` are apart so that one batch can be fetched while another is predicted: ``fetch``
    waits for disk and database and may run in any thread, several at a time; ``predict`` is called by one
    thread at a time.

    Attributes:
        read_at_once: number of samples that one call of ``fetch`` should get.
    """

    read_at_once: int

    def describe(self) -> dict[str, Any]:
        """What the run record keeps about the model.

        ``kind``, ``name``, ``version``, ``weights_digest``, ``kwargs`` and, by kind, ``path``, ``field`` or
        ``source``: a change of any of them means another model.
        """

    def classes(self, dataset: Any) -> list[str]:
        """Classes that it can name; empty where it does not say."""

    def label_class(self, dataset: Any) -> str | None:
        """Name of the FiftyOne class of what it finds, such as ``Detections``; None where nothing says."""

    def fetch(self, dataset: Any, sample_ids: Sequence[ObjectId]) -> list[Any]:
        """What ``predict`` needs, in order; an ``Exception`` for a sample that cannot be had."""

    def predict(self, inputs: Sequence[Any]) -> list[Any]:
        """One prediction per input, in order.

        A prediction is a FiftyOne label, ``RawLabels``, a list of raw labels of the run's type, None where
        nothing was found, or the ``Exception`` that says why there is none. Exceptions among the inputs are
        handed on.

        Raises:
            OutOfMemory: fewer inputs at once may do.
        """


@runtime_checkable
class FileSource(Source, Protocol):
    """One whose ``fetch`` reads the samples' files, which other processes can do as well.

    Attributes:
        read: what ``predict`` needs of a file; can be pickled, or its processes do without.
        device_type: of the model, such as ``cpu`` or ``cuda``; None where it does not say.
    """

    read: Callable[[str], Any]
    device_type: str | None


@runtime_checkable
class PreparingSource(Source, Protocol):
    """One whose batches can be put together, and brought to the device, while the batch before is predicted."""

    def prepare(self, inputs: Sequence[Any]) -> Any:
        """A batch in the form that ``predict_prepared`` takes; may run in any thread, several at a time."""

    def predict_prepared(self, batch: Any) -> list[Any]:
        """What ``predict`` gives for the inputs of a batch.

        Raises:
            OutOfMemory: fewer inputs at once may do.
        """
