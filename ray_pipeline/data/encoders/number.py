"""Numbers: filled, and scaled by their ranks, their deviation or their logarithm, or in bins.

Arithmetic is in double, in the same order in both forms, and becomes float in the last step. Only
a logarithm may differ between them, by a rounding of the double.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from ray_pipeline.data import quantiles
from ray_pipeline.data.encoders import search
from ray_pipeline.data.encoders.build import ML, Build
from ray_pipeline.data.quantiles import Doubles
from ray_pipeline.data.statistics import (
    FIRST_VALUE,
    LARGEST_SCORE,
    MISSING,
    NumberStatistics,
)
from ray_pipeline.data.summary import Moments
from ray_pipeline.job.features import ColumnFeatures, Constant

_SCALES: tuple[Literal["quantile", "standard", "log"], ...] = ("quantile", "standard", "log")


def fitted(
    name: str,
    moments: Moments,
    logs: Moments | None,
    sample: Doubles,
    *,
    settings: ColumnFeatures,
    default: Literal["quantile", "standard"],
) -> NumberStatistics:
    """The statistics of a column.

    `moments` are of all its values, `logs` of their `logarithms` (for `scale: log`), `sample` [S]
    some or all of the values, NaN where there is none.
    """
    values = sample[np.isfinite(sample)]
    scale = settings.scale or default
    knots, targets = quantiles.fitted_knots(values) if scale == "quantile" else (_NONE, _NONE)
    median = float(np.median(values)) if len(values) else 0.0
    return NumberStatistics(
        name=name,
        missing=moments.missing,
        mean=moments.mean,
        deviation=moments.deviation,
        median=median,
        minimum=moments.minimum if moments.count else 0.0,
        maximum=moments.maximum if moments.count else 0.0,
        fill=_fill(settings.missing, values, moments.mean),
        scale=scale,
        knots=tuple(knots.tolist()),
        targets=tuple(targets.tolist()),
        log_mean=logs.mean if logs else 0.0,
        log_deviation=logs.deviation if logs else 1.0,
        edges=tuple(_edges(values, settings.bins).tolist()) if scale == "bins" else (),
    )


_NONE = np.empty(0)


def _fill(wanted: str | Constant, values: Doubles, mean: float) -> float | None:
    if isinstance(wanted, Constant):
        return wanted.constant
    if wanted == "median" or not len(values):
        return None
    if wanted == "mean":
        return mean
    found, counts = np.unique(values, return_counts=True)
    return float(found[counts.argmax()])  # the smallest of the most frequent


def _edges(values: Doubles, bins: int) -> Doubles:
    """At most `bins` - 1 rising edges between bins of as many `values` [N] each."""
    if not len(values):
        return _NONE
    ordered = np.sort(values)
    places = np.linspace(0, len(ordered) - 1, bins + 1)[1:-1]
    edges = np.unique(ordered[np.rint(places).astype(np.int64)])
    above: Doubles = edges[edges > ordered[0]]  # nothing is below the smallest
    return above


def logarithms(values: Doubles) -> Doubles:
    """sign(x) log(1 + |x|) of each value."""
    found: Doubles = np.sign(values) * np.log(1.0 + np.abs(values))
    return found


def scaling(column: NumberStatistics) -> Callable[[Doubles], Doubles]:
    """A function from finite values [N] to what a model reads."""
    if column.scale == "log":
        return lambda values: standardised(
            logarithms(values), column.log_mean, column.log_deviation
        )
    if column.scale == "standard":
        return partial(standardised, mean=column.mean, deviation=column.deviation)
    knots, targets = np.array(column.knots), np.array(column.targets)
    rise = quantiles.slopes(knots, targets)
    return lambda values: quantiles.scored(values, knots, targets, rise)


def standardised(values: Doubles, mean: float, deviation: float) -> Doubles:
    with np.errstate(over="ignore"):
        scores: Doubles = (values - mean) / (deviation or 1.0)
    return scores.clip(-LARGEST_SCORE, LARGEST_SCORE)


def binned(values: Doubles, column: NumberStatistics) -> NDArray[np.int32]:
    """The index [N] of each value's bin; MISSING for NaN and the infinities."""
    bins = np.searchsorted(np.array(column.edges), values, side="right") + FIRST_VALUE
    return np.where(np.isfinite(values), bins, MISSING).astype(np.int32)


def scaled_node(build: Build, columns: Sequence[NumberStatistics]) -> str:
    """`columns` scaled, [N, len(columns)] float, and flags for those with missing values."""
    values = build.columns([column.name for column in columns])
    missing = build.missing(values)
    fill = build.constant([column.filler for column in columns])
    whole = build.node("Where", missing, fill, values)
    scaled = build.cast(_by_scale(build, columns, whole), TensorProto.FLOAT)
    flags = [index for index, column in enumerate(columns) if column.missing]
    if not flags:
        return scaled
    flagged = build.node("Gather", missing, build.constant(flags, np.int64), axis=1)
    return build.node("Concat", scaled, build.cast(flagged, TensorProto.FLOAT), axis=1)


def _by_scale(build: Build, columns: Sequence[NumberStatistics], values: str) -> str:
    """Columns of one scale share their nodes; where there are several, they are put in order."""
    nodes = {"quantile": _scored, "standard": _standardised, "log": _logarithmic}
    places = {
        scale: [index for index, column in enumerate(columns) if column.scale == scale]
        for scale in _SCALES
    }
    used = [scale for scale in _SCALES if places[scale]]
    if len(used) == 1:
        return nodes[used[0]](build, columns, values)
    blocks = [
        nodes[scale](
            build,
            [columns[index] for index in places[scale]],
            build.node("Gather", values, build.constant(places[scale], np.int64), axis=1),
        )
        for scale in used
    ]
    joined = build.node("Concat", *blocks, axis=1)
    order = np.argsort([index for scale in used for index in places[scale]])
    return build.node("Gather", joined, build.constant(order, np.int64), axis=1)


def _standardised(build: Build, columns: Sequence[NumberStatistics], values: str) -> str:
    pairs = [(column.mean, column.deviation) for column in columns]
    return _centred(build, values, pairs)


def _logarithmic(build: Build, columns: Sequence[NumberStatistics], values: str) -> str:
    above = build.node("Add", build.node("Abs", values), build.constant(1.0))
    logs = build.node("Mul", build.node("Sign", values), build.node("Log", above))
    return _centred(build, logs, [(column.log_mean, column.log_deviation) for column in columns])


def _centred(build: Build, values: str, pairs: Sequence[tuple[float, float]]) -> str:
    means = build.constant([mean for mean, _ in pairs])
    deviations = build.constant([deviation or 1.0 for _, deviation in pairs])
    scores = build.node("Div", build.node("Sub", values, means), deviations)
    bounds = [build.constant(bound) for bound in (-LARGEST_SCORE, LARGEST_SCORE)]
    return build.node("Clip", scores, *bounds)


def _scored(build: Build, columns: Sequence[NumberStatistics], values: str) -> str:
    knots = [np.array(column.knots) for column in columns]
    targets = [np.array(column.targets) for column in columns]
    rise = [quantiles.slopes(*pair) for pair in zip(knots, targets, strict=True)]
    inside = build.node("Max", values, build.constant([column[0] for column in knots]))
    found = build.node("TreeEnsembleRegressor", inside, domain=ML, **search.attributes(knots))
    segment = build.cast(found, TensorProto.INT64)
    tables: list[Any] = [np.concatenate(table) for table in (knots, targets, rise)]
    knot, target, slope = (build.node("Gather", build.constant(t), segment) for t in tables)
    risen = build.node("Mul", build.node("Sub", inside, knot), slope)
    return build.node("Add", target, risen)


def binned_node(build: Build, column: NumberStatistics) -> str:
    """The index [N] of each value's bin, int64."""
    above = build.node("Unsqueeze", column.name, build.constant([1], np.int64))
    reached = build.node("GreaterOrEqual", above, build.constant([column.edges]))
    ones = build.cast(reached, TensorProto.INT64)
    axis = build.constant([1], np.int64)
    count = build.node("ReduceSum", ones, axis, keepdims=0)
    code = build.node("Add", count, build.constant(FIRST_VALUE, np.int64))
    nothing = build.constant(MISSING, np.int64)
    return build.node("Where", build.missing(column.name), nothing, code)
