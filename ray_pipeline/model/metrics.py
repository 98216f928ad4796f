"""The numbers a model is judged by, in numpy alone, with bootstrap intervals.

Shape letters: N rows, K classes, B resamples, U distinct scores.
Undefined figures (a rate over no rows) are NaN here and become null in a report.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

CONFIDENCE = 0.95
CALIBRATION_BINS = 15
_SCORE_BINS = 1024  # an interval's AUC from this many bins is within 1e-4 of the exact one
_CHUNK = 1 << 21  # weights held at a time while resampling rows


def confusion(labels: Integers, predicted: Integers, classes: int) -> Integers:
    """How often each class [K, true] was predicted as each class [K, predicted]."""
    cells = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return cells.reshape(classes, classes)


def rates(counts: NDArray[Any], positive: int | None) -> dict[str, Floats]:
    """Accuracy, precision, recall, F1, macro and micro F1 from confusion counts [..., K, K].

    Precision, recall and F1 are those of class `positive`, or macro averages where it is None.
    As in scikit-learn, a ratio over nothing counts as 0, and a class that is neither among the
    labels nor predicted is left out of macro averages. Micro F1 counts hits over all classes: where
    each row has one class and gets one, that is accuracy.
    """
    hits = np.diagonal(counts, axis1=-2, axis2=-1).astype(float)
    true, predicted = counts.sum(-1), counts.sum(-2)
    precision, recall = ratio(hits, predicted), ratio(hits, true)
    f1 = ratio(2 * hits, true + predicted)
    present = (true + predicted) > 0

    def of_interest(by_class: Floats) -> Floats:
        return mean_where(by_class, present) if positive is None else by_class[..., positive]

    return {
        "accuracy": ratio(hits.sum(-1), counts.sum((-2, -1))),
        "precision": of_interest(precision),
        "recall": of_interest(recall),
        "f1": of_interest(f1),
        "f1_macro": mean_where(f1, present),
        "f1_micro": ratio(2 * hits.sum(-1), (true + predicted).sum(-1)),
    }


def per_class(counts: Integers, classes: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support (rows of that class) by class, from counts [K, K]."""
    table = {}
    for index, name in enumerate(classes):
        of_class = rates(counts, index)
        table[name] = {key: float(of_class[key]) for key in ("precision", "recall", "f1")}
        table[name]["support"] = int(counts[index].sum())
    return table


def areas(events: NDArray[Any], others: NDArray[Any]) -> tuple[Floats, Floats]:
    """ROC-AUC and average precision from counts [..., U] at rising scores; ties count half.

    ROC-AUC is the Mann-Whitney statistic; average precision is the sum of precision over the
    steps in recall (no interpolation), as scikit-learn's `average_precision_score`.
    """
    total_events, total_others = events.sum(-1), others.sum(-1)
    below = np.cumsum(others, -1) - others / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        roc = (events * below).sum(-1) / (total_events * total_others)
        found = np.cumsum(events[..., ::-1], -1)
        called = np.cumsum((events + others)[..., ::-1], -1)
        precision = np.where(called > 0, found / np.maximum(called, 1), 0)
        average = (events[..., ::-1] * precision).sum(-1) / total_events
    return roc, average


def calibration(probability: Floats, happened: Booleans) -> list[dict[str, float]]:
    """Mean probability, observed frequency and rows in each non-empty bin of equal width."""
    bins = np.minimum((probability * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    rows = np.bincount(bins, minlength=CALIBRATION_BINS)
    expected = np.bincount(bins, probability, CALIBRATION_BINS)
    observed = np.bincount(bins, happened, CALIBRATION_BINS)
    return [
        {
            "probability": float(expected[b] / rows[b]),
            "observed": float(observed[b] / rows[b]),
            "rows": int(rows[b]),
        }
        for b in np.flatnonzero(rows)
    ]


def calibration_error(bins: list[dict[str, float]]) -> float:
    """Expected calibration error (Guo et al. 2017): mean |probability - observed| over rows."""
    rows = sum(bin_["rows"] for bin_ in bins)
    gaps = (bin_["rows"] * abs(bin_["probability"] - bin_["observed"]) for bin_ in bins)
    return float(sum(gaps) / rows)


def event(labels: Integers, probabilities: Floats, positive: int | None) -> tuple[Floats, Booleans]:
    """What calibration speaks of: the positive class, or the predicted class being right."""
    if positive is not None:
        return probabilities[:, positive], labels == positive
    return probabilities.max(1), labels == probabilities.argmax(1)


def classification(
    labels: Integers, probabilities: Floats, positive: int | None
) -> dict[str, float]:
    """The key metrics of class probabilities [N, K] against label indices [N].

    `positive` is the class of interest where there are two, else None: then ROC-AUC and PR-AUC
    are macro averages of one class against the rest, and Brier sums over the classes.
    """
    counts = confusion(labels, probabilities.argmax(1), probabilities.shape[1])
    curves = [
        areas(*counted(probabilities[:, k], labels == k))
        for k in _curve_classes(probabilities, positive)
    ]
    roc, average = np.array(curves).T
    losses = row_losses(labels, probabilities, positive).mean(0)
    return {
        **{name: float(value) for name, value in rates(counts, positive).items()},
        "roc_auc": float(mean_where(roc, ~np.isnan(roc))),
        "pr_auc": float(mean_where(average, ~np.isnan(average))),
        "log_loss": float(losses[0]),
        "brier": float(losses[1]),
        "calibration_error": calibration_error(
            calibration(*event(labels, probabilities, positive))
        ),
    }


def classification_intervals(
    labels: Integers, probabilities: Floats, positive: int | None, resamples: int, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % bootstrap percentile intervals of `classification`'s metrics (not calibration).

    Drawing rows with replacement is drawing counts of equal rows from a multinomial: so the
    rates come from resampled confusion counts and the areas from resampled counts of score bins,
    whatever N is. Only the mean losses are resampled row by row.
    """
    rng = np.random.default_rng(seed)
    classes = probabilities.shape[1]
    counts = confusion(labels, probabilities.argmax(1), classes)
    sampled = resampled(counts.ravel(), resamples, rng).reshape(resamples, classes, classes)
    samples: dict[str, Floats] = dict(rates(sampled, positive))
    curves = []
    for k in _curve_classes(probabilities, positive):
        events, others = counted(probabilities[:, k], labels == k, _SCORE_BINS)
        both = resampled(np.concatenate([events, others]), resamples, rng)
        curves.append(areas(both[:, : len(events)], both[:, len(events) :]))
    roc, average = np.array(curves).transpose(1, 2, 0)  # each [B, curves]
    samples["roc_auc"] = mean_where(roc, ~np.isnan(roc))
    samples["pr_auc"] = mean_where(average, ~np.isnan(average))
    losses = resampled_means(row_losses(labels, probabilities, positive), resamples, rng)
    samples["log_loss"], samples["brier"] = losses.T
    return {name: percentiles(values) for name, values in samples.items()}


def regression(values: Floats, predicted: Floats) -> dict[str, float]:
    """RMSE and MAE in the label's unit, and R², of predictions [N] against values [N]."""
    figures = regression_figures(moments(values, predicted).mean(0))
    return {name: float(figure) for name, figure in figures.items()}


def regression_intervals(
    values: Floats, predicted: Floats, resamples: int, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % bootstrap percentile intervals of `regression`'s metrics."""
    rng = np.random.default_rng(seed)
    means = resampled_means(moments(values, predicted), resamples, rng)
    return {name: percentiles(values) for name, values in regression_figures(means).items()}


def _curve_classes(probabilities: Floats, positive: int | None) -> list[int]:
    return list(range(probabilities.shape[1])) if positive is None else [positive]


def counted(scores: Floats, events: Booleans, bins: int = 0) -> tuple[Integers, Integers]:
    """Events and other rows at each distinct score, rising; or in about `bins` bins of rank."""
    order = np.argsort(scores)
    ranked = scores[order]
    first = np.flatnonzero(np.diff(ranked, prepend=-np.inf) > 0)  # first row of each score
    index = np.repeat(np.arange(len(first)), np.diff(first, append=len(ranked)))
    if bins and len(first) > bins:
        index = first[index] * bins // len(ranked)  # equal scores share a bin
    hits = events[order]
    size = int(index[-1]) + 1
    return np.bincount(index[hits], minlength=size), np.bincount(index[~hits], minlength=size)


def row_losses(labels: Integers, probabilities: Floats, positive: int | None) -> Floats:
    """Log loss and Brier score of each row: [N, 2]."""
    tiny = np.finfo(np.float64).eps
    own = probabilities[np.arange(len(labels)), labels]
    if positive is not None:
        brier = (probabilities[:, positive] - (labels == positive)) ** 2
    else:
        brier = (probabilities**2).sum(1) - 2 * own + 1
    return np.stack([-np.log(np.clip(own, tiny, 1)), brier], 1)


def moments(values: Floats, predicted: Floats) -> Floats:
    """What RMSE, MAE and R² are means of, by row: [N, 4]."""
    error = predicted - values
    centred = values - values.mean()  # large offsets would cancel digits in the variance
    return np.stack([error**2, abs(error), centred, centred**2], 1)


def regression_figures(means: Floats) -> dict[str, Floats]:
    squares, sizes, centre, spread = np.moveaxis(means, -1, 0)
    variance = spread - centre**2
    with np.errstate(invalid="ignore", divide="ignore"):
        r2 = np.where(variance > 0, 1 - squares / variance, np.nan)
    return {"rmse": np.sqrt(squares), "mae": sizes, "r2": r2}


def resampled(counts: Integers, resamples: int, rng: np.random.Generator) -> Integers:
    """Counts [B, cells] of `resamples` bootstrap samples of the rows counted in `counts`."""
    total = int(counts.sum())
    return rng.multinomial(total, counts / total, size=resamples)


def resampled_means(columns: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """Column means [B, M] of bootstrap samples of the rows of `columns` [N, M]."""
    rows = len(columns)
    at_once = max(1, _CHUNK // rows)
    means = []
    for start in range(0, resamples, at_once):
        weights = np.stack(
            [
                np.bincount(rng.integers(0, rows, rows, dtype=np.int32), minlength=rows)
                for _ in range(min(at_once, resamples - start))
            ]
        )
        means.append(weights.astype(float) @ columns / rows)
    return np.concatenate(means)


def percentiles(samples: Floats) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    defined = samples[~np.isnan(samples)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def ratio(above: NDArray[Any], below: NDArray[Any], undefined: float = 0.0) -> Floats:
    """`above / below`, and `undefined` where `below` is 0."""
    return np.where(below > 0, above / np.maximum(below, 1), undefined)


def mean_where(values: Floats, where: Booleans) -> Floats:
    """Mean over the last axis of those `where` says; NaN of none."""
    kept = where.sum(-1)
    return ratio(np.where(where, values, 0).sum(-1), kept, np.nan)
