"""Commands of a reviewer: approve, reject, undo, tag, audit."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from valflow.cli.result import Result, reviewer_of
from valflow.errors import AuditError
from valflow.markup import for_terminal


def approve(options: Any) -> Result:
    """`valflow approve`."""
    from valflow import actions

    return _decided(actions.approve(_key(options), _selection(options), reviewer_of(options)), "approved")


def reject(options: Any) -> Result:
    """`valflow reject`."""
    from valflow import actions

    return _decided(actions.reject(_key(options), _selection(options), reviewer_of(options)), "rejected")


def undo(options: Any) -> Result:
    """`valflow undo`."""
    from valflow import actions, undoing

    run, reviewer = _key(options), reviewer_of(options)
    if options.all or options.classes:
        return _decided(actions.reset(run, reviewer, options.classes), "put back to undecided")
    return _decided(undoing.undo(run, reviewer), "as they were before")


def tag(options: Any) -> Result:
    """`valflow tag`."""
    from valflow import actions

    done = actions.tag(_key(options), options.tag, _selection(options), reviewer_of(options), options.note)
    return _decided(done, f"tagged {options.tag}")


def audit(options: Any) -> Result:
    """`valflow audit`: draw where nothing is drawn, then take verdicts."""
    if options.completeness:
        return _audit_images(options)
    from valflow import audits, certificates, certifying, runs
    from valflow.certify import VERDICTS

    run, reviewer = _key(options), reviewer_of(options)
    record = certifying.conclude(run)
    current = audits.latest(run)
    drawn_now = audits.needs_draw(record, current)
    if current is None or drawn_now:
        verdicts = _read_verdicts(options.verdicts) if options.verdicts else None
        if verdicts:
            raise AuditError(
                "there are verdicts, but no current draw they could belong to; draw first, then judge"
            )
        current = audits.draw(run, reviewer, size=options.size, seed=options.seed)
    elif options.size or options.seed is not None:
        raise AuditError(
            "the current draw covers everything that is approved; a new one is made only after new approvals"
        )
    sheet = _draw_sheet(record, current, options.sheet)
    if options.verdicts:
        current = audits.judge(run, _read_verdicts(options.verdicts), reviewer)
    elif not options.no_prompt and not options.json and sys.stdin.isatty():
        current = _ask(record, current, reviewer, sheet)
    summary = audits.summary(current)
    lines = [
        f"{'drew' if drawn_now else 'the draw has'} {summary['drawn']} of {summary['population']} "
        f"{audits.population_in_words(current)} (seed {summary['seed']})",
        f"contact sheet: {sheet}",
        audits.sentence(summary),
    ]
    if current["kind"] == audits.CERTIFICATE:
        lines += certificates.sentences(runs.load(run)["certificate"])
    if summary["judged"] < summary["drawn"]:
        lines.append(
            f"judge with: valflow audit {run} --verdicts FILE.csv   (columns number,verdict; "
            f"verdicts: {', '.join(VERDICTS)})"
        )
    return Result(
        "\n".join(lines),
        {
            "run": run,
            "sheet": str(sheet),
            **runs.as_json(summary),
            "sentence": audits.sentence(summary),
            "items": runs.as_json(current["items"]),
        },
    )


def _audit_images(options: Any) -> Result:
    """`valflow audit --completeness`: are objects missing on the images that were drawn?"""
    from valflow import completeness, runs
    from valflow.audit_sheet import draw_image_sheet

    if options.size or options.seed is not None:
        raise AuditError("the images were drawn when the review opened; --size and --seed cannot change them")
    run, reviewer = _key(options), reviewer_of(options)
    record, current = runs.load(run), completeness.current(run)
    sheet = draw_image_sheet(record, current, Path(options.sheet) if options.sheet else None)
    if options.verdicts:
        current = completeness.judge(run, _read_verdicts(options.verdicts), reviewer)
    elif not options.no_prompt and not options.json and sys.stdin.isatty():
        current = completeness.judge(run, _ask_about_images(current, sheet), reviewer)
    summary = completeness.summary(current)
    lines = [
        f"{summary['drawn']} of {summary['population']} images were drawn (seed {summary['seed']})",
        f"contact sheet: {sheet}",
        summary["sentence"],
    ]
    if summary["judged"] < summary["drawn"]:
        lines.append(
            f"judge with: valflow audit {run} --completeness --verdicts FILE.csv   (columns number,verdict; "
            f"verdicts: {', '.join(completeness.VERDICTS)})"
        )
    document = {
        "run": run,
        "sheet": str(sheet),
        **runs.as_json(summary),
        "items": runs.as_json(current["items"]),
    }
    return Result("\n".join(lines), document)


def _ask_about_images(current: dict[str, Any], sheet: Path) -> dict[int, str]:
    from valflow.completeness import COMPLETE, VERDICTS

    print(
        f"Look at {sheet}: is any object missing? Enter means complete, q stops (the rest can follow later)."
    )
    waiting = [(i["number"], "") for i in current["items"] if i["verdict"] is None]
    return _ask_each(waiting, VERDICTS, COMPLETE)


def _key(options: Any) -> str:
    from valflow import runs

    key: str = runs.load(options.run)["run"]
    return key


def _selection(options: Any) -> Any:
    from valflow.selections import Selection

    return Selection(
        classes=tuple(options.classes),
        min_confidence=options.min_confidence,
        max_confidence=options.max_confidence,
        label_ids=tuple(options.label_ids),
        sample_ids=tuple(options.sample_ids),
        all=options.all,
    )


def _decided(done: Any, what: str) -> Result:
    left = "".join(f"; {n} {why}" for why, n in done.left.items())
    # An undo cannot be undone: the next one takes back the action before.
    back = "" if done.event == "undo" else f"; `valflow undo {done.run}` takes it back"
    noun = "label" if done.changed == 1 else "labels"
    return Result(
        f"{done.changed} {noun} {what}{left} (action {done.seq}{back})",
        {
            "run": done.run,
            "action": done.seq,
            "event": done.event,
            "changed": done.changed,
            "left": done.left,
        },
    )


def _read_verdicts(file: str) -> dict[int, str]:
    try:
        lines = (
            sys.stdin.read().splitlines()
            if file == "-"
            else Path(file).read_text(encoding="utf-8-sig").splitlines()
        )
    except (OSError, UnicodeDecodeError) as error:
        raise AuditError(f"cannot read the verdicts: {error}") from None
    rows = list(csv.DictReader(lines))
    if not rows or not {"number", "verdict"} <= set(rows[0]):
        raise AuditError(f"{file}: expected CSV with the columns number,verdict; found {lines[:1]}")
    verdicts = {}
    for line, row in enumerate(rows, 2):
        try:
            verdicts[int(row["number"])] = (row["verdict"] or "").strip()
        except (TypeError, ValueError):
            raise AuditError(f"{file}, line {line}: expected a number, found {row['number']!r}") from None
    return verdicts


def _draw_sheet(record: dict[str, Any], current: dict[str, Any], path: str | None) -> Path:
    from valflow.audit_sheet import draw_sheet

    return draw_sheet(record, current, Path(path) if path else None)


def _ask(record: dict[str, Any], current: dict[str, Any], reviewer: str, sheet: Path) -> dict[str, Any]:
    from valflow import audits
    from valflow.certify import CORRECT

    print(f"Look at {sheet} and judge each number; Enter means correct, q stops (the rest can follow later).")
    items = audits.items_with_labels(record, current)
    waiting = [(i["number"], i["label"]["label"]) for i in items if i["verdict"] is None]
    known = audits.verdicts_of(record)
    return audits.judge(record["run"], _ask_each(waiting, known, CORRECT), reviewer)


def _ask_each(waiting: list[tuple[int, str]], known: Sequence[str], usual: str) -> dict[int, str]:
    """A verdict per number from the terminal, until `q`; Enter means the usual one."""
    letters = {v[0]: v for v in known}
    print("  " + ", ".join(f"{k}: {v}" for k, v in letters.items()))
    verdicts: dict[int, str] = {}
    for number, name in waiting:
        answer = input(f"{number:>4}  {for_terminal(name)}: ").strip().lower()
        if answer == "q":
            break
        verdict = letters.get(answer[:1], answer) if answer else usual
        while verdict not in known:
            answer = input(f"      expected one of {', '.join(known)}: ").strip().lower()
            verdict = letters.get(answer[:1], answer) if answer else usual
        verdicts[number] = verdict
    return verdicts
