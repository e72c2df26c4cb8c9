"""How likely a label is right, learned from the audit verdicts of earlier runs.

A logistic regression on the log odds of the confidence, per class, drawn towards "the confidence is right" as
far as verdicts are missing: without any it is the confidence. What it predicts decides where an audit looks;
it never certifies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from valflow.certify.regions import check_quality

Floats = NDArray[np.float64]

_LEAST = 1e-6  # confidences of 0 and 1 have no log odds
# Precisions of the normal priors. A class may differ in its odds by a factor of e^2, hardly in its slope.
_BIAS, _SLOPE, _CLASS_BIAS, _CLASS_SLOPE, _EXTRA = 0.1, 0.5, 0.3, 10.0, 1.0


@dataclass(frozen=True)
class ScoreModel:
    """A fitted score.

    Attributes:
        verdicts: on which it was fitted; a design needs the number.
        bias: log odds added for every label.
        slope: factor of the log odds of the confidence.
        class_bias: what a class adds to ``bias``.
        class_slope: what a class adds to ``slope``.
        extras: per further feature its mean, its standard deviation and its weight.
    """

    verdicts: int
    bias: float
    slope: float
    class_bias: Mapping[str, float] = field(default_factory=dict)
    class_slope: Mapping[str, float] = field(default_factory=dict)
    extras: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)

    def quality(
        self,
        confidence: ArrayLike,
        classes: Sequence[str] | NDArray[np.str_],
        extras: Mapping[str, ArrayLike] | None = None,
    ) -> Floats:
        """Chance of being correct of each label.

        Args:
            confidence: (N,) in [0, 1]; NaN or None stays NaN.
            classes: (N,) names; one without verdicts is treated as the average class.
            extras: the further features that the model was fitted with, (N,) each; NaN counts as average.

        Returns:
            (N,) in [0, 1].

        Raises:
            ValueError: a confidence is out of its range, or a feature of the model is missing.
        """
        values = check_quality(confidence, "confidence")
        names, code = _codes(classes, len(values))
        odds = self.bias + np.array([self.class_bias.get(n, 0.0) for n in names])[code]
        slope = self.slope + np.array([self.class_slope.get(n, 0.0) for n in names])[code]
        odds = odds + slope * _log_odds(values)
        given = extras or {}
        missing = sorted(self.extras.keys() - given.keys())
        if missing:
            raise ValueError(f"expected the features {', '.join(self.extras)}, found no {', '.join(missing)}")
        for name, (mean, deviation, weight) in self.extras.items():
            odds = odds + weight * _standardised(given[name], len(values), mean, deviation)
        return np.asarray(1.0 / (1.0 + np.exp(-odds)))


def fit_scores(
    confidence: ArrayLike,
    classes: Sequence[str] | NDArray[np.str_],
    correct: ArrayLike,
    extras: Mapping[str, ArrayLike] | None = None,
) -> ScoreModel:
    """Fit the score on verdicts of random audits.

    The log odds of being correct are ``b + b_c + (s + s_c) * logit(confidence) + w . x``, fitted by maximum
    likelihood with a quadratic penalty (a normal prior): ``s`` around 1, everything else around 0, the
    differences between classes shrunk towards their mean.

    Args:
        confidence: (M,) of the judged labels, in [0, 1], none missing.
        classes: (M,) names as predicted.
        correct: (M,) bool.
        extras: further features, (M,) each; NaN counts as average.

    Raises:
        ValueError: there are no verdicts, lengths differ, or a confidence is missing or out of its range.
    """
    from scipy.optimize import minimize

    values = check_quality(confidence, "confidence")
    right = np.asarray(correct)
    if right.dtype != bool or right.shape != values.shape or not len(values):
        raise ValueError(
            f"expected one verdict True or False for each of {len(values)} labels (1 or more), "
            f"found {right.dtype} {right.shape}"
        )
    if np.isnan(values).any():
        raise ValueError(
            f"expected a confidence for every verdict, found {int(np.isnan(values).sum())} without"
        )
    names, code = _codes(classes, len(values))
    odds, target, count = _log_odds(values), right.astype(float), len(names)
    moments = {n: _moments(v, len(values)) for n, v in (extras or {}).items()}
    columns = [_standardised(v, len(values), *moments[n]) for n, v in (extras or {}).items()]
    more = np.column_stack(columns) if columns else np.zeros((len(values), 0))
    precision = np.repeat(
        [_BIAS, _SLOPE, _CLASS_BIAS, _CLASS_SLOPE, _EXTRA], [1, 1, count, count, more.shape[1]]
    )
    centre = np.zeros(len(precision))
    centre[1] = 1.0

    def loss(w: Floats) -> tuple[float, Floats]:
        bias, slope, extra = w[2 : 2 + count], w[2 + count : 2 + 2 * count], w[2 + 2 * count :]
        z = w[0] + bias[code] + (w[1] + slope[code]) * odds + more @ extra
        r = 1.0 / (1.0 + np.exp(-z)) - target
        steps = [
            [r.sum(), r @ odds],
            np.bincount(code, r, count),
            np.bincount(code, r * odds, count),
            r @ more,
        ]
        value = np.logaddexp(0.0, z).sum() - target @ z + 0.5 * (precision * (w - centre) ** 2).sum()
        return float(value), np.concatenate(steps) + precision * (w - centre)

    w = minimize(loss, centre, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    return ScoreModel(
        verdicts=len(values),
        bias=float(w[0]),
        slope=float(w[1]),
        class_bias=dict(zip(names, w[2 : 2 + count].tolist(), strict=True)),
        class_slope=dict(zip(names, w[2 + count : 2 + 2 * count].tolist(), strict=True)),
        extras={n: (*moments[n], float(v)) for n, v in zip(moments, w[2 + 2 * count :], strict=True)},
    )


def _log_odds(confidence: Floats) -> Floats:
    clipped = np.clip(confidence, _LEAST, 1 - _LEAST)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))


def _codes(classes: Sequence[str] | NDArray[np.str_], count: int) -> tuple[list[str], NDArray[np.int64]]:
    array = np.asarray(classes)
    if array.shape != (count,):
        raise ValueError(f"expected one class for each of {count} labels, found the shape {array.shape}")
    names, code = np.unique(array, return_inverse=True)
    return [str(n) for n in names], code


def _moments(values: ArrayLike, count: int) -> tuple[float, float]:
    array = _feature(values, count)
    known = array[~np.isnan(array)]
    if not len(known):
        return 0.0, 1.0
    return float(known.mean()), float(known.std()) or 1.0


def _standardised(values: ArrayLike, count: int, mean: float, deviation: float) -> Floats:
    # Beyond four deviations a feature says nothing more; one broken box must not rule a score.
    scaled = np.clip((_feature(values, count) - mean) / deviation, -4.0, 4.0)
    return np.asarray(np.where(np.isnan(scaled), 0.0, scaled))


def _feature(values: ArrayLike, count: int) -> Floats:
    array = np.asarray(values, float)
    if array.shape != (count,):
        raise ValueError(f"expected one value of a feature for each of {count} labels, found {array.shape}")
    return array
