"""Who decided, on what evidence: decision, checklist, spot-check, problem tags, notes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from valflow.report import formats
from valflow.report.blocks import (
    Block,
    Check,
    Checks,
    Code,
    Column,
    Facts,
    Heading,
    Inline,
    Listing,
    Paragraph,
    Quote,
    Section,
    Table,
    Text,
)
from valflow.report.summary import spot_check_sentence

Record = Mapping[str, Any]

_VIA = {"cli": "command line", "prefect": "Prefect form", "app": "App", "policy": "policy"}


def review_section(record: Record) -> Section:
    """The decision and everything it rests on."""
    blocks: list[Block] = [*_decision(record), *_reviewers(record), *_checklist(record), *_spot_check(record)]
    blocks += _completeness(record)
    blocks += [*_problems(record), *_issues(record)]
    return Section("review", "Review", blocks)


def _decision(record: Record) -> list[Block]:
    decision, review = record.get("decision") or {}, record.get("review") or {}
    facts: list[tuple[str, Text]] = []
    if decision:
        what = str(decision.get("decision", formats.NOTHING))
        via = _VIA.get(str(decision.get("via")), str(decision.get("via") or "an unknown way"))
        facts.append(("decision", f"{what}, in round {formats.whole(decision.get('round')) or 1}"))
        facts.append(
            (
                "reviewer",
                f"{decision.get('reviewer') or 'policy'}, by {via}, {formats.when(decision.get('time'))}",
            )
        )
    if review.get("opened_at"):
        opened = f"opened {formats.when(review['opened_at'])}"
        closed = f", decided {formats.when(review['decided_at'])}" if review.get("decided_at") else ""
        facts.append(("review", opened + closed))
    if formats.number(review.get("seconds")) is not None:
        facts.append(("time to decision", formats.duration(review["seconds"])))
    if decision.get("digest"):
        facts.append(("digest of the labels", Code(str(decision["digest"]))))
    blocks: list[Block] = []
    if not decision:
        blocks.append(Paragraph("Nobody has decided yet."))
    if facts:
        blocks.append(Facts(facts, wide=True))
    if decision.get("override"):
        reason = f"Evidence was missing; the decision went through with a reason: {decision['override']}"
        blocks.append(Paragraph(reason, "waiting"))
    if decision.get("note"):
        blocks.append(Quote(str(decision["note"]), str(decision.get("reviewer") or "policy")))
    return blocks


def _reviewers(record: Record) -> list[Block]:
    people = (record.get("review") or {}).get("reviewers") or {}
    if not people:
        return []
    kinds = [
        ("approved", "approved"),
        ("rejected", "rejected"),
        ("tagged", "tagged"),
        ("judged", "spot-checked"),
    ]
    if any(done.get("undecided") for done in people.values()):
        kinds.insert(2, ("undecided", "set back"))
    columns = [Column("reviewer"), *(Column(title, "number") for _, title in kinds)]
    rows = [[str(name), *(formats.count(done.get(k, 0)) for k, _ in kinds)] for name, done in people.items()]
    return [Heading("What each reviewer did"), Table(columns, rows)]


def _checklist(record: Record) -> list[Block]:
    items = record.get("checklist") or []
    if not items:
        return []
    checks = [
        Check(
            bool(i.get("ok")),
            str(i.get("title") or i.get("item")),
            str(i.get("evidence") or ""),
            bool(i.get("required")),
        )
        for i in items
    ]
    return [Heading("Checklist before finalization"), Checks(checks)]


def _spot_check(record: Record) -> list[Block]:
    audit = record.get("audit") or {}
    if not audit:
        missing = "No spot-check was drawn, so nothing is proven about the labels approved without a person."
        return [Heading("Spot-check"), Paragraph(missing)]
    if audit.get("kind") == "certificate":
        return _draw(audit)
    proven = spot_check_sentence(record)
    drawn = (
        f"{formats.count(audit.get('drawn'))} of {formats.counted(audit.get('population'), 'approved label')}"
    )
    words: list[Inline] = [f"{drawn} were drawn at random (seed {audit.get('seed', formats.NOTHING)})"]
    if proven:
        by = formats.joined([str(r) for r in audit.get("reviewers") or []])
        words.append(f" and judged{' by ' + by if by else ''} without sight of their confidence: {proven}.")
    else:
        words.append(f"; {formats.count(audit.get('judged'))} are judged, so nothing is proven yet.")
    blocks: list[Block] = [Heading("Spot-check"), Paragraph(words), *_verdicts(audit)]
    if formats.whole(audit.get("approved_since")):
        since = formats.counted(audit["approved_since"], "label")
        blocks.append(
            Paragraph(f"{since} were approved after the draw; it says nothing about those.", "waiting")
        )
    return blocks


def _completeness(record: Record) -> list[Block]:
    found = record.get("completeness") or {}
    if not found:
        return []
    population = formats.counted(found.get("population"), "image")
    words = (
        f"{formats.count(found.get('drawn'))} of {population} were drawn at random (seed "
        f"{found.get('seed', formats.NOTHING)}) and searched for objects without a label: {found.get('sentence')}."
    )
    blocks: list[Block] = [Heading("Missed objects"), Paragraph(words)]
    if (found.get("verdicts") or {}).get("incomplete"):
        blocks.append(Paragraph(["The incomplete images carry the tag ", Code("missing_object"), "."]))
    return blocks


def _draw(audit: Mapping[str, Any]) -> list[Block]:
    """The draw behind a certificate; what it proves has a section of its own."""
    by = formats.joined([str(r) for r in audit.get("reviewers") or []])
    words = (
        f"{formats.count(audit.get('judged'))} of {formats.counted(audit.get('drawn'), 'drawn label')} are judged"
        f"{' by ' + by if by else ''}, without sight of their confidence, "
        f"{formats.count(audit.get('wrong'))} of them wrong; what that proves stands under What is proven."
    )
    return [Heading("Draw for the certificate"), Paragraph(words), *_verdicts(audit)]


def _verdicts(audit: Mapping[str, Any]) -> list[Block]:
    given = [(v, n) for v, n in (audit.get("verdicts") or {}).items() if formats.whole(n)]
    ordered = sorted(given, key=lambda v: (v[0] != "correct", -formats.whole(v[1]), v[0]))
    return [Facts([(str(v).replace("_", " "), formats.count(n)) for v, n in ordered])] if ordered else []


def _problems(record: Record) -> list[Block]:
    tags = record.get("problem_tags") or {}
    if not tags:
        return []
    ordered = sorted(tags.items(), key=lambda t: (-formats.whole(t[1]), str(t[0])))
    name, dataset = str(ordered[0][0]), str(record.get("dataset", ""))
    code = (
        "import fiftyone as fo\n\n"
        f"dataset = fo.load_dataset({_quoted(dataset)})\n"
        f"view = dataset.match_tags({_quoted(name)})\n"
        'session = fo.launch_app(view, address="127.0.0.1")'
    )
    return [
        Heading("Problem tags"),
        Facts([(str(tag), formats.counted(n, "label")) for tag, n in ordered]),
        Paragraph("The samples carry the tags too, also those whose label was discarded. To open them:"),
        Listing(code, "python"),
    ]


def _issues(record: Record) -> list[Block]:
    issues = record.get("issues") or {}
    rows = [[str(label), str(note)] for label, notes in issues.items() for note in notes or ()]
    if not rows:
        return []
    return [Heading("Issues noted by class"), Table([Column("class"), Column("note")], rows)]


def _quoted(name: str) -> str:
    # A JSON text in double quotes is a Python text, too.
    return json.dumps(name, ensure_ascii=False)
