"""How far annotators agree beyond chance. A annotators, N rows; classes are 0 … K-1, -1 none."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int64]


class Pair(NamedTuple):
    """Two annotators (their places), the rows that both labelled, the share alike, and kappa."""

    first: int
    second: int
    rows: int
    alike: float
    kappa: float | None


def alpha(codes: Codes) -> float | None:
    """Krippendorff's alpha of `codes` [A, N] for nominal data; None where chance cannot be told.

    Krippendorff (2011), "Computing Krippendorff's alpha-reliability", section D: of each row with
    m ≥ 2 values every ordered pair counts 1 / (m - 1) in the coincidence matrix o; with its
    margins n_c and their sum n, alpha = 1 - (n - 1) (n - Σ o_cc) / (n² - Σ n_c²).
    """
    classes = int(codes.max(initial=-1)) + 1
    counts = np.stack([(codes == label).sum(0) for label in range(classes)] or [np.zeros(0)], 1)
    made = counts.sum(1)
    counts, made = counts[made >= 2], made[made >= 2]
    margins, total = counts.sum(0), float(made.sum())
    expected = total**2 - float((margins**2).sum())
    if not expected:
        return None
    alike = float((counts * (counts - 1) / (made[:, None] - 1)).sum())
    return 1 - (total - 1) * (total - alike) / expected


def pairs(codes: Codes) -> list[Pair]:
    """Cohen's kappa (1960) of every two annotators with rows in common, most rows first.

    It is None where both chose one and the same class for all of them.
    """
    from sklearn.metrics import cohen_kappa_score

    found = []
    for first, second in combinations(range(len(codes)), 2):
        both = (codes[first] >= 0) & (codes[second] >= 0)
        if not both.any():
            continue
        one, other = codes[first][both], codes[second][both]
        chance = len(np.union1d(one, other)) > 1
        kappa = float(cohen_kappa_score(one, other)) if chance else None
        found.append(Pair(first, second, int(both.sum()), float((one == other).mean()), kappa))
    return sorted(found, key=lambda pair: -pair.rows)
