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
    wanted = {k: getattr(options, k) for k in ("including_edited", "reopen", "from_copy", "exactly")}
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
    if preview.copy is not None:
        taken = f"take {preview.labels} labels out and " if preview.labels else ""
        return f"{taken}bring {preview.copy.missing} labels back?"
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
    returned = rollback.get("returned", 0)
    if record["state"] == "FINALIZED":
        again = (
            "" if record.get("completed_at") else f"; `valflow finalize {run}` evaluates and reports again"
        )
        return Result(
            f"run {run} is final again: {returned} labels came back into {record['dataset']}.{record['label_field']}"
            f"{again}",
            document_of(record),
        )
    left = f"; {rollback['left']} that were edited since stay" if rollback["left"] else ""
    return Result(
        f"run {run} is rolled back: {rollback['announced']} labels left "
        f"{record['dataset']}.{record['label_field']}{left}. They stay in the ledger, and in `valflow why`"
        + (f". From the safety copy {returned} labels came back" if rollback.get("from_copy") else ""),
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
    lines += _about_copy(preview.copy) if preview.copy is not None else []
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


def _about_copy(copy: Any) -> list[str]:
    """What a safety copy would bring back, and what of now it differs from."""
    stays = "stay; go with --exactly"
    return [
        f"  safety copy           {copy.copy}, of {copy.at:%Y-%m-%d %H:%M:%S} UTC",
        f"  come back             {copy.missing} labels ({copy.missing_own} of this run), {copy.missing_tags} tags "
        "of samples",
        f"  changed since         {copy.changed}{_some(copy.changed_ids, copy.changed, stays)}",
        f"  added since           {copy.added}{_some(copy.added_ids, copy.added, stays)}",
        f"  tags added since      {copy.added_tags}" + (f" ({stays})" if copy.added_tags else ""),
        *(
            [f"  samples deleted       {copy.deleted_samples} (they do not come back)"]
            * bool(copy.deleted_samples)
        ),
    ]


def _some(ids: tuple[str, ...], number: int, what: str) -> str:
    more = f" and {number - 5} more" if number > 5 else ""
    return f": {', '.join(ids[:5])}{more} ({what})" if number else ""


def _document(preview: Any) -> dict[str, Any]:
    from valflow.plain import as_json

    copy = None if preview.copy is None else as_json(vars(preview.copy))
    return {**vars(preview), "edited": list(preview.edited), "copy": copy}
