"""Random histories of a review, on the real database, step by step against a plain model of what should be.

The short form is the same every time. ``HYPOTHESIS_PROFILE=long`` takes thousands of steps, other ones each time.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.builders import box, draw_label, make_dataset, make_run
from tests.core.review_model import POLICY, Action, Audit, Content, Copy, Final, Item, Label, Refused, Run
from tests.killing import dies_after
from valflow import (
    actions,
    app_edits,
    audits,
    checklist,
    database,
    decisions,
    promotion,
    rolling_back,
    runs,
    undoing,
)
from valflow.decisions import Decision
from valflow.label_types import WORKFLOW_TAGS
from valflow.selections import Selection
from valflow.states import Event

STAGED, FINAL = "auto_in_review", "auto"
PREDICTED: tuple[tuple[tuple[str, float | None], ...], ...] = (
    (("cat", 0.95), ("dog", 0.8), ("cat", 0.6), ("dog", 0.3)),
    (("cow", 0.9), ("cow", 0.2), ("cat", None)),
    (("dog", 0.75), ("cat", 0.71), ("dog", 0.69)),
    (),
    (("cow", 0.5),),
)
CLASSES = ("cat", "dog", "cow")
PEOPLE = st.sampled_from(["ann", "bob"])
TAGS = st.sampled_from(["poor_bbox", "ambiguous", "own tag"])
VERDICTS = st.sampled_from(["correct", "wrong_class", "not_an_object", "unsure"])
PLACES = st.integers(0, 30)

_datasets: list[Any] = []
_brought_back: Counter[str] = Counter()  # what was done by the rules that seldom can be
_compared = itertools.count()  # states that were compared, those at the beginning of histories included


@pytest.fixture(autouse=True, scope="module")
def dataset() -> Iterator[Any]:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        # A beat would be one write more, whenever the machine is slow.
        patch.setattr(runs, "HEARTBEAT_SECONDS", 3600.0)
        made = make_dataset(Path(folder), predictions=PREDICTED)
        _datasets.append(made)
        yield made
        _datasets.clear()
        made.delete()
        print(f"\n{next(_compared)} states compared; {dict(_brought_back)}")  # to be seen with -s


@st.composite
def selections(draw: Any) -> Callable[[list[str], list[str]], Selection]:
    """A selection, once the labels and samples are known."""
    kind = draw(st.sampled_from(["all", "classes", "confidence", "labels", "samples", "class above"]))
    classes = tuple(draw(st.sets(st.sampled_from([*CLASSES, "bird"]), min_size=1, max_size=2)))
    places = draw(st.lists(PLACES, min_size=1, max_size=4))
    low, high = sorted(draw(st.tuples(*[st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.8, 1.0])] * 2)))

    def of(labels: list[str], samples: list[str]) -> Selection:
        return {
            "all": lambda: Selection(all=True),
            "classes": lambda: Selection(classes=classes),
            "confidence": lambda: Selection(min_confidence=low, max_confidence=high),
            "labels": lambda: Selection(label_ids=tuple({labels[p % len(labels)] for p in places})),
            "samples": lambda: Selection(sample_ids=tuple({samples[p % len(samples)] for p in places[:2]})),
            "class above": lambda: Selection(classes=classes[:1], min_confidence=low),
        }[kind]()

    return of


Step = tuple[Callable[[], Any], Callable[[Run], Any]]


class Histories(RuleBasedStateMachine):
    """What people and their programs do to a run, in any order; after each step, everything is compared."""

    @initialize()
    def begin(self) -> None:
        self.dataset = _datasets[0]
        self.dataset.reload()
        for field in (STAGED, FINAL):
            if self.dataset.has_field(field):
                self.dataset.delete_sample_field(field)
        self.dataset.delete_saved_views()
        self.dataset.delete_runs()
        for collection in (database.runs, database.ledger, database.actions, database.audits):
            collection().delete_many({})
        for collection in (database.copies, database.copied):
            collection().delete_many({})
        database.targets().delete_many({})
        database.samples_of(self.dataset).update_many({}, {"$set": {"tags": []}})
        self.tagged_before: dict[str, set[str]] = {}
        self.runs_begun = 0
        self._start({}, [])

    def _start(self, final: dict[str, Final], copies: list[Copy]) -> None:
        # Label ids follow from the key, and draws from them: a history that is played again must go the same way.
        self.runs_begun += 1
        key = make_run(self.dataset, target={"only": "all"}, run_key=f"history_{self.runs_begun}")
        self.model = model_of(key, final)
        self.model.copies = copies
        for label in self.model.labels.values():
            assert label.state == ("approved" if (label.confidence or 0) >= 0.7 else "undecided")

    # Reviewers.

    @rule(choice=selections(), who=PEOPLE)
    def approve(self, choice: Any, who: str) -> None:
        self._do(self._approve(choice, who))

    @rule(choice=selections(), who=PEOPLE)
    def reject(self, choice: Any, who: str) -> None:
        self._do(self._reject(choice, who))

    @rule(classes=st.sets(st.sampled_from(CLASSES), max_size=1), who=PEOPLE)
    def reset(self, classes: set[str], who: str) -> None:
        chosen = tuple(classes)
        self._do((lambda: actions.reset(self.model.key, who, chosen), lambda model: model.reset(chosen, who)))

    @rule(name=TAGS, choice=selections(), who=PEOPLE)
    def tag(self, name: str, choice: Any, who: str) -> None:
        self._do(self._tag(name, choice, who))

    @rule(who=PEOPLE, own=st.booleans())
    def undo(self, who: str, own: bool) -> None:
        self._do(self._undo(who, own))

    @rule(size=st.integers(1, 4), seed=st.integers(0, 9))
    def draw_audit(self, size: int, seed: int) -> None:
        drawn: list[str] = []

        def really() -> None:
            most = sum(label.state == "approved" for label in self.model.labels.values())
            audit = audits.draw(self.model.key, "ann", size=min(size, most) or None, seed=seed)
            drawn.extend(str(item["label_id"]) for item in audit["items"])

        def should(model: Run) -> None:
            population = model.check_draw()
            assert set(drawn) <= population
            assert len(set(drawn)) == len(drawn) == min(size, len(population))
            model.draw(drawn)

        self._do((really, should))

    @rule(verdicts=st.dictionaries(st.integers(1, 4), VERDICTS, min_size=1), who=PEOPLE)
    def judge(self, verdicts: dict[int, str], who: str) -> None:
        self._do(self._judge(verdicts, who))

    @precondition(lambda self: self.model.audit is not None)
    @rule(who=PEOPLE)
    def judge_what_is_left(self, who: str) -> None:
        assert self.model.audit is not None
        left = {n: "correct" for n, i in enumerate(self.model.audit.items, 1) if i.verdict is None}
        self._do(self._judge(left, who))

    # The App's own tools.

    @precondition(lambda self: self._is_staged())
    @rule(place=PLACES, name=st.sampled_from([*CLASSES, "horse"]), column=st.integers(0, 4))
    def edit_by_hand(self, place: int, name: str, column: int) -> None:
        found = [i for i, label in self.model.labels.items() if label.there] + list(self.model.drawn)
        if found:
            label_id = found[place % len(found)]
            label = self.model.labels.get(label_id) or self.model.drawn[label_id]
            label.content = (name, tuple(box(column)))
            self._in_the_app(STAGED, label_id, {"label": name, "bounding_box": box(column)})

    @precondition(lambda self: self.model.state == "IN_REVIEW")
    @rule(place=PLACES, tags=st.sets(st.sampled_from(["approved", "rejected"])))
    def tag_by_hand(self, place: int, tags: set[str]) -> None:
        found = [i for i, label in self.model.labels.items() if label.there]
        if found:
            label_id = found[place % len(found)]
            label = self.model.labels[label_id]
            label.shown = tags
            names = {name for name, _ in label.tags}
            self._in_the_app(STAGED, label_id, {"tags": sorted(tags | names)})

    @precondition(lambda self: self._is_staged())
    @rule(place=PLACES)
    def draw_by_hand(self, place: int) -> None:
        sample = self.dataset.values("id")[place % len(PREDICTED)]
        label_id = draw_label(self.dataset, STAGED, sample)
        content: Content = ("bird", tuple(box(4)))
        self.model.drawn[label_id] = Label(sample, content, content, None)

    @precondition(lambda self: self.model.state == "IN_REVIEW")
    @rule(place=PLACES)
    def delete_by_hand(self, place: int) -> None:
        found = [i for i, label in self.model.labels.items() if label.there]
        if found:
            label_id = found[place % len(found)]
            self.model.labels[label_id].there = False
            database.samples_of(self.dataset).update_one(
                {f"{STAGED}.detections._id": ObjectId(label_id)},
                {
                    "$pull": {f"{STAGED}.detections": {"_id": ObjectId(label_id)}},
                    "$set": {"last_modified_at": database.now()},
                },
            )

    @precondition(lambda self: bool(self.model.final))
    @rule(place=PLACES, name=st.sampled_from([*CLASSES, "horse"]))
    def edit_a_final_label(self, place: int, name: str) -> None:
        label_id = sorted(self.model.final)[place % len(self.model.final)]
        final = self.model.final[label_id]
        final.content = (name, final.content[1])
        self._in_the_app(FINAL, label_id, {"label": name})

    @rule()
    def open_the_panel(self) -> None:
        self._do((lambda: app_edits.read_edits(self.model.key), lambda model: model.look()))

    # The way of a run.

    @rule(who=PEOPLE)
    def preview(self, who: str) -> None:
        def should(model: Run) -> None:
            frozen = model.preview(who)
            assert shown.labels == len(frozen)
            assert shown.by_source == counted(f.source for f in frozen.values())
            assert shown.undecided == sum(label.state == "undecided" for label in model.labels.values())
            assert bool(shown.missing) == (not model.is_checked())

        def really() -> None:
            nonlocal shown
            shown = decisions.preview(self.model.key, who)

        shown: Any = None
        self._do((really, should))

    @rule(who=PEOPLE, override=st.sampled_from([None, "a test"]))
    def submit(self, who: str, override: str | None) -> None:
        self._do(self._submit(who, override))

    @precondition(lambda self: self.model.state in ("REVIEWED", "VALIDATED", "FINALIZED"))
    @rule()
    def reopen(self) -> None:
        self._do(
            (
                lambda: decisions.reopen(runs.load(self.model.key), reason="a test", actor="ann"),
                lambda model: model.reopen(),
            )
        )

    @precondition(lambda self: self.model.state == "REVIEWED")
    @rule(places=st.lists(PLACES, min_size=1, max_size=3))
    def the_gate_refuses(self, places: list[int]) -> None:
        frozen = sorted(self.model.frozen)
        failing = {frozen[p % len(frozen)] for p in places}
        by_sample: dict[ObjectId, dict[ObjectId, list[str]]] = {}
        for label_id in failing:
            sample = ObjectId(self.model.labels[label_id].sample)
            by_sample.setdefault(sample, {})[ObjectId(label_id)] = ["refused"]

        def really() -> None:
            record = runs.load(self.model.key)
            number = actions.withdraw_failing(record, by_sample)
            decisions.reopen(record, reason="a test", changes={"action_seq": number})

        self._do((really, lambda model: model.refuse(sorted(failing))))

    @precondition(lambda self: self.model.state == "REVIEWED")
    @rule()
    def validate(self) -> None:
        def should(model: Run) -> None:
            model.state = "VALIDATED"

        self._do((self._accept, should))

    @precondition(lambda self: self.model.state == "VALIDATED")
    @rule()
    def finalize(self) -> None:
        self._do(self._finalize())

    @precondition(lambda self: self.model.state == "REVIEWED")
    @rule()
    def validate_and_finalize(self) -> None:
        self._accept()
        self._do(self._finalize())

    @precondition(lambda self: self.model.state == "IN_REVIEW" and self.model.seq > 2)
    @rule(who=PEOPLE)
    def end_the_review(self, who: str) -> None:
        """Straight to the end: step by step chance leads there too seldom to try what comes after it."""
        self._do(self._submit(who, "a test"))
        if self.model.state == "REVIEWED":
            self._accept()
            self._do(self._finalize())

    @precondition(lambda self: self.model.state == "FINALIZED")
    @rule(including_edited=st.booleans(), who=PEOPLE)
    def roll_back(self, including_edited: bool, who: str) -> None:
        self._do(self._roll_back(including_edited, who))

    @precondition(lambda self: self.model.state in ("FINALIZED", "ROLLED_BACK"))
    @rule(including_edited=st.booleans(), who=PEOPLE)
    def back_into_review(self, including_edited: bool, who: str) -> None:
        self._do(self._roll_back(including_edited, who, reopen=True))

    @precondition(lambda self: self.model.state in ("FINALIZED", "ROLLED_BACK"))
    @rule(including_edited=st.booleans(), who=PEOPLE)
    def bring_a_copy_back(self, including_edited: bool, who: str) -> None:
        self._do(self._roll_back(including_edited, who, from_copy="latest"))

    @precondition(
        lambda self: self.model.state in ("IN_REVIEW", "REVIEWED", "VALIDATED") and self.model.seq > 8
    )
    @rule(override=st.sampled_from([None, "a test"]))
    def discard(self, override: str | None) -> None:
        self._do(
            (
                lambda: decisions.submit(self.model.key, Decision("discard", "ann", override=override)),
                lambda model: model.discard(override),
            )
        )

    @precondition(lambda self: self.model.state in ("FINALIZED", "ROLLED_BACK", "DISCARDED"))
    @rule()
    def start_the_next_run(self) -> None:
        self.tagged_before = self._sample_tags()
        self._start(self.model.final, self.model.copies)

    # Death.

    @precondition(lambda self: self.model.state == "IN_REVIEW")
    @rule(data=st.data(), choice=selections(), who=PEOPLE, name=TAGS, writes=st.integers(0, 9))
    def die_while_reviewing(self, data: Any, choice: Any, who: str, name: str, writes: int) -> None:
        step = data.draw(
            st.sampled_from(
                [
                    self._approve(choice, who),
                    self._reject(choice, who),
                    self._tag(name, choice, who),
                    self._undo(who, False),
                    self._judge({1: "wrong_class", 2: "unsure", 3: "correct"}, who),
                    self._submit(who, "a test"),
                ]
            )
        )
        self._die_in(step, writes)

    @precondition(lambda self: self.model.state == "VALIDATED")
    @rule(writes=st.integers(0, 25))
    def die_while_finalizing(self, writes: int) -> None:
        self._die_in(self._finalize(), writes)

    @precondition(lambda self: self.model.state == "FINALIZED")
    @rule(writes=st.integers(0, 9), including_edited=st.booleans())
    def die_while_rolling_back(self, writes: int, including_edited: bool) -> None:
        self._die_in(self._roll_back(including_edited, "ann"), writes)

    @precondition(lambda self: self.model.state in ("FINALIZED", "ROLLED_BACK"))
    @rule(writes=st.integers(0, 14), including_edited=st.booleans(), reopen=st.booleans())
    def die_while_bringing_back(self, writes: int, including_edited: bool, reopen: bool) -> None:
        wanted: dict[str, Any] = {"reopen": True} if reopen else {"from_copy": "latest"}
        self._die_in(self._roll_back(including_edited, "ann", **wanted), writes)

    def _die_in(self, step: Step, writes: int) -> None:
        """Break a step off after some writes; then do what a person would: look, and ask for it again."""
        really, should = step
        if self.model.state == "IN_REVIEW":
            self.open_the_panel()
        before, after = copy.deepcopy(self.model), copy.deepcopy(self.model)
        try:
            should(after)
        except Refused:
            return
        died = dies_after(writes, really)
        self.dataset.reload()
        self._count(after, " in a death" if died else "")
        if died:
            self._check_between(before, after)
            self._recover(step, before, after)
        else:
            self.model = after

    def _check_between(self, before: Run, after: Run) -> None:
        """Every label is as before or as after; no content is lost."""
        entries = ledger_of(before.key)
        assert entries.keys() - after.labels.keys() == set()
        for i, entry in entries.items():
            assert entry in [entry_of(m.labels[i]) for m in (before, after) if i in m.labels], i
        assert before.labels.keys() <= entries.keys()
        found = self._labels_in(FINAL)
        for i, content in found.items():
            assert content in [final_of(m.final[i]) for m in (before, after) if i in m.final], i
        assert before.final.keys() & after.final.keys() <= found.keys()
        staged = self._labels_in(STAGED)
        if before.state in ("IN_REVIEW", "REVIEWED"):
            there = {i: label for i, label in before.labels.items() if label.there} | before.drawn
            assert {i: c["content"] for i, c in staged.items()} == {i: x.content for i, x in there.items()}

    def _recover(self, step: Step, before: Run, after: Run) -> None:
        # A confirmation that was broken off holds for some minutes.
        long_ago = database.now() - 2 * actions.FREEZE_EXPIRES
        database.runs().update_one(
            {"run": before.key, "freezing": {"$ne": None}}, {"$set": {"freezing.at": long_ago}}
        )
        state = runs.load(before.key)["state"]
        if before.state in ("FINALIZED", "ROLLED_BACK") or after.state == "FINALIZED":
            if state != after.state:
                step[0]()
            self.model = after
            return
        self.model = model_of(before.key, before.final)
        self.model.round, self.model.copies, self.model.decided = before.round, before.copies, before.decided
        self.model.left = before.left
        self.model.drawn = {i: x for i, x in before.drawn.items() if i not in self.model.labels}
        for i, label in self.model.labels.items():
            known = before.labels.get(i) or before.drawn[i]
            label.content, label.there = known.content, known.there
        self.model.audit = self._audit_as_stored(before)
        if state == after.state == "IN_REVIEW":
            states = {i: x.state for i, x in self.model.labels.items()}
            self.open_the_panel()
            assert {i: x.state for i, x in self.model.labels.items()} == states
            self._do(step)
            self._check_shown()
            assert {i: x.state for i, x in self.model.labels.items()} == {
                i: x.state for i, x in after.labels.items()
            }
            assert {i: {t for t, _ in x.tags} for i, x in self.model.labels.items()} == {
                i: {t for t, _ in x.tags} for i, x in after.labels.items()
            }
        elif state == "IN_REVIEW":
            self._do(step)
            assert self.model.frozen.keys() == after.frozen.keys()
        else:
            self.model = after

    def _audit_as_stored(self, before: Run) -> Audit | None:
        if before.audit is None:
            return None
        stored = audits.latest(before.key)
        assert stored is not None
        items = [Item(str(i["label_id"]), i["verdict"], i["reviewer"], i["action"]) for i in stored["items"]]
        return Audit(before.audit.population, items)

    # Steps: what is done, and what should become of it.

    def _choose(self, choice: Any) -> Selection:
        labels = self.model.labels
        chosen: Selection = choice(sorted(labels), sorted({label.sample for label in labels.values()}))
        return chosen

    def _approve(self, choice: Any, who: str) -> Step:
        key, chosen = self.model.key, self._choose(choice)
        return lambda: actions.approve(key, chosen, who), lambda model: model.approve(chosen, who)

    def _reject(self, choice: Any, who: str) -> Step:
        key, chosen = self.model.key, self._choose(choice)
        return lambda: actions.reject(key, chosen, who), lambda model: model.reject(chosen, who)

    def _tag(self, name: str, choice: Any, who: str) -> Step:
        key, chosen = self.model.key, self._choose(choice)
        return lambda: actions.tag(key, name, chosen, who), lambda model: model.tag(name, chosen, who)

    def _undo(self, who: str, own: bool) -> Step:
        key = self.model.key
        return lambda: undoing.undo(key, who, own=own), lambda model: model.undo(who, own)

    def _judge(self, verdicts: dict[int, str], who: str) -> Step:
        key = self.model.key
        return lambda: audits.judge(key, verdicts, who), lambda model: model.judge(verdicts, who)

    def _submit(self, who: str, override: str | None) -> Step:
        decision = Decision("finalize", who, override=override)
        key = self.model.key
        return lambda: decisions.submit(key, decision), lambda model: model.submit(who, override)

    def _accept(self) -> None:
        runs.transition(runs.load(self.model.key), Event.VALIDATE, actor=POLICY)

    def _finalize(self) -> Step:
        key = self.model.key
        return lambda: promotion.promote(runs.load(key), self.dataset), lambda model: model.finalize()

    def _roll_back(self, including_edited: bool, who: str, **wanted: Any) -> Step:
        key = self.model.key
        expected = {name: bool(value) for name, value in wanted.items()}
        return (
            lambda: rolling_back.roll_back(key, who, including_edited=including_edited, **wanted),
            lambda model: model.roll_back(including_edited, **expected),
        )

    def _do(self, step: Step) -> None:
        really, should = step
        after = copy.deepcopy(self.model)
        errors: tuple[type[Exception], ...] = ()
        outcome: Any = contextlib.nullcontext()
        # The draw and the preview are compared with what really came of them.
        try:
            should(copy.deepcopy(self.model))
        except Refused as refusal:
            errors = refusal.errors
        except (AssertionError, AttributeError):
            pass
        if errors:
            outcome = pytest.raises(errors)
        with outcome:
            really()
        with contextlib.suppress(Refused):
            should(after)
        self._count(after)
        self.model = after

    def _count(self, after: Run, how: str = "") -> None:
        if self.model.state != after.state and self.model.state in ("FINALIZED", "ROLLED_BACK"):
            _brought_back[f"{self.model.state} to {after.state}{how}"] += 1

    def _in_the_app(self, field: str, label_id: str, changes: dict[str, Any]) -> None:
        """Write as the App does: the label, and the time of its sample."""
        done = database.samples_of(self.dataset).update_one(
            {f"{field}.detections._id": ObjectId(label_id)},
            {
                "$set": {f"{field}.detections.$[d].{k}": v for k, v in changes.items()}
                | {"last_modified_at": database.now()}
            },
            array_filters=[{"d._id": ObjectId(label_id)}],
        )
        assert done.modified_count == 1

    # What must be equal after every step.

    @invariant()
    def everything_is_as_it_should_be(self) -> None:
        next(_compared)
        model = self.model
        record = runs.load(model.key)
        assert (record["state"], record["round"], record["action_seq"]) == (
            model.state, model.round, model.seq
        )  # fmt: skip
        assert ledger_of(model.key) == {i: entry_of(label) for i, label in model.labels.items()}
        assert {
            a["seq"]: (a["actor"], a["event"], a["undone_by"]) for a in actions.history_of(model.key)
        } == {seq: (a.actor, a.event, a.undone_by) for seq, a in model.actions.items()}
        assert self._labels_in(FINAL) == {i: final_of(f) for i, f in model.final.items()}
        self._check_shown()
        self._check_evidence(record)

    def _check_shown(self) -> None:
        model = self.model
        expected: dict[str, Any] = {}
        if self._is_staged():
            expected = {
                i: {"content": x.content, "shown": x.shown, "tags": {t for t, _ in x.tags}}
                for i, x in (model.labels | model.drawn).items()
                if x.there
            }
        found = {
            i: {
                "content": c["content"],
                "shown": c["tags"] & set(WORKFLOW_TAGS),
                "tags": c["tags"] - set(WORKFLOW_TAGS),
            }
            for i, c in self._labels_in(STAGED).items()
        }
        assert found == expected
        tags = {i: set(names) for i, names in self.tagged_before.items()}
        for label in model.labels.values():
            tags.setdefault(label.sample, set()).update(t for t, _ in label.tags)
        assert self._sample_tags() == {i: names for i, names in tags.items() if names}

    def _check_evidence(self, record: runs.Record) -> None:
        model = self.model
        assert checklist.reviewer_statistics(model.key) == model.statistics()
        stored = audits.latest(model.key)
        assert (stored is None) == (model.audit is None)
        if model.audit is not None and stored is not None:
            assert [
                (str(i["label_id"]), i["verdict"], i["reviewer"], i["action"]) for i in stored["items"]
            ] == [(i.label, i.verdict, i.reviewer, i.action) for i in model.audit.items]
            assert audits.uncovered(record, stored) == model.uncovered()

    def _is_staged(self) -> bool:
        return self.model.state in ("IN_REVIEW", "REVIEWED", "VALIDATED")

    def _labels_in(self, field: str) -> dict[str, dict[str, Any]]:
        found = {}
        for document in database.samples_of(self.dataset).find({}, {field: 1}):
            for label in (document.get(field) or {}).get("detections") or []:
                content = (label["label"], tuple(label["bounding_box"]))
                found[str(label["_id"])] = {"content": content, "tags": set(label.get("tags") or [])} | {
                    k: label[k] for k in ("run", "source") if k in label
                }
        return found

    def _sample_tags(self) -> dict[str, set[str]]:
        found = database.samples_of(self.dataset).find({"tags.0": {"$exists": True}}, {"tags": 1})
        return {str(d["_id"]): set(d["tags"]) for d in found}


def model_of(key: str, final: dict[str, Final]) -> Run:
    """A model that begins with what is stored of a run in review."""
    labels = {}
    for document in database.ledger().find({"run": key, "labels.0": {"$exists": True}}):
        for entry, predicted in zip(document["labels"], document["predicted"], strict=True):
            content = (predicted["label"], tuple(predicted["bounding_box"]))
            labels[str(entry["_id"])] = label = Label(
                str(document["sample_id"]),
                content,
                content,
                entry["confidence"],
                state=entry["state"],
                action=entry["action"],
                before=[(p["state"], p["action"], p.get("invalid")) for p in entry["prev"]],
                invalid=list(entry["invalid"]),
                tags=[(t["tag"], t["action"]) for t in entry["tags"]],
                drawn_by=entry.get("drawn_by"),
                returned=bool(entry.get("returned")),
            )
            label.shown = label.tags_of_workflow()
    stored = {
        a["seq"]: Action(a["actor"], a["event"], a["undone_by"], a["selector"].get("tag"))
        for a in actions.history_of(key)
    }
    return Run(key, labels, stored, copy.deepcopy(final), seq=runs.load(key)["action_seq"])


def ledger_of(key: str) -> dict[str, dict[str, Any]]:
    """The ledger's entries of a run, as ``entry_of`` tells them."""
    return {
        str(e["_id"]): {
            "state": e["state"],
            "action": e["action"],
            "before": [(p["state"], p["action"], p.get("invalid")) for p in e["prev"]],
            "invalid": e["invalid"],
            "tags": [(t["tag"], t["action"]) for t in e["tags"]],
            "drawn_by": e.get("drawn_by"),
        }
        for document in database.ledger().find({"run": key})
        for e in document.get("labels", [])
    }


def entry_of(label: Label) -> dict[str, Any]:
    """What the ledger should hold of a label."""
    return {k: getattr(label, k) for k in ("state", "action", "before", "invalid", "tags", "drawn_by")}


def final_of(final: Final) -> dict[str, Any]:
    """What the label field should hold of a label."""
    return {"content": final.content, "tags": final.tags, "run": final.run, "source": final.source}


def counted(values: Any) -> dict[str, int]:
    """How often each value is there."""
    found: dict[str, int] = {}
    for value in values:
        found[value] = found.get(value, 0) + 1
    return found


TestHistories = Histories.TestCase
TestHistories.pytestmark = [pytest.mark.slow]


def test_a_history_that_comes_back_into_review_and_out_of_a_copy() -> None:
    """What random ones seldom reach."""
    history = Histories()
    history.begin()
    steps: list[tuple[str, dict[str, Any]]] = [
        ("submit", {"who": "ann", "override": "a test"}),
        ("validate_and_finalize", {}),
        ("back_into_review", {"including_edited": False, "who": "ann"}),
        ("submit", {"who": "ann", "override": "a test"}),
        ("validate_and_finalize", {}),
        ("edit_a_final_label", {"place": 0, "name": "horse"}),
        ("back_into_review", {"including_edited": False, "who": "ann"}),  # refused
        ("bring_a_copy_back", {"including_edited": True, "who": "ann"}),
        ("bring_a_copy_back", {"including_edited": True, "who": "ann"}),
        ("die_while_bringing_back", {"writes": 6, "including_edited": True, "reopen": True}),
    ]
    for name, arguments in steps:
        getattr(history, name)(**arguments)
        history.everything_is_as_it_should_be()
    assert (history.model.state, history.model.round) == ("IN_REVIEW", 3)
