"""Parquet and Arrow files keep the types and values that Arrow itself reads."""

from __future__ import annotations

import datetime as dt
import decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from job_files import collected, data_of, file_of
from upath import UPath

from ray_pipeline.data import readers
from ray_pipeline.errors import DataError

MIDNIGHT = dt.datetime(2024, 2, 29)
TABLE = pa.table(
    {
        "small": pa.array([1, None, -3], pa.int8()),
        "large": pa.array([2**63, 1, None], pa.uint64()),
        "x": pa.array([0.1, float("nan"), None], pa.float32()),
        "flag": [True, None, False],
        "price": pa.array([decimal.Decimal("1.10"), None, decimal.Decimal("-9.99")]),
        "day": pa.array([dt.date(1969, 12, 31), None, dt.date(2024, 2, 29)]),
        "at": pa.array([MIDNIGHT, None, MIDNIGHT], pa.timestamp("ns", "Europe/Paris")),
        "code": pa.array(["007", "", None]),
        "city": pa.array(["Genève", "东京", None]).dictionary_encode(),
        "wide": pa.array(["a", "b", None], pa.large_string()),
        "label": ["yes", "no", "yes"],
    }
)
KINDS = {
    "small": "integer",
    "large": "integer",
    "x": "number",
    "flag": "boolean",
    "price": "number",
    "day": "date",
    "at": "date",
}


def written(folder: Path, kind: str) -> UPath:
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(TABLE, path, row_group_size=2)
    elif kind == "feather":
        feather.write_feather(TABLE, path, chunksize=2, compression="zstd")
    else:
        with pyarrow.ipc.new_stream(path, TABLE.schema) as stream:
            stream.write_table(TABLE, max_chunksize=2)
    return UPath(path)


def read(path: UPath) -> pa.Table:
    data = data_of(path)
    names = readers.names(path, data)
    (piece,) = readers.pieces([path], data)
    return pa.concat_tables(readers.tables(piece, data, names))


def plain(kind: pa.DataType) -> pa.DataType:
    """The type of values, be they in a dictionary or not."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


@pytest.mark.parametrize("kind", ["parquet", "feather", "arrow"])
def test_types_values_and_nulls_stay(tmp_path, kind):
    path = written(tmp_path, kind)
    found = read(path)
    assert list(map(plain, found.select(TABLE.column_names).schema.types)) == list(
        map(plain, TABLE.schema.types)
    )
    assert str(found.select(TABLE.column_names).to_pydict()) == str(TABLE.to_pydict())
    assert found["_row"].to_pylist() == [1, 2, 3]
    assert readers.kinds(path, data_of(path)) == KINDS


@pytest.mark.parametrize("kind", ["feather", "arrow"])
def test_arrow_files_with_columns_in_another_order(tmp_path, kind):
    path = written(tmp_path, kind)
    (piece,) = readers.pieces([path], data_of(path))
    (first, *_) = readers.tables(piece, data_of(path), ["label", "small"])
    assert first.select([0, 1]).to_pydict() == {"label": ["yes", "no"], "small": [1, None]}


@pytest.mark.parametrize("kind", ["parquet", "feather", "arrow"])
def test_a_file_cut_off_and_copied_again(tmp_path, kind):
    path = written(tmp_path, kind)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(DataError, match=r"not a|cannot be read") as raised:
        read(path)
    assert raised.value.where == str(path)
    assert "copy it again" in raised.value.hint
    path.write_bytes(whole)
    assert len(read(path)) == 3


def test_one_altered_byte_that_a_checksum_tells(tmp_path):
    path = UPath(tmp_path / "rows.parquet")
    table = pa.table({"label": [f"value {i}" for i in range(5000)]})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"(?i)cannot be read.*crc") as raised:
        read(path)
    assert raised.value.where == str(path)


def test_files_that_are_not_arrow(tmp_path):
    path = UPath(file_of(tmp_path, "a,label\n1,x\n", "rows.feather"))
    with pytest.raises(DataError, match="not an Arrow file") as raised:
        read(path)
    assert "Feather's first" in raised.value.hint


@pytest.mark.parametrize("kind", ["parquet", "feather"])
def test_columns_of_lists_are_refused(tmp_path, kind):
    table = pa.table({"a": [[1], [2]], "label": ["x", "y"]})
    path = UPath(tmp_path / f"rows.{kind}")
    (pq.write_table if kind == "parquet" else feather.write_feather)(table, path)
    with pytest.raises(DataError, match="column `a` holds list") as raised:
        read(path)
    assert raised.value.where == str(path)


@pytest.mark.usefixtures("ray_cluster")
def test_a_folder_of_both_as_a_jobs_source(tmp_path):
    written(tmp_path, "feather")
    written(tmp_path, "parquet")
    found = collected(data_of(tmp_path))
    assert [row["small"] for row in found] == [1, None, -3] * 2
    assert [row["city"] for row in found] == ["Genève", "东京", None] * 2
