"""What a review should be, in plain Python: no database, no batches, no shortcuts."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from valflow.app_edits import SOMEBODY
from valflow.errors import (
    AuditError,
    DecisionRefused,
    IllegalTransition,
    LabelsVanished,
    RollbackRefused,
    SelectionError,
)
from valflow.selections import Selection

POLICY = "policy"
UNDOABLE = ("approve", "reject", "reset", "judge", "tag")
Content = tuple[str, tuple[float, ...]]  # class and box


class Refused(Exception):
    """The product must raise one of these errors."""

    def __init__(self, *errors: type[Exception]) -> None:
        super().__init__(*errors)
        self.errors = errors


@dataclass
class Label:
    """One label of a run.

    Attributes:
        shown: which of the workflow's tags people see on it.
        there: whether it still stands in the review field.
        returned: whether an undo brought it back to an earlier state.
    """

    sample: str
    predicted: Content
    content: Content
    confidence: float | None
    state: str = "undecided"
    action: int = 0
    before: list[tuple[str, int, list[str] | None]] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    tags: list[tuple[str, int]] = field(default_factory=list)
    shown: set[str] = field(default_factory=set)
    drawn_by: str | None = None
    there: bool = True
    returned: bool = False

    def become(self, state: str, action: int, *, clears: bool = False) -> None:
        self.before.insert(0, (self.state, self.action, self.invalid if clears else None))
        self.state, self.action = state, action
        if clears:
            self.invalid = []

    def go_back(self) -> None:
        self.state, self.action, invalid = self.before.pop(0)
        self.invalid = self.invalid if invalid is None else invalid
        self.returned = True

    def may_be_new(self, state: str) -> bool:
        """Whether a tag on it says something; one that it carried before may be a leftover."""
        return not self.returned and state not in {s for s, _, _ in self.before}

    def tags_of_workflow(self) -> set[str]:
        return ({self.state} - {"undecided"}) | ({"invalid"} if self.invalid else set())


@dataclass
class Action:
    actor: str
    event: str
    undone_by: int | None = None
    tag: str | None = None


@dataclass
class Item:
    label: str
    verdict: str | None = None
    reviewer: str | None = None
    action: int | None = None


@dataclass
class Audit:
    """A draw: ``population`` are the labels that were approved then, with the action that they owe it to."""

    population: set[tuple[str, int]]
    items: list[Item]


@dataclass
class Final:
    content: Content
    run: str
    source: str
    tags: set[str]
    as_finalized: Content


@dataclass
class Copy:
    """A safety copy: of which run and decision, before what, and what stood in the label field."""

    run: str
    decided: int
    before: str
    final: dict[str, Final]


@dataclass
class Run:
    """One run, from its review on, and the label field that all runs share."""

    key: str
    labels: dict[str, Label]
    actions: dict[int, Action]
    final: dict[str, Final]
    seq: int = 1
    state: str = "IN_REVIEW"
    round: int = 1
    drawn: dict[str, Label] = field(default_factory=dict)
    audit: Audit | None = None
    frozen: dict[str, Final] = field(default_factory=dict)
    copies: list[Copy] = field(default_factory=list)  # of the label field, latest last
    decided: int = 0  # counts the decisions
    # What a label that is not final looked like in the moment of the decision; and one that was final, at its end.
    left: dict[str, Content] = field(default_factory=dict)

    # What people do.

    def approve(self, selection: Selection, reviewer: str) -> None:
        named = bool(selection.label_ids)
        self._decide(
            "approve", selection, reviewer, "approved",
            lambda x: x.state == "undecided" and (named or not x.invalid), clears=named,
        )  # fmt: skip

    def reject(self, selection: Selection, reviewer: str) -> None:
        self._decide("reject", selection, reviewer, "rejected", lambda x: x.state != "rejected")

    def reset(self, classes: tuple[str, ...], reviewer: str) -> None:
        selection = Selection(classes=classes, all=True)
        self._decide("reset", selection, reviewer, "undecided", lambda x: x.state != "undecided")

    def _decide(
        self, event: str, selection: Selection, reviewer: str, state: str, may: Any, *, clears: bool = False
    ) -> None:
        self.look()
        chosen = [label for label in self._selected(selection) if may(label)]
        if not chosen:
            raise Refused(SelectionError)
        seq = self._begin(event, reviewer)
        for label in chosen:
            label.become(state, seq, clears=clears)
        self._show()

    def tag(self, name: str, selection: Selection, reviewer: str) -> None:
        if self.state != "IN_REVIEW":
            raise Refused(IllegalTransition, SelectionError)
        chosen = self._selected(selection)
        if not chosen:
            raise Refused(SelectionError)
        seq = self._begin("tag", reviewer, name)
        for label in chosen:
            if name not in {t for t, _ in label.tags}:
                label.tags.append((name, seq))

    def undo(self, reviewer: str, own: bool) -> None:
        self.look()
        whose = [
            seq
            for seq, a in self.actions.items()
            if a.event in UNDOABLE
            and a.undone_by is None
            and (a.actor == reviewer if own else a.actor != POLICY)
        ]
        if not whose:
            raise Refused(SelectionError)
        target = max(whose)
        if own and any(target in (a for _, a, _ in label.before) for label in self.labels.values()):
            raise Refused(SelectionError)
        seq = self._begin("undo", reviewer)
        for label in self.labels.values():
            if label.action == target:
                label.go_back()
            label.tags = [t for t in label.tags if t[1] != target]
        for item in self.audit.items if self.audit else []:
            if item.action == target:
                item.verdict = item.reviewer = item.action = None
        self.actions[target].undone_by = seq
        self._show()

    def check_draw(self) -> set[str]:
        """The labels that a spot-check is drawn from."""
        self._require_review()
        population = {i for i, label in self.labels.items() if label.state == "approved"}
        if not population or (self.audit is not None and not self.uncovered()):
            raise Refused(AuditError)
        return population

    def draw(self, labels: list[str]) -> None:
        population = {(i, label.action) for i, label in self.labels.items() if label.state == "approved"}
        self.audit = Audit(population, [Item(i) for i in labels])

    def judge(self, verdicts: dict[int, str], reviewer: str) -> None:
        self._require_review()
        if self.audit is None:
            raise Refused(AuditError)
        items = self.audit.items
        if any(n > len(items) or items[n - 1].verdict not in (None, v) for n, v in verdicts.items()):
            raise Refused(AuditError)
        fresh = {n: v for n, v in verdicts.items() if items[n - 1].verdict is None}
        if not fresh:
            return
        self.look()
        seq = self._begin("judge", reviewer)
        for number, verdict in fresh.items():
            item = items[number - 1]
            label = self.labels[item.label]
            if verdict == "unsure" and label.state == "approved":
                label.become("undecided", seq)
            elif verdict not in ("correct", "unsure") and label.state != "rejected":
                label.become("rejected", seq)
            item.verdict, item.reviewer, item.action = verdict, reviewer, seq
        self._show()

    def look(self) -> None:
        """Tags that people put on with the App's own tools are actions, unless they may be old ones."""
        self._require_review()
        there = [label for label in self.labels.values() if label.there]
        approved = [
            label
            for label in there
            if "approved" in label.shown
            and "rejected" not in label.shown
            and label.state == "undecided"
            and label.may_be_new("approved")
        ]
        rejected = [
            label
            for label in there
            if "rejected" in label.shown and label.state != "rejected" and label.may_be_new("rejected")
        ]
        for state, event, taken in (("approved", "approve", approved), ("rejected", "reject", rejected)):
            if taken:
                seq = self._begin(event, SOMEBODY)
                for label in taken:
                    label.become(state, seq, clears=True)
        self._show()

    def preview(self, reviewer: str) -> dict[str, Final]:
        self.look()
        self.seq += 1
        if self.drawn:
            self.actions[self.seq] = Action(reviewer, "draw")
        for label_id, label in self.drawn.items():
            label.state, label.action, label.drawn_by = "approved", self.seq, reviewer
            label.predicted = label.content
            self.labels[label_id] = label
        self.drawn = {}
        self._show()
        if any(not label.there and label.state != "rejected" for label in self.labels.values()):
            raise Refused(LabelsVanished)
        return {
            i: Final(label.content, self.key, self._source(label), {t for t, _ in label.tags}, label.content)
            for i, label in self.labels.items()
            if label.state == "approved" and label.there
        }

    def submit(self, reviewer: str, override: str | None) -> None:
        frozen = self.preview(reviewer)
        if not frozen or (not override and not self.is_checked()):
            raise Refused(DecisionRefused)
        self.frozen, self.state = frozen, "REVIEWED"
        self.decided += 1
        self.left = {i: x.content if x.there else x.predicted for i, x in self.labels.items()}

    def reopen(self) -> None:
        if self.state not in ("IN_REVIEW", "REVIEWED", "VALIDATED"):
            raise Refused(IllegalTransition)
        self.state, self.round, self.frozen = "IN_REVIEW", self.round + 1, {}

    def refuse(self, failing: list[str]) -> None:
        self.reopen()
        self.seq += 1
        self.actions[self.seq] = Action(POLICY, "refuse")
        for label_id in failing:
            label = self.labels[label_id]
            label.invalid = ["refused"]
            if label.state == "approved":
                label.become("undecided", self.seq)
        self._show()

    def finalize(self) -> None:
        self._copy("finalize")
        self.final |= copy.deepcopy(self.frozen)
        self.state = "FINALIZED"

    def roll_back(self, including_edited: bool, *, reopen: bool = False, from_copy: bool = False) -> None:
        if self.state not in ("FINALIZED", *(["ROLLED_BACK"] if reopen or from_copy else [])):
            raise Refused(RollbackRefused)
        wanted = self._fitting_copy() if from_copy else None
        own = {i: f for i, f in self.final.items() if f.run == self.key}
        edited = {i for i, f in own.items() if f.content != f.as_finalized}
        if reopen and edited and not including_edited:
            raise Refused(RollbackRefused)
        if from_copy and self.state == "ROLLED_BACK":
            self._copy("bring_back")
            self.state = "FINALIZED"
        else:
            leaving = own if including_edited else {i: f for i, f in own.items() if i not in edited}
            if leaving or from_copy:
                self._copy("rollback")
            self.left |= {i: f.content for i, f in leaving.items()}
            self.final = {i: f for i, f in self.final.items() if i not in leaving}
            self.state = "ROLLED_BACK"
        if wanted is not None:
            self.final = copy.deepcopy(wanted.final) | self.final
        if reopen:
            self._come_back()

    def _come_back(self) -> None:
        """Into review, every label as it stood before the decision, or as a person edited it since."""
        self.state, self.round, self.frozen, self.drawn = "IN_REVIEW", self.round + 1, {}, {}
        for i, label in self.labels.items():
            label.content, label.there = self.left[i], True
        self._show()

    def _copy(self, before: str) -> None:
        self.copies.append(Copy(self.key, self.decided, before, copy.deepcopy(self.final)))

    def _fitting_copy(self) -> Copy:
        before = ("finalize", "bring_back") if self.state == "FINALIZED" else ("rollback",)
        for found in reversed(self.copies[-5:]):  # so many are kept
            if (found.run, found.decided) == (self.key, self.decided) and found.before in before:
                return found
        raise Refused(RollbackRefused)

    def discard(self, override: str | None) -> None:
        if self.state != "IN_REVIEW" and not override:
            raise Refused(DecisionRefused)
        self.state = "DISCARDED"

    # What is on record about it.

    def uncovered(self) -> int:
        """Approved labels about which the draw says nothing."""
        assert self.audit is not None
        approved = {(i, label.action) for i, label in self.labels.items() if label.state == "approved"}
        return len(approved - self.audit.population)

    def is_checked(self) -> bool:
        """Whether the random sample that finalization asks for is there."""
        if all(label.state != "approved" for label in self.labels.values()):
            return True
        if self.audit is None:
            return False
        return all(i.verdict is not None for i in self.audit.items) and not self.uncovered()

    def statistics(self) -> dict[str, dict[str, int]]:
        """Labels that each person decided or tagged, of what was not taken back."""
        found: dict[str, dict[str, int]] = {}

        def add(who: str, what: str) -> None:
            found.setdefault(who, {}).setdefault(what, 0)
            found[who][what] += 1

        for label in self.labels.values():
            action = self.actions.get(label.action)
            deciding = ("approve", "reject", "reset", "judge")
            if action and action.event in deciding and action.actor != POLICY and action.undone_by is None:
                add(action.actor, label.state)
            for _, seq in label.tags:
                add(self.actions[seq].actor, "tagged")
        for item in self.audit.items if self.audit else []:
            if item.reviewer:
                add(item.reviewer, "judged")
        return found

    def _source(self, label: Label) -> str:
        if label.drawn_by is not None:
            return "human"
        if label.content != label.predicted:
            return "edited"
        return "auto" if self.actions[label.action].actor == POLICY else "human"

    def _selected(self, selection: Selection) -> list[Label]:
        known = {label.predicted[0] for label in self.labels.values()}
        if not set(selection.classes) <= known or not set(selection.label_ids) <= self.labels.keys():
            raise Refused(SelectionError)
        if not set(selection.sample_ids) <= {label.sample for label in self.labels.values()}:
            raise Refused(SelectionError)
        return [label for i, label in self.labels.items() if _matches(selection, i, label)]

    def _begin(self, event: str, actor: str, tag: str | None = None) -> int:
        self._require_review()
        self.seq += 1
        self.actions[self.seq] = Action(actor, event, tag=tag)
        return self.seq

    def _require_review(self) -> None:
        if self.state != "IN_REVIEW":
            raise Refused(IllegalTransition)

    def _show(self) -> None:
        for label in self.labels.values():
            label.shown = label.tags_of_workflow()


def _matches(selection: Selection, label_id: str, label: Label) -> bool:
    low, high = selection.min_confidence, selection.max_confidence
    if (low is not None or high is not None) and label.confidence is None:
        return False
    return (
        (not selection.classes or label.predicted[0] in selection.classes)
        and (not selection.label_ids or label_id in selection.label_ids)
        and (not selection.sample_ids or label.sample in selection.sample_ids)
        and (low is None or label.confidence >= low)  # type: ignore[operator]
        and (high is None or label.confidence <= high)  # type: ignore[operator]
    )
