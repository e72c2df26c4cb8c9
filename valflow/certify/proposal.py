"""From scores to a draw, and from the verdicts on it to labels that may skip the review.

Three steps, of which the second is a person's work: :func:`propose` fixes everything that the scores decide,
:func:`draw_audit` draws by a seed, :func:`certify` computes what the verdicts prove. Each step carries the
digest of the one before it, so that nothing can be exchanged on the way.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from valflow.certify.bounds import smallest_sample
from valflow.certify.certificate import Certificate, Promise, certify_rest
from valflow.certify.design import Design, choose_design
from valflow.certify.groups import Group, Scope, group_labels
from valflow.certify.regions import FRACTIONS, LEVELS, Regions, check_quality, nest
from valflow.certify.walk import Walk, walk_regions

Positions = NDArray[np.int64]
Verdict = bool | str | None

CORRECT, UNSURE = "correct", "unsure"
BAD_BOX = "bad_box"
VERDICTS = (CORRECT, "wrong_class", BAD_BOX, "not_an_object", "duplicate", UNSURE)


@dataclass(frozen=True)
class GroupProposal:
    """What is planned for one group.

    Attributes:
        group: its labels.
        regions: nested, of the labels that have a quality; positions are those of the whole batch.
        design: the draw and the walk, None where all of it goes to review.
        reason: why there is no design, empty otherwise.
        risk: allowed probability that the promise about this group fails, in (0, 1).
    """

    group: Group
    regions: Regions
    design: Design | None
    reason: str
    risk: float


@dataclass(frozen=True)
class Proposal:
    """Everything that is fixed before the draw.

    Attributes:
        total: N, labels in the batch.
        promise: about each group.
        classes: (N,) as predicted.
        groups: with a design or without.
        batch: SHA-256 of the labels, the same whatever is promised about them.
        digest: SHA-256 of everything here.
    """

    total: int
    promise: Promise
    classes: NDArray[np.generic]
    groups: tuple[GroupProposal, ...]
    batch: str
    digest: str

    @property
    def audit(self) -> int:
        """Labels that a person will have to judge in the audit."""
        return sum(g.design.audit for g in self.groups if g.design)


@dataclass(frozen=True)
class Draw:
    """Labels for a person to judge, in random order.

    Attributes:
        positions: (A,) in the batch.
        group: (A,) index of the group of each in the proposal.
        probability: (A,) with which each was included, in (0, 1].
        seed: from which the draw follows.
        proposal: digest of what it was drawn for.
    """

    positions: Positions
    group: NDArray[np.int64]
    probability: NDArray[np.float64]
    seed: int
    proposal: str


@dataclass(frozen=True)
class GroupResult:
    """What was proven about one group.

    Attributes:
        proposal: what was planned.
        walk: the tests, None where the group was not audited.
        certificate: of the widest region that passed, None where nothing did.
        approved: positions that nobody looked at and that may skip the review.
        by_class: per class its name, labels approved, audited and wrong within the certified region.
    """

    proposal: GroupProposal
    walk: Walk | None
    certificate: Certificate | None
    approved: Positions
    by_class: tuple[tuple[str, int, int, int], ...]

    @property
    def sentence(self) -> str:
        """The only claim that a certificate makes, its bound rounded up; print it wherever the result is shown."""
        name, c = self.proposal.group.name, self.certificate
        if c is None:
            return f"{name}: nothing is proven; every label needs a look"
        return (
            f"{name}: of {c.rest} labels that nobody looked at, at most {c.most_wrong} "
            f"({math.ceil(1000 * c.bound - 1e-9) / 10:.1f} %) are wrong, with {100 * (1 - c.risk):.4g} % confidence "
            f"(promise: {100 * c.promise.max_error:.4g} %); {c.wrong} of {c.audited} labels drawn at random were "
            "wrong. This says nothing about objects that the model missed"
        )


@dataclass(frozen=True)
class Result:
    """The outcome for the whole batch; every label is in exactly one of the four sets.

    Attributes:
        groups: in the order of the proposal.
        approved: positions approved without a look, rising.
        confirmed: judged correct in the audit.
        rejected: judged wrong in the audit.
        review: still to be looked at, with those of the draw that have no verdict or ``unsure``.
        missing: labels of the draw without a verdict; they count as wrong.
        digest: SHA-256 of the proposal, the seed, the verdicts and the outcome.
    """

    groups: tuple[GroupResult, ...]
    approved: Positions
    confirmed: Positions
    rejected: Positions
    review: Positions
    missing: int
    digest: str

    @property
    def looks(self) -> int:
        """Labels that a person has judged or still has to: the audit and the queue."""
        return len(self.confirmed) + len(self.rejected) + len(self.review)


def propose(
    quality: ArrayLike,
    classes: ArrayLike,
    promise: Promise | None = None,
    *,
    history: int = 0,
    scope: Scope = "auto",
    audit: int | None = 153,
    min_group: int = 460,
    label_ids: Iterable[str] | None = None,
) -> Proposal:
    """Decide from scores alone which labels an audit may release.

    Args:
        quality: (N,) chance of being correct in [0, 1], from a score model or the raw confidence; NaN or None
            is never approved without a look.
        classes: (N,) names as predicted.
        promise: about the labels that nobody will have looked at; 5 % at 90 % confidence by default.
        history: verdicts of random audits behind the qualities, 0 for the raw confidence.
        scope: see :func:`valflow.certify.groups.group_labels`.
        audit: labels to draw per group; None chooses a number per group that saves most looks.
        min_group: fewest labels of a certified group.
        label_ids: identify the labels in the batch's digest; their qualities and classes do otherwise.

    Raises:
        ValueError: there are no labels, lengths or values are out of range, or the audit is too small to prove
            anything or larger than a group may be.
    """
    promise = promise or Promise()
    values = check_quality(quality)
    names = np.asarray(classes)
    if names.shape != values.shape or not len(values):
        raise ValueError(
            f"expected a quality and a class for each label (1 or more), found {values.shape} and {names.shape}"
        )
    _check_audit(audit, min_group, promise)
    if history < 0:
        raise ValueError(f"expected a number of past verdicts, 0 or more, for history; found {history!r}")
    groups = tuple(
        _propose_group(values, g, promise, history, audit) for g in group_labels(names, scope, min_group)
    )
    batch = _digest(sorted(label_ids)) if label_ids is not None else _digest([values, names])
    terms: list[str | NDArray[np.generic]] = [
        batch,
        repr(promise),
        *(repr((g.group.name, g.risk, g.design)) for g in groups),
        values,
        names,
    ]
    return Proposal(len(values), promise, names, groups, batch, _digest(terms))


def draw_audit(proposal: Proposal, seed: int | None = None) -> Draw:
    """Draw in every group uniformly at random, without replacement, and shuffle all of it.

    Args:
        proposal: what is drawn for.
        seed: makes the draw repeatable, 0 to 2^63 - 1; by default a new random one. Choosing it after a look
            at the labels would make the certificate worthless.

    Raises:
        ValueError: the seed is out of its range, or no group has a design.
    """
    seed = secrets.randbits(32) if seed is None else seed
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**63:
        raise ValueError(f"expected a whole number from 0 to 2^63 - 1 as seed, found {seed!r}")
    parts = []
    for number, g in enumerate(proposal.groups):
        if g.design is not None:
            rng = np.random.default_rng([int(seed), number])
            size = int(g.regions.sizes[g.design.drawn_from])
            chosen = g.regions.order[rng.choice(size, g.design.audit, replace=False)]
            parts.append((chosen, np.full(len(chosen), number), np.full(len(chosen), g.design.audit / size)))
    if not parts:
        raise ValueError(
            "expected a group to audit, found none: "
            + "; ".join(f"{g.group.name}: {g.reason}" for g in proposal.groups)
        )
    shuffled = np.random.default_rng([int(seed), len(proposal.groups)]).permutation(
        sum(len(p[0]) for p in parts)
    )
    columns = [np.concatenate(column)[shuffled] for column in zip(*parts, strict=True)]
    return Draw(columns[0], columns[1].astype(np.int64), columns[2], int(seed), proposal.digest)


def certify(
    proposal: Proposal,
    draw: Draw,
    verdicts: Sequence[Verdict],
    *,
    missing: Literal["wrong", "prefix"] = "wrong",
) -> Result:
    """What the verdicts prove.

    Args:
        proposal: what was planned.
        draw: for it; it is repeated from its seed and compared.
        verdicts: (A,) in the order of the draw: True, False, None for a missing one, or words
            (``correct``, ``wrong_class``, ``bad_box``, ``not_an_object``, ``duplicate``, ``unsure``); all but
            ``correct`` count as wrong.
        missing: what a missing verdict means. ``prefix`` certifies on the verdicts before the first missing
            one and leaves the others in review: sound only if whatever ended the judging had nothing to do
            with the verdicts.

    Raises:
        ValueError: the draw is not the one that its seed gives for this proposal, the number of verdicts
            differs, or one is unknown.
    """
    _check_draw(proposal, draw)
    correct, known = _read(verdicts, len(draw.positions))
    judged = np.ones(len(correct), bool)
    if missing == "prefix":
        judged = np.cumsum(~known) == 0
    elif missing != "wrong":
        raise ValueError(f"expected missing='wrong' or 'prefix', found {missing!r}")
    groups = tuple(
        _certify_group(g, draw.positions[rows], correct[rows], proposal)
        for number, g in enumerate(proposal.groups)
        for rows in [np.flatnonzero((draw.group == number) & judged)]
    )
    approved = np.sort(np.concatenate([g.approved for g in groups]))
    decided = judged & known & np.array([v != UNSURE for v in verdicts], bool)
    review = np.ones(proposal.total, bool)
    review[approved] = review[draw.positions[decided]] = False
    digest = _digest([proposal.digest, str(draw.seed), missing, correct, known, approved])
    return Result(
        groups=groups,
        approved=approved,
        confirmed=np.sort(draw.positions[decided & correct]),
        rejected=np.sort(draw.positions[decided & ~correct]),
        review=np.flatnonzero(review),
        missing=int((~known).sum()),
        digest=digest,
    )


def check_unchanged(result: Result, proposal: Proposal, draw: Draw, verdicts: Sequence[Verdict]) -> None:
    """Refuse a certificate whose verdicts, draw or proposal have changed since it was computed.

    Raises:
        ValueError: the certificate computed anew is another one.
    """
    for missing in ("wrong", "prefix"):
        if certify(proposal, draw, verdicts, missing=missing).digest == result.digest:
            return
    raise ValueError(
        f"expected the verdicts that certificate {result.digest[:12]} rests on, found others; "
        "it is void: certify anew, with the same draw"
    )


def check_first(proposal: Proposal, certified_batches: Collection[str]) -> None:
    """Refuse to certify a batch again: drawing until the sample pleases proves nothing.

    Args:
        proposal: about to be drawn for.
        certified_batches: :attr:`Proposal.batch` of every batch that was drawn for before.

    Raises:
        ValueError: there was a draw for this batch.
    """
    if proposal.batch in certified_batches:
        raise ValueError(
            f"expected a batch without an audit, found one that was drawn for before ({proposal.batch[:12]}); "
            "its result stands, and what it did not release needs a look"
        )


def _propose_group(
    values: NDArray[np.float64], group: Group, promise: Promise, history: int, audit: int | None
) -> GroupProposal:
    risk = promise.risk * group.risk_share
    local = nest(values[group.positions], promise.max_error, LEVELS, () if history else FRACTIONS)
    regions = Regions(group.positions[local.order], local.error, local.sizes)
    if not group.certified:
        return GroupProposal(group, regions, None, f"only {len(group.positions)} labels", risk)
    if not len(regions.sizes):
        reason = (
            "no label has a confidence" if not len(local.order) else "no score promises so few wrong labels"
        )
        return GroupProposal(group, regions, None, reason, risk)
    design = choose_design(regions, promise, audit=audit, history=history, risk=risk)
    reason = "" if design else "no audit is expected to save a look"
    return GroupProposal(group, regions, design, reason, risk)


def _certify_group(
    plan: GroupProposal, seen: Positions, correct: NDArray[np.bool_], proposal: Proposal
) -> GroupResult:
    if plan.design is None:
        return GroupResult(plan, None, None, np.zeros(0, np.int64), ())
    sizes = plan.regions.sizes[: plan.design.drawn_from + 1]
    drawn_from = plan.regions.order[: sizes[-1]]
    by_position = np.argsort(drawn_from)
    place = by_position[np.searchsorted(drawn_from, seen, sorter=by_position)]
    inside = place[:, None] < sizes
    audited, wrong = inside.sum(axis=0), (inside & ~correct[:, None]).sum(axis=0)
    walk = walk_regions(sizes, audited, wrong, proposal.promise, plan.design.starts, plan.risk)
    if walk.certified is None:
        return GroupResult(plan, walk, None, np.zeros(0, np.int64), ())
    best = walk.certified
    region = drawn_from[: best.total]
    approved = np.setdiff1d(region, seen, assume_unique=True)
    certificate = certify_rest(best.total, best.audited, best.wrong, proposal.promise, best.risk)
    in_region = place < best.total
    by_class = _by_class(
        *(proposal.classes[v] for v in (approved, seen[in_region], seen[in_region & ~correct]))
    )
    return GroupResult(plan, walk, certificate, approved, by_class)


def _by_class(*members: NDArray[np.generic]) -> tuple[tuple[str, int, int, int], ...]:
    """Counts of every class among labels approved, audited and wrong."""
    names, code = np.unique(np.concatenate(members), return_inverse=True)
    parts = np.split(code, np.cumsum([len(m) for m in members])[:-1])
    counts = np.column_stack([np.bincount(p, minlength=len(names)) for p in parts])
    return tuple((str(n), int(a), int(b), int(c)) for n, (a, b, c) in zip(names, counts, strict=True))


def _check_audit(audit: int | None, min_group: int, promise: Promise) -> None:
    if audit is None:
        return
    if isinstance(audit, bool) or not isinstance(audit, int | np.integer):
        raise ValueError(f"expected a number of labels for the audit, found {audit!r}")
    least = smallest_sample(promise.tested_error, promise.confidence)
    if audit < least:
        raise ValueError(
            f"expected an audit of {least} labels or more, found {audit}: fewer cannot prove at most "
            f"{promise.max_error:.4g} wrong with confidence {promise.confidence:.4g} even if all are right"
        )
    if audit > min_group:
        raise ValueError(
            f"expected an audit of at most min_group={min_group} labels, found {audit}; "
            "a group that is audited completely has nothing left to certify: raise min_group"
        )


def _check_draw(proposal: Proposal, draw: Draw) -> None:
    if draw.proposal != proposal.digest:
        raise ValueError(
            f"expected a draw for proposal {proposal.digest[:12]}, found one for {draw.proposal[:12]}; "
            "labels, scores or terms have changed since the draw"
        )
    again = draw_audit(proposal, draw.seed)
    if not (np.array_equal(again.positions, draw.positions) and np.array_equal(again.group, draw.group)):
        raise ValueError(
            f"expected the {len(again.positions)} labels that seed {draw.seed} draws, found others; "
            "only labels drawn at random can certify"
        )


def _read(verdicts: Sequence[Verdict], count: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which are correct, and which are there."""
    if len(verdicts) != count:
        raise ValueError(
            f"expected a verdict (or None) for each of {count} drawn labels, found {len(verdicts)}"
        )
    for number, v in enumerate(verdicts):
        if not (v is None or isinstance(v, bool | np.bool_) or (isinstance(v, str) and v in VERDICTS)):
            raise ValueError(
                f"expected True, False, None or one of {', '.join(VERDICTS)}, found {v!r} at number {number + 1}"
            )
    correct = np.array([v == CORRECT if isinstance(v, str) else bool(v) for v in verdicts], bool)
    return correct, np.array([v is not None for v in verdicts], bool)


def _digest(parts: Iterable[str | NDArray[np.generic]]) -> str:
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            content = part.encode()
        else:
            fixed = part.astype(str) if part.dtype == object else part
            content = str(fixed.dtype).encode() + np.ascontiguousarray(fixed).tobytes()
        sha.update(len(content).to_bytes(8, "big") + content)
    return sha.hexdigest()
