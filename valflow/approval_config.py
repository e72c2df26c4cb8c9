"""The ``approval`` section of a configuration: which labels skip the review."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from valflow.certify.bounds import smallest_sample
from valflow.config_types import Count, Duration, Section, Share


class FixedApproval(Section):
    """Labels at or above the threshold of their class skip the review."""

    mode: Literal["fixed"] = "fixed"
    threshold: Share = Field(0.7, description="Least confidence to approve without a person")
    per_class: dict[str, Share] = Field(default_factory=dict, description="Thresholds of single classes")


class LotConfig(Section):
    """Small recurring runs wait for one another, so that there are enough labels to prove anything about."""

    min_labels: Count = Field(2000, description="Labels with which a lot is large enough to be audited")
    max_wait: Duration = Field("7d", description="Longest time that a label waits for others")


class CertifiedApproval(Section):
    """Labels skip the review only where a random audit proves that few enough of them are wrong."""

    mode: Literal["certified"] = "certified"
    max_error: float = Field(
        0.05,
        gt=0.0,
        lt=1.0,
        strict=True,
        description="Allowed share of wrong labels among those not looked at",
    )
    confidence: float = Field(
        0.90, ge=0.5, lt=1.0, strict=True, description="Chance that the promise about a group holds, at least"
    )
    scope: Literal["auto", "per_class", "pooled", "all_classes"] = Field(
        "auto",
        description="auto: a promise per class, small classes share one; per_class: small classes to review; "
        "pooled: one for everything; all_classes: per class, all of them at once",
    )
    min_group: Count = Field(460, description="Fewest labels of a group that is audited")
    audit: Count | None = Field(
        None, description="Labels to judge per group; empty chooses what saves most looks"
    )
    lot: LotConfig | None = Field(
        default_factory=LotConfig, description="When small runs are audited together; null: every run at once"
    )
    reviewer_miss_rate: float = Field(
        0.0, ge=0.0, lt=1.0, strict=True, description="Share of wrong labels that reviewers overlook"
    )
    features: list[str] = Field(
        default_factory=list,
        description="Numbers that predictions carry beside the confidence, e.g. a margin",
    )
    second_opinion: str | None = Field(
        None, min_length=1, description="Field of another model's predictions, compared with these"
    )
    ground_truth: str | None = Field(
        None,
        min_length=1,
        description="Field of true labels that judges what is drawn on samples that have it",
    )
    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] | None = Field(
        None, description="Of the draw; empty takes a new random one, which is written down"
    )


class ReviewAll(Section):
    """Every label waits for a person."""

    mode: Literal["review_all"] = "review_all"


ApprovalConfig = Annotated[FixedApproval | CertifiedApproval | ReviewAll, Field(discriminator="mode")]


def approval_problems(approval: CertifiedApproval, label_field: str) -> list[str]:
    least = smallest_sample(approval.max_error * (1 - approval.reviewer_miss_rate), approval.confidence)
    problems = []
    if approval.audit is not None and approval.audit < least:
        problems.append(
            f"approval.audit: expected {least} labels or more, found {approval.audit}; fewer cannot prove at most "
            f"{approval.max_error:g} wrong at {approval.confidence:g} even if all are right"
        )
    if max(approval.audit or 0, least) > approval.min_group:
        problems.append(
            f"approval.min_group: expected at least {max(approval.audit or 0, least)}, the labels to judge in a "
            f"group; found {approval.min_group}. A group that is audited completely has nothing left to certify"
        )
    if label_field in (approval.second_opinion, approval.ground_truth):
        problems.append(
            f"approval: {label_field!r} is the field to be filled, it cannot judge its own labels"
        )
    return problems
