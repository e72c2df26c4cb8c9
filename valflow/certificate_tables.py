"""Flat tables of a certificate and of the draw that it rests on: what the validation suites read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from valflow import audits, certifying, runs
from valflow.errors import CertificateError

if TYPE_CHECKING:
    import pandas as pd

_PROVEN = ("approved", "audited", "wrong", "certified", "estimate", "bound", "most_wrong", "sentence")


def certificate_table(record: runs.Record) -> pd.DataFrame:
    """One row per audited group of a certified run; ``problem`` says why the record is not what the verdicts prove."""
    import pandas as pd

    certificate = record["certificate"]
    problems = _problems(record)
    groups = [g for g in certificate["groups"] if g["audit"]]
    max_error = certificate["promise"]["max_error"]
    approved = np.array([g["approved"] for g in groups], np.int64)
    return pd.DataFrame(
        {
            "group": pd.array([g["name"] for g in groups], dtype="str"),
            "labels": _whole(groups, "labels"),
            "drawn_from": _whole(groups, "drawn_from"),
            "drawn": _whole(groups, "audit"),
            "wrong": _whole(groups, "wrong"),
            "certified": _whole(groups, "certified"),
            "approved": approved,
            "most_wrong": _share(groups, "most_wrong"),
            "bound": _share(groups, "bound"),
            "max_error": np.full(len(groups), max_error),
            # As the test rounds: 0.1 * 30 is a little more than 3.
            "allowed_wrong": np.floor(max_error * approved + 1e-9),
            "problem": pd.array([problems.get(g["name"]) for g in groups], dtype="str"),
        }
    )


def audit_table(record: runs.Record) -> pd.DataFrame:
    """One row per label drawn for the certificate, in the order of the draw; none where the draw is gone."""
    import pandas as pd

    items = (audits.certificate_audit(record["run"]) or {"items": []})["items"]
    texts = ("label_id", "sample_id", "group", "label", "verdict", "reviewer")
    columns = {name: pd.array([_text(i[name]) for i in items], dtype="str") for name in texts}
    return pd.DataFrame(
        {
            **columns,
            "number": _whole(items, "number"),
            "confidence": _share(items, "confidence"),
            "probability": _share(items, "probability"),
        }
    )


def _problems(record: runs.Record) -> dict[str, str]:
    """Per group, why its figures are not those that the verdicts on record prove."""
    on_record = record["certificate"]["groups"]
    try:
        proven = {g["name"]: g for g in certifying.groups_by_verdicts(record)}
    except CertificateError as error:
        return {g["name"]: str(error) for g in on_record}
    return {
        g["name"]: f"the record says otherwise than the verdicts: {', '.join(differing)}"
        for g in on_record
        if (differing := [k for k in _PROVEN if g.get(k) != proven.get(g["name"], {}).get(k)])
    }


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _whole(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([r[name] for r in rows], np.int64)


def _share(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([np.nan if r[name] is None else r[name] for r in rows], np.float64)
