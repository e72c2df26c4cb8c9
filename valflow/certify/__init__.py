"""What a random audit proves about the labels that nobody looked at. Needs numpy and scipy, nothing else."""

from valflow.certify.bounds import smallest_sample, upper_bound
from valflow.certify.certificate import (
    Certificate,
    Promise,
    allowed_wrong,
    certify_rest,
    hypergeometric_cdf,
    most_wrong_in_rest,
    p_values,
)
from valflow.certify.design import Design, choose_design
from valflow.certify.drift import Drift, compare_errors, compare_scores
from valflow.certify.features import box_shapes, entropies, margins, neighbour_overlaps, second_opinions
from valflow.certify.groups import Group, group_labels
from valflow.certify.history import fingerprint
from valflow.certify.lots import LotPolicy, closes, expected_wait
from valflow.certify.planning import (
    Forecast,
    audit_size,
    forecast,
    forecast_table,
    incomplete_images,
    sample_for_errors,
)
from valflow.certify.proposal import (
    BAD_BOX,
    CORRECT,
    UNSURE,
    VERDICTS,
    Draw,
    GroupProposal,
    GroupResult,
    Proposal,
    Result,
    certify,
    check_first,
    check_unchanged,
    draw_audit,
    propose,
)
from valflow.certify.regions import FRACTIONS, LEVELS, Regions, nest
from valflow.certify.scores import ScoreModel, fit_scores
from valflow.certify.sequential import Stop, audit_sequentially, capital
from valflow.certify.walk import TWO_CHAINS, RegionTest, Start, Walk, walk_regions

__all__ = [
    "BAD_BOX",
    "CORRECT",
    "FRACTIONS",
    "LEVELS",
    "TWO_CHAINS",
    "UNSURE",
    "VERDICTS",
    "Certificate",
    "Design",
    "Draw",
    "Drift",
    "Forecast",
    "Group",
    "GroupProposal",
    "GroupResult",
    "LotPolicy",
    "Promise",
    "Proposal",
    "RegionTest",
    "Regions",
    "Result",
    "ScoreModel",
    "Start",
    "Stop",
    "Walk",
    "allowed_wrong",
    "audit_sequentially",
    "audit_size",
    "box_shapes",
    "capital",
    "certify",
    "certify_rest",
    "check_first",
    "check_unchanged",
    "choose_design",
    "closes",
    "compare_errors",
    "compare_scores",
    "draw_audit",
    "entropies",
    "expected_wait",
    "fingerprint",
    "fit_scores",
    "forecast",
    "forecast_table",
    "group_labels",
    "hypergeometric_cdf",
    "incomplete_images",
    "margins",
    "most_wrong_in_rest",
    "neighbour_overlaps",
    "nest",
    "p_values",
    "propose",
    "sample_for_errors",
    "second_opinions",
    "smallest_sample",
    "upper_bound",
    "walk_regions",
]
