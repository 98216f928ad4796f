"""Numbers to a normal distribution by their ranks: the knots of a piecewise linear function.

As scikit-learn's QuantileTransformer(output_distribution="normal"): a value's probability is its
rank, the middle rank for a value that repeats, and its score the standard normal quantile of
that, at most ±5.2. Two differences, both on purpose. A smallest or largest value that repeats
takes its middle rank too, where scikit-learn sends it to ±5.2, far from its neighbours. And
between knots the score is interpolated, not the probability: so few numbers decide it that one
ONNX node and one NumPy search compute the same.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

KNOTS = 256
_LARGEST = 1e290  # so that no difference between a double and a knot overflows
_TAIL = 1e-7  # scikit-learn's BOUNDS_THRESHOLD: scores stay within ±5.2
_NORMAL = NormalDist()


def fitted_knots(values: Doubles) -> tuple[Doubles, Doubles]:
    """At most KNOTS rising values and their scores, for finite `values` [N].

    All values are knots if they are few; else half the knots are evenly spaced in probability,
    where the rows are, and half in score, where the tails are.
    """
    if not len(values):
        return np.zeros(1), np.zeros(1)
    ordered = np.sort(values.clip(-_LARGEST, _LARGEST))
    knots = np.unique(ordered)
    if len(knots) > KNOTS:
        places = np.rint(_probabilities() * (len(ordered) - 1)).astype(np.int64)
        knots = np.unique(ordered[places])
    below = np.searchsorted(ordered, knots, side="left")
    up_to = np.searchsorted(ordered, knots, side="right")
    middle = (below + up_to - 1) / 2 / max(len(ordered) - 1, 1)
    if len(ordered) == 1:
        middle = np.array([0.5])
    return knots, _scores(middle)


def _probabilities() -> Doubles:
    evenly = np.linspace(0, 1, KNOTS // 2)
    highest = _NORMAL.inv_cdf(1 - _TAIL)
    scores = np.linspace(-highest, highest, KNOTS // 2 + 2)[1:-1]
    return np.union1d(evenly, [_NORMAL.cdf(score) for score in scores])


def _scores(probabilities: Doubles) -> Doubles:
    clipped = probabilities.clip(_TAIL, 1 - _TAIL)
    return np.array([_NORMAL.inv_cdf(probability) for probability in clipped])


def slopes(knots: Doubles, targets: Doubles) -> Doubles:
    """The slope [K] after each knot; 0 after the last, so that larger values score as it does.

    Between knots too close for a finite slope there is a step.
    """
    with np.errstate(over="ignore"):
        rise = np.diff(targets) / np.diff(knots)
    return np.append(np.where(np.isfinite(rise), rise, 0.0), 0.0)


def scored(values: Doubles, knots: Doubles, targets: Doubles, rise: Doubles) -> Doubles:
    """The scores [N] of `values`, which are finite: target + (value - knot) * slope."""
    inside = np.maximum(values, knots[0])
    segment = np.searchsorted(knots, inside, side="right") - 1
    scores: Doubles = targets[segment] + (inside - knots[segment]) * rise[segment]
    return scores
