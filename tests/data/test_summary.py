"""Mergeable summaries, against NumPy and collections.Counter, however the rows are parted."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline.data import summary
from ray_pipeline.data.summary import Counts, Moments
from ray_pipeline.schema import Column

NUMBERS = st.lists(st.floats(-1e6, 1e6) | st.sampled_from([np.nan, np.inf, -np.inf]), max_size=20)


@given(parts=st.lists(NUMBERS, min_size=1, max_size=4))
def test_moments_add_up(parts):
    found = Moments()
    for part in parts:
        found += Moments.of(np.array(part, float))
    values = np.array([value for part in parts for value in part], float)
    finite = values[np.isfinite(values)]
    assert (found.count, found.missing) == (len(finite), len(values) - len(finite))
    if len(finite):
        assert found.mean == pytest.approx(finite.mean(), abs=1e-6)
        assert found.deviation == pytest.approx(finite.std(), abs=1e-4)
        assert (found.minimum, found.maximum) == (finite.min(), finite.max())


@given(parts=st.lists(st.lists(st.none() | st.sampled_from("abc"), max_size=9), min_size=1))
def test_counts_add_up(parts):
    found = Counts()
    for part in parts:
        found += Counts.of(pa.chunked_array([pa.array(part, pa.string())]))
    texts = [text for part in parts for text in part]
    assert found.values == Counter(text for text in texts if text is not None)
    assert found.missing == texts.count(None)


def test_the_most_frequent_are_kept_where_there_are_too_many(monkeypatch):
    monkeypatch.setattr(summary, "MOST_VALUES", 2)
    found = Counts.of(pa.chunked_array([["a", "b", "b", "c", "c"]]))
    assert found == Counts(Counter(b=2, c=2), 0, cut=True)
    assert summary.described(found) == {
        "missing": 0,
        "at_least": 2,
        "top": [("b", 2), ("c", 2)],
    }


def test_booleans_are_counted_and_wide_integers_measured():
    flags = pa.chunked_array([[True, None, True, False]])
    found = summary.summarised(flags, Column(name="x", kind="boolean"))
    assert found == Counts(Counter(true=2, false=1), 1)
    wide = pa.chunked_array([pa.array([2**60, None], pa.int64())])
    assert summary.summarised(wide, Column(name="x", kind="integer")).mean == 2.0**60


@given(cuts=st.lists(st.integers(0, 20_000), max_size=4))
def test_a_histogram_adds_up_and_is_about_that_of_all_values(cuts):
    values = np.random.default_rng(0).normal(size=20_000)
    found = Moments()
    for part in np.split(values, sorted(cuts)):
        found += Moments.of(part)
    histogram = summary.described(found)["histogram"]
    expected, edges = np.histogram(values, summary.BINS)
    assert histogram["edges"] == pytest.approx(edges.tolist())
    assert sum(histogram["counts"]) == pytest.approx(len(values), abs=summary.BINS)
    apart = np.abs(np.array(histogram["counts"]) - expected).sum() / len(values)
    assert apart < 0.35  # of 512 values and more; 2 if nothing were alike


def test_a_histogram_of_one_value_and_of_the_largest_range():
    for values in ([3.0, 3.0], [-1.7e308, 1.7e308]):
        histogram = summary.described(Moments.of(np.array(values)))["histogram"]
        assert histogram == {"edges": [min(values), max(values)], "counts": [2]}


def test_a_sample_stays_small():
    found = summary.Sample()
    for _ in range(100):
        found += summary.Sample.of(np.arange(1000.0))
    assert len(found.values) <= summary.MOST_SAMPLED
    assert found.weights.sum() == pytest.approx(100_000)
