"""What a certificate proves about the labels that nobody looked at, on what grounds, and what it saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from valflow.certificates import ABSTAINED, AUDIT, CERTIFIED
from valflow.report import charts, formats
from valflow.report.blocks import (
    Block,
    Cell,
    Chart,
    Check,
    Checks,
    Code,
    Column,
    Facts,
    Heading,
    Legend,
    Paragraph,
    Section,
    Strong,
    Table,
    Text,
)

Record = Mapping[str, Any]
Group = Mapping[str, Any]

# More groups than these are a wallpaper, not a figure.
LARGEST = 6
_REGIONS = Legend(
    (
        ("region", "certified: may skip the review"),
        ("approved", "region that passed its test"),
        ("rejected", "region that did not; the walk ends there"),
    )
)
_LOOKS = Legend(
    (
        ("all", "drawn at random and judged"),
        ("undecided", "left to look at"),
        ("approved", "approved without a look"),
    )
)
_CLOSED = {
    "full": "they were enough for an audit",
    "waited": "the first of them had waited long enough",
    "settings": "the settings were changed",
}


def proven_section(record: Record) -> Section | None:
    """The promise, what the draw proves group by group, and everything that it rests on."""
    certificate = record.get("certificate")
    if not certificate:
        return None
    blocks: list[Block] = [Paragraph([Strong("The promise: "), promise_of(certificate)])]
    blocks += _alarms(certificate)
    as_it_stands = {CERTIFIED: _proven, AUDIT: _waiting, ABSTAINED: _abstained}
    blocks += as_it_stands[str(certificate["state"])](certificate)
    blocks += _grounds(certificate, record.get("lot"))
    return Section("proven", "What is proven", blocks)


def promise_of(certificate: Mapping[str, Any]) -> str:
    """What was promised about the labels that nobody looks at, as one sentence."""
    promise = certificate.get("promise") or {}
    words = (
        f"of the labels that nobody looks at, at most {formats.level(promise.get('max_error'))} are wrong, with "
        f"{formats.level(promise.get('confidence'))} confidence for each group."
    )
    missed = formats.number(promise.get("miss_rate"))
    if missed:
        words += f" The tests allow for reviewers who overlook {formats.level(missed)} of the wrong labels."
    return words


def proven_groups(certificate: Mapping[str, Any]) -> list[Group]:
    """The groups about which the promise is proven."""
    return [g for g in certificate.get("groups") or [] if formats.whole(g.get("approved"))]


def _proven(certificate: Mapping[str, Any]) -> list[Block]:
    groups = certificate.get("groups") or []
    claims = [
        Check(
            bool(formats.whole(g.get("approved"))),
            "Promise kept" if formats.whole(g.get("approved")) else "Nothing proven",
            f"{g.get('sentence', '')}." + _why_nothing(g),
            required=False,
        )
        for g in groups
    ]
    blocks: list[Block] = [Checks(claims), _group_table(certificate), Paragraph(_table_note(certificate))]
    drawn = [g for g in groups if g.get("tests")]
    if drawn:
        blocks.append(_risk_chart(certificate, drawn))
    blocks += [*_looks(certificate), *_classes(groups)]
    return blocks


def _why_nothing(group: Group) -> str:
    if formats.whole(group.get("approved")):
        return ""
    if group.get("reason"):
        return f" Nothing was drawn from it: {group['reason']}."
    tests = group.get("tests") or []
    if not tests:
        return ""
    first = tests[0]
    return (
        f" Of {formats.counted(first.get('audited'), 'label')} drawn from the best "
        f"{formats.count(first.get('labels'))}, {formats.count(first.get('wrong'))} were wrong: too many."
    )


def _group_table(certificate: Mapping[str, Any]) -> Table:
    groups = certificate.get("groups") or []
    titles = [
        "labels",
        "certified",
        "drawn there",
        "wrong",
        "estimate",
        "at most wrong",
        "approved without a look",
    ]
    columns = [Column("group"), *(Column(t, "number") for t in titles)]
    rows: list[list[Cell]] = [[str(g.get("name")), *_figures(g)] for g in groups]
    if len(groups) > 1:
        rows.append([Strong("all"), *_figures(_together(groups))])
    return Table(columns, rows)


def _figures(group: Group) -> list[Cell]:
    audited = formats.whole(group.get("audited"))
    estimate = formats.percent(formats.whole(group.get("wrong")) / audited) if audited else formats.NOTHING
    counts = [formats.count(group.get(k)) for k in ("labels", "certified", "audited", "wrong")]
    return [
        *counts,
        estimate,
        formats.percent_at_most(group.get("bound")),
        formats.count(group.get("approved")),
    ]


def _together(groups: Sequence[Group]) -> dict[str, Any]:
    """All groups as one; its bound needs all bounds to hold at once."""
    names = ("labels", "certified", "audited", "wrong", "approved", "most_wrong")
    sums = {k: sum(formats.whole(g.get(k)) for g in groups) for k in names}
    sure = _joint_confidence(groups)
    bound = sums["most_wrong"] / sums["approved"] if sums["approved"] and sure > 0 else None
    return {**sums, "bound": bound}


def _joint_confidence(groups: Sequence[Group]) -> float:
    """Probability with which the bounds of all proven groups hold at once, at least."""
    risks = [formats.number(g.get("risk")) or 0.0 for g in groups if formats.whole(g.get("approved"))]
    return max(0.0, round(1.0 - sum(risks), 10))


def _table_note(certificate: Mapping[str, Any]) -> str:
    words = (
        "Drawn and wrong are counted within the certified part of a group, or, where nothing passed, within the part "
        "that was tested first."
    )
    proven = proven_groups(certificate)
    if len(proven) > 1:
        sure = _joint_confidence(proven)
        together = (
            f"holds with at least {formats.level(sure)} confidence"
            if sure > 0
            else "is not stated, for no confidence is left"
        )
        words += (
            " Each group's bound stands for itself; that of all together, which needs all of them at once, "
            f"{together}."
        )
    return words


def _risk_chart(certificate: Mapping[str, Any], groups: Sequence[Group]) -> Chart:
    largest = sorted(groups, key=lambda g: -formats.whole(g.get("labels")))[:LARGEST]
    promise = formats.number((certificate.get("promise") or {}).get("max_error")) or 0.0
    panels = []
    for g in largest:
        labels = max(1, formats.whole(g.get("labels")))
        tests = [
            charts.TestedRegion(
                formats.whole(t.get("labels")) / labels,
                formats.whole(t.get("wrong")) / max(1, formats.whole(t.get("audited"))),
                formats.number(t.get("bound")) or 0.0,
                bool(t.get("passed")),
            )
            for t in g["tests"]
        ]
        certified = formats.whole(g.get("certified")) / labels
        panels.append(charts.risk_over_coverage(str(g.get("name")), tests, promise, certified, labels))
    note = (
        "Dot: wrong labels in the draw. Whisker: up to so many may be wrong among the labels not looked at. "
        "Dashed: the promise. A region passes where the whole whisker stays below it."
    )
    if len(groups) > len(largest):
        note += f" The {len(largest)} largest of {formats.count(len(groups))} groups; the table has all."
    return Chart("risk", "How far the promise holds", panels, 2, note, _REGIONS)


def _looks(certificate: Mapping[str, Any]) -> list[Block]:
    labels, approved = formats.whole(certificate.get("labels")), formats.whole(certificate.get("approved"))
    queue, looks = formats.whole(certificate.get("queue")), formats.whole(certificate.get("looks"))
    if not labels:
        return []
    # An unsure verdict sends a label on to the queue: it is looked at, and counted, once.
    judged = looks - queue
    instead = f" instead of {formats.count(labels)}" if looks < labels else ", one for each label"
    words: Text = [
        Strong(f"{formats.counted(looks, 'look')}{instead}"),
        f": {formats.count(judged)} labels were judged in the draw, {formats.count(queue)} are left to look at, "
        f"{formats.count(approved)} ({formats.percent(approved / labels)}) need none.",
    ]
    bars = charts.decision_bars(
        [
            ("with certificate", [("all", judged), ("undecided", queue), ("approved", approved)]),
            ("review everything", [("undecided", labels)]),
        ],
        "Labels to look at",
    )
    return [
        Heading("What it costs"),
        Paragraph(words),
        Chart("looks", "Labels by what they need", [bars], 1, "", _LOOKS),
    ]


def _classes(groups: Sequence[Group]) -> list[Block]:
    blocks: list[Block] = []
    for g in groups:
        rows = g.get("by_class") or []
        if len(rows) < 2:
            continue
        rows = sorted(rows, key=lambda r: (-_share_wrong(r), str(r.get("label"))))
        columns = [
            Column("class"),
            *(Column(t, "number") for t in ("approved without a look", "drawn", "wrong", "estimate")),
        ]
        cells: list[list[Cell]] = [
            [
                str(r.get("label")),
                *(formats.count(r.get(k)) for k in ("approved", "audited", "wrong")),
                formats.percent(_share_wrong(r)) if formats.whole(r.get("audited")) else formats.NOTHING,
            ]
            for r in rows
        ]
        worst = rows[0]
        words = (
            f"The promise is about the group “{g.get('name')}” as a whole, not about each of its classes. "
        )
        if formats.whole(worst.get("wrong")):
            words += (
                f"Worst in the draw was “{worst.get('label')}”: {formats.count(worst.get('wrong'))} wrong of "
                f"{formats.count(worst.get('audited'))}."
            )
        else:
            words += "None of its classes had a wrong label in the draw."
        blocks += [Heading(f"Classes in “{g.get('name')}”"), Paragraph(words), Table(columns, cells, 15)]
    return blocks


def _share_wrong(row: Mapping[str, Any]) -> float:
    audited = formats.whole(row.get("audited"))
    return formats.whole(row.get("wrong")) / audited if audited else 0.0


def _waiting(certificate: Mapping[str, Any]) -> list[Block]:
    drawn = formats.counted(certificate.get("audit"), "label")
    words = (
        f"{drawn} were drawn at random and wait for verdicts; until the last one is there, nothing is proven."
    )
    groups = certificate.get("groups") or []
    titles = ("labels", "may be certified", "drawn")
    columns = [Column("group"), *(Column(t, "number") for t in titles)]
    rows: list[list[Cell]] = [
        [str(g.get("name")), *(formats.count(g.get(k)) for k in ("labels", "drawn_from", "audit"))]
        for g in groups
    ]
    if any(g.get("reason") for g in groups):
        columns.append(Column("remark"))
        for row, g in zip(rows, groups, strict=True):
            row.append(f"all for review: {g['reason']}" if g.get("reason") else "")
    return [Paragraph(words, "waiting"), Table(columns, rows)]


def _abstained(certificate: Mapping[str, Any]) -> list[Block]:
    reason = str(certificate.get("reason") or "the record does not say why")
    words = f"Nothing is proven and nothing was drawn: every label needs a look. Why: {reason}."
    return [Paragraph(words, "waiting")]


def _alarms(certificate: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    withdrawn = formats.whole(certificate.get("withdrawn"))
    if withdrawn:
        times = "once" if withdrawn == 1 else f"{withdrawn} times"
        now = (
            "; this one was computed from the verdicts given since"
            if certificate.get("state") == CERTIFIED
            else "; its approvals went with it"
        )
        words = (
            f"A certificate was withdrawn {times}, because verdicts that it rested on were taken back{now}."
        )
        blocks.append(Paragraph(words, "waiting"))
    if certificate.get("drift_suspected"):
        found = [_alarm(d) for d in certificate.get("drift") or [] if d.get("suspected")]
        words = (
            f"The model may have changed: {formats.joined(found)}. The promise does not suffer from that; "
            "verdicts from before it no longer say where to draw."
        )
        blocks.append(Paragraph(words, "waiting"))
    return blocks


def _alarm(drift: Mapping[str, Any]) -> str:
    p = formats.number(drift.get("p_value"))
    level = "" if p is None else " (p < 0.0001)" if p < 1e-4 else f" (p = {p:.2g})"
    if drift.get("name") == "audit":
        return f"more labels of the draw were wrong than earlier runs predicted{level}"
    return f"the scores of “{drift.get('name')}” are not those of the run before{level}"


def _grounds(certificate: Mapping[str, Any], lot: Any) -> list[Block]:
    facts: list[tuple[str, Text]] = []
    if certificate.get("state") != ABSTAINED:
        method = (
            "drawn uniformly without replacement from each group; exact hypergeometric test, region after region "
            "until one fails"
        )
        facts += [
            ("method", method),
            ("seed of the draw", Code(str(certificate.get("seed", formats.NOTHING)))),
        ]
    facts.append(("where to draw", _history(certificate)))
    judges = certificate.get("verdicts_from") or {}
    if judges and certificate.get("state") == CERTIFIED:
        facts.append(
            ("verdicts by", formats.joined([f"{who} ({formats.count(n)})" for who, n in judges.items()]))
        )
    if lot:
        facts.append(("labels waited together", _lot(lot)))
    if certificate.get("certified_at") and certificate.get("state") == CERTIFIED:
        facts.append(("computed", formats.when(certificate["certified_at"])))
    for name, key in (("certificate", "digest"), ("model and data", "fingerprint")):
        if certificate.get(key):
            facts.append((name, Code(str(certificate[key])[:16])))
    return [Heading("What it rests on"), Facts(facts, wide=True)]


def _history(certificate: Mapping[str, Any]) -> str:
    verdicts = formats.whole(certificate.get("history"))
    if verdicts:
        runs = formats.counted(len(certificate.get("history_runs") or []), "earlier run")
        return f"learned from {formats.counted(verdicts, 'verdict')} of {runs} of this model"
    dropped = formats.whole(certificate.get("history_dropped"))
    if dropped:
        unfit = formats.counted(dropped, "earlier verdict")
        return f"by the model's confidence alone; {unfit} no longer fit its scores"
    return "by the model's confidence alone: no earlier verdicts on this model (cold start)"


def _lot(lot: Mapping[str, Any]) -> str:
    arrivals = lot.get("arrivals") or []
    starts = formats.counted(len(arrivals), "start")
    held = f"{formats.counted(lot.get('labels'), 'label')} of {starts}"
    if not lot.get("closed"):
        wanted = formats.count(lot.get("min_labels"))
        return f"{held}, of {wanted} wanted; until {formats.when(lot.get('due'))} at the latest"
    seconds = _between(arrivals[0].get("at") if arrivals else None, lot.get("closed_at"))
    waited = f"; the first waited {formats.duration(seconds)}" if seconds is not None else ""
    return f"{held}{waited}; closed because {_CLOSED.get(str(lot['closed']), str(lot['closed']))}"


def _between(start: Any, end: Any) -> float | None:
    times = []
    for value in (start, end):
        time = datetime.fromisoformat(value) if isinstance(value, str) else value
        if not isinstance(time, datetime):
            return None
        times.append(time.replace(tzinfo=None))
    return (times[1] - times[0]).total_seconds()
