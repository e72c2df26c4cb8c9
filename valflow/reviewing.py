"""What a reviewer's screen shows and points at, as selections of the ledger; never as what an old screen shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bson import ObjectId

from valflow import actions, database, ledger
from valflow.actions import ActionResult
from valflow.batches import object_id
from valflow.errors import SelectionError
from valflow.label_types import APPROVED, REJECTED
from valflow.ledger import UNDECIDED, Expression
from valflow.review_order import Ranking
from valflow.selections import Selection, object_ids

PATCHES_PER_PAGE = 100
SAMPLES_PER_PAGE = 50
_NO_LABELS: Mapping[str, Any] = {
    **dict.fromkeys(("total", APPROVED, REJECTED, UNDECIDED, "invalid", "without_confidence", "current"), 0),
    "scored": 0,
    "sum": 0.0,
}


@dataclass(frozen=True)
class Shown(Selection):
    """A selection that also knows states, as a screen of the App does.

    Attributes:
        states: only labels that are in one of these states now; empty for any.
        without_confidence: also labels without confidence, beside those in the range.
        protected: with these numbers of actions, labels in other states are selected too, unless one of these
            actions decided them: what other people decided is not overruled by a screen that did not show it.
        lies_on: the samples of ``label_ids``, so that no query looks for them again; no condition of its own.
    """

    states: tuple[str, ...] = ()
    without_confidence: bool = False
    protected: tuple[int, ...] | None = None
    lies_on: tuple[ObjectId, ...] = ()

    def describe(self) -> dict[str, Any]:
        """The conditions that were given, for records and messages."""
        return {k: v for k, v in super().describe().items() if k not in ("protected", "lies_on")}

    def place_query(self) -> dict[str, Any]:
        """On which samples selected labels lie, as far as that is known; an index finds these documents."""
        return {"sample_id": {"$in": list(self.lies_on)}} if self.lies_on else super().place_query()

    def entry_query(self) -> dict[str, Any] | None:
        """The same as ``condition``, as a query on one entry; None where no query can say it."""
        entry = super().entry_query() or {}
        if self.protected is not None:
            return None
        if self.states:
            entry["state"] = {"$in": list(self.states)}
        if self.without_confidence and "confidence" in entry:
            entry["$or"] = [{"confidence": entry.pop("confidence")}, {"confidence": None}]
        return entry

    def document_query(self) -> dict[str, Any]:
        """Which ledger documents can hold a selected label."""
        if self.protected is None:
            return super().document_query()
        # Labels in other states count too, unless a protected action decided them.
        return replace(self, protected=None, states=()).document_query()

    def condition(self) -> Expression:
        """Whether the entry ``$$l`` is selected."""
        clauses: list[Expression] = [super().condition()]
        if self.without_confidence and (self.min_confidence is not None or self.max_confidence is not None):
            unscored = replace(self, min_confidence=None, max_confidence=None, all=True)
            without = [Selection.condition(unscored), {"$not": [{"$isNumber": "$$l.confidence"}]}]
            clauses = [{"$or": [clauses[0], {"$and": without}]}]
        if self.states:
            in_state: Expression = {"$in": ["$$l.state", list(self.states)]}
            if self.protected is not None:
                in_state = {"$or": [in_state, {"$not": [{"$in": ["$$l.action", list(self.protected)]}]}]}
            clauses.append(in_state)
        return {"$and": clauses}


@dataclass(frozen=True)
class Page:
    """One page of what is shown: ``label_ids`` in the order of their samples (empty on pages of samples)."""

    label_ids: list[str]
    sample_ids: list[str]


def screen(
    states: Sequence[str],
    classes: Sequence[str] = (),
    low: float = 0.0,
    high: float = 1.0,
    without_confidence: bool = True,
) -> Shown:
    """The selection behind the filters of a screen.

    A range that spans everything with ``without_confidence`` is no condition at all.

    Args:
        states: states of labels that the tab shows.
        classes: classes chosen in the table; empty for all.
        low: least confidence, in [0, 1].
        high: greatest confidence, in [0, 1].
        without_confidence: whether labels without confidence are shown too.
    """
    everything = low <= 0.0 and high >= 1.0 and without_confidence
    return Shown(
        classes=tuple(classes),
        min_confidence=None if everything else low,
        max_confidence=None if everything else high,
        states=tuple(states),
        without_confidence=without_confidence and not everything,
        all=True,
    )


def pointed_at(
    run: str,
    shown: Shown,
    reviewer: str,
    *,
    labels: Sequence[dict[str, Any]] = (),
    ids: Sequence[str] = (),
    field: str = "",
) -> Shown:
    """What a button means: the labels selected, else the patches, else the samples, else all that is shown.

    Args:
        run: key of the run.
        shown: the screen's filters; they hold for samples, and where nothing is selected.
        reviewer: who points; what other people decided meanwhile is not selected by id.
        labels: labels selected in a sample, as the App names them (``label_id``, ``field``).
        ids: what is selected in the grid: patches (by label id) or samples.
        field: the review field; labels selected in others do not count.
    """
    chosen = [str(d["label_id"]) for d in labels if d.get("field") in (field, None)]
    if labels and not chosen:
        raise SelectionError(f"the selected labels are not in {field}, the field under review")
    if chosen:
        return _by_id(run, chosen, known_labels(run, chosen).values(), shown, reviewer)
    if not ids:
        return shown
    patches = known_labels(run, ids)
    if patches:
        return _by_id(run, [i for i in ids if i in patches], patches.values(), shown, reviewer)
    samples = _samples_with(run, replace(shown, sample_ids=tuple(ids)))
    if not samples:
        raise SelectionError("none of the selected samples holds a label that this screen shows")
    return replace(shown, sample_ids=tuple(samples))


def known_labels(run: str, ids: Sequence[str]) -> dict[str, ObjectId]:
    """Those of the ids that are labels of the run, with the samples that they lie on."""
    wanted = set(object_ids(ids, "label"))
    query = {"run": run, "labels._id": {"$in": list(wanted)}}
    found = database.ledger().find(query, {"labels._id": 1, "sample_id": 1})
    return {str(e["_id"]): d["sample_id"] for d in found for e in d["labels"] if e["_id"] in wanted}


def knows(run: str, one: str) -> bool:
    """Whether an id is that of a label of the run, or of a sample that it has looked at."""
    [wanted] = object_ids([one], "label or sample")
    named = {"$or": [{"sample_id": wanted}, {"labels._id": wanted}]}
    return database.ledger().find_one({"run": run, **named}, {"_id": 1}) is not None


def count(run: str, selection: Selection) -> int:
    """Number of labels that are selected."""
    return ledger.count_where({"run": run, **selection.document_query()}, selection.condition())


def table(run: str, shown: Shown) -> list[dict[str, Any]]:
    """Per class: how many labels of the run there are, by state, and how many of them the screen shows.

    Returns:
        Rows with ``label, total, approved, rejected, undecided, invalid, without_confidence, current,
        mean_confidence``, most labels first; ``mean_confidence`` is over the current ones, None where none has
        one. The class filter of the screen does not narrow the table, so that other classes stay within reach.
    """
    in_view = replace(shown, classes=(), all=True).condition()
    key = {
        "label": "$labels.label",
        "state": "$labels.state",
        "invalid": {"$ne": ["$labels.invalid", []]},
        "scored": {"$isNumber": "$labels.confidence"},
        "current": {"$let": {"vars": {"l": "$labels"}, "in": in_view}},
    }
    # Many small groups, put together here: to look into each label several times would cost twice as much.
    groups = database.ledger().aggregate(
        [
            {"$match": {"run": run, "labels.0": {"$exists": True}}},
            {"$unwind": "$labels"},
            {"$group": {"_id": key, "n": {"$sum": 1}, "confidence": {"$sum": "$labels.confidence"}}},
        ]
    )
    rows: dict[str, dict[str, Any]] = {}
    for group in groups:
        of, n = group["_id"], group["n"]
        row = rows.setdefault(str(of.get("label")), {**_NO_LABELS, "label": str(of.get("label"))})
        row["total"] += n
        row[of["state"]] += n
        row["invalid"] += n if of["invalid"] else 0
        row["without_confidence"] += 0 if of["scored"] else n
        if of["current"]:
            row["current"] += n
            row["scored"] += n if of["scored"] else 0
            row["sum"] += group["confidence"] if of["scored"] else 0.0
    for row in rows.values():
        scored, total = row.pop("scored"), row.pop("sum")
        row["mean_confidence"] = total / scored if scored else None
    return sorted(rows.values(), key=lambda r: (-r["total"], r["label"]))


def page_of_labels(
    run: str, shown: Shown, number: int, size: int = PATCHES_PER_PAGE, *, ranking: Ranking | None = None
) -> Page:
    """The labels of one page; pages count from 1.

    Args:
        run: key of the run.
        shown: which labels there are.
        number: of the page.
        size: labels on a page.
        ranking: the shown labels in the order of the pages (see ``review_order.rank``); by sample id without one.
    """
    if ranking is not None:
        rows = slice((number - 1) * size, number * size)
        samples = [str(object_id(i)) for i in ranking.sample_ids[rows]]
        return Page([str(object_id(i)) for i in ranking.label_ids[rows]], list(dict.fromkeys(samples)))
    kept = {"$filter": {"input": "$labels", "as": "l", "cond": shown.condition()}}
    found = database.ledger().aggregate(
        [
            {"$match": {"run": run, **shown.document_query()}},
            {"$sort": {"sample_id": 1}},
            {
                "$project": {
                    "_id": 0,
                    "sample_id": 1,
                    "id": {"$map": {"input": kept, "as": "l", "in": "$$l._id"}},
                }
            },
            {"$unwind": "$id"},
            {"$skip": (number - 1) * size},
            {"$limit": size},
        ]
    )
    listed = list(found)
    return Page([str(r["id"]) for r in listed], list(dict.fromkeys(str(r["sample_id"]) for r in listed)))


def page_of_samples(
    run: str,
    shown: Shown | None,
    number: int,
    size: int = SAMPLES_PER_PAGE,
    *,
    ranking: Ranking | None = None,
) -> Page:
    """The samples of one page that hold a label which is shown (None: all of the run); pages count from 1.

    Those of a ``ranking`` of what is shown in its order, else by their id.
    """
    if ranking is not None:
        ranked = list(dict.fromkeys(ranking.sample_ids.tolist()))
        return Page([], [str(object_id(i)) for i in ranked[(number - 1) * size : number * size]])
    query = shown.document_query() if shown else {}
    cursor = database.ledger().find({"run": run, **query}, {"_id": 0, "sample_id": 1})
    found = cursor.sort("sample_id", 1).skip((number - 1) * size).limit(size)
    return Page([], [str(d["sample_id"]) for d in found])


def count_samples(run: str, shown: Shown | None) -> int:
    """Number of samples with a label that is shown (None: all of the run)."""
    return database.ledger().count_documents({"run": run, **(shown.document_query() if shown else {})})


def approve(run: str, selection: Selection, reviewer: str) -> str:
    """Approve what is pointed at, and say what became of it.

    Raises:
        SelectionError: nothing of it can be approved; the message says who decided otherwise.
        IllegalTransition: the run is not in review.
    """
    return _decide(actions.approve, "approved", run, selection, reviewer)


def reject(run: str, selection: Selection, reviewer: str) -> str:
    """Reject what is pointed at, and say what became of it; see ``approve``."""
    return _decide(actions.reject, "rejected", run, selection, reviewer)


def in_words(count: int) -> str:
    """``1 label``, ``1,200 labels``."""
    return f"{count:,} label{'' if count == 1 else 's'}"


def decided_by(run: str, selection: Selection) -> dict[tuple[str, str], int]:
    """How many of the selected labels are in which state by whose action: ``{(state, actor): n}``."""
    pairs = {
        "$map": {
            "input": {"$filter": {"input": "$labels", "as": "l", "cond": selection.condition()}},
            "as": "l",
            "in": {
                "state": "$$l.state",
                "action": "$$l.action",
                "invalid": {"$ne": ["$$l.invalid", []]},
            },
        }
    }
    groups = database.ledger().aggregate(
        [
            {"$match": {"run": run, **selection.document_query()}},
            {"$project": {"_id": 0, "l": pairs}},
            {"$unwind": "$l"},
            {"$group": {"_id": "$l", "n": {"$sum": 1}}},
        ]
    )
    actors = {a["seq"]: a["actor"] for a in actions.history_of(run)}
    counts: Counter[tuple[str, str]] = Counter()
    for group in groups:
        key = group["_id"]
        if key["state"] == UNDECIDED:
            counts["fails a check" if key["invalid"] else UNDECIDED, ""] += group["n"]
        else:
            counts[key["state"], actors.get(key["action"], "somebody")] += group["n"]
    return dict(counts)


def _decide(act: Any, done: str, run: str, selection: Selection, reviewer: str) -> str:
    try:
        result: ActionResult = act(run, selection, reviewer)
    except SelectionError as nothing:
        standing = _in_the_way(run, selection, done)
        if not standing:
            raise
        raise SelectionError(f"nothing was {done}: {standing}") from nothing
    left = _in_the_way(run, selection, done, result.seq) if result.left or selection.label_ids else ""
    return f"{in_words(result.changed)} {done}" + (f"; {left}" if left else "")


def _in_the_way(run: str, selection: Selection, done: str, own_action: int | None = None) -> str:
    """Why selected labels are not as wanted, in words, with the names of those who decided."""
    looked_at = selection
    if isinstance(selection, Shown) and selection.label_ids:
        looked_at = replace(selection, states=())
    standing = decided_by(run, looked_at)
    own = ledger.count_labels(run, {"action": own_action}) if own_action else 0
    parts = []
    for (state, actor), n in sorted(standing.items()):
        if state == done:
            n -= own
            own = 0
            if n > 0:
                parts.append(f"{n} {_are(n)} {state} already ({actor})")
        elif state in (APPROVED, REJECTED):
            parts.append(f"{n} {'stays' if n == 1 else 'stay'} {state} ({actor} decided so)")
        elif state == "fails a check":
            parts.append(
                f"{n} {'fails' if n == 1 else 'fail'} a check: approve by selecting the label itself"
            )
    return "; ".join(parts)


def _by_id(run: str, ids: Sequence[str], lies_on: Iterable[ObjectId], shown: Shown, reviewer: str) -> Shown:
    people = [a for a in actions.history_of(run) if a["actor"] not in (actions.POLICY, reviewer)]
    others = tuple(a["seq"] for a in people if a["undone_by"] is None)
    # An id that the run does not know has no sample; it must be looked for, and refused.
    return Shown(
        label_ids=tuple(ids), states=shown.states, protected=others, lies_on=tuple(dict.fromkeys(lies_on))
    )


def _are(n: int) -> str:
    return "is" if n == 1 else "are"


def _samples_with(run: str, shown: Shown) -> list[str]:
    found = database.ledger().find({"run": run, **shown.document_query()}, {"_id": 0, "sample_id": 1})
    return [str(d["sample_id"]) for d in found]


def visualizations(dataset: Any) -> list[str]:
    """Brain keys of FiftyOne that its Embeddings panel can show."""
    return list(dataset.list_brain_runs(type="visualization"))
