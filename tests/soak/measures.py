"""What is left behind by a run, and whether it grows."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from valflow import database
from valflow.leash import family_of
from valflow.processes import marked_processes
from valflow.stack import Stack

MIB = 1024 * 1024
# The first runs load what stays loaded: pools of connections and threads, caches, statements.
WARM_UP = 4
# A process may hold so much more after the last run than after the warm-up; what a leak of 1 MiB a run makes of
# 20 runs is found, and the noise of allocators and caches is not.
MOST_MIB_PER_RUN = {"server": 3.0, "mongod": 3.0, "worker": 1.0, "app": 1.0, "driver": 2.0}
LEAST_MIB = 24.0  # growth that says nothing
MOST_DESCRIPTORS = 8
MOST_PREFECT_ROWS = 600  # of one run with two shards


@dataclass(frozen=True)
class Measure:
    """What stands after a run.

    Attributes:
        seconds: the run took.
        rss: MiB of resident memory by process (with its children).
        descriptors: open files and sockets by process.
        counts: everything that must not grow at all.
        growing: everything that grows with each run, by design.
    """

    seconds: float
    rss: Mapping[str, float]
    descriptors: Mapping[str, int]
    counts: Mapping[str, int]
    growing: Mapping[str, float] = field(default_factory=dict)


def measure(
    stack: Stack, dataset: Any, temporary: Path, files: Path, seconds: float, more: Mapping[str, int]
) -> Measure:
    """Look at everything.

    Args:
        stack: a stack that runs.
        dataset: of the runs.
        temporary: the folder for temporary files of all processes.
        files: the folder of images, exports and reports.
        seconds: what the last run took.
        more: ids of further processes by name.
    """
    pids = {name: child.pid for name, child in stack.children.items() if child.pid is not None}
    families = {name: family_of(psutil.Process(pid)) for name, pid in {**pids, **more}.items()}
    # This process is the parent of the stack: its children are counted by their own names.
    families["driver"] = [psutil.Process()]
    dataset.reload()
    db = database.connection()
    of_dataset = {"dataset_id": str(dataset._doc.id)}
    return Measure(
        seconds,
        {name: sum(p.memory_info().rss for p in family) / MIB for name, family in families.items()},
        {name: sum(p.num_fds() for p in family) for name, family in families.items()},
        {
            "processes": len(marked_processes(stack.token)),
            "temporary files": sum(len(files) for _, _, files in os.walk(temporary)),
            "collections": len(db.list_collection_names()),
            "datasets": db.datasets.count_documents({}),
            "sample fields": len(dataset.get_field_schema(flat=True)),
            "staging fields": sum(n.endswith("_in_review") for n in dataset.get_field_schema()),
            "saved views": len(dataset.list_saved_views()),
            "workspaces": len(dataset.list_workspaces()),
            "label schemas": len(dataset._doc.to_dict().get("label_schemas") or {}),
            "evaluations": len(dataset.list_evaluations()),
            "open runs": database.runs().count_documents({**of_dataset, "open": True}),
            "partial exports": sum(1 for _ in files.rglob("*.partial")),
        },
        {
            "custom runs": len(dataset.list_runs()),
            "run records": database.runs().count_documents(of_dataset),
            "prefect rows": prefect_rows(stack),
            "log KiB": sum(f.stat().st_size for f in stack.logs.iterdir()) / 1024,
        },
    )


def prefect_rows(stack: Stack) -> int:
    """Rows in all tables of Prefect's database."""
    (path,) = stack.folder.rglob("prefect.db")
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return sum(connection.execute(f'SELECT count(*) FROM "{t}"').fetchone()[0] for t in tables)


def slope(values: Sequence[float]) -> float:
    """Growth per run: the middle one of the slopes between all pairs, which single outliers do not move."""
    pairs = [(b - a) / (j - i) for i, a in enumerate(values) for j, b in enumerate(values) if j > i]
    return float(np.median(pairs)) if pairs else 0.0


def leaks(measures: Sequence[Measure], warm_up: int = WARM_UP) -> list[str]:
    """What grew from run to run and must not have, one line each."""
    after = measures[warm_up - 1 :]
    found = []
    for name in after[0].counts:
        values = [m.counts[name] for m in after]
        if max(values[1:]) > values[0]:
            found.append(f"{name}: {values[0]} after run {warm_up}, then {values[1:]}")
    for name, most in MOST_MIB_PER_RUN.items():
        if name not in after[0].rss:
            continue
        values_mib = [m.rss[name] for m in after]
        grown = slope(values_mib) * (len(after) - 1)
        if grown > max(LEAST_MIB, most * (len(after) - 1)):
            found.append(f"memory of {name}: {slope(values_mib):+.1f} MiB per run, at most {most} allowed")
    for name in after[0].descriptors:
        open_now = [m.descriptors[name] for m in after]
        if slope(open_now) * (len(after) - 1) > MOST_DESCRIPTORS:
            found.append(f"descriptors of {name}: {open_now}")
    rows = np.diff([m.growing["prefect rows"] for m in after])
    if rows.max() > MOST_PREFECT_ROWS:
        found.append(f"Prefect rows per run: {rows.tolist()}, at most {MOST_PREFECT_ROWS} allowed")
    return found


def table(measures: Sequence[Measure], warm_up: int = WARM_UP) -> list[str]:
    """Figures by run as a Markdown table, then growth per run beside its limit."""
    names = list(measures[0].rss)
    head = ["run", "seconds", *(f"{n} MiB" for n in names), *(f"{n} files" for n in names)]
    head += ["processes", "temporary", "collections", "custom runs", "prefect rows"]
    rows = [
        [
            str(number),
            f"{m.seconds:.1f}",
            *(f"{m.rss[n]:.0f}" for n in names),
            *(str(m.descriptors[n]) for n in names),
            *(str(m.counts[n]) for n in ("processes", "temporary files", "collections")),
            *(f"{m.growing[n]:.0f}" for n in ("custom runs", "prefect rows")),
        ]
        for number, m in enumerate(measures, 1)
    ]
    lines = [_line(head), _line(["---:"] * len(head)), *map(_line, rows), ""]
    after = measures[warm_up - 1 :]
    lines += [_line(["after the warm-up", "growth per run", "limit"]), _line(["---", "---:", "---:"])]
    lines.append(
        _line(["seconds of a run", f"{slope([m.seconds for m in after]):+.2f}", "none, machine-bound"])
    )
    for name in names:
        limit = MOST_MIB_PER_RUN.get(name)
        grown = slope([m.rss[name] for m in after])
        lines.append(_line([f"memory of {name}, MiB", f"{grown:+.2f}", f"{limit:.1f}" if limit else "–"]))
    for name in names:
        grown = slope([m.descriptors[name] for m in after])
        total = MOST_DESCRIPTORS
        lines.append(_line([f"open files of {name}", f"{grown:+.2f}", f"{total} over all runs"]))
    for name, first in after[0].counts.items():
        last = after[-1].counts[name]
        lines.append(_line([name, f"{last - first:+d} over all runs (now {last})", "0"]))
    for name in after[0].growing:
        grown = slope([m.growing[name] for m in after])
        limits = {"custom runs": "1", "run records": "1", "prefect rows": str(MOST_PREFECT_ROWS)}
        lines.append(_line([f"{name}, by design", f"{grown:+.1f}", limits.get(name, "–")]))
    return lines


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
