"""The numbers for models of which a row may get several labels, and where each label begins.

Shape letters: N rows, K classes, B resamples. Labels are 0 and 1 [N, K], probabilities [N, K], and
thresholds [K]: a row gets each class whose probability is not below the class's threshold. As in
scikit-learn, a ratio over nothing counts as 0, and macro averages are over all classes; but a class
that no row has, or every row, has no area, and is left out of averages of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_pipeline.model.metrics import (
    Floats,
    areas,
    calibration,
    calibration_error,
    counted,
    mean_where,
    percentiles,
    ratio,
    resampled,
    resampled_means,
)

Labels = NDArray[Any]
Thresholds = tuple[float, ...]

HALF = 0.5
_BINS = 256  # of scores, of which an interval's areas are counted


def decided(probabilities: Floats, thresholds: Sequence[float]) -> NDArray[np.bool_]:
    """Which classes [N, K] each row gets."""
    found: NDArray[np.bool_] = probabilities >= np.asarray(thresholds)
    return found


def best_thresholds(labels: Labels, probabilities: Floats) -> Thresholds:
    """For each class the threshold with the highest F1 on these rows: half-way between the last
    probability above it and the next. HALF for a class that no row has.

    Lipton et al. (2014), "Optimal thresholding of classifiers to maximize F1 measure",
    https://arxiv.org/abs/1402.1892.
    """
    return tuple(
        _best(labels[:, k].astype(bool), probabilities[:, k]) for k in range(labels.shape[1])
    )


def _best(has: NDArray[np.bool_], probability: Floats) -> float:
    if not has.any():
        return HALF
    order = np.argsort(-probability, kind="stable")
    ranked, hits = probability[order], np.cumsum(has[order])
    called = np.arange(1, len(ranked) + 1)
    f1 = 2 * hits / (called + has.sum())
    last = np.flatnonzero(np.append(np.diff(ranked) < 0, True))  # equal ones are called together
    place = last[int(f1[last].argmax())]
    below = ranked[place + 1] if place + 1 < len(ranked) else 0.0
    return float((ranked[place] + below) / 2)


def figures(labels: Labels, probabilities: Floats, thresholds: Sequence[float]) -> dict[str, float]:
    """The key metrics. `subset_accuracy` is the share of rows with exactly their labels,
    `hamming_loss` that of wrong cells, `mean_average_precision` and `roc_auc` are macro averages,
    and `log_loss` is the mean over the cells, as in training."""
    given = decided(probabilities, thresholds)
    found = {name: float(value) for name, value in _rates(_outcomes(labels, given)).items()}
    roc, average = _areas(labels, probabilities)
    return found | {
        "subset_accuracy": float((given == labels.astype(bool)).all(1).mean()),
        "hamming_loss": float((given != labels.astype(bool)).mean()),
        "mean_average_precision": float(mean_where(average, ~np.isnan(average))),
        "roc_auc": float(mean_where(roc, ~np.isnan(roc))),
        "log_loss": float(row_losses(labels, probabilities).mean()),
        "calibration_error": calibration_error(bins(labels, probabilities)),
    }


def intervals(
    labels: Labels, probabilities: Floats, thresholds: Sequence[float], resamples: int
) -> dict[str, tuple[float, float]]:
    """The 95 % bootstrap percentile intervals of `figures` (not of calibration).

    Rows are drawn with all their labels. Only areas are drawn class by class, from counts of
    scores: intervals of their averages are those of classes that do not hang together.
    """
    rng = np.random.default_rng(0)
    samples = sampled(row_figures(labels, probabilities, thresholds), resamples, rng)
    curves = []
    for k in range(labels.shape[1]):
        events, others = counted(probabilities[:, k], labels[:, k].astype(bool), _BINS)
        both = resampled(np.concatenate([events, others]), resamples, rng)
        curves.append(areas(both[:, : len(events)], both[:, len(events) :]))
    roc, average = np.array(curves).transpose(1, 2, 0)  # each [B, K]
    samples["roc_auc"] = mean_where(roc, ~np.isnan(roc))
    samples["mean_average_precision"] = mean_where(average, ~np.isnan(average))
    return {name: percentiles(values) for name, values in samples.items()}


def sampled(columns: Floats, resamples: int, rng: np.random.Generator) -> dict[str, Floats]:
    """Of bootstrap samples of the rows in `row_figures`' columns [N, 3K + 3] what is a ratio or a
    mean of them: [B] each."""
    return sampled_figures(resampled_means(columns, resamples, rng))


def sampled_figures(means: Floats) -> dict[str, Floats]:
    """The metrics that the means [B, 3K + 3] of `row_figures`' columns hold: [B] each."""
    outcomes = np.stack(np.split(means[:, :-3], 3, axis=1))
    names = ("subset_accuracy", "hamming_loss", "log_loss")
    return _rates(outcomes) | dict(zip(names, means[:, -3:].T, strict=True))


def row_figures(labels: Labels, probabilities: Floats, thresholds: Sequence[float]) -> Floats:
    """For each row and class whether it was hit, called wrongly, or missed; then for the row
    whether all its labels are right, its share of wrong ones, and its log loss: [N, 3K + 3]."""
    given, true = decided(probabilities, thresholds), labels.astype(bool)
    wrong = given != true
    last = np.stack([~wrong.any(1), wrong.mean(1), row_losses(labels, probabilities)], 1)
    return np.hstack([given & true, given & ~true, ~given & true, last]).astype(float)


def per_class(
    labels: Labels,
    probabilities: Floats,
    thresholds: Sequence[float],
    classes: tuple[str, ...],
    resamples: int,
) -> dict[str, dict[str, float]]:
    """By class its precision, recall, F1 with the ends of the 95 % bootstrap interval (`f1_low`,
    `f1_high`), support (rows that have it), average precision, ROC-AUC and threshold."""
    outcomes = _outcomes(labels, decided(probabilities, thresholds))
    precision, recall, f1 = _by_class(outcomes)
    roc, average = _areas(labels, probabilities)
    hits, false, missed = outcomes
    rng, table = np.random.default_rng(0), {}
    for k, name in enumerate(classes):
        table[name] = {
            "precision": float(precision[k]),
            "recall": float(recall[k]),
            "f1": float(f1[k]),
            "support": int(hits[k] + missed[k]),
            "average_precision": float(average[k]),
            "roc_auc": float(roc[k]),
            "threshold": float(thresholds[k]),
        }
        if resamples:
            neither = len(labels) - hits[k] - false[k] - missed[k]
            cells = np.array([hits[k], false[k], missed[k], neither]).astype(int)
            drawn = resampled(cells, resamples, rng).T[:3, :, None].astype(float)
            low, high = percentiles(_by_class(drawn)[2][:, 0])
            table[name] |= {"f1_low": low, "f1_high": high}
    return table


def row_f1(labels: Labels, probabilities: Floats, thresholds: Sequence[float]) -> Floats:
    """Each row's F1 [N] over its labels: 1 where it has none and gets none."""
    given, true = decided(probabilities, thresholds), labels.astype(bool)
    both, all_ = (given & true).sum(1), given.sum(1) + true.sum(1)
    return ratio(2 * both, all_, 1.0)


def row_losses(labels: Labels, probabilities: Floats) -> Floats:
    """Each row's mean log loss [N] over the classes."""
    tiny = np.finfo(np.float64).eps
    own = np.where(labels.astype(bool), probabilities, 1 - probabilities)
    losses: Floats = -np.log(np.clip(own, tiny, 1)).mean(1)
    return losses


def bins(labels: Labels, probabilities: Floats) -> list[dict[str, float]]:
    """The reliability of all cells together."""
    return calibration(probabilities.ravel(), labels.astype(bool).ravel())


def f1_micro(labels: Labels, probabilities: Floats, thresholds: Sequence[float]) -> float:
    return float(_rates(_outcomes(labels, decided(probabilities, thresholds)))["f1_micro"])


def _outcomes(labels: Labels, given: NDArray[np.bool_]) -> Floats:
    """By class how many rows were hit, called wrongly, and missed: [3, K]."""
    true = labels.astype(bool)
    found = [(given & true).sum(0), (given & ~true).sum(0), (~given & true).sum(0)]
    return np.array(found, dtype=float)


def _by_class(outcomes: Floats) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and F1 [..., K] of outcomes [3, ..., K], counts or shares."""
    hits, false, missed = outcomes
    return (
        _share(hits, hits + false),
        _share(hits, hits + missed),
        _share(2 * hits, 2 * hits + false + missed),
    )


def _share(above: Floats, below: Floats) -> Floats:
    """`above / below`, 0 where `below` is; unlike `ratio`, of shares below 1 too."""
    return np.where(below > 0, above / np.where(below > 0, below, 1), 0.0)


def _rates(outcomes: Floats) -> dict[str, Floats]:
    """Micro and macro averages [...] of outcomes [3, ..., K], counts or shares."""
    names = ("precision", "recall", "f1")
    micro = _by_class(outcomes.sum(-1, keepdims=True))
    found = {f"{n}_micro": value[..., 0] for n, value in zip(names, micro, strict=True)}
    macro = _by_class(outcomes)
    return found | {f"{n}_macro": value.mean(-1) for n, value in zip(names, macro, strict=True)}


def _areas(labels: Labels, probabilities: Floats) -> tuple[Floats, Floats]:
    """ROC-AUC and average precision [K] of each class, NaN where no row has it (or all do)."""
    found = [
        areas(*counted(probabilities[:, k], labels[:, k].astype(bool)))
        for k in range(labels.shape[1])
    ]
    roc, average = np.array(found, dtype=float).T
    return roc, average
