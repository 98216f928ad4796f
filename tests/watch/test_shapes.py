"""The two distributions that are drawn of a column are those of its rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ray_pipeline.deploy import reference
from ray_pipeline.deploy.reference import Reference
from ray_pipeline.watch.shapes import shapes


def shape(known, seen):
    found = shapes(Reference(rows=known.rows, columns={"x": known}), {"x": seen}, np.zeros(1))
    return found.get("x")


def counted(values, edges):
    """By numpy: the outermost bins have what is beyond."""
    inner = [-np.inf, *edges[1:-1], np.inf]
    return np.histogram(values, inner)[0] / len(values)


@pytest.mark.parametrize("whole", [False, True], ids=["continuous", "few values"])
def test_shares_are_those_of_a_histogram(whole):
    rng = np.random.default_rng(3)
    usual, now = rng.normal(0, 1, 20_000), rng.normal(1.5, 0.5, 3000)
    if whole:
        usual, now = np.round(3 * usual), np.round(3 * now)
    found = shape(reference.numbers(usual), now)
    assert found["now"] == pytest.approx(counted(now, found["edges"]), abs=1e-6)
    # 100 quantiles tell shares to a hundredth; of few values all is known.
    tolerance = 1e-6 if whole else 0.011
    assert found["reference"] == pytest.approx(counted(usual, found["edges"]), abs=tolerance)
    assert sum(found["reference"]) == pytest.approx(1, abs=1e-4)


def test_far_values_do_not_squeeze_all_others_into_one_bin():
    rng = np.random.default_rng(4)
    now = np.append(rng.normal(0, 1, 1000), 1e9)
    found = shape(reference.numbers(rng.normal(0, 1, 5000)), now)
    assert found["edges"][-1] < 10
    assert sum(found["now"]) == pytest.approx(1, abs=1e-4)


def test_values_that_are_not_known_are_among_all_others():
    usual = pa.chunked_array([["a"] * 60 + ["b"] * 30 + ["c"] * 10])
    known = reference.values(usual, ("a", "b", "c"))
    found = shape(known, pa.array(["a", "b", "b", "somebody's name", None]))
    assert found["values"] == ["a", "b", "c", "all others"]
    assert found["reference"] == [0.6, 0.3, 0.1, 0.0]
    assert found["now"] == [0.25, 0.5, 0.0, 0.25]
    many = reference.values(pa.chunked_array([[str(n % 40) for n in range(4000)]]))
    assert len(shape(many, pa.array(["7"] * 9))["values"]) == 13


def test_nothing_is_drawn_of_nothing():
    assert shape(reference.numbers(np.arange(9.0)), np.array([np.nan])) is None
    one = shape(reference.numbers(np.full(9, 5.0)), np.full(4, 5.0))
    assert sum(one["now"]) == sum(one["reference"]) == 1


def test_a_value_on_an_edge_is_in_the_same_bin_of_both():
    values = np.repeat(np.arange(25.0), 40)
    found = shape(reference.numbers(values), values)
    assert found["edges"] == list(range(25)), "else no value is on an edge"
    assert found["reference"] == found["now"] == pytest.approx(counted(values, found["edges"]))
