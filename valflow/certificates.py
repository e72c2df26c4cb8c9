"""What a run record keeps about its certificate, and how that is said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from valflow.certify import Drift, GroupProposal, GroupResult, Promise, certify_rest

# How a certificate stands; `abstained` means that nothing is drawn, because nothing could be proven or saved.
AUDIT, CERTIFIED, ABSTAINED = "audit", "certified", "abstained"

Certificate = dict[str, Any]


def is_certified(record: Mapping[str, Any]) -> bool:
    """Whether approvals of a run rest on a certificate."""
    return (record.get("certificate") or {}).get("state") == CERTIFIED


def in_words(certificate: Certificate) -> str:
    """How a certificate stands, in one sentence."""
    if certificate["state"] == ABSTAINED:
        return f"nothing can be certified: {certificate['reason']}"
    if certificate["state"] == AUDIT:
        return f"{certificate['audit']} labels were drawn for the certificate and wait for verdicts"
    proven = sum(g["approved"] > 0 for g in certificate["groups"])
    return (
        f"{certificate['wrong']} wrong of {certificate['audited']} drawn; {certificate['approved']} labels in "
        f"{proven} of {len(certificate['groups'])} groups are certified (digest {certificate['digest'][:12]})"
    )


def sentences(certificate: Certificate) -> list[str]:
    """What a certificate claims, group by group, and what is left to do; nothing before it is there."""
    if certificate["state"] != CERTIFIED:
        return []
    return [
        *(g["sentence"] for g in certificate["groups"]),
        f"{certificate['approved']} labels are approved by the certificate, {certificate['queue']} are left to look at",
    ]


def promise_in_words(certificate: Certificate) -> str:
    """What is promised about the labels that nobody looked at."""
    promise = certificate["promise"]
    return (
        f"certified: at most {100 * promise['max_error']:.4g} % of the labels that nobody looks at are wrong, "
        f"with {100 * promise['confidence']:.4g} % confidence per group"
    )


def planned_group(group: GroupProposal) -> dict[str, Any]:
    """A group before its audit."""
    return {
        "name": group.group.name,
        "classes": len(group.group.classes),
        "labels": len(group.group.positions),
        "audit": group.design.audit if group.design else 0,
        "reason": group.reason,
        "regions": [
            {"labels": int(size), "predicted_error": float(error)}
            for size, error in zip(group.regions.sizes, group.regions.predicted, strict=True)
        ],
        "drawn_from": int(group.regions.sizes[group.design.drawn_from]) if group.design else 0,
        "risk": group.risk,
    }


def proven_group(group: GroupResult, promise: Promise) -> dict[str, Any]:
    """A group after its audit."""
    proven = group.certificate
    figures: dict[str, Any] = {
        "certified": 0,
        "approved": 0,
        # Where nothing passed, the region that was tested first.
        "audited": group.walk.tests[0].audited if group.walk and group.walk.tests else 0,
        "wrong": group.walk.tests[0].wrong if group.walk and group.walk.tests else 0,
        "estimate": None,
        "bound": None,
        "most_wrong": None,
    }
    if proven is not None:
        figures |= {
            "certified": proven.total,
            "approved": len(group.approved),
            "audited": proven.audited,
            "wrong": proven.wrong,
            "estimate": proven.estimate,
            "bound": proven.bound,
            "most_wrong": proven.most_wrong,
        }
    return {
        **planned_group(group.proposal),
        **figures,
        "sentence": group.sentence,
        "tests": [
            {
                "labels": t.total,
                "audited": t.audited,
                "wrong": t.wrong,
                "p_value": t.p_value,
                "bound": certify_rest(t.total, t.audited, t.wrong, promise, t.risk).bound,
                "passed": t.passed,
            }
            for t in (group.walk.tests if group.walk else ())
        ],
        "by_class": [
            {"label": name, "approved": approved, "audited": audited, "wrong": wrong}
            for name, approved, audited, wrong in group.by_class
        ],
    }


def drift_entry(drift: Drift) -> dict[str, Any]:
    return {
        "name": drift.name,
        "statistic": plain(drift.statistic),
        "p_value": drift.p_value,
        "suspected": drift.suspected,
    }


def plain(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
