"""The grammar of the command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

from valflow import __version__
from valflow.cli import (
    evidence,
    labels,
    lifecycle,
    notifying,
    operations,
    reviewing,
    rollbacks,
    several,
    views,
)

# Makes a command of a name, what it calls, and a summary.
Add = Callable[[str, Callable[..., Any], str], argparse.ArgumentParser]

RUN_HELP = "key of a run, or `latest`"


def build_parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    parser = argparse.ArgumentParser(
        prog="valflow",
        description="Verified auto-labeling of FiftyOne datasets: infer, review, validate, finalize, export.",
        epilog="Exit codes: 0 done, awaiting review, or skipped; 1 the run failed or was refused; 2 bad input.",
    )
    parser.add_argument("--version", action="version", version=f"valflow {__version__}")
    commands = parser.add_subparsers(dest="name", metavar="COMMAND", required=True)

    def add(name: str, command: Callable[..., Any], summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        sub.set_defaults(command=command)
        sub.add_argument(
            "--json", action="store_true", help="print one JSON document; everything else goes to stderr"
        )
        sub.add_argument("--debug", action="store_true", help="show tracebacks")
        return sub

    _add_starting(add)
    _add_looking(add)
    _add_reviewing(add)
    _add_ending(add)
    _add_afterwards(add)
    _add_by_the_clock(add)
    return parser


def _add_starting(add: Add) -> None:
    """Configuration and first run."""
    init = add("init", operations.init, "write a commented configuration from a dataset")
    init.add_argument("dataset")
    init.add_argument("--output", "-o", default="valflow.yaml", help="file to write (default: %(default)s)")
    init.add_argument("--force", action="store_true", help="replace the file if it is there")

    run = add("run", lifecycle.run, "run a configuration until it awaits review")
    run.add_argument("config", metavar="CONFIG", help="YAML file")
    _start(run)

    merge = add(
        "merge", several.merge, "make one run of what several runs have found, and take it to its review"
    )
    _runs_together(merge)
    merge.add_argument("--into", metavar="FIELD", required=True, help="label field of the new run")
    merge.add_argument(
        "--strategy",
        choices=("agreement", "best", "union"),
        default="agreement",
        help="agreement: objects that all runs found, or --votes of them; union: each object once; best: per class "
        "the run with the highest F1 (default: %(default)s)",
    )
    merge.add_argument("--votes", type=int, metavar="N", help="runs that must have found an object")
    merge.add_argument(
        "--ground-truth",
        metavar="FIELD",
        help="of true labels, for best (default: what all runs are evaluated against)",
    )
    _start(merge)

    plan = add("plan", evidence.plan, "tell how many labels a person will have to look at")
    plan.add_argument("config", metavar="CONFIG", help="YAML file")
    plan.add_argument("--labels", type=int, metavar="N", help="labels in the batch (default: estimated)")
    plan.add_argument("--picture", metavar="FILE.png", help="draw the plan, too")
    plan.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting (repeatable)"
    )


def _add_looking(add: Add) -> None:
    """What only looks."""
    runs = add("runs", views.runs, "list runs, latest first")
    runs.add_argument("--dataset")
    runs.add_argument("--limit", type=int, default=20)
    _run(add("show", views.show, "show a run"))

    compare = add("compare", several.compare, "show runs of different models side by side")
    _runs_together(compare)
    compare.add_argument(
        "--ground-truth",
        metavar="FIELD",
        help="of true labels (default: what the runs are evaluated against)",
    )
    compare.add_argument("--picture", metavar="FILE.png", help="draw the comparison, too")

    queue = add("queue", views.queue, "list what is left to review, the least certain labels first")
    _run(queue)
    queue.add_argument("--limit", type=int, default=20, help="labels to list (default: %(default)s)")


def _add_reviewing(add: Add) -> None:
    """Deciding about labels."""
    for name, command, summary in (
        ("approve", labels.approve, "approve labels"),
        ("reject", labels.reject, "reject labels"),
    ):
        sub = add(name, command, summary)
        _run(sub)
        _selection(sub)
        _reviewer(sub)

    undo = add("undo", labels.undo, "take back the last action")
    _run(undo)
    _reviewer(undo)
    undo.add_argument(
        "--class",
        dest="classes",
        action="append",
        default=[],
        metavar="C",
        help="put a class back to undecided (repeatable)",
    )
    undo.add_argument(
        "--all", action="store_true", help="put every label back to undecided, the policy's approvals too"
    )

    tag = add("tag", labels.tag, "tag labels as a problem")
    _run(tag)
    tag.add_argument(
        "tag",
        metavar="TAG",
        help="needs_correction, false_positive, wrong_class, poor_bbox, missing_object, low_confidence, "
        "ambiguous, or your own",
    )
    tag.add_argument("--note", help="an observation; it appears in the report under the classes")
    _selection(tag)
    _reviewer(tag)

    audit = add("audit", labels.audit, "draw a random sample of approved labels and judge it")
    _run(audit)
    _reviewer(audit)
    audit.add_argument(
        "--completeness", action="store_true", help="judge whether objects are missing on whole images"
    )
    audit.add_argument("--size", type=int, help="labels to draw (default: enough to bound 5 %% at 95 %%)")
    audit.add_argument("--seed", type=int, help="makes the draw repeatable")
    audit.add_argument(
        "--verdicts", metavar="FILE.csv", help="columns number,verdict; `-` reads standard input"
    )
    audit.add_argument(
        "--sheet", metavar="FILE.png", help="where to draw the contact sheet (default: beside the report)"
    )
    audit.add_argument("--no-prompt", action="store_true", help="draw only, ask nothing")

    review = add("review", reviewing.review, "open a run in the FiftyOne App, with its panel")
    _run(review)
    review.add_argument(
        "--reviewer", default=os.environ.get("VALFLOW_REVIEWER"), help="your name, for the panel"
    )
    review.add_argument(
        "--port", type=int, help="start an App server of your own there (default: the one of `valflow up`)"
    )
    review.add_argument(
        "--address",
        default="127.0.0.1",
        help="what your own App server binds to; it has no login (default: %(default)s)",
    )
    review.add_argument("--no-browser", action="store_true", help="print the address, open nothing")


def _add_ending(add: Add) -> None:
    """Deciding about runs."""
    finalize = add("finalize", lifecycle.finalize, "confirm the approved labels and finish the run")
    _run(finalize)
    _reviewer(finalize)
    confirm = finalize.add_mutually_exclusive_group()
    confirm.add_argument("--yes", action="store_true", help="confirm without asking")
    confirm.add_argument("--digest", help="confirm exactly the approval set with this digest")
    confirm.add_argument(
        "--preview", action="store_true", help="show what would be finalized, decide nothing"
    )
    finalize.add_argument("--override", metavar="REASON", help="finalize although evidence is missing")
    finalize.add_argument("--note", help="kept with the run")
    finalize.add_argument("--no-wait", action="store_true", help="do not wait for the end of a deployed run")

    discard = add("discard", lifecycle.discard, "end a run without labels")
    _run(discard)
    _reviewer(discard)
    discard.add_argument("--note", help="why")
    discard.add_argument(
        "--override", metavar="REASON", help="discard although somebody has decided to finalize"
    )
    discard.add_argument("--yes", action="store_true", help="do not ask")

    rollback = add("rollback", rollbacks.rollback, "take the labels of a finalized run out again")
    _run(rollback)
    _reviewer(rollback)
    confirm = rollback.add_mutually_exclusive_group()
    confirm.add_argument("--yes", action="store_true", help="confirm without asking")
    confirm.add_argument("--digest", help="confirm exactly the labels with this digest")
    confirm.add_argument("--preview", action="store_true", help="show what would be removed, change nothing")
    rollback.add_argument(
        "--including-edited", action="store_true", help="also labels that somebody has edited since"
    )
    back = rollback.add_mutually_exclusive_group()
    back.add_argument(
        "--reopen", action="store_true", help="bring the run back into review, as it was before the decision"
    )
    back.add_argument(
        "--from-copy",
        nargs="?",
        const="latest",
        metavar="COPY",
        help="bring back what is missing of a safety copy (default: the latest one that fits); "
        "of a run that was rolled back: take that back",
    )
    rollback.add_argument(
        "--exactly", action="store_true", help="with --from-copy: undo what was added or changed since, too"
    )
    rollback.add_argument("--note", help="why; kept with the run")


def _add_afterwards(add: Add) -> None:
    """What becomes of a finished run."""
    _run(add("report", operations.report, "write the report of a run as it stands now"))
    export = add("export", operations.export, "export the finalized labels of a run")
    _run(export)
    export.add_argument(
        "--format", default="coco", help="coco, yolov5, voc, cvat, fiftyone, … (default: %(default)s)"
    )
    export.add_argument(
        "--dir", default="exports", help="folder; the run's key is appended (default: %(default)s)"
    )
    export.add_argument(
        "--scope", choices=("run", "field"), default="run", help="this run's labels, or the whole field"
    )
    export.add_argument(
        "--media",
        choices=("copy", "symlink", "none"),
        default="copy",
        help="copy or link the images, or leave them out (default: %(default)s)",
    )
    why = add("why", views.why, "tell why a label is there")
    why.add_argument("label", metavar="LABEL_ID")

    calibration = add("calibration", evidence.calibration, "list what past audits say about models")
    calibration.add_argument(
        "--export", metavar="FILE.csv", help="write every verdict with its draw; `-` for standard output"
    )
    calibration.add_argument("--fingerprint", metavar="START", help="only the fingerprint that begins so")
    calibration.add_argument(
        "--forget", metavar="START", help="leave the verdicts of this fingerprint out of future scores"
    )
    calibration.add_argument("--yes", action="store_true", help="do not ask")
    _reviewer(calibration)


def _add_by_the_clock(add: Add) -> None:
    """Schedules, messages, servers."""
    schedule = add("schedule", operations.schedule, "run a configuration by the clock")
    schedule.add_argument(
        "config", metavar="CONFIG", nargs="?", help="YAML file; without it, schedules are listed"
    )
    schedule.add_argument("--cron", help='five fields, such as "0 2 * * *"')
    schedule.add_argument(
        "--timezone", default="UTC", help="IANA name, such as Europe/Berlin (default: %(default)s)"
    )
    schedule.add_argument("--name", help="of the schedule (default: the file's name)")
    schedule.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting (repeatable)"
    )
    unschedule = add("unschedule", operations.unschedule, "take a schedule away")
    unschedule.add_argument("schedule", metavar="NAME")

    notify = add("notify", notifying.notify, "send messages about runs to a chat, by mail or to a webhook")
    notify.add_argument(
        "block",
        metavar="BLOCK",
        nargs="?",
        help="notification block of Prefect, by name or type/name; without it, what is told is listed",
    )
    notify.add_argument("--webhook", metavar="URL", help="send JSON with subject and text to this address")
    notify.add_argument(
        "--on",
        metavar="EVENTS",
        help="of waiting, failed, finalized, discarded, with commas (default: waiting,failed,finalized)",
    )
    notify.add_argument("--remove", action="store_true", help="tell this block no more; without one, nobody")

    up = add("up", operations.up, "start server, worker and App, and keep them running")
    up.add_argument("--no-app", action="store_true", help="without the FiftyOne App")
    up.add_argument(
        "--database", choices=("own", "default"), help="own: a MongoDB in .valflow/; default: FiftyOne's"
    )
    up.add_argument(
        "--secure",
        action=argparse.BooleanOptionalAction,
        help="Prefect and App ask for the login in .valflow/login (default: as the last time)",
    )
    up.add_argument("--new-secret", action="store_true", help="with a new secret; implies --secure")
    up.add_argument("--port", type=int, help="of the FiftyOne App (default: 5151, or a free one)")
    up.add_argument("--prefect-port", type=int, help="of the Prefect server (default: 4200, or a free one)")

    doctor = add("doctor", operations.doctor, "check database, Prefect, versions, ports and folders")
    doctor.add_argument("--config", metavar="CONFIG", help="check the model of this configuration too")
    doctor.add_argument("--fix", action="store_true", help="continue the runs whose process died")


def _run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help=RUN_HELP)


def _start(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting (repeatable)"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--deploy", action="store_true", help="trigger the deployment instead of working in this process"
    )
    where.add_argument("--dry-run", action="store_true", help="print the plan, write nothing")


def _runs_together(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", help="keys of two runs or more, of one dataset")
    parser.add_argument(
        "--labels",
        choices=("predicted", "approved"),
        default="predicted",
        help="predicted: all but what was rejected; approved: as decided (default: %(default)s)",
    )
    parser.add_argument(
        "--iou",
        type=float,
        default=0.5,
        metavar="X",
        help="least overlap of labels that mean the same object (default: %(default)s)",
    )


def _reviewer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reviewer", default=os.environ.get("VALFLOW_REVIEWER"), help="your name (default: VALFLOW_REVIEWER)"
    )


def _selection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("selection (conditions are joined by and)")
    group.add_argument(
        "--class", dest="classes", action="append", default=[], metavar="C", help="class (repeatable)"
    )
    group.add_argument("--min-confidence", type=float, metavar="X", help="at least this confidence")
    group.add_argument("--max-confidence", type=float, metavar="X", help="at most this confidence")
    group.add_argument(
        "--label", dest="label_ids", action="append", default=[], metavar="ID", help="label id (repeatable)"
    )
    group.add_argument(
        "--sample",
        dest="sample_ids",
        action="append",
        default=[],
        metavar="ID",
        help="sample id (repeatable)",
    )
    group.add_argument("--all", action="store_true", help="every label")
