"""Which verdicts of the past speak about a model: those with the same fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

FINGERPRINT_PARTS = ("model", "weights", "label_map", "processing", "dataset", "classes", "iou")


def fingerprint(parts: Mapping[str, object]) -> str:
    """SHA-256 over everything that gives a score its meaning.

    A renamed class, other weights or another rule for boxes make another fingerprint, so that the history
    starts cold.

    Args:
        parts: JSON values for ``model`` (its id), ``weights`` (a digest), ``label_map``, ``processing`` (before
            and after the model), ``dataset``, ``classes`` (in order) and ``iou``; None where there is none.

    Raises:
        ValueError: a part is missing or unknown, or is no JSON value.
    """
    missing, unknown = set(FINGERPRINT_PARTS) - parts.keys(), parts.keys() - set(FINGERPRINT_PARTS)
    if missing or unknown:
        raise ValueError(
            f"expected {', '.join(FINGERPRINT_PARTS)} in a fingerprint; missing: {sorted(missing)}, "
            f"unknown: {sorted(unknown)}"
        )
    try:
        text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected JSON values in a fingerprint, found something else: {error}") from None
    return hashlib.sha256(text.encode()).hexdigest()
