"""Row hashes: the same for ever, alike for equal rows only, evenly spread."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline.data import hashing
from ray_pipeline.data.hashing import row_hashes, shares

TABLE = pa.table(
    {
        "i": pa.array([1, -1, None, 2**62], pa.int64()),
        "x": pa.array([0.5, float("nan"), None, 1e300], pa.float64()),
        "b": pa.array([True, False, None, True]),
        "t": pa.array(["a", "", None, "東京"]),
    }
)


def test_golden_values():
    """They decide the side of every row ever split: a change here is a change of all splits."""
    assert row_hashes(TABLE, TABLE.column_names).tolist() == [
        1308574170877582865,
        8083180293124842191,
        4854375364806616340,
        13756936053569671709,
    ]
    assert row_hashes(TABLE, ["t"], seed=7)[3] == 14838053411136714550


@given(
    rows=st.lists(
        st.tuples(st.none() | st.integers(-2, 2), st.none() | st.sampled_from(["", "a", "b"])),
        min_size=2,
    )
)
def test_equal_hashes_are_equal_rows(rows):
    table = pa.table(
        {
            "i": pa.array([row[0] for row in rows], pa.int64()),
            "t": pa.array([row[1] for row in rows], pa.string()),
        }
    )
    hashes = row_hashes(table, ["i", "t"])
    for one, first in zip(rows, hashes, strict=True):
        for two, second in zip(rows, hashes, strict=True):
            assert (one == two) == (first == second)


def test_columns_are_told_apart():
    table = pa.table({"a": ["x", "y"], "b": ["y", "x"]})
    one, two = row_hashes(table, ["a", "b"])
    assert one != two


def test_one_zero_and_one_missing_number():
    table = pa.table({"x": pa.array([0.0, -0.0, None, float("nan")])})
    hashes = row_hashes(table, ["x"])
    assert hashes[0] == hashes[1] != hashes[2]
    assert hashes[2] == hashes[3]


def test_chunks_and_order_do_not_matter():
    whole = row_hashes(TABLE, TABLE.column_names)
    parts = pa.concat_tables([TABLE.slice(2), TABLE.slice(0, 2)])
    assert row_hashes(parts, TABLE.column_names).tolist() == [*whole[2:], *whole[:2]]


def test_spread_and_seeds():
    table = pa.table({"i": np.arange(100_000)})
    places = shares(row_hashes(table, ["i"]))
    counts, _ = np.histogram(places, 20, (0, 1))
    assert abs(counts - 5000).max() < 350  # five standard deviations
    other = shares(row_hashes(table, ["i"], seed=1))
    assert abs(np.corrcoef(places, other)[0, 1]) < 0.02
    assert places.min() >= 0
    assert places.max() < 1


def test_dictionaries_hash_as_their_texts_and_digests_as_their_rows():
    table = pa.table({"a": ["x", None, "y", "x"], "b": [1.5, 2.0, None, 1.5]})
    encoded = table.set_column(0, "a", table["a"].dictionary_encode())
    high, low = hashing.digests(encoded, ["a", "b"])
    assert high.tolist() == row_hashes(table, ["a", "b"]).tolist()
    assert low.tolist() == hashing.digests(table, ["a", "b"])[1].tolist()
    assert low[0] == low[3]
    assert len({*low, *high}) == 6


def test_both_halves_of_a_digest_tell_a_million_rows_apart():
    numbers = np.arange(1 << 20)
    table = pa.table({"a": numbers % 1024, "b": numbers // 1024})
    for half in hashing.digests(table, ["a", "b"]):
        assert len(np.unique(half)) == len(numbers)
        assert abs((half >> np.uint64(63)).mean() - 0.5) < 0.01
        assert abs((half & np.uint64(1)).mean() - 0.5) < 0.01
