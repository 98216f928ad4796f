"""Whether rows are distributed otherwise than those that a model was made for.

Each column is asked up to three questions: is the distribution another (Kolmogorov and Smirnov for
numbers, chi-square for categories), are more values missing or fewer, are there more values that
the model does not know. So are the predictions, and where labels came how wrong they were. An
answer is an alarm where it is beyond chance *and* beyond a bound on its size, for of enough rows
every difference is beyond chance. Chance is allowed for all questions together: where nothing
drifts, a look has an alarm of any kind at most as often as `false_alarms` says (Holm 1979).

That holds for rows that are drawn independently of each other. Rows of one hour that share their
weather are not, and the bounds are what protects from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ray_pipeline.deploy.reference import Distribution, Losses, Numbers, Reference, Values
from ray_pipeline.job.watch import Drift

Question = Literal["distribution", "missing", "unseen", "errors"]
PREDICTIONS = "(predictions)"
"""Stands where else a column's name does."""
VECTORS = "(vectors)"
"""So does this: the vectors of whole rows (mmd.py)."""
_BINS = 10
_LEAST = 1e-4
"""A share that stands for none in PSI, where it would be infinite."""
_EXPECTED = 5
"""Cells of a table in which fewer rows are expected are joined before chi-square (Cochran)."""


class Finding(NamedTuple):
    """The answer to one question about one column."""

    column: str
    question: Question
    size: float
    """PSI of a distribution (of vectors the MMD), by how much the share of missing or unseen values
    grew, accuracy lost or the share by which mean absolute errors grew."""
    bound: float
    chance: float
    """How probable such a difference is where there is none; with all questions together."""

    def alarms(self, settings: Drift) -> bool:
        return abs(self.size) > self.bound and self.chance < settings.false_alarms


class Answer(NamedTuple):
    """As `Finding`, with the chance of this question alone."""

    column: str
    question: Question
    size: float
    bound: float
    p: float


def found(
    reference: Reference,
    columns: Mapping[str, NDArray[np.float64] | pa.Array],
    settings: Drift,
    predicted: NDArray[np.float64] | pa.Array | None = None,
    losses: NDArray[np.float64] | None = None,
) -> list[Finding]:
    """What is found of rows, the surest first; its arguments are those of `answers`."""
    return corrected(answers(reference, columns, settings, predicted, losses))


def answers(
    reference: Reference,
    columns: Mapping[str, NDArray[np.float64] | pa.Array],
    settings: Drift,
    predicted: NDArray[np.float64] | pa.Array | None = None,
    losses: NDArray[np.float64] | None = None,
) -> list[Answer]:
    """The answer to each question, of itself.

    Args:
        reference: the bundle's.
        columns: numbers [N] with NaN, or texts [N] with null, by name; columns that the reference
            does not know are passed over.
        settings: the bounds.
        predicted: what was predicted of the rows.
        losses: how wrong it was, of rows whose label is known (`reference.Losses`).
    """
    found = [
        answer
        for name, expected in reference.columns.items()
        if name in columns
        for answer in _of_column(name, expected, columns[name], settings)
    ]
    if predicted is not None and reference.predicted is not None:
        asked = _of_column(PREDICTIONS, reference.predicted, predicted, settings)
        found += [answer for answer in asked if answer.question == "distribution"]
    if losses is not None and reference.losses is not None:
        named = isinstance(reference.labels, Values)
        found.append(_of_losses(reference.losses, losses, named, settings))
    return found


def corrected(answered: Sequence[Answer]) -> list[Finding]:
    """The answers with their chances corrected for being asked together, the surest first."""
    chances = holm([answer.p for answer in answered])
    findings = [Finding(*a[:4], chance) for a, chance in zip(answered, chances, strict=True)]
    return sorted(findings, key=lambda one: (one.chance, -abs(one.size)))


def holm(chances: Sequence[float]) -> list[float]:
    """Chances corrected for being asked together: below a bound with no more than that chance in
    all (Holm, A simple sequentially rejective multiple test procedure, 1979)."""
    given = np.array(chances, float)
    order = np.argsort(given)
    factors = np.arange(len(given), 0, -1)
    corrected = np.empty(len(given))
    corrected[order] = np.minimum(1, np.maximum.accumulate(given[order] * factors))
    return list(map(float, corrected))


def psi(expected: NDArray[Any], seen: NDArray[Any]) -> float:
    """The population stability index of counts [B] and counts [B]: sum of (q - p) ln(q / p)."""
    p, q = (np.maximum(counts / max(counts.sum(), 1), _LEAST) for counts in (expected, seen))
    return float(((q - p) * np.log(q / p)).sum())


def _of_column(
    name: str, expected: Distribution, seen: NDArray[np.float64] | pa.Array, settings: Drift
) -> Iterator[Answer]:
    if isinstance(expected, Numbers):
        yield from _of_numbers(name, expected, np.asarray(seen, float), settings)
    else:
        yield from _of_values(name, expected, seen, settings)


def _of_numbers(
    name: str, expected: Numbers, seen: NDArray[np.float64], settings: Drift
) -> Iterator[Answer]:
    finite = np.sort(seen[np.isfinite(seen)])
    absent = len(seen) - len(finite)
    yield _missing(name, expected, absent, len(seen), settings)
    if not len(finite) or not expected.rows:
        return
    below = np.array(expected.below)
    other = np.searchsorted(finite, expected.knots, side="right")
    apart = np.abs(below / expected.rows - other / len(finite)).max()
    size = psi(*_binned(below, other, expected.rows, len(finite)))
    p = _kolmogorov(float(apart), expected.rows, len(finite))
    yield Answer(name, "distribution", size, settings.max_psi, p)


def _of_values(name: str, expected: Values, seen: pa.Array, settings: Drift) -> Iterator[Answer]:
    absent = seen.null_count
    rows = len(seen) - absent
    yield _missing(name, expected, absent, len(seen), settings)
    if not rows or not expected.rows:
        return
    places = pc.index_in(seen.drop_null(), pa.array(expected.values, pa.string()))
    codes = pc.fill_null(places, len(expected.values)).to_numpy(zero_copy_only=False)
    counts = np.bincount(codes.astype(int), minlength=len(expected.values) + 1)
    usual = np.array([*expected.counts, expected.rest])
    both = _joined(np.stack([usual, counts]))
    p = _independent(both)
    yield Answer(name, "distribution", psi(both[0], both[1]), settings.max_psi, p)
    more = counts[-1] / rows - usual[-1] / expected.rows
    one_sided = _more(int(counts[-1]), rows, int(usual[-1]), expected.rows)
    yield Answer(name, "unseen", float(max(more, 0)), settings.max_unseen, one_sided)


def _missing(name: str, expected: Distribution, absent: int, rows: int, settings: Drift) -> Answer:
    usual = expected.missing / max(expected.rows + expected.missing, 1)
    table = np.array([[expected.missing, expected.rows], [absent, rows - absent]])
    size = absent / max(rows, 1) - usual
    return Answer(name, "missing", size, settings.max_missing, _independent(table))


def _of_losses(expected: Losses, seen: NDArray[np.float64], named: bool, settings: Drift) -> Answer:
    from scipy import stats

    mean = float(seen.mean())
    worse = mean - expected.mean if named else mean / max(expected.mean, 1e-12) - 1
    # Of losses without any spread the reference's is taken; both are far from normal for few rows.
    spread = max(float(seen.std()), expected.deviation)
    error = max(np.hypot(spread / len(seen) ** 0.5, expected.deviation / expected.rows**0.5), 1e-12)
    p = float(stats.norm.sf((mean - expected.mean) / error))
    return Answer(PREDICTIONS, "errors", max(worse, 0.0), settings.max_worse, p)


def _kolmogorov(apart: float, rows: int, others: int) -> float:
    """The chance that two samples of one distribution are so far apart somewhere; looked at only
    in some places and of numbers that repeat it is less (Kolmogorov and Smirnov)."""
    from scipy.stats import distributions

    return float(distributions.kstwo.sf(apart, max(1, round(rows * others / (rows + others)))))


def _independent(table: NDArray[Any]) -> float:
    """Pearson's chi-square of two rows of counts; 1 where there is nothing to compare."""
    from scipy import stats

    kept = table[:, table.sum(0) > 0]
    if kept.shape[1] < 2 or (kept.sum(1) == 0).any():
        return 1.0
    if kept.shape[1] == 2 and stats.contingency.expected_freq(kept).min() < _EXPECTED:
        return float(stats.fisher_exact(kept)[1])
    return float(stats.chi2_contingency(kept, correction=False)[1])


def _more(seen: int, rows: int, usual: int, others: int) -> float:
    """The chance of at least `seen` of `rows`, where `usual` of `others` is as usual: Fisher's
    exact test, of one side."""
    from scipy import stats

    return float(stats.hypergeom.sf(seen - 1, rows + others, seen + usual, rows))


def _joined(table: NDArray[Any]) -> NDArray[Any]:
    """Counts [2, K] of which those with few expected rows are one; the last cell stays last."""
    expected = table.sum(0) * (table.sum(1, keepdims=True) / max(table.sum(), 1))
    few = expected.min(0) < _EXPECTED
    if not few.any():
        return table
    joined: NDArray[Any] = np.concatenate(
        [table[:, ~few], table[:, few].sum(1, keepdims=True)], axis=1
    )
    return joined


def _binned(
    below: NDArray[Any], other: NDArray[Any], rows: int, others: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both counts in about _BINS bins that hold as many rows of the reference each."""
    wanted = rows * np.arange(1, _BINS) / _BINS
    at = np.unique(np.searchsorted(below, wanted).clip(max=len(below) - 1))
    made = [
        np.diff(np.concatenate([[0], counts[at], [total]]))
        for counts, total in ((below, rows), (other, others))
    ]
    return made[0], made[1]
