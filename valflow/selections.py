"""Which labels an action means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bson import ObjectId
from bson.errors import InvalidId

from valflow.errors import SelectionError
from valflow.ledger import Expression


@dataclass(frozen=True)
class Selection:
    """Which labels an action means; the conditions are joined by *and*.

    Attributes:
        classes: only these classes.
        min_confidence: at least this confidence, in [0, 1]; labels without confidence never match.
        max_confidence: at most this confidence, in [0, 1].
        label_ids: exactly these labels.
        sample_ids: labels on these samples.
        all: every label of the run; needed when nothing else is given.
    """

    classes: tuple[str, ...] = ()
    min_confidence: float | None = None
    max_confidence: float | None = None
    label_ids: tuple[str, ...] = ()
    sample_ids: tuple[str, ...] = ()
    all: bool = False

    def __post_init__(self) -> None:
        for bound in (self.min_confidence, self.max_confidence):
            if bound is not None and not 0.0 <= bound <= 1.0:
                raise SelectionError(f"a confidence lies between 0 and 1, found {bound}")
        if not self.all and not self.describe():
            raise SelectionError(
                "the selection is empty: choose labels with --class, --min-confidence, --max-confidence, "
                "--label or --sample, or say --all"
            )
        object_ids(self.label_ids, "label")
        object_ids(self.sample_ids, "sample")

    def describe(self) -> dict[str, Any]:
        """The conditions that were given, for records and messages."""
        # By identity: a confidence of 0 is a bound, but equal to False.
        return {
            k: list(v) if isinstance(v, tuple) else v
            for k, v in asdict(self).items()
            if v is not None and v is not False and v != ()
        }

    def entry_query(self) -> dict[str, Any] | None:
        """The same as ``condition``, as a query on one entry; None where no query can say it."""
        entry: dict[str, Any] = {}
        if self.label_ids:
            entry["_id"] = {"$in": object_ids(self.label_ids, "label")}
        if self.classes:
            entry["label"] = {"$in": list(self.classes)}
        if self.min_confidence is not None or self.max_confidence is not None:
            low = 0.0 if self.min_confidence is None else self.min_confidence
            entry["confidence"] = {
                "$gte": low,
                "$lte": 1.0 if self.max_confidence is None else self.max_confidence,
            }
        return entry

    def place_query(self) -> dict[str, Any]:
        """On which samples selected labels lie, as far as that is known; an index finds these documents."""
        return {"sample_id": {"$in": object_ids(self.sample_ids, "sample")}} if self.sample_ids else {}

    def document_query(self) -> dict[str, Any]:
        """Which ledger documents can hold a selected label."""
        query = self.place_query()
        entry = self.entry_query()
        return {**query, "labels": {"$elemMatch": entry} if entry else {"$exists": True, "$ne": []}}

    def condition(self) -> Expression:
        """Whether the entry ``$$l`` is selected."""
        clauses: list[Expression] = []
        if self.label_ids:
            clauses.append({"$in": ["$$l._id", object_ids(self.label_ids, "label")]})
        if self.classes:
            clauses.append({"$in": ["$$l.label", {"$literal": list(self.classes)}]})
        if self.min_confidence is not None or self.max_confidence is not None:
            low = 0.0 if self.min_confidence is None else self.min_confidence
            clauses.append({"$gte": ["$$l.confidence", low]})
            clauses.append(
                {"$lte": ["$$l.confidence", 1.0 if self.max_confidence is None else self.max_confidence]}
            )
        return {"$and": clauses or [True]}


def object_ids(ids: Sequence[str], what: str) -> list[ObjectId]:
    """Ids of the command line as ObjectIds.

    Raises:
        SelectionError: one of them is no id.
    """
    try:
        return [ObjectId(i) for i in ids]
    except InvalidId:
        raise SelectionError(f"a {what} id has 24 hexadecimal digits, found {list(ids)[:3]}") from None
