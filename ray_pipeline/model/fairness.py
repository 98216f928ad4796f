"""Whether groups of rows, say by sex, are treated alike: figures by group, and the gaps between.

Shape letters: N rows, K classes, G values of the group column.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_pipeline.model.metrics import Floats, Integers, rates, ratio


def classification_groups(
    codes: Integers,
    names: tuple[str, ...],
    counted: tuple[Integers, Integers],
    *,
    classes: int,
    positive: int | None,
) -> dict[str, Any]:
    """Rates for each value of a group column (codes [N] into names [G]), and the gaps between.

    `counted` is the true and the predicted class indices [N].

    With a positive class: `demographic_parity_difference` is the largest difference in the rate
    of positive predictions, `equalized_odds_difference` the larger of those in true and in false
    positive rate; both as in fairlearn, save that a rate over no rows takes no part.
    """
    labels, predicted = counted
    cells = (codes * classes + labels) * classes + predicted
    counts = np.bincount(cells, minlength=len(names) * classes * classes)
    counts = counts.reshape(len(names), classes, classes)
    figures = {"rows": counts.sum((1, 2)), **rates(counts, positive)}
    if positive is None:
        figures = {key: figures[key] for key in ("rows", "accuracy", "f1_macro")}
        gaps = {}
    else:
        odds = _odds(counts, positive)
        figures = {key: figures[key] for key in ("rows", "accuracy", "f1")} | odds
        gaps = {
            "demographic_parity_difference": _spread(odds["positive_rate"]),
            "equalized_odds_difference": float(
                np.fmax(_spread(odds["true_positive_rate"]), _spread(odds["false_positive_rate"]))
            ),
        }
    return {
        "values": _by_name(names, figures),
        "accuracy_difference": _spread(figures["accuracy"]),
        **gaps,
    }


def regression_groups(
    codes: Integers, names: tuple[str, ...], values: Floats, predicted: Floats
) -> dict[str, Any]:
    """Rows, RMSE, MAE and mean error (prediction minus value) for each group value, and the gap."""
    error = predicted - values
    rows = np.bincount(codes, minlength=len(names))
    squares, sizes, sums = (
        np.bincount(codes, weights, len(names)) / np.maximum(rows, 1)
        for weights in (error**2, abs(error), error)
    )
    figures = {"rows": rows, "rmse": np.sqrt(squares), "mae": sizes, "mean_error": sums}
    return {"values": _by_name(names, figures), "mae_difference": _spread(sizes)}


def _odds(counts: Integers, positive: int) -> dict[str, Floats]:
    """Rates of positive predictions [G]: over all rows, over positive rows, over the others."""
    called, total = counts[:, :, positive].sum(1), counts.sum((1, 2))
    hits, positives = counts[:, positive, positive], counts[:, positive].sum(1)
    undefined = np.nan
    return {
        "positive_rate": ratio(called, total, undefined),
        "true_positive_rate": ratio(hits, positives, undefined),
        "false_positive_rate": ratio(called - hits, total - positives, undefined),
    }


def _by_name(
    names: tuple[str, ...], figures: Mapping[str, NDArray[Any]]
) -> dict[str, dict[str, Any]]:
    return {
        name: {key: values[index].item() for key, values in figures.items()}
        for index, name in enumerate(names)
    }


def _spread(values: NDArray[Any]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.max() - defined.min()) if len(defined) else float("nan")
