"""One large run: time and memory of every stage, and what it leaves in the database.

Run as ``python -m benchmarks.bench_million [--samples 125000]``: 8 labels per image, so a million. The stages are
those of ``bench_pipeline``, each in a process of its own. Besides CPU this shows wall seconds and whole processes:
how large a machine must be. Not part of `make bench`: it takes about ten minutes and a few gigabytes.
"""

from __future__ import annotations

import argparse
import os

from benchmarks.bench_pipeline import STAGES, TITLES, measure
from benchmarks.measuring import own_database

_HEAD = (
    "stage",
    "labels",
    "wall s",
    "labels per s",
    "CPU s",
    "µs per label",
    "of it mongod, µs",
    "more memory, MB",
    "process, MB",
    "mongod, MB",
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=125_000)
    options = parser.parse_args()
    with own_database() as meter:
        begin = os.getloadavg()[0]
        measured = measure(meter, options.samples, STAGES)
        labels, costs = measured["counts"]["predicted"], measured["costs"]
        for stage in STAGES:
            cost = costs[stage]
            meter.rows.append(
                (
                    TITLES[stage],
                    f"{labels:,}",
                    f"{cost['wall']:.1f}",
                    f"{labels / cost['wall']:,.0f}",
                    f"{cost['cpu']:.1f}",
                    f"{cost['cpu'] / labels * 1e6:.1f}",
                    f"{cost['server_cpu'] / labels * 1e6:.1f}",
                    *(f"{cost[kind] / 1e6:,.0f}" for kind in ("peak", "resident", "server")),
                )
            )
        wall, cpu, of_server = (
            sum(costs[stage][kind] for stage in STAGES) for kind in ("wall", "cpu", "server_cpu")
        )
        largest = [
            f"{max(costs[s][kind] for s in STAGES) / 1e6:,.0f}" for kind in ("peak", "resident", "server")
        ]
        each = (f"{seconds / labels * 1e6:.1f}" for seconds in (cpu, of_server))
        total = (f"{wall:.1f}", f"{labels / wall:,.0f}", f"{cpu:.1f}", *each, *largest)
        meter.rows.append(("all stages, one after the other", f"{labels:,}", *total))
        meter.print_table(f"A run of {options.samples:,} images", _HEAD)
        counts = ", ".join(f"{count:,} {name}" for name, count in measured["counts"].items() if count)
        _print_sizes(measured["sizes"])
        disk = sum(f.stat().st_size for f in (meter.folder / "db").rglob("*") if f.is_file())
        print(f"\n{counts}; load at the start {begin:.1f}; the database takes {disk / 1e9:.2f} GB on disk")


def _print_sizes(sizes: dict[str, dict[str, float]]) -> None:
    print("\n| document | how many | bytes, mean | largest |\n|---|--:|--:|--:|")
    for name, size in sizes.items():
        print(f"| {name} | {size['documents']:,} | {size['mean']:,.0f} | {size['largest']:,} |")


if __name__ == "__main__":
    main()
