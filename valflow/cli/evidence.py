"""Commands about what audits say: calibration (of the past), plan (of a run to come)."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from valflow.cli.asking import said_yes
from valflow.cli.result import Result, reviewer_of, text_table
from valflow.errors import ConfigError


def calibration(options: Any) -> Result:
    """`valflow calibration`: list what is known by fingerprint, export it, or leave it out of future scores."""
    from valflow import calibration as history

    if options.forget is not None:
        if options.fingerprint is not None or options.export is not None:
            raise ConfigError(["--forget names its fingerprint itself and exports nothing; give it alone"])
        return _forget(options)
    if options.export is not None:
        return _export(options)
    chosen = None if options.fingerprint is None else history.full_fingerprint(options.fingerprint)
    rows = [r for r in history.overview() if chosen in (None, r["fingerprint"])]
    return Result(_listed(rows), {"fingerprints": [_document_of(r) for r in rows]})


def _listed(rows: list[dict[str, Any]]) -> str:
    from valflow.cli.views import age

    if not rows:
        return "no verdicts yet; they come with `valflow audit`"
    shown = [
        {
            "fingerprint": r["fingerprint"][:12],
            "model": r["model"] or "–",
            "dataset": r["dataset"],
            "runs": len(r["runs"]),
            "verdicts": r["verdicts"],
            "correct": f"{r['correct'] / r['verdicts']:.1%}" if r["verdicts"] else "–",
            "forgotten": r["forgotten"],
            "last": f"{age(r['last'])} ago",
        }
        for r in rows
    ]
    return text_table(shown)


def _document_of(row: dict[str, Any]) -> dict[str, Any]:
    from valflow.runs import as_json

    share = row["correct"] / row["verdicts"] if row["verdicts"] else None
    plain: dict[str, Any] = as_json({**row, "share_correct": share})
    return plain


def _export(options: Any) -> Result:
    from valflow import calibration as history
    from valflow.runs import as_json

    if options.fingerprint is not None:
        chosen = [history.full_fingerprint(options.fingerprint)]
    else:
        chosen = [r["fingerprint"] for r in history.overview()]
    rows = [as_json(v) for fingerprint in chosen for v in history.verdicts(fingerprint)]
    text = _as_csv(rows)
    if options.export == "-":
        return Result(text.rstrip("\n"), {"verdicts": rows})
    path = Path(options.export)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"cannot write {path}: {error.strerror}; choose another --export"]) from None
    return Result(
        f"wrote {len(rows)} verdicts to {path}", {"file": str(path.resolve()), "verdicts": len(rows)}
    )


def _as_csv(rows: list[dict[str, Any]]) -> str:
    """All columns that any row has: features differ from model to model."""
    target = io.StringIO()
    # The columns are there even if no verdict is: a reader of the file must not stumble over that.
    usual = ("run", "kind", "seed", "position", "probability", "label_id", "sample_id", "class", "confidence")
    last = ("verdict", "reviewer", "time", "fingerprint", "forgotten")
    features = [name for name in dict.fromkeys(k for r in rows for k in r) if name not in (*usual, *last)]
    writer = csv.DictWriter(target, [*usual, *features, *last], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return target.getvalue()


def _forget(options: Any) -> Result:
    from valflow import actions
    from valflow import calibration as history

    reviewer = reviewer_of(options)
    actions.check_person(reviewer)
    fingerprint = history.full_fingerprint(options.forget)
    row = next(r for r in history.overview() if r["fingerprint"] == fingerprint)
    document = {"fingerprint": fingerprint, "forgotten": 0, "by": reviewer}
    if not row["verdicts"]:
        return Result(f"nothing of {fingerprint[:12]} is left to forget", document)
    question = (
        f"leave {row['verdicts']} verdicts on {row['model']} ({row['dataset']}) out of future scores? They stay on "
        "record, but cannot be taken in again."
    )
    if not options.yes and not said_yes(question):
        return Result("not confirmed; nothing was forgotten", document, 1)
    count = history.forget(fingerprint, reviewer)
    return Result(
        f"{count} verdicts of {fingerprint[:12]} count no more; they stay on record, and the next run starts cold",
        {**document, "forgotten": count},
    )


def plan(options: Any) -> Result:
    """`valflow plan`: what a review will cost, before anything runs."""
    from valflow.config import load_config
    from valflow.forecast_picture import draw_forecast
    from valflow.forecasting import make_forecast

    forecast = make_forecast(load_config(options.config, options.set), options.labels)
    lines = [_costs(forecast)]
    if options.picture is not None:
        forecast["picture"] = str(draw_forecast(forecast, Path(options.picture)).resolve())
        lines.append(f"picture: {options.picture}")
    return Result("\n".join(lines), forecast)


def _costs(plan: dict[str, Any]) -> str:
    first = f"about {plan['labels']:,} labels ({plan['labels_source']})"
    if plan["mode"] == "certified":
        return "\n".join([first, *_certified_costs(plan)])
    what = {
        "fixed": "approval.mode: fixed promises nothing about the labels that the thresholds approve",
        "review_all": "approval.mode: review_all",
    }[plan["mode"]]
    if plan["looks"] is None:
        return f"{first}\n{what}; {plan['looks_source']}, plus a spot-check of {plan['spot_check']}"
    return (
        f"{first}\n{what}: {plan['looks']:,} looks, about {plan['minutes']:.0f} min at 4 s each: "
        f"{plan['looks_source']}"
    )


def _certified_costs(plan: dict[str, Any]) -> list[str]:
    promise = plan["promise"]
    rows = [
        {
            "labels": f"{r['total']}",
            "wrong": f"{r['multiple']:.2f} x allowed{' *' if r['known'] else ''}",
            "audit": r["audit"] or "–",
            "wrong ones allowed": r["allowed"] if r["audit"] else "–",
            "certificate": f"{r['power']:.0%}" if r["audit"] else "–",
            "looks": f"{r['looks']:.0f}",
            "per 1,000": f"{r['looks_per_1000']:.0f}",
            "min": f"{r['minutes']:.0f}",
        }
        for r in plan["rows"]
    ]
    star = " (* in the table)" if any(r["known"] for r in plan["rows"]) else ""
    return [
        f"promise: at most {100 * promise['max_error']:.4g} % wrong among the labels that nobody looks at, "
        f"{100 * promise['confidence']:.4g} % confidence",
        f"expected error: {plan['error_source']}{star}",
        f"proposed to skip the review: {plan['share']:.0%} of the labels ({plan['share_source']})",
        "",
        text_table(rows),
        "",
        "For one group; every further group costs one more audit. `–`: reviewing everything is no more work.",
    ]
