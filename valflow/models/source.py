"""The seam: what every source of predictions can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from bson import ObjectId


class Source(Protocol):
    """Gives predictions for samples.

    ``fetch`` and ``predict`` are apart so that one batch can be fetched while another is predicted: ``fetch``
    waits for disk and database and may run in any thread, several at a time; ``predict`` runs in one thread.
    """

    def describe(self) -> dict[str, Any]:
        """What the run record keeps about the model: ``kind``, ``name``, and what else tells it apart."""

    def classes(self, dataset: Any) -> list[str]:
        """Classes that it can name; empty where it does not say."""

    def fetch(self, dataset: Any, sample_ids: Sequence[ObjectId]) -> list[Any]:
        """What ``predict`` needs, in order; an ``Exception`` for a sample that cannot be had."""

    def predict(self, inputs: Sequence[Any]) -> list[Any]:
        """One prediction per input, in order.

        A prediction is a FiftyOne label, the raw list of labels of a sample's field, None where nothing was
        found, or the ``Exception`` that says why there is none. Exceptions among the inputs are handed on.
        """
