"""Two models on the same rows: the differences of their metrics, with paired bootstrap intervals.

Shape letters: N rows, K classes, B resamples, U different combinations of what is counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_pipeline.model import judgement, metrics, multilabel
from ray_pipeline.model.judgement import Focus
from ray_pipeline.model.metrics import Floats, Integers, percentiles, resampled, resampled_means
from ray_pipeline.model.multilabel import Thresholds

_BINS = 64  # of a model's scores; both models' together are counted
_MOST_CLASSES = 32  # whose confusions are resampled; of more, only accuracy is


def differences(
    labels: NDArray[Any],
    ours: Floats,
    theirs: Floats,
    positive: Focus,
    *,
    theirs_at: Focus = None,
    resamples: int,
    seed: int = 0,
) -> dict[str, Any]:
    """Our metrics less theirs by name, and `intervals` of those that can be resampled.

    Each resample draws the same rows for both models, so that what is hard for both cancels out.
    `ours` and `theirs` are probabilities [N, K] in the same order of classes, or values [N]. Of
    several labels `positive` are our thresholds and `theirs_at` theirs.
    """
    their_focus = positive if theirs_at is None else theirs_at
    own = judgement.key_metrics(labels, ours, positive)
    other = judgement.key_metrics(labels, theirs, their_focus)
    found: dict[str, Any] = {name: own[name] - other[name] for name in own}
    samples: dict[str, Floats] = {}
    if resamples:
        rng = np.random.default_rng(seed)
        pair = (ours, theirs)
        if isinstance(positive, tuple) and isinstance(their_focus, tuple):
            samples = _several(labels, pair, (positive, their_focus), resamples, rng)
        elif ours.ndim == 1:
            samples = _values(labels.astype(float), pair, resamples, rng)
        else:
            assert not isinstance(positive, tuple), "thresholds are of labels"
            samples = _classes(labels, pair, positive, resamples, rng)
    return found | {"intervals": {name: percentiles(drawn) for name, drawn in samples.items()}}


def findings(found: Mapping[str, Any], named: str) -> list[dict[str, Any]]:
    """The report's section on the comparison with the champion that is called `named`."""
    rows = [
        [
            name.replace("_", " "),
            f"{found['theirs'][name]:.4f}",
            f"{value:+.4f}",
            _span(found["intervals"].get(name)),
            f"champion.{name}",
        ]
        for name, value in found.items()
        if isinstance(value, float) and found["theirs"].get(name) is not None
    ]
    note = (
        f"This model less {named}, on the same rows. The interval is that of the difference: one "
        "that holds 0 tells no difference."
    )
    columns = ["metric", "champion", "difference", "95 % interval", "gate"]
    tables = [{"columns": columns, "rows": rows}]
    return [{"title": "Against the champion", "note": note, "tables": tables}]


def _values(
    values: Floats, pair: tuple[Floats, Floats], resamples: int, rng: np.random.Generator
) -> dict[str, Floats]:
    moments = np.concatenate([metrics.moments(values, each) for each in pair], axis=1)
    means = resampled_means(moments, resamples, rng)
    half = moments.shape[1] // 2
    ours, theirs = (metrics.regression_figures(m) for m in (means[:, :half], means[:, half:]))
    return {name: ours[name] - theirs[name] for name in ours}


def _several(
    labels: NDArray[Any],
    pair: tuple[Floats, Floats],
    thresholds: tuple[Thresholds, Thresholds],
    resamples: int,
    rng: np.random.Generator,
) -> dict[str, Floats]:
    each = [
        multilabel.row_figures(labels, outputs, begin)
        for outputs, begin in zip(pair, thresholds, strict=True)
    ]
    means = resampled_means(np.concatenate(each, axis=1), resamples, rng)
    ours, theirs = (multilabel.sampled_figures(half) for half in np.split(means, 2, axis=1))
    return {name: ours[name] - theirs[name] for name in ours}


def _classes(
    labels: Integers,
    pair: tuple[Floats, Floats],
    positive: int | None,
    resamples: int,
    rng: np.random.Generator,
) -> dict[str, Floats]:
    ours, theirs = pair
    hits = [(each.argmax(1) == labels).astype(float) for each in pair]
    losses = metrics.row_losses(labels, ours, positive) - metrics.row_losses(
        labels, theirs, positive
    )
    means = resampled_means(np.column_stack([hits[0] - hits[1], losses]), resamples, rng)
    found = dict(zip(("accuracy", "log_loss", "brier"), means.T, strict=True))
    classes = ours.shape[1]
    if classes <= _MOST_CLASSES:
        cells = [labels * classes + each.argmax(1) for each in pair]
        counts = _counts(cells, classes**2, resamples, rng)
        square = [each.reshape(-1, classes, classes) for each in counts]
        own, other = (metrics.rates(each, positive) for each in square)
        found |= {name: own[name] - other[name] for name in own if name != "accuracy"}
    if positive is not None:
        bins = [_ranked(each[:, positive]) * 2 + (labels == positive) for each in pair]
        counts = _counts(bins, 2 * _BINS, resamples, rng)
        areas = [metrics.areas(each[:, 1::2], each[:, ::2]) for each in counts]
        found |= {name: areas[0][k] - areas[1][k] for k, name in enumerate(("roc_auc", "pr_auc"))}
    return found


def _counts(
    codes: list[Integers], size: int, resamples: int, rng: np.random.Generator
) -> list[Floats]:
    """Counts [B, size] of each model's codes [N] in resamples of the rows, the same for both.

    Rows with the same two codes are drawn together, from a multinomial: whatever N is.
    """
    together, times = np.unique(np.stack(codes, 1), axis=0, return_counts=True)
    draws = resampled(times, resamples, rng).astype(float)  # [B, U]
    found = []
    for column in together.T:
        hot = np.zeros((len(column), size))
        hot[np.arange(len(column)), column] = 1
        found.append(draws @ hot)
    return found


def _ranked(scores: Floats) -> Integers:
    """Scores [N] as one of _BINS bins of rank; equal scores share one."""
    _, index, times = np.unique(scores, return_inverse=True, return_counts=True)
    first = np.cumsum(times) - times
    return first[index] * _BINS // len(scores)


def _span(interval: Any) -> str:
    if not interval or None in interval:
        return ""
    return f"{interval[0]:+.4f} to {interval[1]:+.4f}"
