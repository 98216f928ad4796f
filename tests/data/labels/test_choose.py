"""What is asked: worked out by hand, against every possible choice, and on planted groups."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from asked_rows import PIXEL
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.spatial.distance import cdist

from ray_pipeline.data.labels import choose
from ray_pipeline.schema import Column


def test_uncertainty_by_hand() -> None:
    chances = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.2, 0.5, 0.3]])
    assert choose.uncertainty(chances) == pytest.approx([1.0, 0.0, 0.8])
    assert choose.uncertainty(np.ones((2, 1))) == pytest.approx([1.0, 1.0])


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.booleans())
def test_spread_is_within_twice_the_best_cover(seed: int, count: int, sparse: bool) -> None:
    """Gonzalez' bound: the greedy choice covers all rows within twice the least radius."""
    points = np.random.default_rng(seed).normal(size=(9, 2))
    distances = cdist(points, points)
    chosen = choose.spread(csr_matrix(points) if sparse else points, count, np.zeros(9, bool))
    assert len(set(chosen)) == count
    radius = distances[:, chosen].min(1).max()
    best = min(distances[:, some].min(1).max() for some in combinations(range(9), count))
    assert radius <= 2 * best + 1e-6


def test_spread_keeps_away_from_what_is_done() -> None:
    points = np.array([[0.0], [0.1], [5.0], [10.0], [10.1]])
    done = np.array([True, False, False, False, True])
    assert choose.spread(points, 1, done) == [2]
    assert sorted(choose.spread(points, 9, done)) == [1, 2, 3]


def test_rows_of_every_kind_that_differ_lie_apart() -> None:
    columns = [
        Column(name="text", kind="text"),
        Column(name="photo", kind="image"),
        Column(name="price", kind="number"),
        Column(name="when", kind="date"),
        Column(name="sort", kind="category"),
        Column(name="fresh", kind="boolean"),
    ]
    day = datetime(2026, 1, 1, tzinfo=UTC)
    first = {
        "text": "good tea", "photo": PIXEL, "price": 1.0, "when": day, "sort": "a", "fresh": True,
    }  # fmt: skip
    others = [
        {"text": "old coffee"},
        {"photo": None},
        {"price": None},
        {"when": day.replace(year=2020)},
        {"sort": None},
        {"fresh": None},
        {"price": float("inf")},
    ]
    spread = [{"price": 9.0, "when": day.replace(year=2030)}]
    lines = [first, first, *({**first, **other} for other in (*others, *spread))]
    vectors = choose.vectors(pa.Table.from_pylist(lines), columns).toarray()
    assert np.isfinite(vectors).all()
    apart = np.linalg.norm(vectors - vectors[0], axis=1)
    assert apart[1] == pytest.approx(0.0)
    assert (apart[2:] > 0.1).all()
