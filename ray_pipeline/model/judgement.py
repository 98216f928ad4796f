"""All figures of a model's outputs for the rows of one side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_pipeline.data.statistics import Statistics
from ray_pipeline.job import Evaluate
from ray_pipeline.model import fairness, metrics, multilabel, retrieval
from ray_pipeline.model.metrics import Floats
from ray_pipeline.model.multilabel import Thresholds
from ray_pipeline.model.predictions import Predictions, coded

Focus = int | Thresholds | None
"""What figures speak of: of two classes the index of one; of several labels where each begins."""

KEYS = {
    "classification": (
        *("accuracy", "precision", "recall", "f1", "f1_macro", "f1_micro", "roc_auc", "pr_auc"),
        *("log_loss", "brier", "calibration_error"),
    ),
    "multilabel": (
        *("f1_micro", "f1_macro", "precision_micro", "precision_macro", "recall_micro"),
        *("recall_macro", "subset_accuracy", "hamming_loss", "mean_average_precision"),
        *("roc_auc", "log_loss", "calibration_error"),
    ),
    "regression": ("rmse", "mae", "r2"),
    "generation": ("perplexity", "token_accuracy", "perplexity_change"),
    "retrieval": (*retrieval.names(), *(f"{name}_change" for name in retrieval.CHANGES)),
}


def key_metrics(labels: NDArray[Any], outputs: Floats, positive: Focus) -> dict[str, Any]:
    """The metrics of the task that the outputs' shape tells: [N, K] probabilities or [N] values;
    of several labels [N, K] `positive` are the thresholds."""
    if isinstance(positive, tuple):
        return multilabel.figures(labels, outputs, positive)
    if outputs.ndim == 1:
        return metrics.regression(labels.astype(float), outputs)
    return metrics.classification(labels, outputs, positive)


def intervals(
    labels: NDArray[Any], outputs: Floats, positive: Focus, resamples: int
) -> dict[str, tuple[float, float]]:
    """The 95 % bootstrap intervals of `key_metrics`; none without resamples."""
    if not resamples:
        return {}
    if isinstance(positive, tuple):
        return multilabel.intervals(labels, outputs, positive, resamples)
    if outputs.ndim == 1:
        return metrics.regression_intervals(labels.astype(float), outputs, resamples)
    return metrics.classification_intervals(labels, outputs, positive, resamples)


def judged(
    predictions: Predictions, statistics: Statistics, positive: Focus, settings: Evaluate
) -> dict[str, Any]:
    """The key metrics and their `intervals`, `groups`, and of classes `classes`, `confusion` and
    `calibration`."""
    labels, outputs = predictions.labels, predictions.outputs
    classes = statistics.label.classes
    if isinstance(positive, tuple) and classes is not None:
        return _several(labels, outputs, positive, classes, settings.bootstrap)
    assert not isinstance(positive, tuple), "thresholds are of labels"
    found = {
        **key_metrics(labels, outputs, positive),
        "intervals": intervals(labels, outputs, positive, settings.bootstrap),
        "groups": {name: _group(predictions, name, positive, settings) for name in settings.groups},
    }
    if classes is not None:
        confusion = metrics.confusion(labels, outputs.argmax(1), len(classes))
        found |= {
            "classes": metrics.per_class(confusion, classes),
            "confusion": {"classes": list(classes), "counts": confusion.tolist()},
            "calibration": metrics.calibration(*metrics.event(labels, outputs, positive)),
        }
    return found


def _several(
    labels: NDArray[Any],
    outputs: Floats,
    thresholds: Thresholds,
    classes: tuple[str, ...],
    resamples: int,
) -> dict[str, Any]:
    """`judged` of several labels, which have no confusion of one with another; and `thresholds`."""
    return {
        **key_metrics(labels, outputs, thresholds),
        "intervals": intervals(labels, outputs, thresholds, resamples),
        "groups": {},
        "classes": multilabel.per_class(labels, outputs, thresholds, classes, resamples),
        "calibration": multilabel.bins(labels, outputs),
        "thresholds": dict(zip(classes, thresholds, strict=True)),
    }


def _group(
    predictions: Predictions, name: str, positive: int | None, settings: Evaluate
) -> dict[str, Any]:
    labels, outputs = predictions.labels, predictions.outputs
    codes, values = coded(predictions.groups[name])
    if outputs.ndim == 1:
        return fairness.regression_groups(codes, values, labels.astype(float), outputs)
    return fairness.classification_groups(
        codes,
        values,
        (labels, outputs.argmax(1)),
        classes=outputs.shape[1],
        positive=positive,
        resamples=settings.bootstrap,
    )


def defined(value: Any) -> Any:
    """`value` with NaN and infinities as None: JSON has no other word for them."""
    if isinstance(value, Mapping):
        return {key: defined(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [defined(inner) for inner in value]
    if isinstance(value, np.bool_):
        return bool(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
