"""A progress bar for people at a terminal; silent everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def progress_bar(stage: str, total: int, unit: str) -> Iterator[Callable[[int], object]]:
    """Yields a function that moves the bar on by a number of units."""
    with tqdm(total=total, desc=stage, unit=f" {unit}", disable=not sys.stderr.isatty()) as bar:
        yield bar.update
