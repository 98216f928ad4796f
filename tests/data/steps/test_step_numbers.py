"""Ranges, outliers and filled numbers: against numpy, pandas and scikit-learn."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.experimental import enable_iterative_imputer  # noqa: F401 - makes the next there
from sklearn.impute import IterativeImputer

from ray_pipeline.data.steps import limits, missing, outliers
from ray_pipeline.data.steps.outliers import Sampled
from ray_pipeline.errors import DataError
from ray_pipeline.job.steps import Limits, Missing, Outliers
from ray_pipeline.schema import Column, Schema

SCHEMA = Schema(
    columns=tuple(
        Column(name=name, kind=kind)
        for name, kind in {"n": "number", "i": "integer", "a": "number", "b": "number"}.items()
    )
)
NUMBERS = st.lists(st.none() | st.floats(-1e6, 1e6), max_size=30)


def limited(column, values, **settings):
    kind = SCHEMA.arrow().field(column).type
    apply = limits.applying(Limits(column=column, **settings), SCHEMA)
    return apply(pa.table({column: pa.array(values, kind)}))[column]


@given(NUMBERS, st.floats(-1e6, 0), st.floats(0, 1e6))
def test_clipping_is_pandas_and_others_know_the_same_rows(values, low, high):
    series = pd.Series(values, dtype="float64")
    clipped = limited("n", values, min=low, max=high, outside="clip").values
    pd.testing.assert_series_equal(clipped.to_pandas(), series.clip(low, high), check_names=False)
    outside = ((series < low) | (series > high)).tolist()
    aside = limited("n", values, min=low, max=high)
    assert aside.faults.to_pylist() == outside
    assert aside.values.to_pylist() == values
    emptied = limited("n", values, min=low, max=high, outside="missing").values.to_pylist()
    assert emptied == [None if out else v for v, out in zip(values, outside, strict=True)]


def test_integers_are_clipped_to_integers_inside():
    found = limited("i", [-3, 5, 99, None], min=-0.5, max=9.5, outside="clip")
    assert found.values.to_pylist() == [0, 5, 9, None]
    assert found.values.type == pa.int64()
    assert found.kinds == {"below": 1, "above": 1}
    assert limited("i", [-3], max=7, outside="clip").values.to_pylist() == [-3]


def test_reasons_name_the_range_and_no_value():
    assert limited("n", [5.0], min=0, max=1).reason == "n: outside 0 to 1"
    assert limited("n", [5.0], max=1).reason == "n: above 1"
    assert limited("n", [5.0], min=0).reason == "n: below 0"


def sampled(values, column="n"):
    table = pa.table({column: pa.array(values, SCHEMA.arrow().field(column).type)})
    return Sampled.of(table, (column,), (column,))


def bounds(values, method, bound=None, column="n"):
    settings = Outliers(columns=[column], method=method, bound=bound)
    found = outliers.fitted(sampled(values, column), settings, SCHEMA)
    return (found[0].min, found[0].max) if found else None


def test_bounds_are_pandas():
    values = pd.Series(np.random.default_rng(0).lognormal(0, 1, 5_000))
    low, high = values.quantile([0.25, 0.75])
    spread = high - low
    assert bounds(values, "iqr") == pytest.approx((low - 1.5 * spread, high + 1.5 * spread))
    middle, away = values.mean(), values.std(ddof=0)
    assert bounds(values, "zscore") == pytest.approx((middle - 3 * away, middle + 3 * away))
    median = values.median()
    apart = 1.4826 * (values - median).abs().median()
    assert bounds(values, "mad", 5) == pytest.approx((median - 5 * apart, median + 5 * apart))


@pytest.mark.parametrize("method", ["iqr", "zscore", "mad"])
def test_without_spread_there_are_no_bounds(method):
    assert bounds([7.0] * 9, method) is None
    assert bounds([None, None], method) is None


def test_bounds_of_integers_are_integers():
    low, high = bounds([1, 2, 3, 4, 5, 6], "zscore", 1.0, column="i")
    assert (low, high) == (2, 5)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40), st.integers(1, 40), st.randoms())
def test_samples_merge_alike_in_any_order(values, size, random):
    parts = [sampled([value]).smallest(size) for value in values]
    random.shuffle(parts)
    merged = reduce(lambda a, b: (a + b).smallest(size), parts)
    whole = sampled(values).smallest(size)
    assert sorted(merged.hashes) == sorted(whole.hashes)
    assert merged.moments[0].mean == pytest.approx(whole.moments[0].mean, abs=1e-9)


def rows_with_gaps(count, seed):
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 1, (count, 1))
    rows = np.hstack([base * 2 + 5, -base, base**2]) + rng.normal(0, 0.1, (count, 3))
    rows[rng.random(rows.shape) < 0.15] = np.nan
    return rows


def test_filled_as_scikit_learn_fills():
    settings = Missing.model_validate({"columns": ["n", "a", "b"], "with": "model"})
    seen, new = rows_with_gaps(400, 0), rows_with_gaps(100, 1)
    new[0] = np.nan
    fitted = missing.fitted(seen, settings)
    low, high = np.nanmin(seen, axis=0), np.nanmax(seen, axis=0)
    imputer = IterativeImputer(
        initial_strategy="median", min_value=low, max_value=high, random_state=0
    ).fit(seen)
    np.testing.assert_allclose(missing.filled(new, fitted.fitted), imputer.transform(new))
    again = Missing.model_validate_json(fitted.model_dump_json())
    for row in range(len(new)):  # a request is one row
        np.testing.assert_allclose(
            missing.filled(new[row : row + 1], again.fitted)[0], imputer.transform(new)[row]
        )


def test_filling_keeps_values_and_types():
    settings = Missing.model_validate({"columns": ["i", "n"], "with": "model"})
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 50, 200).astype(float)
    seen = np.stack([whole, whole * 3 + rng.normal(0, 1, 200)], axis=1)
    apply = missing.applying(missing.fitted(seen, settings), SCHEMA)
    rows = pa.table({"i": pa.array([10, None], pa.int64()), "n": pa.array([None, 60.0])})
    found = apply(rows)
    assert found["i"].values.to_pylist() == [10, 20]
    assert found["n"].values.to_pylist() == [pytest.approx(30, abs=1), 60.0]
    assert found["i"].kinds == {"filled": 1}


def test_a_column_without_a_value_teaches_nothing():
    settings = Missing.model_validate({"columns": ["n", "a"], "with": "model"})
    with pytest.raises(DataError, match="no row has a value"):
        missing.fitted(np.array([[1.0, np.nan], [2.0, np.nan]]), settings)


def test_rows_without_a_value_are_set_aside():
    settings = Missing.model_validate({"columns": ["n"], "with": "drop"})
    found = missing.applying(settings, SCHEMA)(pa.table({"n": [1.0, None]}))["n"]
    assert found.faults.to_pylist() == [False, True]
    assert found.reason == "n: missing"


@pytest.mark.parametrize("how", ["median", "mean", "mode", "constant"])
def test_constants_are_the_features_business(how):
    with pytest.raises(ValueError, match="under `data"):
        Missing.model_validate({"columns": ["n"], "with": how})
