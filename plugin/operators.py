"""What the panel does, as operators: for its dialogs, for the operator browser, for programs."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import fiftyone.operators as foo
import fiftyone.operators.types as types

from valflow import actions, checklist, decisions, mirroring, new_runs, resuming, reviewing, runs, undoing
from valflow.errors import ConfigError, DecisionRefused, RunNotFound, SelectionError, ValflowError
from valflow.label_types import PROBLEM_TAGS
from valflow.review_page import markdown_text
from valflow.states import State

from . import layout, rolling


class _OnRun(foo.Operator):
    """An operator on one run, of which there must be one: in review, unless a subclass says otherwise."""

    name_of_operator: str
    label: str
    icon: str
    does: str  # in the answer, as in "12 labels approved"
    nothing = "No run is in review"
    remedy = "no labeling run that waits for a person; start one with New run."

    @property
    def config(self) -> foo.OperatorConfig:
        return foo.OperatorConfig(
            name=self.name_of_operator,
            label=f"valflow: {self.label}",
            icon=self.icon,
            dynamic=True,
            allow_immediate_execution=True,
        )

    def resolve_input(self, ctx: Any) -> types.Property:
        """Run and reviewer; why it cannot run, where it cannot."""
        inputs = types.Object()
        named, waiting = ctx.params.get("run"), self.choices(ctx)
        if not waiting and named is None:
            name = ctx.dataset.name if ctx.dataset is not None else "this dataset"
            inputs.view(
                "nothing",
                types.Warning(
                    label=self.nothing,
                    description=f"{name} has {self.remedy}",
                ),
            )
            return types.Property(inputs, view=types.View(label=self.label))
        choices = types.Dropdown()
        for record in waiting:
            choices.add_choice(record["run"], label=record["name"])
        if named is not None and named not in choices.values():
            choices.add_choice(named, label=named)  # so that the refusal says what became of it
        inputs.enum(
            "run", choices.values(), label="Run", required=True, default=choices.values()[0], view=choices
        )
        inputs.str("reviewer", label="Your name", default=os.environ.get("VALFLOW_REVIEWER", ""))
        self.ask(ctx, inputs)
        return types.Property(inputs, view=types.View(label=self.label))

    def choices(self, ctx: Any) -> list[runs.Record]:
        """The runs that it can act on."""
        return _in_review(ctx)

    def ask(self, ctx: Any, inputs: types.Object) -> None:
        """What else the operator asks for."""

    def execute(self, ctx: Any) -> dict[str, Any]:
        """Do it, and tell what became of it; a refusal is an answer, not a crash."""
        try:
            with mirroring.answering():
                said = self.act(ctx, self._record(ctx), str(ctx.params.get("reviewer") or "").strip())
        except ValflowError as refusal:
            ctx.ops.notify(str(refusal), variant="error")
            return {"refused": str(refusal)}
        ctx.ops.notify(said, variant="success")
        ctx.ops.reload_dataset()
        return {"done": said}

    def act(self, ctx: Any, record: runs.Record, reviewer: str) -> str:
        """What the operator does; returns it in words."""
        raise NotImplementedError

    def _record(self, ctx: Any) -> runs.Record:
        run = ctx.params.get("run")
        if not run:
            raise RunNotFound(f"{self.nothing.lower()}: this dataset has {self.remedy}")
        return runs.load(run)


class _OnLabels(_OnRun):
    """An operator on the labels that are selected, or that a class and a range of confidence choose."""

    states: tuple[str, ...] = ()

    def ask(self, ctx: Any, inputs: types.Object) -> None:
        if ctx.selected or ctx.selected_labels:
            inputs.md(
                f"It acts on what is selected: {len(ctx.selected_labels or ctx.selected)}.", name="selected"
            )
            return
        inputs.str("class", label="Class (empty: all)")
        inputs.float("min_confidence", label="Least confidence", min=0, max=1, default=0.0)
        inputs.float("max_confidence", label="Greatest confidence", min=0, max=1, default=1.0)

    def selection(self, ctx: Any, record: runs.Record, reviewer: str) -> reviewing.Shown:
        """What is meant."""
        wanted = str(ctx.params.get("class") or "").strip()
        shown = reviewing.screen(
            self.states,
            [wanted] if wanted else [],
            float(ctx.params.get("min_confidence") or 0.0),
            float(1.0 if ctx.params.get("max_confidence") is None else ctx.params["max_confidence"]),
        )
        return reviewing.pointed_at(
            record["run"],
            shown,
            reviewer,
            labels=ctx.selected_labels or [],
            ids=ctx.selected or [],
            field=record["staging_field"],
        )


class ApproveLabels(_OnLabels):
    """Approve."""

    name_of_operator, label, icon = "approve_labels", "approve labels", "check"
    states = ("undecided",)

    def act(self, ctx: Any, record: runs.Record, reviewer: str) -> str:
        """See ``reviewing.approve``."""
        return reviewing.approve(record["run"], self.selection(ctx, record, reviewer), _named(reviewer))


class RejectLabels(_OnLabels):
    """Reject."""

    name_of_operator, label, icon = "reject_labels", "reject labels", "close"
    states = ("undecided",)

    def act(self, ctx: Any, record: runs.Record, reviewer: str) -> str:
        """See ``reviewing.reject``."""
        return reviewing.reject(record["run"], self.selection(ctx, record, reviewer), _named(reviewer))


class TagLabels(_OnLabels):
    """Tag as a problem."""

    name_of_operator, label, icon = "tag_labels", "tag labels as a problem", "label"

    def ask(self, ctx: Any, inputs: types.Object) -> None:
        """Which tag, and why."""
        view = types.AutocompleteView()
        for name in PROBLEM_TAGS:
            view.add_choice(name, label=name)
        inputs.str("tag", label="Tag (or one of your own)", required=True, view=view)
        inputs.str("note", label="Note (optional)")
        super().ask(ctx, inputs)

    def act(self, ctx: Any, record: runs.Record, reviewer: str) -> str:
        """See ``actions.tag``."""
        chosen, name = self.selection(ctx, record, reviewer), str(ctx.params.get("tag") or "").strip()
        done = actions.tag(record["run"], name, chosen, _named(reviewer), ctx.params.get("note") or None)
        return f"{reviewing.in_words(done.changed)} tagged {name}"


class UndoAction(_OnRun):
    """Undo."""

    name_of_operator, label, icon = "undo_action", "undo my last action", "undo"

    def act(self, ctx: Any, record: runs.Record, reviewer: str) -> str:
        """See ``undoing.undo``."""
        done = undoing.undo(record["run"], _named(reviewer), own=True)
        return f"{reviewing.in_words(done.changed)} as before"


class FinalizeLabels(_OnRun):
    """Confirm the approved labels."""

    name_of_operator, label, icon = "finalize_labels", "finalize labels", "verified"

    def resolve_input(self, ctx: Any) -> types.Property:
        """The dialog; it shows one approval set, and confirms no other."""
        preview, digest = ctx.params.get("preview") or {}, ctx.params.get("digest")
        if not digest:
            run, reviewer = ctx.params.get("run"), str(ctx.params.get("reviewer") or "").strip()
            if not run or not reviewer:
                return super().resolve_input(ctx)
            try:
                preview = plain(decisions.preview(run, reviewer))
            except ValflowError as refusal:
                return _impossible(str(refusal))
            # Shown, not set: a call without the digest of what it saw confirms nothing.
            digest = preview["digest"]
        inputs = types.Object()
        for name, value in (("run", None), ("reviewer", None), ("digest", digest)):
            inputs.str(name, default=value or ctx.params.get(name), view=types.HiddenView())
        inputs.obj("preview", default=preview, view=types.HiddenView())
        inputs.md(_dialog(preview, ctx.params.get("reviewer")), name="numbers")
        if preview.get("missing"):
            inputs.view(
                "missing",
                types.Warning(label="Evidence is missing", description=" · ".join(preview["missing"])),
            )
            inputs.str("override", label="Why to finalize all the same (required)", required=True)
        inputs.str("note", label="Note, kept with the run (optional)")
        view = types.PromptView(
            label="Finalize Labels", submit_button_label="Confirm", cancel_button_label="Cancel"
        )
        return types.Property(inputs, view=view)

    def act(self, ctx: Any, record: runs.Record, reviewer: str) -> str:
        """Decide, and let the pipeline go on."""
        decision = decisions.Decision(
            "finalize",
            reviewer,
            note=ctx.params.get("note") or None,
            override=ctx.params.get("override") or None,
            digest=ctx.params.get("digest") or None,
            via="app",
        )
        if decision.digest is None:
            raise DecisionRefused(
                "a decision here needs the digest of the approval set that you saw; open the dialog again"
            )
        decided = decisions.submit(record["run"], decision)
        return resuming.resume_decided(decided).message


class RollBackRun(_OnRun):
    """Take a finished run back."""

    name_of_operator, label, icon = "roll_back_run", "roll back a run", "settings_backup_restore"
    nothing = "No run is final"
    remedy = "no labeling run whose labels are final, and none that was rolled back."

    def choices(self, ctx: Any) -> list[runs.Record]:
        """Those that are through."""
        return rolling.runs_that_are_through(ctx)

    def resolve_input(self, ctx: Any) -> types.Property:
        """The dialog."""
        return rolling.dialog(ctx.params) if ctx.params.get("run") else super().resolve_input(ctx)

    def act(self, ctx: Any, record: runs.Record, reviewer: str) -> str:
        """See ``rolling_back.roll_back``."""
        return rolling.carry_out(ctx.params, record["run"], reviewer)


class NewRun(foo.Operator):
    """Start a labeling run."""

    @property
    def config(self) -> foo.OperatorConfig:
        """See FiftyOne."""
        return foo.OperatorConfig(name="new_run", label="valflow: new run", icon="add", dynamic=True)

    def resolve_input(self, ctx: Any) -> types.Property:
        """The form; problems of its fields are shown as they appear, those of the model when it is sent."""
        inputs, given = types.Object(), ctx.params
        inputs.enum(
            "target",
            list(new_runs.TARGETS),
            label="What to label",
            default=given.get("target") or ("selection" if ctx.selected else "new"),
            view=_choices(new_runs.TARGETS),
        )
        inputs.str(
            "model",
            required=True,
            default=given.get("model"),
            label="Model",
            description="zoo:NAME, huggingface:ID, ultralytics:WEIGHTS, module:Class, or a field of predictions",
        )
        inputs.str(
            "label_field",
            required=True,
            default=given.get("label_field"),
            label="Label field",
            description="new, or made by valflow before",
        )
        inputs.str(
            "classes",
            default=given.get("classes"),
            label="Classes",
            description="separated by commas; empty keeps all",
        )
        least = given.get("min_confidence")
        inputs.float(
            "min_confidence",
            label="Least confidence to keep",
            default=0.15 if least is None else least,
            min=0,
            max=1,
        )
        inputs.str("name", default=given.get("name"), label="Name of the run")
        problem = _problem(ctx)
        if problem is not None:
            inputs.view("problem", types.Error(label="This cannot run", description=problem))
        return types.Property(inputs, view=types.View(label="New run"))

    def execute(self, ctx: Any) -> dict[str, Any]:
        """Start it through Prefect, or say how to start it without."""
        try:
            ids = ctx.view.values("id") if ctx.params.get("target") == "view" else []
            config = new_runs.config_from_form(ctx.dataset.name, ctx.params, ids, ctx.selected or [])
            started = new_runs.start(config)
        except ValflowError as refusal:
            ctx.ops.notify(_why(refusal), variant="error")
            return {"refused": _why(refusal)}
        ctx.ops.notify(started.message, variant="success" if started.flow_run else "warning")
        return {"flow_run": started.flow_run, "said": started.message}


def _problem(ctx: Any) -> str | None:
    """What is wrong with the form as far as it is filled in; None where nothing is, or too little is there to say."""
    if not ctx.params.get("model") or not ctx.params.get("label_field") or ctx.dataset is None:
        return None
    try:
        new_runs.config_from_form(ctx.dataset.name, {**ctx.params, "target": "all"})
    except ConfigError as wrong:
        return _why(wrong)
    return None


def _why(refusal: ValflowError) -> str:
    """A refusal for a line or two of the App."""
    return "; ".join(refusal.problems) if isinstance(refusal, ConfigError) else str(refusal)


def _choices(labels: dict[str, str]) -> types.RadioGroup:
    view = types.RadioGroup()
    for value, label in labels.items():
        view.add_choice(value, label=label)
    return view


def _in_review(ctx: Any) -> list[runs.Record]:
    found = runs.list_runs(ctx.dataset.name) if ctx.dataset is not None else []
    return [r for r in found if r["state"] == State.IN_REVIEW.value]


def plain(preview: decisions.Preview) -> dict[str, Any]:
    """A preview as the dialog needs it; nobody types commands there."""
    values = {k: v for k, v in asdict(preview).items() if k not in ("class_table", "checklist")}
    return values | {"missing": preview.missing and checklist.missing(preview.checklist, told="found")}


def _impossible(why: str) -> types.Property:
    inputs = types.Object()
    inputs.view("refused", types.Error(label="It cannot be finalized", description=why))
    return types.Property(inputs, view=types.View(label="Finalize Labels"))


def _named(reviewer: str) -> str:
    if not reviewer:
        raise SelectionError("who does this? Give your name")
    return reviewer


def _dialog(preview: dict[str, Any], reviewer: Any) -> str:
    sources = ", ".join(f"{n:,} {source}" for source, n in preview.get("by_source", {}).items())
    rows = {
        "Labels to be added": f"**{layout.number(preview.get('labels'))}** ({sources})",
        "Samples affected": f"**{layout.number(preview.get('samples'))}**",
        "Label field": layout.code(preview.get("label_field")),
        "To be discarded": f"{layout.number(preview.get('undecided'))} undecided, "
        f"{layout.number(preview.get('rejected'))} rejected",
        **({"Problem tags on them": _tagged(preview)} if preview.get("tagged") else {}),
        "Decided by": markdown_text(str(reviewer)),
        "Digest": layout.code(str(preview.get("digest"))[:12]),
    }
    head, *lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join([head, "|---|---|", *lines])


def _tagged(preview: dict[str, Any]) -> str:
    return ", ".join(f"{layout.number(n)} {markdown_text(name)}" for name, n in preview["tagged"].items())


OPERATORS = (NewRun, ApproveLabels, RejectLabels, UndoAction, TagLabels, FinalizeLabels, RollBackRun)
