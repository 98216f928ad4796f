"""Repeated rows, against a plain loop."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline.data import duplicates
from ray_pipeline.schema import Column, Schema

SCHEMA = Schema(columns=(Column(name="a", kind="integer"), Column(name="b", kind="category")))
FILES = ["/x/train.csv", "/x/test.csv"]
ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["u", "v", None]), st.booleans()), max_size=25
)


def table_of(rows: list) -> pa.Table:
    return pa.table(
        {
            "a": pa.array([row[0] for row in rows], pa.int64()),
            "b": pa.array([row[1] for row in rows], pa.string()),
            "_source": pa.array([FILES[row[2]] for row in rows], pa.string()),
            "_row": pa.array(range(1, len(rows) + 1), pa.int64()),
            "_reason": pa.nulls(len(rows), pa.string()),
            "_test": pa.array([row[2] for row in rows], pa.bool_()),
        }
    )


def plain_reasons(rows: list, drop: bool) -> list[str | None]:
    """The reasons, found by looking at one row after the other."""
    tested: dict[tuple, int] = {}
    trained: dict[tuple, int] = {}
    for number, (a, b, test) in enumerate(rows, start=1):
        (tested if test else trained).setdefault((a, b), number)
    reasons: list[str | None] = []
    for number, (a, b, test) in enumerate(rows, start=1):
        if test:
            reasons.append(None)
        elif (a, b) in tested:
            first = tested[a, b]
            reasons.append(f"also in the test file, the same as row {first} of test.csv")
        elif drop and trained[a, b] != number:
            reasons.append(f"duplicate, the same as row {trained[a, b]} of train.csv")
        else:
            reasons.append(None)
    return reasons


@given(rows=ROWS)
@pytest.mark.parametrize("drop", [True, False])
def test_as_a_plain_loop_finds_them(drop, rows):
    table = table_of(rows)
    found = duplicates.repeated(duplicates.hashed(table, SCHEMA, FILES), drop)
    reasons = found.reasons(duplicates.row_ids(table, FILES), FILES)
    assert reasons.to_pylist() == plain_reasons(rows, drop)


def test_half_of_the_bits_alike_is_not_the_same_row():
    after_tests = 1 << 62
    records = [(5, low, after_tests + id_) for id_, low in enumerate([1, 2, 1])]
    found = duplicates.repeated(np.array(records, np.uint64), drop=True)
    assert found.ids.tolist() == [2]


def test_unusable_rows_take_no_part():
    table = table_of([(1, "u", False), (1, "u", False)])
    table = table.set_column(4, "_reason", pa.array(["age: wrong", None], pa.string()))
    assert not len(duplicates.repeated(duplicates.hashed(table, SCHEMA, FILES), True).ids)
