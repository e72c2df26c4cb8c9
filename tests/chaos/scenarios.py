"""What happens in a run, step by step: each step is one start of the flow, or one thing that a person does.

A step that died is done again by the same hand. People look first: a step is left out where it shows as done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bson import ObjectId

from tests.chaos.walking import decide, walk
from valflow import actions, app_edits, audits, completeness, database, decisions, rolling_back, runs, undoing
from valflow.config import LabelingConfig, config_from_mapping
from valflow.errors import SelectionError
from valflow.selections import Selection

RUN = "digits_run"
DATASET = "chaos-digits"
STAGING = "auto_in_review"
DRAWN = ObjectId("5f00000000000000000000aa")
WATCHED = "by_a_person"

Enter = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """One process: ``do`` runs in it. ``stage`` names it, but for the flow, which tells its stages itself."""

    name: str
    stage: str
    do: Callable[[Enter], None]


@dataclass(frozen=True)
class Scenario:
    """A history: ``prepare`` makes what is there before."""

    name: str
    prepare: Callable[[Path], None]
    steps: Sequence[Step]


def digits_config(folder: Path, **changes: Any) -> LabelingConfig:
    """The configuration of the demo, with all that can be asked of a person."""
    return config_from_mapping(
        {
            "dataset": DATASET,
            "label_field": "auto",
            "run_key": RUN,
            "model": {"kind": "python", "path": "examples.digits.model:DigitDetector"},
            "min_confidence": 0.15,
            "batch_size": 4,
            "shard_size": 6,
            "classes": list("0123456789"),
            "approval": {"mode": "fixed", "threshold": 0.8, "per_class": {"1": 0.9, "8": 0.9}},
            "review": {
                "checklist": ["problems", "spot_check", "thresholds", "issues", "completeness"],
                "completeness": {"images": 4},
            },
            "evaluation": {"ground_truth": "ground_truth", "iou": 0.5, "eval_key": "val_eval"},
            "export": [{"format": "coco", "dir": str(folder / "exports"), "scope": "run"}],
            "output_dir": str(folder / "runs"),
            **changes,
        }
    )


def make_digits(folder: Path) -> None:
    """Twelve sheets with digits; labels and tags of a person, which nothing may touch."""
    import fiftyone as fo

    from examples.digits.scenes import build_dataset

    dataset = build_dataset(DATASET, folder / "scenes", 12)
    for number, sample in enumerate(dataset.iter_samples(autosave=True)):
        sample.tags = ["seen"] if number % 2 else []
        sample[WATCHED] = fo.Detections(
            detections=[fo.Detection(label="mine", bounding_box=[0.1, 0.1, 0.2, 0.2], tags=["keep"])]
        )


# -- what people do


def _entries(**wanted: Any) -> list[dict[str, Any]]:
    found = database.ledger().find({"run": RUN}).sort("sample_id", 1)
    return [
        {**entry, "sample_id": d["sample_id"]}
        for d in found
        for entry in d.get("labels", [])
        if all(entry[k] == v for k, v in wanted.items())
    ]


def _again(act: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Do it; where nothing is left to do, it was done before."""
    with suppress(SelectionError):
        act(RUN, *arguments, **options)


def _approve(_: Enter) -> None:
    _again(actions.approve, Selection(classes=("3", "5"), min_confidence=0.6), "ann")


def _reject(_: Enter) -> None:
    _again(actions.reject, Selection(max_confidence=0.3), "ann")


def _tag(_: Enter) -> None:
    note = "thin strokes are taken for ones"
    _again(actions.tag, "false_positive", Selection(classes=("1",), max_confidence=0.3), "bob", note)


def _undecided(number: int) -> dict[str, Any]:
    """The n-th label that the policy left to people, of those that nobody rejects by their confidence."""
    open_labels = [e for e in _entries() if e["label"] not in "35" and 0.4 < (e["confidence"] or 0) < 0.8]
    return open_labels[number]


def _correct(_: Enter) -> None:
    """As in the App: the class of a label changed on its sample."""
    _set_class(_undecided(0), "unicorn")


def _set_class(entry: dict[str, Any], name: str) -> None:
    dataset = database.dataset_of(runs.load(RUN))
    sample = dataset[str(entry["sample_id"])]
    next(d for d in sample[STAGING].detections if d.id == str(entry["_id"])).label = name
    sample.save()


def _approve_corrected(_: Enter) -> None:
    _again(actions.approve, Selection(label_ids=(str(_undecided(0)["_id"]),)), "carol")


def _draw_by_hand(_: Enter) -> None:
    import fiftyone as fo

    dataset = database.dataset_of(runs.load(RUN))
    sample = dataset[str(_undecided(1)["sample_id"])]
    if all(d.id != str(DRAWN) for d in sample[STAGING].detections):
        box = fo.Detection(label="7", bounding_box=[0.8, 0.8, 0.1, 0.1])
        box._id = DRAWN
        sample[STAGING].detections.append(box)
        sample.save()


def _tag_in_app(_: Enter) -> None:
    entry = _undecided(2)
    dataset = database.dataset_of(runs.load(RUN))
    sample = dataset[str(entry["sample_id"])]
    label = next(d for d in sample[STAGING].detections if d.id == str(entry["_id"]))
    if "approved" not in label.tags:
        label.tags.append("approved")
        sample.save()


def _look(_: Enter) -> None:
    app_edits.read_edits(RUN)


def _approve_in_error(_: Enter) -> None:
    if not database.actions().find_one({"run": RUN, "actor": "bob", "event": "undo"}):
        _again(actions.approve, Selection(classes=("1", "8")), "bob")


def _undo(_: Enter) -> None:
    """Until nothing is left of it: what died half-way and was given again counts as two actions."""
    while (last := undoing.last_undoable(RUN, "bob")) is not None and last["event"] == "approve":
        undoing.undo(RUN, "bob", own=True)


def _judge_images(_: Enter) -> None:
    audit = completeness.current(RUN)
    verdicts = {i["number"]: "incomplete" if i["number"] == 2 else "complete" for i in audit["items"]}
    completeness.judge(RUN, verdicts, "carol")


def _draw_audit(_: Enter) -> None:
    if audits.needs_draw(runs.load(RUN), audits.latest(RUN)):
        audits.draw(RUN, "bob", size=8, seed=7)


def _judge_audit(_: Enter) -> None:
    said = {1: "wrong_class", 2: "unsure"}
    audit = audits.latest(RUN)
    assert audit is not None
    audits.judge(RUN, {i["number"]: said.get(i["number"], "correct") for i in audit["items"]}, "bob")


def _decide(review_round: int, _: Enter) -> None:
    record = runs.load(RUN)
    if (record["state"], record["round"]) == ("IN_REVIEW", review_round):
        decide(RUN, "ann", digest=decisions.preview(RUN, "ann").digest, override="a test")


def _mend(_: Enter) -> None:
    _set_class(_undecided(0), "4")


def _edit_final(_: Enter) -> None:
    """A person changes a label after it became final."""
    dataset = database.dataset_of(runs.load(RUN))
    sample = dataset.exists("auto").first()
    sample.auto.detections[0].label = "9"
    sample.save()


def _roll_back(_: Enter) -> None:
    if runs.load(RUN)["state"] != "ROLLED_BACK":
        rolling_back.roll_back(RUN, "ann", note="a test")


def _take_back(rounds: int, wanted: dict[str, Any], _: Enter) -> None:
    """Roll back in another way; what is there says whether that was done already."""
    record = runs.load(RUN)
    if record["state"] in rolling_back.GOING:
        rolling_back.go_on(RUN)
    elif record["round"] == rounds and (record.get("rollback") or {}).get("note") != str(wanted):
        rolling_back.roll_back(RUN, "ann", note=str(wanted), **wanted)


def _lose_labels(_: Enter) -> None:
    """A slip of the hand: the label field of a sample is emptied."""
    dataset = database.dataset_of(runs.load(RUN))
    sample = dataset.exists("auto").last()
    if sample.auto.detections:
        sample.auto.detections = []
        sample.save()


def _discard(_: Enter) -> None:
    if runs.load(RUN)["state"] != "DISCARDED":
        decisions.submit(RUN, decisions.Decision("discard", "ann", "not worth it"))


def scenarios(folder: Path) -> list[Scenario]:
    """All histories; files go to ``folder``."""
    config = digits_config(folder)

    def flow(enter: Enter) -> None:
        walk(config, enter)

    review = [
        Step("label", "", flow),
        Step("approve by class", "review", _approve),
        Step("reject by confidence", "review", _reject),
        Step("tag a problem", "review", _tag),
        Step("correct a label in the App", "review", _correct),
        Step("approve it", "review", _approve_corrected),
        Step("draw a box in the App", "review", _draw_by_hand),
        Step("tag as approved in the App", "review", _tag_in_app),
        Step("look", "review", _look),
        Step("approve in error", "review", _approve_in_error),
        Step("undo", "review", _undo),
        Step("judge images", "review", _judge_images),
        Step("draw a spot-check", "review", _draw_audit),
        Step("judge it", "review", _judge_audit),
    ]
    final = [
        Step("decide", "decide", partial(_decide, 1)),
        Step("be refused", "", flow),
        Step("mend", "review", _mend),
        Step("approve the mended", "review", _approve_corrected),
        Step("decide again", "decide", partial(_decide, 2)),
        Step("finish", "", flow),
    ]
    return [
        Scenario("finalized", make_digits, [*review, *final]),
        Scenario(
            "rolled back",
            make_digits,
            [
                Step("label", "", flow),
                Step("judge images", "review", _judge_images),
                Step("decide", "decide", partial(_decide, 1)),
                Step("finish", "", flow),
                Step("edit a final label", "review", _edit_final),
                Step("roll back", "rollback", _roll_back),
            ],
        ),
        Scenario(
            "reopened",
            make_digits,
            [
                Step("label", "", flow),
                Step("correct a label in the App", "review", _correct),
                Step("reject by confidence", "review", _reject),
                Step("judge images", "review", _judge_images),
                Step("mend", "review", _mend),
                Step("decide", "decide", partial(_decide, 1)),
                Step("finish", "", flow),
                Step("edit a final label", "review", _edit_final),
                Step(
                    "reopen",
                    "reopen",
                    partial(_take_back, 1, {"reopen": True, "including_edited": True}),
                ),
                Step("decide again", "decide", partial(_decide, 2)),
                Step("finish again", "", flow),
            ],
        ),
        Scenario(
            "brought back from copies",
            make_digits,
            [
                Step("label", "", flow),
                Step("judge images", "review", _judge_images),
                Step("decide", "decide", partial(_decide, 1)),
                Step("finish", "", flow),
                Step("roll back", "rollback", partial(_take_back, 1, {})),
                Step("take that back", "copy", partial(_take_back, 1, {"from_copy": "latest"})),
                Step("lose labels", "review", _lose_labels),
                Step(
                    "back to before the run",
                    "copy",
                    partial(_take_back, 1, {"from_copy": "latest", "exactly": True}),
                ),
            ],
        ),
        Scenario(
            "discarded",
            make_digits,
            [
                Step("label", "", flow),
                Step("tag a problem", "review", _tag),
                Step("discard", "discard", _discard),
            ],
        ),
    ]
