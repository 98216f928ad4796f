"""Whether groups of rows, say by sex, are treated alike: figures by group, and the gaps between.

Shape letters: N rows, K classes, G values of the group column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_pipeline.model.metrics import Floats, Integers, percentiles, rates, ratio, resampled

GAPS = (
    "accuracy_difference",
    "demographic_parity_difference",
    "demographic_parity_ratio",
    "equalized_odds_difference",
    "equalized_odds_ratio",
    "equal_opportunity_difference",
    "equal_opportunity_ratio",
)
"""What a gate may bound for two classes; of more classes the first alone is defined."""


def classification_groups(
    codes: Integers,
    names: tuple[str, ...],
    counted: tuple[Integers, Integers],
    *,
    classes: int,
    positive: int | None,
    resamples: int = 0,
) -> dict[str, Any]:
    """Rates for each value of a group column (codes [N] into names [G]), and the gaps between.

    `counted` is the true and the predicted class indices [N]; `intervals` are the gaps' 95 %
    bootstrap intervals of as many `resamples`.
    """
    labels, predicted = counted
    cells = (codes * classes + labels) * classes + predicted
    counts = np.bincount(cells, minlength=len(names) * classes * classes)
    counts = counts.reshape(len(names), classes, classes)
    figures = {"rows": counts.sum((1, 2)), **rates(counts, positive)}
    if positive is None:
        figures = {key: figures[key] for key in ("rows", "accuracy", "f1_macro")}
    else:
        figures = {key: figures[key] for key in ("rows", "accuracy", "f1")}
        figures |= _odds(counts, positive)
    return {
        "values": _by_name(names, figures),
        **{name: float(value) for name, value in _gaps(counts, positive).items()},
        "intervals": _intervals(counts, positive, resamples),
    }


def _gaps(counts: Integers, positive: int | None) -> dict[str, Floats]:
    """The gaps between groups, from counts [..., G, K, K].

    A difference is the largest rate less the smallest, a ratio the smallest by the largest.
    Demographic parity compares the rates of positive predictions; equal opportunity the true
    positive rates; equalized odds takes the worse of true and false positive rates. All as in
    fairlearn, save that a rate over no rows takes no part.
    """
    accuracy = np.diagonal(counts, axis1=-2, axis2=-1).sum(-1)
    gaps = {"accuracy_difference": _spread(ratio(accuracy, counts.sum((-2, -1)), np.nan))}
    if positive is None:
        return gaps
    called, hits, alarms = _odds(counts, positive).values()
    return gaps | {
        "demographic_parity_difference": _spread(called),
        "demographic_parity_ratio": _quotient(called),
        "equalized_odds_difference": np.fmax(_spread(hits), _spread(alarms)),
        "equalized_odds_ratio": np.fmin(_quotient(hits), _quotient(alarms)),
        "equal_opportunity_difference": _spread(hits),
        "equal_opportunity_ratio": _quotient(hits),
    }


def _intervals(
    counts: Integers, positive: int | None, resamples: int
) -> dict[str, tuple[float, float]]:
    """95 % bootstrap percentile intervals of the gaps.

    As in `metrics`: rows drawn with replacement are counts drawn from a multinomial.
    """
    if not resamples:
        return {}
    draws = resampled(counts.ravel(), resamples, np.random.default_rng(0))
    samples = _gaps(draws.reshape(resamples, *counts.shape), positive)
    return {name: percentiles(values) for name, values in samples.items()}


def findings(groups: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The report's section on the gaps of each group column, as a stage's record holds it."""
    tables = [
        {
            "caption": column,
            "columns": ["gap", "value", "95 % interval", "gate"],
            "rows": [
                [
                    name.replace("_", " "),
                    _shown(found[name]),
                    _span(found.get("intervals", {}).get(name)),
                    f"groups.{column}.{name}",
                ]
                for name in found
                if name.endswith(("_difference", "_ratio"))
            ],
        }
        for column, found in groups.items()
    ]
    note = (
        "A difference of 0 and a ratio of 1 mean that no group is treated otherwise. The gap of a "
        "sample is never below 0, so that small groups show one even where there is none: an "
        "interval that begins near 0 is no proof of unequal treatment."
    )
    return [{"title": "Gaps between groups", "note": note, "tables": tables}] if tables else []


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _span(interval: Sequence[float | None] | None) -> str:
    return " to ".join(_shown(bound) for bound in interval) if interval else ""


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
    return {"values": _by_name(names, figures), "mae_difference": float(_spread(sizes))}


def _odds(counts: Integers, positive: int) -> dict[str, Floats]:
    """Rates of positive predictions [..., G]: over all rows, over positive ones, over the others.

    From counts [..., G, K, K].
    """
    called, total = counts[..., positive].sum(-1), counts.sum((-2, -1))
    hits, positives = counts[..., positive, positive], counts[..., positive, :].sum(-1)
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


def _spread(rates: Floats) -> Floats:
    """The largest of the rates [..., G] less the smallest; NaN where none is defined."""
    return _largest(rates) - _smallest(rates)


def _quotient(rates: Floats) -> Floats:
    """The smallest of the rates [..., G] by the largest; NaN where that is 0 or undefined."""
    with np.errstate(invalid="ignore"):
        return _smallest(rates) / _largest(rates)


def _largest(rates: Floats) -> Floats:
    highest: Floats = np.fmax.reduce(rates, axis=-1)
    return highest


def _smallest(rates: Floats) -> Floats:
    lowest: Floats = np.fmin.reduce(rates, axis=-1)
    return lowest
