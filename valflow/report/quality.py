"""How good the labels are: the validation suites, and the comparison with ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from valflow.report import charts, formats
from valflow.report.blocks import (
    Block,
    Cell,
    Chart,
    Code,
    Column,
    Columns,
    Facts,
    Heading,
    Inline,
    Legend,
    Link,
    Paragraph,
    Section,
    Table,
)
from valflow.report.tiles import Tile

Record = Mapping[str, Any]

_SETS = (("all", "all predictions"), ("approved", "approved"), ("discarded", "discarded"))
_COLOURS = {"all": "all", "approved": "approved", "discarded": "rejected"}
_RATIOS = (("precision", "precision"), ("recall", "recall"), ("f1", "F1"))


def validation_section(record: Record) -> Section | None:
    """The rounds of validation and the checks that failed."""
    validation = record.get("validation")
    if not validation:
        return None
    passed = bool(validation.get("passed"))
    words: list[Inline] = [
        "The frozen labels passed every critical check."
        if passed
        else "A critical check failed; nothing was written and the review was opened again."
    ]
    page = _validation_page(record)
    if page:
        words += [" ", Link("All checks with their results", page), "."]
    blocks: list[Block] = [Paragraph(words, "neutral" if passed else "bad")]
    blocks += _rounds([r for r in validation.get("rounds") or [] if isinstance(r, Mapping)])
    blocks += _checks([c for c in validation.get("checks") or [] if isinstance(c, Mapping)])
    return Section("validation", "Validation", blocks)


def _rounds(rounds: Sequence[Mapping[str, Any]]) -> list[Block]:
    if not rounds:
        return []
    columns = [Column("round"), Column("result"), Column("checks", "number")]
    columns += [Column("labels that failed", "number"), Column("checks that failed")]
    rows = [
        [
            formats.count(r.get("round")),
            "passed" if r.get("passed") else "failed",
            formats.count(r.get("checks")),
            formats.count(r.get("failing_labels", 0)),
            "; ".join(_words(c) for c in r.get("failed_checks") or ()) or "none",
        ]
        for r in rounds
    ]
    return [Table(columns, rows)]


def _checks(checks: Sequence[Mapping[str, Any]]) -> list[Block]:
    """The checks of the last round, those that failed first."""
    if not checks:
        return []
    columns = [Column("check"), Column("severity"), Column("result"), Column("observed")]
    order = {"error": 0, "failed": 1, "passed": 2, "skipped": 3}
    rows = [
        [
            str(c.get("title") or c.get("type") or formats.NOTHING),
            str(c.get("severity") or formats.NOTHING),
            _result(c),
            str(c.get("error") or c.get("skipped_reason") or c.get("observed") or ""),
        ]
        for c in checks
    ]
    rows.sort(key=lambda row: order.get(row[2], 1))
    return [Heading("Checks of the last round"), Table(columns, rows, 30)]


def evaluation_section(record: Record) -> Section | None:
    """Approved, discarded and all predictions against ground truth."""
    metrics = record.get("metrics")
    if not metrics:
        return None
    run, whole = metrics.get("run") or {}, metrics.get("dataset") or {}
    blocks: list[Block] = [Paragraph(_bought(run))]
    sets = [(title, run[key]) for key, title in _SETS if run.get(key)]
    if whole.get("approved"):
        sets.append(("label field, whole dataset", whole["approved"]))
    blocks.append(_comparison(sets))
    chart = _curves(run)
    facts = Facts(
        [
            ("ground truth", Code(str(metrics.get("ground_truth", formats.NOTHING)))),
            ("a match is", _match_rule(metrics)),
            ("images of this run", _images(run)),
            ("true labels on them", formats.count(run.get("ground_truth_labels"))),
            *(
                [("images with exactly the true labels", formats.percent(run["accuracy"]))]
                if "accuracy" in run
                else []
            ),
            *([("annotated images of the dataset", _images(whole))] if whole else []),
            *([("stored as", Code(str(metrics["eval_key"])))] if metrics.get("eval_key") else []),
        ]
    )
    beside: list[Block] = [facts, *_in_fiftyone(metrics)]
    blocks += [Columns([chart], beside)] if chart else beside
    blocks += _per_class(run.get("per_class") or [])
    blocks += _confusion(run.get("confusion") or [])
    return Section("evaluation", "Evaluation against ground truth", blocks)


def _match_rule(metrics: Mapping[str, Any]) -> str:
    iou = metrics.get("iou")
    return "same class" if iou is None else f"same class, IoU {formats.threshold(iou)} or more"


def _in_fiftyone(metrics: Mapping[str, Any]) -> list[Block]:
    key = metrics.get("eval_key")
    if not key:
        return []
    return [Paragraph(["In FiftyOne: ", Code(f'dataset.load_evaluation_results("{key}").print_report()')])]


def _confusion(rows: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Which class was taken for which, the most frequent first; what is right is left out."""
    wrong = [r for r in rows if r.get("true") != r.get("predicted")]
    if not wrong:
        return []
    columns = [Column("truly"), Column("labelled as"), Column("images", "number")]
    cells: list[list[Cell]] = [
        [str(r.get("true")), str(r.get("predicted")), formats.count(r.get("images"))] for r in wrong
    ]
    return [Heading("What was taken for what"), Table(columns, cells, 20)]


def error_tiles(record: Record) -> list[Tile]:
    """The worst errors that the evaluation listed, worst first."""
    worst = (record.get("metrics") or {}).get("worst") or []
    return [
        Tile(
            filepath=str(w.get("filepath") or ""),
            box=_box(w.get("bounding_box")),
            label=str(w.get("label")),
            confidence=formats.number(w.get("confidence")),
            caption=_cause(w),
        )
        for w in worst
        if isinstance(w, Mapping)
    ]


def _bought(run: Mapping[str, Any]) -> str:
    """What approval changed, in one sentence or two."""
    every, approved, discarded = (run.get(k) or {} for k in ("all", "approved", "discarded"))
    before, after = formats.number(every.get("precision")), formats.number(approved.get("precision"))
    if before is None or after is None:
        return "There is not enough to compare."
    verb = "raised" if after > before else "lowered" if after < before else "left"
    words = f"Approval {verb} the precision from {formats.percent(before)} to {formats.percent(after)}"
    words = words if verb != "left" else f"Approval left the precision at {formats.percent(before)}"
    reached, kept = formats.number(every.get("recall")), formats.number(approved.get("recall"))
    if reached is not None and kept is not None:
        words += f"; recall went from {formats.percent(reached)} to {formats.percent(kept)}"
    right = formats.whole(discarded.get("tp"))
    thrown = formats.counted(discarded.get("labels", 0), "discarded label")
    return f"{words}. Of {thrown}, {formats.count(right)} {'was' if right == 1 else 'were'} right."


def _comparison(sets: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    columns = [
        Column("labels"),
        Column("number", "number"),
        Column("right", "number"),
        Column("wrong", "number"),
    ]
    columns += [Column("missed", "number"), *(Column(title, "number") for _, title in _RATIOS)]
    columns += [Column("mAP", "number"), Column("mAP50", "number")]
    rows: list[list[Cell]] = [
        [
            title,
            *(formats.count(s.get(k)) for k in ("labels", "tp", "fp", "fn")),
            *(formats.percent(s.get(k)) for k, _ in _RATIOS),
            formats.decimal(s.get("mAP"), 3),
            formats.decimal(s.get("mAP50"), 3),
        ]
        for title, s in sets
    ]
    return Table(columns, rows)


def _curves(run: Mapping[str, Any]) -> Chart | None:
    found, points = [], []
    for key, title in _SETS:
        curve = (run.get("pr_curve") or {}).get(key) or {}
        if curve.get("recall") and len(curve["recall"]) == len(curve.get("precision") or ()):
            found.append(charts.Curve(_COLOURS[key], curve["recall"], curve["precision"]))
        precision, recall = (formats.number((run.get(key) or {}).get(k)) for k in ("precision", "recall"))
        if key != "discarded" and precision is not None and recall is not None:
            points.append(charts.OperatingPoint(title, recall, precision, _COLOURS[key]))
    if not found:
        return None
    note = "All classes together, from the most confident label down; a point is a whole set of labels."
    legend = Legend(tuple((_COLOURS[k], t) for k, t in _SETS if (run.get("pr_curve") or {}).get(k)))
    return Chart(
        "precision-recall", "Precision and recall", [charts.precision_recall(found, points)], 1, note, legend
    )


def _per_class(rows: Sequence[Mapping[str, Any]]) -> list[Block]:
    if not rows:
        return []
    columns = [Column("class"), Column("true objects", "number"), Column("right", "number")]
    columns += [Column("wrong", "number"), Column("missed", "number")]
    columns += [*(Column(title, "number") for _, title in _RATIOS), Column("AP", "number")]
    ordered = sorted(rows, key=lambda r: (-formats.whole(r.get("support")), str(r.get("label"))))
    cells: list[list[Cell]] = [
        [
            str(r.get("label")),
            *(formats.count(r.get(k)) for k in ("support", "tp", "fp", "fn")),
            *(formats.percent(r.get(k)) for k, _ in _RATIOS),
            formats.decimal(r.get("ap"), 3),
        ]
        for r in ordered
    ]
    return [Heading("Approved labels by class"), Table(columns, cells, 20)]


def _images(part: Mapping[str, Any]) -> str:
    without = formats.whole(part.get("images_without_ground_truth"))
    aside = f", {formats.count(without)} more without ground truth" if without else ""
    return formats.count(part.get("images")) + aside


def _validation_page(record: Record) -> str:
    found = {str(k): str(v) for k, v in (record.get("artifacts") or {}).items() if "validation" in str(k)}
    pages = [v for v in found.values() if v.endswith((".html", ".htm"))]
    return (pages or list(found.values()) or [""])[0]


def _result(check: Mapping[str, Any]) -> str:
    if check.get("error"):
        return "error"
    success = check.get("success")
    return "skipped" if success is None else "passed" if success else "failed"


def _words(check: Any) -> str:
    if not isinstance(check, Mapping):
        return str(check)
    return str(check.get("title") or check.get("type") or "unnamed")


def _cause(worst: Mapping[str, Any]) -> str:
    if worst.get("kind") == "missed":
        return "missed"
    cause = str(worst.get("cause") or worst.get("kind") or "").replace("_", " ")
    return f"{cause}, truly {worst['true_label']}" if worst.get("true_label") is not None else cause


def _box(values: Any) -> tuple[float, float, float, float] | None:
    if not isinstance(values, list | tuple) or len(values) != 4:
        return None
    x, y, w, h = (float("nan") if formats.number(v) is None else float(v) for v in values)
    return x, y, w, h
