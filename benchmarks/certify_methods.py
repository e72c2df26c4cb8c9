"""Ways to decide which labels skip the review, each with the same number of looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from benchmarks.certify_worlds import Floats, Labels, World
from valflow.certify import (
    FRACTIONS,
    TWO_CHAINS,
    Design,
    Promise,
    Regions,
    Start,
    choose_design,
    fit_scores,
    nest,
    propose,
    smallest_sample,
    upper_bound,
    walk_regions,
)
from valflow.certify.proposal import certify, draw_audit

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Outcome:
    """What a method approved without a look.

    Attributes:
        approved: (N,) bool.
        audited: labels judged to find out.
        covered: labels of the region that was certified, with those of the audit.
        groups: (N,) number of the group whose promise covers a label, None for one promise.
    """

    approved: Mask
    audited: int
    covered: int
    groups: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Task:
    """One batch, one promise.

    Attributes:
        world: the batch and its history.
        promise: about what is approved.
        audit: labels that may be drawn.
        rng: of the draw.
    """

    world: World
    promise: Promise
    audit: int
    rng: Generator


def fixed(threshold: float) -> Callable[[Task], Outcome]:
    """Everything at or above a threshold."""

    def method(task: Task) -> Outcome:
        approved = task.world.batch.confidence >= threshold
        return Outcome(approved, 0, int(approved.sum()))

    return method


def _by_threshold(task: Task, choose: Callable[[Floats, Mask], float]) -> Outcome:
    """Draw from all labels, let a rule choose a threshold on their confidence, approve the others above it."""
    batch = task.world.batch
    drawn = task.rng.choice(len(batch.correct), task.audit, replace=False)
    approved = batch.confidence >= choose(batch.confidence[drawn], ~batch.correct[drawn])
    covered = int(approved.sum())
    approved[drawn] = False
    return Outcome(approved, task.audit, covered)


def _by_rank(confidence: Floats, wrong: Mask) -> tuple[Floats, Floats, Floats]:
    """Distinct confidences, falling, with the labels at or above each and the wrong ones among them."""
    order = np.argsort(-confidence, kind="stable")
    ends = np.flatnonzero(np.diff(confidence[order], append=-1.0) != 0)
    return confidence[order][ends], (ends + 1).astype(float), np.cumsum(wrong[order])[ends].astype(float)


def plug_in(task: Task) -> Outcome:
    """The lowest threshold whose observed error meets the target."""

    def choose(confidence: Floats, wrong: Mask) -> float:
        level, n, k = _by_rank(confidence, wrong)
        good = np.flatnonzero(k / n <= task.promise.max_error)
        return float(level[good[-1]]) if len(good) else 2.0

    return _by_threshold(task, choose)


def tbal(task: Task) -> Outcome:
    """The lowest threshold with ``e + 0.25 * sqrt(e * (1 - e)) <= eps`` (Vishwakarma et al., NeurIPS 2023)."""

    def choose(confidence: Floats, wrong: Mask) -> float:
        level, n, k = _by_rank(confidence, wrong)
        e = k / n
        good = np.flatnonzero(e + 0.25 * np.sqrt(e * (1 - e)) <= task.promise.max_error)
        return float(level[good[-1]]) if len(good) else 2.0

    return _by_threshold(task, choose)


def clopper_pearson(task: Task) -> Outcome:
    """Binomial bounds along falling thresholds at the full risk until the first failure (fixed sequence)."""

    def choose(confidence: Floats, wrong: Mask) -> float:
        threshold = 2.0
        # The thresholds are shares of the batch, so that they do not depend on the draw.
        for t in _fraction_thresholds(task.world.batch):
            inside = confidence >= t
            n = int(inside.sum())
            if threshold > 1 and n < smallest_sample(task.promise.max_error, task.promise.confidence):
                continue
            bound = upper_bound(int(wrong[inside].sum()), n, task.promise.confidence)
            if bound > task.promise.max_error:
                break
            threshold = float(t)
        return threshold

    return _by_threshold(task, choose)


def _fraction_thresholds(batch: Labels) -> Floats:
    ranked = np.sort(batch.confidence)[::-1]
    return np.asarray(ranked[(np.array(FRACTIONS) * len(ranked)).astype(int) - 1])


def sgr(task: Task) -> Outcome:
    """Selection with guaranteed risk: binary search with a binomial bound per step (Geifman, El-Yaniv 2017)."""

    def choose(confidence: Floats, wrong: Mask) -> float:
        order = np.argsort(confidence, kind="stable")
        steps = int(np.ceil(np.log2(len(order))))
        low, high, threshold = 0, len(order) - 1, 2.0
        for _ in range(steps):
            middle = (low + high + 1) // 2
            t = float(confidence[order[middle]])
            inside = confidence >= t
            bound = upper_bound(int(wrong[inside].sum()), int(inside.sum()), 1 - task.promise.risk / steps)
            if bound <= task.promise.max_error:
                threshold, high = t, middle - 1
            else:
                low = middle
            if high <= low:
                break
        return threshold

    return _by_threshold(task, choose)


def hypergeometric_sequence(task: Task) -> Outcome:
    """Draw from everything, test shares of the batch by falling confidence until the first failure."""
    batch = task.world.batch
    regions = nest(batch.confidence, task.promise.max_error, (), FRACTIONS)
    expected = task.audit * regions.sizes / len(batch.correct)
    first = int(np.searchsorted(expected, smallest_sample(task.promise.max_error, task.promise.confidence)))
    starts = (Start(min(first, len(regions.sizes) - 1), 1.0),)
    return _walk(task, regions, Design(len(regions.sizes) - 1, task.audit, starts, 0.0))


def _walk(task: Task, regions: Regions, design: Design | None) -> Outcome:
    """Draw, judge and walk."""
    approved = np.zeros(len(task.world.batch.correct), bool)
    if design is None:
        return Outcome(approved, 0, 0)
    sizes = regions.sizes[: design.drawn_from + 1]
    place = np.sort(task.rng.choice(sizes[-1], min(design.audit, sizes[-1]), replace=False))
    wrong = ~task.world.batch.correct[regions.order[place]]
    audited = np.searchsorted(place, sizes)
    walk = walk_regions(
        sizes, audited, np.concatenate([[0], np.cumsum(wrong)])[audited], task.promise, design.starts
    )
    if walk.certified:
        approved[regions.order[: walk.certified.total]] = True
        approved[regions.order[place]] = False
    return Outcome(approved, len(place), walk.certified.total if walk.certified else 0)


def _plain_score(world: World) -> tuple[Floats, int]:
    """Logistic regression on the log odds, the class and their product, C = 1: the usual calibration."""
    from sklearn.linear_model import LogisticRegression

    if world.history is None:
        return world.batch.confidence, 0
    names = np.unique(world.history.classes)

    def columns(labels: Labels) -> Floats:
        p = labels.confidence.clip(1e-6, 1 - 1e-6)
        odds = np.log(p / (1 - p))[:, None]
        one_hot = (labels.classes[:, None] == names).astype(float)
        return np.hstack([odds, one_hot, one_hot * odds])

    model = LogisticRegression(C=1.0, max_iter=500).fit(columns(world.history), world.history.correct)
    return model.predict_proba(columns(world.batch))[:, 1], len(world.history.correct)


def _own_score(world: World, extras: bool) -> tuple[Floats, int]:
    past = world.history
    if past is None:
        return world.batch.confidence, 0
    given: Mapping[str, Floats] | None = past.extras if extras else None
    model = fit_scores(past.confidence, past.classes, past.correct, given)
    quality = model.quality(world.batch.confidence, world.batch.classes, world.batch.extras)
    return quality, model.verdicts


def two_chains(own_score: bool = False) -> Callable[[Task], Outcome]:
    """Regions by predicted error, draw from the widest, chains from 0.2 and 0.5 at half of the risk each."""

    def method(task: Task) -> Outcome:
        quality = _own_score(task.world, False)[0] if own_score else _plain_score(task.world)[0]
        regions = nest(quality, task.promise.max_error)
        if not len(regions.sizes):
            return Outcome(np.zeros(len(quality), bool), 0, 0)
        starts = tuple(s for s in TWO_CHAINS if s.region < len(regions.sizes)) or (Start(0, 0.5),)
        return _walk(task, regions, Design(len(regions.sizes) - 1, task.audit, starts, 0.0))

    return method


def one_chain(task: Task) -> Outcome:
    """The same, one chain from 0.2 at the full risk."""
    regions = nest(_own_score(task.world, False)[0], task.promise.max_error)
    if not len(regions.sizes):
        return Outcome(np.zeros(len(task.world.batch.correct), bool), 0, 0)
    start = Start(min(3, len(regions.sizes) - 1), 1.0)
    return _walk(task, regions, Design(len(regions.sizes) - 1, task.audit, (start,), 0.0))


def designed(extras: bool) -> Callable[[Task], Outcome]:
    """Where to draw and to begin chosen by simulation, with the confidence alone or with all features."""

    def method(task: Task) -> Outcome:
        quality, verdicts = _own_score(task.world, extras)
        regions = nest(quality, task.promise.max_error, fractions=() if verdicts else FRACTIONS)
        design = choose_design(regions, task.promise, audit=task.audit, history=verdicts)
        return _walk(task, regions, design)

    return method


def ours(scope: str = "pooled", choose_size: bool = False) -> Callable[[Task], Outcome]:
    """The shipped way: propose, draw, certify."""

    def method(task: Task) -> Outcome:
        quality, verdicts = _own_score(task.world, True)
        batch = task.world.batch
        proposal = propose(
            quality,
            batch.classes,
            task.promise,
            history=verdicts,
            scope=scope,  # type: ignore[arg-type]
            audit=None if choose_size else task.audit,
            min_group=max(460, task.audit),
        )
        approved = np.zeros(len(quality), bool)
        groups = np.zeros(len(quality), np.int64)
        for number, g in enumerate(proposal.groups):
            groups[g.group.positions] = number
        if not proposal.audit:
            return Outcome(approved, 0, 0, groups)
        draw = draw_audit(proposal, int(task.rng.integers(2**31)))
        result = certify(proposal, draw, batch.correct[draw.positions].tolist())
        approved[result.approved] = True
        covered = sum(g.certificate.total for g in result.groups if g.certificate)
        return Outcome(approved, len(draw.positions), covered, groups)

    return method


def with_pilot(share: float) -> Callable[[Task], Outcome]:
    """Spend a part of the looks on learning the score of this very batch; the rest certifies what is left."""

    def method(task: Task) -> Outcome:
        batch, past = task.world.batch, task.world.history
        count = len(batch.correct)
        # Every part of the scores is seen; this draw certifies nothing, so it need not be uniform.
        order = np.argsort(-batch.confidence, kind="stable")
        edges = np.linspace(0, count, int(share * task.audit) + 1).astype(int)
        pilot = order[task.rng.integers(edges[:-1], edges[1:])]
        rest = np.setdiff1d(np.arange(count), pilot)
        judged = batch.take(pilot)
        confidence, classes, correct, extras = (
            judged.confidence,
            judged.classes,
            judged.correct,
            dict(judged.extras),
        )
        if past is not None:
            confidence = np.concatenate([confidence, past.confidence])
            classes = np.concatenate([classes, past.classes])
            correct = np.concatenate([correct, past.correct])
            extras = {n: np.concatenate([v, past.extras[n]]) for n, v in extras.items()}
        model = fit_scores(confidence, classes, correct, extras)
        left = batch.take(rest)
        quality = model.quality(left.confidence, left.classes, left.extras)
        regions = nest(quality, task.promise.max_error)
        size = task.audit - len(pilot)
        design = choose_design(regions, task.promise, audit=size, history=model.verdicts)
        part = Task(World(left), task.promise, size, task.rng)
        outcome = _walk(part, regions, design)
        approved = np.zeros(count, bool)
        approved[rest] = outcome.approved
        return Outcome(approved, len(pilot) + outcome.audited, outcome.covered)

    return method


METHODS: dict[str, Callable[[Task], Outcome]] = {
    "fixed 0.7": fixed(0.7),
    "fixed 0.9": fixed(0.9),
    "plug-in": plug_in,
    "TBAL rule": tbal,
    "Clopper-Pearson sequence": clopper_pearson,
    "SGR": sgr,
    "hypergeometric sequence": hypergeometric_sequence,
    "two chains": two_chains(),
    "+ score with priors": two_chains(own_score=True),
    "+ one chain at full risk": one_chain,
    "+ design by simulation": designed(extras=False),
    "valflow (+ features)": ours(),
    "valflow, a quarter as pilot": with_pilot(0.25),
    "valflow, size chosen": ours(choose_size=True),
    "valflow, per class": ours("auto"),
    "valflow, per class, size chosen": ours("auto", choose_size=True),
}
# These promise something at the stated confidence.
CERTIFYING = tuple(METHODS)[4:]
