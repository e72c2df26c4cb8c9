"""What the run left behind: verified labels, exports, samples that failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from valflow import intake
from valflow.report import formats
from valflow.report.blocks import (
    Bar,
    Block,
    Cell,
    Check,
    Checks,
    Code,
    Column,
    Heading,
    Link,
    Paragraph,
    Section,
    Table,
)

Record = Mapping[str, Any]


def verification_section(record: Record) -> Section | None:
    """Announced against written, the schema, labels per class, and what somebody else changed."""
    found = record.get("verification")
    if not found:
        return None
    field = str(record.get("label_field", ""))
    announced, written = found.get("announced"), found.get("written")
    changed = [
        c if isinstance(c, Mapping) else {"sample_id": c} for c in found.get("changed_elsewhere") or []
    ]
    changes = max(len(changed), formats.whole(found.get("changed_elsewhere_count")))
    checks = [
        Check(
            announced == written,
            "As many labels were written as announced",
            f"{formats.count(announced)} announced, {formats.count(written)} written",
        ),
        Check(
            bool(found.get("schema")),
            "The label field is part of the dataset's schema",
            Code(field),
        ),
        Check(
            not changes,
            "Nothing else on these samples changed since triage",
            "other fields, tags and file paths are as they were"
            if not changes
            else f"somebody else changed {formats.counted(changes, 'sample')}; reported, not reverted",
            required=False,
        ),
    ]
    blocks: list[Block] = [Checks(checks)]
    if formats.number(found.get("samples_with_labels")) is not None:
        on = formats.counted(found["samples_with_labels"], "sample")
        blocks.append(Paragraph([f"The labels of this run are on {on}, in the field ", Code(field), "."]))
    if changed:
        rows: list[list[Cell]] = [
            [Code(str(c.get("sample_id"))), ", ".join(map(str, c.get("fields") or []))] for c in changed
        ]
        blocks += [Heading("Changed by somebody else"), Table([Column("sample"), Column("fields")], rows, 10)]
    blocks += [*_labels_per_class(found.get("labels_per_class") or {}), *_schema(found.get("schema") or {})]
    return Section("verification", "Verification", blocks)


def _labels_per_class(counts: Mapping[str, Any]) -> list[Block]:
    if not counts:
        return []
    ordered = sorted(counts.items(), key=lambda c: (-formats.whole(c[1]), str(c[0])))
    peak = formats.whole(ordered[0][1]) or 1
    rows: list[list[Cell]] = [
        [str(c), formats.count(n), Bar([("approved", formats.whole(n))], peak)] for c, n in ordered
    ]
    columns = [Column("class"), Column("labels", "number"), Column("share of the largest class", "bar")]
    return [Heading("Labels per class, as counted in the dataset"), Table(columns, rows, 15)]


def _schema(schema: Mapping[str, Any]) -> list[Block]:
    if not schema:
        return []
    rows: list[list[Cell]] = [[Code(str(name)), Code(str(kind))] for name, kind in schema.items()]
    return [Heading("Schema"), Table([Column("field"), Column("type")], rows, 15)]


def files_section(record: Record) -> Section | None:
    """Exports that were read back, and the other files of the run."""
    exports, artifacts = record.get("exports") or [], record.get("artifacts") or {}
    if not exports and not artifacts:
        return None
    blocks: list[Block] = []
    if exports:
        columns = [Column("format"), Column("scope"), Column("samples", "number"), Column("labels", "number")]
        columns += [Column("read back"), Column("folder")]
        rows: list[list[Cell]] = [
            [
                str(e.get("format")),
                str(e.get("scope") or formats.NOTHING),
                formats.count(e.get("samples")),
                formats.count(e.get("labels")),
                "equal" if e.get("verified") else "not compared",
                Code(str(e.get("dir") or formats.NOTHING)),
            ]
            for e in exports
        ]
        blocks.append(Table(columns, rows))
    if artifacts:
        places: list[list[Cell]] = [
            [str(name).replace("_", " "), Link(str(a), str(a))] for name, a in artifacts.items()
        ]
        blocks += [Heading("Files"), Table([Column("what"), Column("where")], places)]
    return Section("files", "Exports and files", blocks)


def odd_section(record: Record) -> Section | None:
    """What was odd about the predictions, and what was made of it."""
    told = intake.sentences_of(record)
    if not told:
        return None
    return Section("odd", "Odd predictions", [Paragraph(f"{words[0].upper()}{words[1:]}.") for words in told])


def failed_section(record: Record) -> Section | None:
    """The samples without an answer from the model, each with its reason."""
    failed = record.get("failed") or []
    total = max(len(failed), formats.whole((record.get("counts") or {}).get("failed_samples")))
    if not total:
        return None
    words = f"{formats.counted(total, 'sample')} could not be labelled; the run is complete without them."
    if len(failed) < total:
        words += f" The first {len(failed)} are listed."
    rows: list[list[Cell]] = [
        [
            str(f.get("reason") or "unknown"),
            Code(str(f.get("filepath") or "")),
            Code(str(f.get("sample_id") or "")),
        ]
        for f in failed
    ]
    table = [Table([Column("reason"), Column("file"), Column("sample")], rows, 10)] if rows else []
    return Section("failed", "Samples that failed", [Paragraph(words), *table])
