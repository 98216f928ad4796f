"""Rows read twice: from where they are, from a copy, and by several tasks from one file."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from job_files import data_of, file_of, folder, table_in
from upath import UPath

from ray_pipeline.data import clean, collect, shares, sources
from ray_pipeline.data.shares import Share
from ray_pipeline.data.sources import Piece

TABLES = [
    pa.table({"a": [1, None], "b": pa.array(["x", None]).dictionary_encode()}),
    pa.table({"a": [3], "b": pa.array(["y"]).dictionary_encode()}),
]


def test_a_copy_gives_the_same_tables_without_a_second_reading(tmp_path):
    reads = []

    def read():
        reads.append(1)
        return TABLES

    share = Share(0, read, UPath(tmp_path / "scratch" / "0.arrow"))
    first, again = list(share.first()), list(share.again())
    assert [table.to_pydict() for table in again] == [table.to_pydict() for table in first]
    assert [table.schema for table in again] == [table.schema for table in first]
    assert len(reads) == 1


def test_a_share_without_rows_has_none_again(tmp_path):
    share = Share(0, lambda: [], UPath(tmp_path / "0.arrow"))
    assert list(share.first()) == list(share.again()) == []


@pytest.mark.parametrize(("place", "copied"), [("", ["parquet", "csv"]), ("memory://", ["csv"])])
def test_what_is_cheap_to_read_again_is_not_copied_to_an_object_store(tmp_path, place, copied):
    data, scratch = data_of(tmp_path), UPath(f"{place}{tmp_path}")
    pieces = [(Piece(UPath("x"), kind), list) for kind in ("parquet", "csv")]
    shares_ = shares.of_pieces(pieces, data, scratch, first=4)
    found = [piece.format for (piece, _), share in zip(pieces, shares_, strict=True) if share.copy]
    assert found == copied
    assert shares_[1].copy == scratch / "000005.arrow"


@pytest.fixture
def grouped(tmp_path, monkeypatch):
    """A Parquet file of 12 row groups of 50 rows, cut into ranges of 100 rows and more."""
    monkeypatch.setattr(sources, "GROUPED_ROWS", 100)
    numbers = np.arange(600)
    table = pa.table(
        {
            "n": numbers % 599,  # the last row is the first again
            "c": [f"c{number % 599 % 7}" for number in numbers],
            "label": [("a", "b")[number % 599 % 2] for number in numbers],
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=50)
    return tmp_path / "rows.parquet"


def test_a_large_parquet_file_is_shared_by_its_row_groups(grouped):
    found = sources.pieces([UPath(grouped)], data_of(grouped), size=1)
    assert [(piece.start, piece.end, piece.lines) for piece in found] == [
        (2 * i, 2 * i + 2, 100 * i) for i in range(6)
    ]
    assert sources.pieces([UPath(grouped)], data_of(grouped)) == [Piece(UPath(grouped), "parquet")]


@pytest.mark.usefixtures("ray_cluster")
def test_rows_keep_their_numbers_however_a_file_is_shared(grouped, tmp_path, monkeypatch):
    pieces = sources.pieces([UPath(grouped)], data_of(grouped), size=1)
    monkeypatch.setattr(sources, "pieces", lambda paths, data: pieces)
    data, out = data_of(grouped), folder(tmp_path, "out")
    record = clean.write(data, collect.schema(data), out)
    assert sorted(table_in(out / "rows")["n"].to_pylist()) == list(range(599))
    (aside,) = table_in(out / "quarantine").to_pylist()
    assert aside["row"] == 600
    assert aside["reason"] == "duplicate, the same as row 1 of rows.parquet"
    assert aside["raw"] == "0,c0,a"
    assert record["rows_in"] == 600
    assert table_in(out / "rows").schema.field("c").type == pa.string()
    assert sorted(path.name for path in out.iterdir()) == ["quarantine", "rows"]


def test_a_cut_off_parquet_file_is_left_to_its_reader(tmp_path):
    path = UPath(file_of(tmp_path, b"PAR1 and then nothing", "rows.parquet"))
    assert sources.pieces([path], data_of(path), size=1) == [Piece(path, "parquet")]
