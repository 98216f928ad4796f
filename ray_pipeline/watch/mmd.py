"""Whether two samples of vectors are of one distribution: the maximum mean discrepancy.

Gretton, Borgwardt, Rasch, Schölkopf and Smola, A kernel two-sample test, JMLR 13 (2012): the
squared distance between the means of both samples in the space of a kernel, here
exp(-|x - y|² / 2 s²) with the median distance as s. It is 0 of equal distributions alone. How often
chance makes it as large is counted over random divisions of all rows into two samples of the same
sizes, so that the chance is right for any number of rows, and of any distribution.

Before, all rows together are made to vary as much in every direction: what a model's last layer
reads varies most along what it was trained to tell, and hardly by what the rows are about.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_ROUNDING = 1e-3
"""Of the mean variance; added to that of each direction."""
_AT_ONCE = 2_000
"""Divisions that are reckoned with in one product: of 1,024 rows they take 8 MB."""


class Apart(NamedTuple):
    """How far two samples are apart, and how often chance makes them so."""

    size: float
    """The root of the unbiased estimate of MMD²; 0 where that is negative. It grows in proportion
    to the share of the rows that come from elsewhere."""
    p: float


def apart(usual: NDArray[np.float32], seen: NDArray[np.float32], divisions: int) -> Apart:
    """Of the vectors `usual` [M, D] and `seen` [N, D], by so many random divisions."""
    kernel = _kernel(whitened(np.concatenate([usual, seen])))
    of_seen = np.zeros((len(kernel), 1), np.float32)
    of_seen[len(usual) :] = 1
    (found,) = _squared(kernel, of_seen)
    rng, larger, left = np.random.default_rng(0), 0, divisions
    while left > 0:
        many = np.repeat(of_seen, min(left, _AT_ONCE), axis=1)
        larger += int((_squared(kernel, rng.permuted(many, axis=0)) >= found).sum())
        left -= many.shape[1]
    return Apart(float(max(found, 0.0)) ** 0.5, (larger + 1) / (divisions + 1))


def whitened(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows [N, D] that have about the unit matrix as their covariance, which is estimated as Ledoit
    and Wolf do (2004), for D need not be much less than N. Directions of next to no variance stay
    as they are: what varies there is rounding."""
    from sklearn.covariance import ledoit_wolf

    covariance, _ = ledoit_wolf(rows.astype(np.float64))
    width = rows.shape[1]
    least = _ROUNDING * max(float(np.trace(covariance)) / width, 1e-12)
    steady = np.linalg.cholesky(covariance + least * np.eye(width))
    found: NDArray[np.float32] = ((rows - rows.mean(axis=0)) @ np.linalg.inv(steady).T).astype(
        np.float32
    )
    return found


def _kernel(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The kernel [N, N] between rows [N, D], with 0 for a row and itself."""
    lengths = (rows * rows).sum(axis=1)
    squared = np.maximum(lengths[:, None] + lengths - 2 * rows @ rows.T, 0)
    usual = np.median(squared[np.triu_indices(len(rows), 1)])
    # Where most rows are the same, every other one is far away.
    kernel: NDArray[np.float32] = np.exp(-squared / max(2 * float(usual), 1e-12)).astype(np.float32)
    np.fill_diagonal(kernel, 0)
    return kernel


def _squared(kernel: NDArray[np.float32], of_seen: NDArray[np.float32]) -> NDArray[np.float64]:
    """The unbiased MMD² [P] of divisions [M + N, P] of all rows, 1 for those that are `seen`."""
    count = float(of_seen[:, 0].sum())
    others = len(kernel) - count
    sums = kernel.sum(axis=1, dtype=np.float64)
    within = (of_seen * (kernel @ of_seen)).sum(axis=0, dtype=np.float64)
    touched = sums @ of_seen
    without = sums.sum() - 2 * touched + within
    between = touched - within
    found: NDArray[np.float64] = (
        within / (count * (count - 1))
        + without / (others * (others - 1))
        - 2 * between / (count * others)
    )
    return found
