"""Waiting for what a server or worker does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_until(holds: Callable[[], Any], timeout: float = 240.0) -> Any:
    """What ``holds`` gives, once it gives something.

    Args:
        holds: asked five times a second.
        timeout: seconds.
    """
    deadline = time.monotonic() + timeout
    while not (found := holds()):
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.2)
    return found
