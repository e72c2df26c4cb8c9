"""The gate: suites over tables, and whether the labels may become final.

Great Expectations' own ``success`` ignores severity. Here a failed *critical* check blocks, and so does any
check that could not run, whatever its severity: a gate that cannot look does not open.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import math
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from expectations.engine import Finding, run_checks
from expectations.suite import (
    KEYS,
    OF_SOME_LABELS,
    OPTIONAL,
    PARAMETERS,
    ROWS,
    Item,
    Suite,
    prepared,
    with_parameters,
)
from expectations.wording import expected_of, observed_of, reason, title_of
from valflow.errors import SuiteError

EXAMPLES = 5
# More failing rows than this are counted, not listed, in the JSON form.
LISTED = 10_000

Reasons = dict[str, list[str]]


@dataclass(frozen=True)
class Check:
    """One check and its result.

    Attributes:
        success: None where the check was skipped, False also where it could not run.
        observed, expected: in plain words.
        unexpected_count: rows out of line, None for a check of the whole table.
        examples: the first rows out of line: their id and the columns that the check looks at.
        error: why it could not run.
        skipped_reason: why it does not apply.
    """

    suite: str
    type: str
    title: str
    column: str | None
    severity: str
    success: bool | None
    observed: str = ""
    expected: str = ""
    unexpected_count: int | None = None
    examples: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None
    skipped_reason: str | None = None
    notes: str | None = None

    @property
    def status(self) -> str:
        """``passed``, ``failed``, ``error`` or ``skipped``."""
        if self.error is not None:
            return "error"
        return {None: "skipped", True: "passed", False: "failed"}[self.success]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "status": self.status, "blocks": self.blocks}

    @property
    def blocks(self) -> bool:
        """Whether it keeps labels from becoming final."""
        return self.status == "error" or (self.status == "failed" and self.severity == "critical")


@dataclass(frozen=True)
class Outcome:
    """The result of a validation.

    Attributes:
        passed: whether the labels may become final.
        failing_labels, failing_samples: id to reasons, of failed critical checks that judge single rows.
        rows: rows per table.
        at: when, ISO 8601 with time zone.
    """

    passed: bool
    checks: list[Check]
    failing_labels: Reasons
    failing_samples: Reasons
    seconds: float
    rows: dict[str, int]
    at: str
    versions: dict[str, str]

    @property
    def failed(self) -> list[Check]:
        """Checks that failed or could not run, warnings included."""
        return [check for check in self.checks if check.status in ("failed", "error")]

    @property
    def blocking(self) -> list[Check]:
        """Checks that keep the labels from becoming final."""
        return [check for check in self.checks if check.blocks]

    def to_json(self) -> dict[str, Any]:
        """Plain values; at most the first 10,000 failing labels and samples, beside their full number."""
        return {
            "passed": self.passed,
            "at": self.at,
            "seconds": round(self.seconds, 3),
            "versions": dict(self.versions),
            "rows": dict(self.rows),
            "suites": list(dict.fromkeys(check.suite for check in self.checks)),
            "checks": [check.to_json() for check in self.checks],
            "failing_labels": _first(self.failing_labels),
            "failing_label_count": len(self.failing_labels),
            "failing_samples": _first(self.failing_samples),
            "failing_sample_count": len(self.failing_samples),
        }


def validate(
    tables: Mapping[str, pd.DataFrame | None], suites: Sequence[Suite], parameters: Mapping[str, Any]
) -> Outcome:
    """Run suites over the tables of a labeling run.

    Safe to call from several threads. A check that cannot run does not raise: it blocks.

    Args:
        tables: by name, columns as in ``expectations.suite.TABLES``. None for ``certificate`` and ``audit`` says
            that the run has none, then their checks are skipped; a table that is left out blocks.
        suites: loaded suites.
        parameters: ``classes``, ``max_labels_per_sample`` and ``previous_class_mix`` (class to share); the first
            and the last may be None, then their checks are skipped.

    Raises:
        SuiteError: no suite was given; nothing checked is nothing passed.
    """
    if not suites:
        raise SuiteError("expected at least one validation suite, found none; name one, e.g. labels")
    begun = time.perf_counter()
    parameters = prepared(parameters)
    checks: dict[int, Check] = {}
    # Rows of a certificate or its draw are no labels that a reviewer could mend: they have no reasons here.
    failing: dict[str, Reasons] = {"labels": {}, "samples": {}}
    for table_name in KEYS:
        items = [(suite, item) for suite in suites if suite.table == table_name for item in suite.items]
        for suite, item, finding, skipped in _results(tables, table_name, items, parameters):
            table = tables.get(table_name)
            check = _check(suite, item, finding, skipped, table, parameters)
            checks[id(item)] = check
            if check.blocks and check.unexpected_count and finding is not None and table is not None:
                _collect(failing.get(table_name, {}), table, item, finding, KEYS[table_name])
    ordered = [checks[id(item)] for suite in suites for item in suite.items]
    return Outcome(
        passed=not any(check.blocks for check in ordered),
        checks=ordered,
        failing_labels=failing["labels"],
        failing_samples=failing["samples"],
        seconds=time.perf_counter() - begun,
        rows={name: len(table) for name, table in tables.items() if table is not None},
        at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions=_versions(),
    )


def failing_labels(table: pd.DataFrame, suites: Sequence[Suite], parameters: Mapping[str, Any]) -> Reasons:
    """Labels that the gate would refuse, found before anybody reviews them.

    Runs the critical checks that judge labels one by one; checks of whole tables would mean nothing here.

    Args:
        table: predicted labels, columns as in ``expectations.suite.TABLES["labels"]``; a part will do.
        suites: loaded suites; those of other tables are passed over.
        parameters: as for ``validate``.

    Returns:
        Label id to reasons.

    Raises:
        SuiteError: a check cannot run; the gate would refuse everything later.
    """
    items = [
        (suite, item)
        for suite in suites
        if suite.table == "labels"
        for item in suite.items
        if item.is_row_check and item.severity == "critical"
    ]
    failing: Reasons = {}
    if not len(table):
        return failing
    parameters = prepared(parameters)
    for _, item, finding, _ in _results({"labels": table}, "labels", items, parameters):
        if finding is None:
            continue
        if finding.error:
            raise SuiteError(f"{item.place}, {item.type}: cannot run: {finding.error}; correct the suite")
        _collect(failing, table, item, finding, KEYS["labels"])
    return failing


def _results(
    tables: Mapping[str, pd.DataFrame | None],
    table_name: str,
    items: Sequence[tuple[Suite, Item]],
    parameters: Mapping[str, Any],
) -> Iterator[tuple[Suite, Item, Finding | None, str | None]]:
    """Every item with its finding, or with the reason why it is skipped."""
    table = tables.get(table_name)
    absent = OPTIONAL.get(table_name) if table_name in tables and table is None else None
    skipped = {
        number: absent or _skip_reason(item, parameters, table_name, table)
        for number, (_, item) in enumerate(items)
    }
    live = [number for number in skipped if skipped[number] is None]
    problem = _table_problem(table, table_name)
    if problem or table is None:
        found = [Finding(success=False, error=problem) for _ in live]
    elif live:
        found = run_checks(table, [items[number][1] for number in live], parameters)
    else:
        found = []
    findings = dict(zip(live, found, strict=True))
    for number, (suite, item) in enumerate(items):
        yield suite, item, findings.get(number), skipped[number]


def _skip_reason(
    item: Item, parameters: Mapping[str, Any], table_name: str, table: pd.DataFrame | None
) -> str | None:
    if table is not None and table_name == "labels":
        for group, absent in OF_SOME_LABELS.items():
            # One column alone that is missing is a fault, and fails.
            if set(item.columns) & set(group) and not any(column in table for column in group):
                return absent
    for name in sorted(item.parameters):
        if name in parameters and parameters[name] is None and PARAMETERS[name].absent:
            return PARAMETERS[name].absent
    return None


def _table_problem(table: pd.DataFrame | None, table_name: str) -> str | None:
    if table is None:
        return f"the {table_name} table was not given"
    if KEYS[table_name] not in table:
        return f"the {table_name} table has no column {KEYS[table_name]!r}"
    return None


def _check(
    suite: Suite,
    item: Item,
    finding: Finding | None,
    skipped: str | None,
    table: pd.DataFrame | None,
    parameters: Mapping[str, Any],
) -> Check:
    known = {**dict.fromkeys(PARAMETERS), **parameters}
    texts: dict[str, Any] = {
        "suite": suite.name,
        "type": item.type,
        "title": title_of(item),
        "column": ", ".join(item.columns) or None,
        "severity": item.severity,
        "expected": expected_of(with_parameters(item.kwargs, known)) if skipped is None else "",
        "notes": item.notes,
    }
    if finding is None:
        return Check(**texts, success=None, skipped_reason=skipped)
    if finding.error is not None or table is None:
        return Check(**texts, success=False, error=finding.error)
    count = None if finding.positions is None else len(finding.positions)
    observed = observed_of(count, finding.considered, finding.observed, finding.details, ROWS[suite.table])
    examples = _examples(table, item, finding, KEYS[suite.table])
    return Check(
        **texts, success=finding.success, observed=observed, unexpected_count=count, examples=examples
    )


def _examples(table: pd.DataFrame, item: Item, finding: Finding, key: str) -> list[dict[str, Any]]:
    if finding.positions is None or not len(finding.positions):
        return []
    columns = [c for c in dict.fromkeys([key, *item.columns]) if c in table]
    rows = table[columns].iloc[finding.positions[:EXAMPLES]]
    return [{c: _plain(v) for c, v in row.items()} for row in rows.to_dict("records")]


def _plain(value: Any) -> Any:
    """A value that JSON can hold: it has no form for numbers that are missing or endless."""
    if pd.isna(value):
        return None
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def _collect(failing: Reasons, table: pd.DataFrame, item: Item, finding: Finding, key: str) -> None:
    """Add the rows that fail a check, each with what it holds."""
    if finding.positions is None:
        return
    columns = [c for c in item.columns if c in table and c != key]
    ids = table[key].take(finding.positions).tolist()
    values = [table[c].take(finding.positions).tolist() for c in columns]
    title = title_of(item)
    for number, row_id in enumerate(ids):
        name = row_id if isinstance(row_id, str) else f"row {finding.positions[number]} (no id)"
        failing.setdefault(name, []).append(reason(title, columns, [column[number] for column in values]))


def _first(reasons: Reasons) -> Reasons:
    return {name: reasons[name] for name in list(reasons)[:LISTED]}


def _versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in ("great-expectations", "pandas", "numpy")}
    return {**found, "python": platform.python_version()}
