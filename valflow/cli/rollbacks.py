"""The command that takes a finalized run back."""

from __future__ import annotations

import sys
from typing import Any

from valflow.cli.asking import said_yes
from valflow.cli.result import Result, reviewer_of
from valflow.cli.views import document_of
from valflow.markup import for_terminal

_BY_DIGEST = "confirm with --yes, or with --digest D from `rollback --preview`"


def rollback(options: Any) -> Result:
    """`valflow rollback`: preview, confirm, take the labels out again, or bring them back."""
    from valflow import rolling_back, runs

    reviewer = reviewer_of(options)
    record = runs.load(options.run)
    if record["state"] in rolling_back.GOING:
        print(f"run {record['run']} was being taken back; going on from there", file=sys.stderr)
        return _done(rolling_back.roll_back(record["run"], reviewer))
    wanted = {"including_edited": options.including_edited, "reopen": options.reopen}
    preview = rolling_back.preview(record["run"], **wanted)
    if options.preview:
        return Result(_dialog(preview, record), _document(preview))
    digest = options.digest or (preview.digest if options.yes else None)
    if digest is None:
        print(for_terminal(_dialog(preview, record)), file=sys.stderr)
        if not said_yes(_question(preview), _BY_DIGEST):
            text = "not confirmed; nothing was changed"
            return Result(text, {"run": record["run"], "outcome": "not confirmed"}, 1)
        digest = preview.digest
    return _done(rolling_back.roll_back(record["run"], reviewer, digest=digest, note=options.note, **wanted))


def _question(preview: Any) -> str:
    if preview.to_review is not None:
        return "bring the run back into review?"
    return f"take these {preview.labels} labels out?"


def _done(record: dict[str, Any]) -> Result:
    from valflow.resuming import ask_again

    run, rollback = record["run"], record["rollback"]
    if record["state"] == "IN_REVIEW":
        counts = record["counts"]
        return Result(
            f"run {run} is in review again (round {record['round']}): {counts['approved']} approved, "
            f"{counts['rejected']} rejected, {counts['undecided']} undecided, as before the decision. "
            f"{ask_again(record)}",
            document_of(record),
        )
    left = f"; {rollback['left']} that were edited since stay" if rollback["left"] else ""
    return Result(
        f"run {run} is rolled back: {rollback['announced']} labels left "
        f"{record['dataset']}.{record['label_field']}{left}. They stay in the ledger, and in `valflow why`",
        document_of(record),
    )


def _dialog(preview: Any, record: dict[str, Any]) -> str:
    lines = [
        "Roll back",
        f"  labels to be removed  {preview.labels}",
        f"  samples affected      {preview.samples}",
        f"  label field           {record['dataset']}.{preview.label_field}",
        f"  edited since          {len(preview.edited)}" + _listed(preview),
        f"  gone already          {preview.gone}",
    ]
    if preview.to_review is not None:
        counts = ", ".join(f"{n} {state}" for state, n in preview.to_review.items())
        lines += [f"  back into review      {counts}"]
    return "\n".join([*lines, f"  digest                {preview.digest}"])


def _listed(preview: Any) -> str:
    ids = preview.edited
    if not ids:
        return ""
    more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
    kept = "kept, unless --including-edited"
    if preview.to_review is not None:
        kept = "with --including-edited they come into review as edited; without it, they are in the way"
    return f": {', '.join(ids[:5])}{more} ({kept})"


def _document(preview: Any) -> dict[str, Any]:
    return {**vars(preview), "edited": list(preview.edited)}
