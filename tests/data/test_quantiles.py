"""The map to a normal distribution, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import QuantileTransformer

from ray_pipeline.data import quantiles


def ours(fitted: np.ndarray, values: np.ndarray) -> np.ndarray:
    knots, targets = quantiles.fitted_knots(fitted)
    return quantiles.scored(values, knots, targets, quantiles.slopes(knots, targets))


def sklearns(fitted: np.ndarray, values: np.ndarray) -> np.ndarray:
    transformer = QuantileTransformer(
        n_quantiles=len(fitted), output_distribution="normal", subsample=None
    )
    transformer.fit(fitted[:, None])
    return transformer.transform(values[:, None])[:, 0]


VALUES = st.integers(-9, 9) | st.floats(-1e3, 1e3).map(lambda x: round(x, 3))
# Of other counts scikit-learn's references are rounded, and equal quantiles come out apart.
COUNTS = st.sampled_from([3, 5, 9, 17, 33, 65])


@given(values=COUNTS.flatmap(lambda count: st.lists(VALUES, min_size=count, max_size=count)))
def test_training_values_score_as_in_scikit_learn(values):
    fitted = np.array(values, float)
    inner = np.unique(fitted)[1:-1]  # repeated extremes differ, on purpose
    if len(inner):
        np.testing.assert_allclose(ours(fitted, inner), sklearns(fitted, inner), atol=1e-6)


@pytest.mark.parametrize("name", ["normal", "lognormal", "uniform", "two humps"])
def test_between_knots_scores_stay_near_scikit_learns(name):
    rng = np.random.default_rng(0)
    fitted = {
        "normal": rng.normal(size=20_000),
        "lognormal": rng.lognormal(0, 2, 20_000),
        "uniform": rng.random(20_000),
        "two humps": np.concatenate([rng.normal(0, 1, 10_000), rng.normal(50, 0.1, 10_000)]),
    }[name]
    low, high = np.quantile(fitted, [0.001, 0.999])
    values = fitted[(fitted > low) & (fitted < high)]
    apart = np.abs(ours(fitted, values) - sklearns(fitted, values))
    assert apart.max() < 0.06
    assert apart.mean() < 0.002
    scores = ours(fitted, fitted)
    assert abs(scores.mean()) < 0.01
    assert abs(scores.std() - 1) < 0.02


def test_extremes_and_beyond():
    fitted = np.arange(1000.0)
    edges = ours(fitted, np.array([-1e300, 0.0, 999.0, 1e300]))
    np.testing.assert_allclose(edges, sklearns(fitted, np.array([-1e9, 0.0, 999.0, 1e9])))
    assert edges[3] == pytest.approx(5.19933758)


def test_a_repeated_extreme_takes_its_middle_rank():
    fitted = np.array([0.0] * 91 + list(range(1, 10)))
    (score,) = ours(fitted, np.zeros(1))
    assert score == pytest.approx(-0.1142, abs=1e-3)  # the normal quantile of 45 / 99


@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=600))
def test_knots_rise_and_so_do_scores(values):
    knots, targets = quantiles.fitted_knots(np.array(values, float))
    assert 1 <= len(knots) <= quantiles.KNOTS
    assert (np.diff(knots) > 0).all()
    assert (np.diff(targets) > 0).all()
    assert np.abs(targets).max() < 5.2
    everywhere = np.array([*values, -1.7e308, -5e-324, 0, 5e-324, 1.7e308])
    scores = ours(np.array(values, float), everywhere)
    assert (np.diff(scores[np.argsort(everywhere)]) >= -1e-9).all()  # false for a NaN as well


def test_a_constant_column_scores_zero_everywhere():
    np.testing.assert_array_equal(ours(np.full(5, 3.0), np.array([-1.0, 3.0, 9.0])), [0, 0, 0])


def test_no_values_at_all():
    np.testing.assert_array_equal(ours(np.empty(0), np.array([1.0])), [0])
