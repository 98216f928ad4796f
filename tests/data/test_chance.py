"""Intervals and tests against SciPy's own, from rows instead of sums."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ray_pipeline.data import chance


def test_wilsons_interval_is_scipys() -> None:
    hits, rows = np.array([0, 3, 50, 20]), np.array([4, 9, 1000, 20])
    for found, hit, total in zip(chance.wilson(hits, rows), hits, rows, strict=True):
        expected = stats.binomtest(int(hit), int(total)).proportion_ci(method="wilson")
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_independence_is_pearsons_test_and_cramers_v() -> None:
    counts = np.array([[30, 10, 5], [20, 40, 9]])
    p, strength = chance.independence(np.vstack([counts, [0, 0, 0]]))  # an empty group is none
    assert p == pytest.approx(stats.chi2_contingency(counts).pvalue)
    assert strength == pytest.approx(stats.contingency.association(counts, "cramer"))
    assert chance.independence(np.array([[5, 5], [50, 50]])) == (pytest.approx(1), pytest.approx(0))
    assert chance.independence(np.array([[5, 5]])) == (1.0, 0.0)


def test_equal_means_is_the_f_test() -> None:
    rng = np.random.default_rng(0)
    groups = [rng.normal(100 + shift, 5, size) for shift, size in ((0, 40), (1, 90), (3, 20))]
    rows = np.array([len(group) for group in groups])
    sums = np.array([group.sum() for group in groups])
    squares = np.array([np.square(group).sum() for group in groups])
    p, strength = chance.equal_means(rows, sums, squares)
    assert p == pytest.approx(stats.f_oneway(*groups).pvalue)
    assert 0 < strength < 1
    for found, group in zip(chance.mean_interval(rows, sums, squares), groups, strict=True):
        half = 1.959964 * stats.sem(group)
        np.testing.assert_allclose(found, [group.mean() - half, group.mean() + half], rtol=1e-6)
    assert chance.equal_means(rows[:1], sums[:1], squares[:1]) == (1.0, 0.0)
