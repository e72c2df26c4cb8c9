"""The command that takes a finalized run back."""

from __future__ import annotations

import sys
from typing import Any

from valflow.cli.asking import said_yes
from valflow.cli.result import Result, reviewer_of
from valflow.cli.views import document_of
from valflow.markup import for_terminal


def rollback(options: Any) -> Result:
    """`valflow rollback`: preview, confirm, take the labels out again."""
    from valflow import rolling_back, runs

    reviewer = reviewer_of(options)
    record = runs.load(options.run)
    if record["state"] == "ROLLING_BACK":
        print(f"run {record['run']} was being rolled back; going on from there", file=sys.stderr)
        return _done(rolling_back.roll_back(record["run"], reviewer))
    preview = rolling_back.preview(record["run"], including_edited=options.including_edited)
    if options.preview:
        return Result(_dialog(preview, record), _document(preview))
    digest = options.digest or (preview.digest if options.yes else None)
    if digest is None:
        print(for_terminal(_dialog(preview, record)), file=sys.stderr)
        by_digest = "confirm with --yes, or with --digest D from `rollback --preview`"
        if not said_yes(f"take these {preview.labels} labels out?", by_digest):
            text = "not confirmed; nothing was changed"
            return Result(text, {"run": record["run"], "outcome": "not confirmed"}, 1)
        digest = preview.digest
    return _done(
        rolling_back.roll_back(
            record["run"],
            reviewer,
            digest=digest,
            including_edited=options.including_edited,
            note=options.note,
        )
    )


def _done(record: dict[str, Any]) -> Result:
    rollback = record["rollback"]
    left = f"; {rollback['left']} that were edited since stay" if rollback["left"] else ""
    return Result(
        f"run {record['run']} is rolled back: {rollback['announced']} labels left "
        f"{record['dataset']}.{record['label_field']}{left}. They stay in the ledger, and in `valflow why`",
        document_of(record),
    )


def _dialog(preview: Any, record: dict[str, Any]) -> str:
    lines = [
        "Roll back",
        f"  labels to be removed  {preview.labels}",
        f"  samples affected      {preview.samples}",
        f"  label field           {record['dataset']}.{preview.label_field}",
        f"  edited since          {len(preview.edited)}" + _listed(preview.edited),
        f"  gone already          {preview.gone}",
        f"  digest                {preview.digest}",
    ]
    return "\n".join(lines)


def _listed(ids: tuple[str, ...]) -> str:
    if not ids:
        return ""
    more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
    return f": {', '.join(ids[:5])}{more} (kept, unless --including-edited)"


def _document(preview: Any) -> dict[str, Any]:
    return {**vars(preview), "edited": list(preview.edited)}
