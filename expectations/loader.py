"""Strict loading of suites: what Great Expectations would drop or accept in silence is an error here.

A suite is a YAML file with Great Expectations' own fields (``type``, ``kwargs``, ``severity``,
``description``, ``notes``, ``meta``) and, around them, a ``name`` and the ``table`` that it reads.
``{$PARAMETER: classes}`` stands for a value of the run.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from expectations.classes import expectation_class, is_row_expectation
from expectations.kwargs import kwargs_problems
from expectations.suite import SEVERITIES, SHIPPED, TABLES, Item, Suite
from expectations.wording import nearest
from valflow.errors import SuiteError

SUITE_KEYS = ("name", "table", "expectations", "notes")
ITEM_KEYS = ("type", "kwargs", "severity", "description", "notes", "meta")


def load_suite(reference: str, base_dir: Path | str) -> Suite:
    """Load one suite, ready to run.

    Args:
        reference: name of a shipped suite (``labels``), or path of a YAML file, relative to ``base_dir``.
        base_dir: folder that relative paths are meant from.

    Raises:
        SuiteError: lists every problem of the file, each with its place and what to do.
    """
    suite, problems = _load(reference, Path(base_dir))
    if suite is None:
        raise SuiteError("\n".join(problems))
    return suite


def check_suites(references: Sequence[str], base_dir: Path | str) -> list[str]:
    """Every problem that would stop these suites: loading, names, and a rehearsal on a small table.

    Returns:
        One line per problem; empty where all is well.
    """
    # The rehearsal needs great_expectations itself, seconds to import.
    from expectations.rehearsal import rehearse

    if not references:
        return ["no validation suite is named; expected at least one, e.g. labels and samples"]
    problems = [
        f"suite {r!r} is named {n} times; name it once" for r, n in Counter(references).items() if n > 1
    ]
    loaded: dict[str, Suite] = {}
    for reference in dict.fromkeys(references):
        suite, found = _load(reference, Path(base_dir))
        problems += found
        if suite is None:
            continue
        if suite.name in loaded:
            other = loaded[suite.name].source
            problems.append(f"{suite.source}: the name {suite.name!r} is taken by {other}; give it another")
        loaded[suite.name] = suite
        problems += rehearse(suite)
    return problems


def shipped_suites() -> list[str]:
    """Names of the suites that come with valflow."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def _load(reference: str, base_dir: Path) -> tuple[Suite | None, list[str]]:
    try:
        path = _path(reference, base_dir)
        document, lines = _read(path)
    except SuiteError as error:
        return None, [str(error)]
    problems = _suite_problems(document, path)
    if problems:
        return None, problems
    items: list[Item] = []
    seen: dict[str, int] = {}
    for number, entry in enumerate(document["expectations"], start=1):
        place = f"{path}, item {number} (line {lines[number - 1]})"
        item, found = _item(entry, place, document["table"])
        problems += found
        if item is None:
            continue
        first = seen.setdefault(json.dumps([item.type, item.kwargs], sort_keys=True, default=str), number)
        if first != number:
            problems.append(f"{place}: the same check as item {first}; remove one of the two")
        items.append(item)
    if problems:
        return None, problems
    suite = Suite(document["name"], document["table"], tuple(items), str(path), _text(document.get("notes")))
    return suite, []


def _path(reference: str, base_dir: Path) -> Path:
    if "/" in reference or "\\" in reference or reference.endswith((".yaml", ".yml")):
        path = base_dir / Path(reference).expanduser()
        if not path.is_file():
            raise SuiteError(f"suite {reference!r}: found no file {path}; correct the path")
        return path
    names = shipped_suites()
    if reference not in names:
        raise SuiteError(
            f"suite {reference!r}: no shipped suite has that name; {nearest(reference, names)}; "
            f"a file of your own is named by its path, e.g. ./{reference or 'mine'}.yaml"
        )
    return SHIPPED / f"{reference}.yaml"


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice; plain YAML keeps the last one in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.value == "<<":
                continue
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value!r} is given twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


def _read(path: Path) -> tuple[Any, list[int]]:
    """The document, and the line of every item of ``expectations``."""
    try:
        loader = _StrictLoader(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SuiteError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    try:
        node = loader.get_single_node()
        document = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise SuiteError(f"{path}{where}: not valid YAML: {reason}; correct the file") from None
    finally:
        loader.dispose()
    lines: list[int] = []
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == "expectations" and isinstance(value, yaml.SequenceNode):
                lines = [entry.start_mark.line + 1 for entry in value.value]
    return document, lines


def _suite_problems(document: Any, path: Path) -> list[str]:
    if not isinstance(document, Mapping):
        return [f"{path}: expected a mapping with {', '.join(SUITE_KEYS[:3])}; found {_kind(document)}"]
    problems = [
        f"{path}: unknown key {k!r}; {nearest(k, SUITE_KEYS)}" for k in document if k not in SUITE_KEYS
    ]
    name, table, checks = (document.get(key) for key in SUITE_KEYS[:3])
    if not isinstance(name, str) or not name.strip():
        problems.append(f"{path}: expected `name: …`, a text; found {_kind(name)}")
    if table not in TABLES:
        *others, last = TABLES
        named = f"{', '.join(others)} or {last}"
        problems.append(f"{path}: expected `table: {named}`; found {_kind(table)}")
    if not isinstance(checks, list) or not checks:
        problems.append(
            f"{path}: expected `expectations:` with at least one check, found {_kind(checks)}; "
            "an empty suite would pass everything"
        )
    return problems


def _item(entry: Any, place: str, table: str) -> tuple[Item | None, list[str]]:
    if not isinstance(entry, Mapping):
        return None, [f"{place}: expected a mapping with type and kwargs; found {_kind(entry)}"]
    problems = [f"{place}: unknown key {k!r}; {nearest(k, ITEM_KEYS)}" for k in entry if k not in ITEM_KEYS]
    severity = entry.get("severity", "critical")
    if severity not in SEVERITIES:
        hint = nearest(severity, SEVERITIES)
        problems.append(f"{place}: expected severity {', '.join(SEVERITIES)}; found {severity!r}; {hint}")
    if "description" in entry and not isinstance(entry["description"], str):
        problems.append(f"{place}: expected a text as description; found {_kind(entry['description'])}")
    kwargs, meta = entry.get("kwargs", {}), entry.get("meta", {})
    for key, value in (("kwargs", kwargs), ("meta", meta)):
        if not isinstance(value, Mapping) or not all(isinstance(k, str) for k in value):
            problems.append(f"{place}: expected {key} to be a mapping of names; found {_kind(value)}")
    try:
        expectation = expectation_class(entry.get("type"))
    except SuiteError as error:
        return None, [*problems, f"{place}: {error}"]
    if not problems:
        problems += [f"{place}, {entry['type']}: {p}" for p in kwargs_problems(expectation, kwargs, table)]
    if problems:
        return None, problems
    row_check = is_row_expectation(expectation) and kwargs.get("mostly", 1) in (None, 1)
    notes = _text(entry.get("notes"))
    description = entry.get("description")
    return Item(place, entry["type"], expectation, kwargs, severity, description, notes, meta, row_check), []


def _text(notes: Any) -> str | None:
    """Notes as one text; Great Expectations also allows a list of them."""
    return "\n".join(map(str, notes)) if isinstance(notes, list) else None if notes is None else str(notes)


def _kind(value: Any) -> str:
    """What was found, short."""
    if value is None:
        return "nothing"
    if isinstance(value, (str, int, float)):
        return repr(value)
    if isinstance(value, (list, Mapping)) and not value:
        return f"an empty {'list' if isinstance(value, list) else 'mapping'}"
    return f"a {type(value).__name__}"
