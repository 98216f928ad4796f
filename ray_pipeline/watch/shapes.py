"""The two distributions of a column, in the same few bins: what a model was made for, and now.

They are drawn beside what the tests of drift.py say of a column, and kept with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ray_pipeline.deploy.reference import KNOTS, Distribution, Numbers, Reference, Values
from ray_pipeline.watch.drift import PREDICTIONS

Shape = dict[str, Any]
"""`edges` [B + 1] of a number or `values` [B] of a category, and the shares [B] of the rows with a
value that are there: `reference` and `now`."""
_BINS, _MOST = 24, 12
_TAIL = 0.005
"""Of both samples this share at either end is drawn in the outermost bins, however far away."""


def shapes(
    reference: Reference,
    columns: Mapping[str, NDArray[np.float64] | pa.Array],
    predicted: NDArray[np.float64] | pa.Array,
) -> dict[str, Shape]:
    """Of each column that both know, and of the predictions; its arguments are `drift.answers`'."""
    pairs = {
        name: (expected, columns[name])
        for name, expected in reference.columns.items()
        if name in columns
    }
    if reference.predicted is not None:
        pairs[PREDICTIONS] = (reference.predicted, predicted)
    drawn = {name: _shape(expected, seen) for name, (expected, seen) in pairs.items()}
    return {name: shape for name, shape in drawn.items() if shape}


def _shape(expected: Distribution, seen: NDArray[np.float64] | pa.Array) -> Shape | None:
    """None where one of both has no value at all."""
    if isinstance(expected, Numbers):
        values = np.asarray(seen, float)
        finite = values[np.isfinite(values)]
        return _of_numbers(expected, finite) if len(finite) and expected.rows else None
    known = pc.drop_null(seen)
    return _of_values(expected, known) if len(known) and expected.rows else None


def _of_numbers(expected: Numbers, seen: NDArray[np.float64]) -> Shape:
    knots, below = np.array(expected.knots), np.array(expected.below) / expected.rows
    ends = np.quantile(seen, [_TAIL, 1 - _TAIL])
    first, last = knots[np.searchsorted(below, [_TAIL, 1 - _TAIL]).clip(max=len(knots) - 1)]
    low, high = min(first, ends[0]), max(last, ends[1])
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, _BINS + 1)
    inner = edges[1:-1]
    if len(knots) < KNOTS:  # every value that there was
        usual = np.concatenate([[0.0], below])[np.searchsorted(knots, inner, side="left")]
    else:
        usual = np.interp(inner, knots, below, left=0.0, right=1.0)
    now = np.searchsorted(np.sort(seen), inner, side="left") / len(seen)
    return {"edges": edges.tolist(), "reference": _steps(usual), "now": _steps(now)}


def _of_values(expected: Values, seen: pa.Array) -> Shape:
    """The values that are most frequent in either; all others, unknown ones too, are one."""
    places = pc.index_in(seen, pa.array(expected.values, pa.string()))
    codes = pc.fill_null(places, len(expected.values)).to_numpy(zero_copy_only=False)
    now = np.bincount(codes.astype(int), minlength=len(expected.values) + 1) / len(seen)
    usual = np.array([*expected.counts, expected.rest]) / expected.rows
    largest = np.maximum(usual, now)[:-1]
    shown = np.sort(np.argsort(-largest, kind="stable")[:_MOST])
    others = [float(1 - one[shown].sum()) for one in (usual, now)]
    shape = {
        "values": [expected.values[place] for place in shown],
        "reference": [round(float(usual[place]), 6) for place in shown],
        "now": [round(float(now[place]), 6) for place in shown],
    }
    if max(others) > 1e-9:
        shape["values"].append("all others")
        for name, share in zip(("reference", "now"), others, strict=True):
            shape[name].append(round(max(share, 0.0), 6))
    return shape


def _steps(cumulative: NDArray[np.float64]) -> list[float]:
    """The shares between cumulative ones at inner edges, of which the ends hold all the rest."""
    shares = np.diff(np.concatenate([[0.0], cumulative, [1.0]]))
    return [round(float(share), 6) for share in shares]
