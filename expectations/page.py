"""The result of a validation as one readable page: no scripts, nothing loaded from elsewhere."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from expectations.suite import ROWS
from expectations.wording import shown

# More than this nobody reads; the JSON beside the page has them.
LISTED = 200
_STYLE = Path(__file__).with_name("page.css")


def render_page(outcome: Mapping[str, Any], title: str) -> str:
    """One self-contained HTML page.

    Args:
        outcome: ``Outcome.to_json()``, also read back from a file.
        title: heading, e.g. the run's name; may hold any text.
    """
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE.read_text(encoding='utf-8')}</style></head><body><main>",
        f'<h1>{escape(title)}</h1><p class="meta">{escape(_when(outcome))}</p>',
        *_verdict(outcome),
        *_tiles(outcome),
        *(part for suite in outcome["suites"] for part in _suite(outcome, suite)),
        *_failing(outcome, "label"),
        *_failing(outcome, "sample"),
        f"<footer>{escape(_versions(outcome))}</footer></main></body></html>",
    ]
    return "\n".join(parts)


def _when(outcome: Mapping[str, Any]) -> str:
    moment = datetime.datetime.fromisoformat(outcome["at"])
    return f"Validated on {moment:%d %B %Y at %H:%M} {moment:%Z}, in {outcome['seconds']:.1f} s"


def _versions(outcome: Mapping[str, Any]) -> str:
    return "Checked with " + ", ".join(f"{name} {version}" for name, version in outcome["versions"].items())


def _verdict(outcome: Mapping[str, Any]) -> Iterator[str]:
    blocking = [check for check in outcome["checks"] if check["blocks"]]
    warned = sum(check["status"] == "failed" and not check["blocks"] for check in outcome["checks"])
    if outcome["passed"]:
        told = f"{_count(warned, 'warning')} below." if warned else "There are no warnings."
        yield '<section class="verdict good"><strong>✓ Passed</strong>'
        yield f"<p>The approved labels may become final. {told}</p></section>"
        return
    yield '<section class="verdict bad"><strong>✗ Failed: nothing was finalized</strong>'
    yield f"<p>The review is open again. {_count(len(blocking), 'check')} must pass first:</p><ul>"
    for check in blocking:
        yield f"<li>{escape(_sentence(check['title']))}: {escape(_found(check))}</li>"
    yield "</ul></section>"


def _tiles(outcome: Mapping[str, Any]) -> Iterator[str]:
    states = [check["status"] for check in outcome["checks"]]
    figures = {
        "checks passed": f"{states.count('passed')} of {len(states)}",
        "skipped": states.count("skipped"),
        **{f"{ROWS[table]} checked": rows for table, rows in outcome["rows"].items()},
        "labels to correct": outcome["failing_label_count"],
    }
    if outcome["failing_sample_count"]:
        figures["samples to correct"] = outcome["failing_sample_count"]
    yield '<div class="tiles">'
    for name, figure in figures.items():
        yield f'<div class="tile"><b>{escape(shown(figure))}</b><span>{escape(name)}</span></div>'
    yield "</div>"


def _suite(outcome: Mapping[str, Any], suite: str) -> Iterator[str]:
    yield f'<h2>Suite “{escape(suite)}”</h2><div class="sheet"><table class="checks"><thead><tr>'
    yield "".join(f"<th>{head}</th>" for head in ("Result", "Check", "Severity", "Expected", "Found"))
    yield "</tr></thead><tbody>"
    for check in outcome["checks"]:
        if check["suite"] == suite:
            yield from _row(check)
    yield "</tbody></table></div>"


def _row(check: Mapping[str, Any]) -> Iterator[str]:
    status, severity = check["status"], check["severity"]
    word = {"passed": "✓ passed", "failed": "✗ failed", "error": "✗ could not run", "skipped": "– skipped"}
    tone = "noticed" if status == "failed" and not check["blocks"] else status
    notes = f"<small>{escape(check['notes'])}</small>" if check["notes"] else ""
    yield f'<tr class="{status} {severity}"><td><span class="pill {tone}">{word[status]}</span></td>'
    type_name = escape(check["type"]).replace("_", "_<wbr>")
    title = escape(_sentence(check["title"]))
    yield f"<td>{title}<small><code>{type_name}</code></small>{notes}</td>"
    yield f'<td><span class="severity {severity}">{severity}</span></td>'
    yield f"<td>{escape(check['expected'])}</td>"
    yield f"<td>{escape(_found(check))}{''.join(_examples(check))}</td></tr>"


def _found(check: Mapping[str, Any]) -> str:
    if check["error"]:
        return f"could not run: {check['error']}"
    if check["skipped_reason"]:
        return f"skipped: {check['skipped_reason']}"
    return str(check["observed"])


def _examples(check: Mapping[str, Any]) -> Iterator[str]:
    if check["examples"]:
        more = (check["unexpected_count"] or 0) - len(check["examples"])
        yield f"<details><summary>{_count(len(check['examples']), 'example')}</summary><ul>"
        for example in check["examples"]:
            text = ", ".join(f"{name} {shown(value)}" for name, value in example.items())
            yield f"<li><code>{escape(text)}</code></li>"
        yield f"</ul>{f'<small>and {more:,} more</small>' if more > 0 else ''}</details>"


def _failing(outcome: Mapping[str, Any], kind: str) -> Iterator[str]:
    reasons, total = outcome[f"failing_{kind}s"], outcome[f"failing_{kind}_count"]
    if not total:
        return
    shortened = f", the first {LISTED} of {total:,}" if total > LISTED else ""
    yield f'<h2>{kind.capitalize()}s to correct{shortened}</h2><div class="sheet"><table class="rows">'
    yield f"<thead><tr><th>{kind.capitalize()}</th><th>Why</th></tr></thead><tbody>"
    for name in list(reasons)[:LISTED]:
        why = "".join(f"<li>{escape(reason)}</li>" for reason in reasons[name])
        yield f'<tr><td><code>{escape(name)}</code></td><td><ul class="reasons">{why}</ul></td></tr>'
    yield "</tbody></table></div>"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
