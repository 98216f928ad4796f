"""Splits: stable, without leakage, in the shares asked for."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
from job_files import data_of, folder, table_in
from upath import UPath

from ray_pipeline.data import parts, split
from ray_pipeline.errors import DataError
from ray_pipeline.schema import Column, Schema

pytestmark = pytest.mark.usefixtures("ray_cluster")

SCHEMA = Schema(
    columns=(
        Column(name="customer", kind="category", role="ignore"),
        Column(name="a", kind="integer"),
        Column(name="b", kind="category"),
        Column(name="label", kind="category", role="label"),
    )
)
ROWS = 4000


def table_of(rows: int = ROWS, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "customer": [f"c{i}" for i in rng.integers(0, 400, rows)],
            "a": rng.integers(0, 30, rows),
            "b": [f"b{i}" for i in rng.integers(0, 30, rows)],
            "label": rng.choice(["x", "y"], rows).tolist(),
        }
    )


def parted(tmp_path, table=None, test_file=None, name="split", **settings):
    cleaned = UPath(tmp_path) / f"cleaned-{name}"
    table = table_of() if table is None else table
    half = len(table) // 2
    parts.written(table.slice(0, half), cleaned / "rows" / "0.parquet")
    parts.written(table.slice(half), cleaned / "rows" / "1.parquet")
    if test_file is not None:
        parts.written(test_file, cleaned / "test" / "0.parquet")
    out = folder(tmp_path, name)
    record = split.write(cleaned, data_of("unused", split=settings), SCHEMA, out)
    return record, {side: table_in(out / side) for side in split.SIDES if record["rows"][side]}


def sides_of(found: dict[str, pa.Table], names: list[str]) -> dict[tuple, set[str]]:
    sides = defaultdict(set)
    for side, table in found.items():
        for row in table.select(names).to_pylist():
            sides[tuple(row.values())].add(side)
    return sides


def rows_of(table: pa.Table) -> list:
    return sorted(map(str, table.to_pylist()))


def test_no_row_is_lost_and_the_schema_is_kept(tmp_path):
    record, found = parted(tmp_path)
    assert record["rows"] == {side: len(table) for side, table in found.items()}
    assert record["rows_in"] == record["rows_out"] == ROWS
    assert rows_of(pa.concat_tables(found.values())) == rows_of(table_of())


@pytest.mark.parametrize("by", [[], ["customer"], ["a"]])
def test_equal_rows_never_part(tmp_path, by):
    _, found = parted(tmp_path, by=by)
    assert all(len(sides) == 1 for sides in sides_of(found, by or ["a", "b"]).values())


def test_shares_are_those_of_different_values(tmp_path):
    table = table_of().set_column(1, "a", pa.array(range(ROWS)))
    record, _ = parted(tmp_path, table, validation=0.2, test=0.1)
    for side, share in (("validation", 0.2), ("test", 0.1), ("train", 0.7)):
        assert abs(record["rows"][side] / ROWS - share) < 0.03  # over four standard deviations


def test_a_row_keeps_its_side_when_others_come_and_go(tmp_path):
    table = table_of()
    _, before = parted(tmp_path, table)
    more = pa.concat_tables([table_of(500, seed=1), table.slice(1000)])
    _, after = parted(tmp_path, more, name="after")
    was, now = sides_of(before, ["a", "b"]), sides_of(after, ["a", "b"])
    shared = was.keys() & now.keys()
    assert len(shared) > 500
    assert all(was[row] == now[row] for row in shared)


def test_a_golden_side():
    """A stored split stays what it was: see the golden values in test_hashing."""
    table = pa.table({"a": pa.array([1, 2, 3, 4, 5, 6, 7, 8]), "b": list("pqrstuvw")})
    shares = data_of("x", split={"validation": 0.3, "test": 0.3}).split
    assert split.side_of(table, ("a", "b"), shares).tolist() == [0, 0, 0, 0, 0, 2, 0, 2]


def test_the_seed_decides(tmp_path):
    _, one = parted(tmp_path)
    _, two = parted(tmp_path, name="other", seed=1)
    assert rows_of(one["test"]) != rows_of(two["test"])


def test_a_separate_test_file_is_the_test_side(tmp_path):
    test = table_of(50, seed=9)
    record, found = parted(tmp_path, test_file=test, validation=0.25)
    assert rows_of(found["test"]) == rows_of(test)
    assert record["rows"]["train"] + record["rows"]["validation"] == ROWS
    assert abs(record["rows"]["validation"] / ROWS - 0.25) < 0.05


def test_an_empty_side_is_refused(tmp_path):
    with pytest.raises(DataError, match="side has no rows"):
        parted(tmp_path, table_of(2))


def test_no_test_side_is_made_where_none_is_asked_for(tmp_path):
    record, _ = parted(tmp_path, validation=0.2, test=0)
    assert record["rows"]["test"] == 0
