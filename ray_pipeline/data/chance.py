"""Whether a difference between groups is more than chance. Shapes: G groups, K classes."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Z = NormalDist().inv_cdf(0.975)


def wilson(hits: NDArray[Any], rows: NDArray[Any]) -> NDArray[np.float64]:
    """Wilson's 95 % interval (1927) of the share `hits` [G] of `rows` [G], none 0: [G, 2]."""
    share, small = hits / rows, _Z**2 / rows
    centre = (share + small / 2) / (1 + small)
    half = _Z * np.sqrt(share * (1 - share) / rows + small / (4 * rows)) / (1 + small)
    interval: NDArray[np.float64] = np.stack([centre - half, centre + half], 1)
    return interval


def independence(counts: NDArray[Any]) -> tuple[float, float]:
    """Of counts [G, K]: the p-value of Pearson's χ² test, and Cramér's V (0 none, 1 complete)."""
    from scipy import stats  # most of a second, for jobs with groups alone

    counts = counts[counts.sum(1) > 0][:, counts.sum(0) > 0]
    if min(counts.shape) < 2:
        return 1.0, 0.0
    tested = stats.chi2_contingency(counts, correction=False)
    strength = tested.statistic / counts.sum() / (min(counts.shape) - 1)
    return float(tested.pvalue), float(np.sqrt(strength))


def mean_interval(
    rows: NDArray[Any], sums: NDArray[Any], squares: NDArray[Any]
) -> NDArray[np.float64]:
    """The normal 95 % interval [G, 2] of the mean of values of which these are known [G]."""
    mean = sums / rows
    variance = np.maximum(squares / rows - mean**2, 0)
    half = _Z * np.sqrt(variance / np.maximum(rows - 1, 1))
    interval: NDArray[np.float64] = np.stack([mean - half, mean + half], 1)
    return interval


def equal_means(
    rows: NDArray[Any], sums: NDArray[Any], squares: NDArray[Any]
) -> tuple[float, float]:
    """The p-value of the F test that all groups [G] have one mean, and √η², its strength."""
    from scipy import stats

    total, groups = rows.sum(), len(rows)
    within = float((squares - sums**2 / rows).sum())
    between = float((sums**2 / rows).sum() - sums.sum() ** 2 / total)
    if groups < 2 or total <= groups or within <= 0:
        return 1.0, 0.0
    statistic = (between / (groups - 1)) / (within / (total - groups))
    p = float(stats.f.sf(statistic, groups - 1, total - groups))
    return p, float(np.sqrt(between / (between + within)))
