"""Delta, Iceberg and Lance tables beside what their own libraries read from them."""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import json
import shutil
import struct
from pathlib import Path

import deltalake
import lance
import pyarrow as pa
import pytest
from job_files import collected, data_of, file_of
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import StaticTable
from upath import UPath

from ray_pipeline.data import readers, sources
from ray_pipeline.data.readers import iceberg, versioned
from ray_pipeline.errors import DataError
from ray_pipeline.job import Data

MORNING = dt.datetime(2024, 2, 29, 6, 30, 0, 125)
NAMES = ["id", "x", "city", "day", "at", "price", "label"]


def rows(start: int, count: int = 6) -> pa.Table:
    ids = range(start, start + count)
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "x": pa.array([None if i % 3 == 0 else i / 7 for i in ids], pa.float64()),
            "city": pa.array([["Genève", None, "东京 🗼", ""][i % 4] for i in ids]),
            "day": pa.array([dt.date(1969, 12, 31) + dt.timedelta(i) for i in ids], pa.date32()),
            "at": pa.array([MORNING + dt.timedelta(i) for i in ids], pa.timestamp("us")),
            "price": pa.array([decimal.Decimal(i) / 100 for i in ids], pa.decimal128(9, 2)),
            "label": pa.array([i % 2 == 0 for i in ids]),
        }
    )


class Delta:
    """Two commits of six rows, then a third that deletes ids below 2."""

    missing_file = "*.parquet"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "delta"
        deltalake.write_deltalake(self.path, rows(0))
        deltalake.write_deltalake(self.path, rows(6), mode="append")
        self.before = 1
        deltalake.DeltaTable(self.path).delete("id < 2")

    def append(self) -> None:
        deltalake.write_deltalake(self.path, rows(12), mode="append")

    def reference(self) -> pa.Table:
        return deltalake.DeltaTable(self.path).to_pyarrow_table()


class Iceberg:
    missing_file = "data/*.parquet"

    def __init__(self, folder: Path) -> None:
        self.catalog = SqlCatalog(
            "c", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}"
        )
        self.catalog.create_namespace("shop")
        self.table = self.catalog.create_table("shop.sales", schema=rows(0).schema)
        self.path = folder / "shop" / "sales"
        self.table.append(rows(0))
        self.table.append(rows(6))
        self.before = self.table.current_snapshot().snapshot_id
        self.table.manage_snapshots().create_tag(self.before, "before").commit()
        self.table.delete("id < 2")

    def append(self) -> None:
        self.table.append(rows(12))

    def reference(self) -> pa.Table:
        found = StaticTable.from_metadata(self.table.metadata_location)
        return found.scan().to_arrow()


class Lance:
    missing_file = "data/*.lance"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "sales.lance"
        lance.write_dataset(rows(0), self.path)
        lance.write_dataset(rows(6), self.path, mode="append")
        self.before = 2
        lance.dataset(self.path).tags.create("before", 2)
        lance.dataset(self.path).delete("id < 2")

    def append(self) -> None:
        lance.write_dataset(rows(12), self.path, mode="append")

    def reference(self) -> pa.Table:
        return lance.dataset(self.path).to_table()


KINDS = [Delta, Iceberg, Lance]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__.lower())
def table(request, tmp_path):
    return request.param(tmp_path)


def data_at(path: object, version: int | str | None = None) -> Data:
    return Data(source={"url": str(path), "version": version}, label="label")


def read(data: Data) -> pa.Table:
    (path,) = sources.listed(data.source.url)
    names = readers.names(path, data)
    found = [
        part
        for piece in readers.pieces([path], data)
        for part in readers.tables(piece, data, names)
    ]
    return pa.concat_tables(found)


def by_id(found: pa.Table) -> list[dict]:
    return found.select(NAMES).sort_by("id").to_pylist()


def test_values_types_and_nulls_are_the_librarys(table):
    found, expected = read(data_at(table.path)), table.reference()
    assert by_id(found) == by_id(expected) == by_id(rows(2, 10))
    assert found.select(NAMES).schema.types == [expected.schema.field(n).type for n in NAMES]
    (path,) = sources.listed(str(table.path))
    assert readers.kinds(path, data_at(path)) == {
        "id": "integer",
        "x": "number",
        "day": "date",
        "at": "date",
        "price": "number",
        "label": "boolean",
    }


def test_an_earlier_version(table):
    assert by_id(read(data_at(table.path, table.before))) == by_id(rows(0, 12))


@pytest.mark.parametrize("kind", [Iceberg, Lance])
def test_a_version_by_its_tag(tmp_path, kind):
    assert by_id(read(data_at(kind(tmp_path).path, "before"))) == by_id(rows(0, 12))


def test_a_delta_version_by_its_time(tmp_path):
    path = tmp_path / "delta"
    deltalake.write_deltalake(path, rows(0))
    written = deltalake.DeltaTable(path).history()[0]["timestamp"]
    then = dt.datetime.fromtimestamp(written / 1000, dt.UTC)
    deltalake.DeltaTable(path).delete("id < 3")
    assert len(read(data_at(path, then.isoformat()))) == 6


def test_pieces_hold_each_row_once_and_of_one_version(table, monkeypatch):
    monkeypatch.setattr(versioned, "PIECE_BYTES", 1)
    data = data_at(table.path)
    (path,) = sources.listed(data.source.url)
    pieces = readers.pieces([path], data)
    assert len(pieces) == 2
    table.append()  # between planning and reading
    found = pa.concat_tables(
        part for piece in pieces for part in readers.tables(piece, data, ["id", "label"])
    )
    assert sorted(found["id"].to_pylist()) == list(range(2, 12))
    assert len(set(found["_row"].to_pylist())) == 10
    again = [part for piece in pieces for part in readers.tables(piece, data, ["id", "label"])]
    assert pa.concat_tables(again) == found


def test_the_version_tells_when_rows_are_others(table):
    (path,) = sources.listed(str(table.path))
    now, then = readers.version(path, data_at(path)), data_at(path, table.before)
    before = readers.version(path, then)
    assert readers.version(path, data_at(path)) == now != before
    table.append()
    assert readers.version(path, data_at(path)) not in {now, before}
    assert readers.version(path, then) == before


@pytest.mark.parametrize("version", [999, "nothing"])
def test_a_version_that_is_not_there(table, version):
    with pytest.raises(DataError, match=str(version)) as raised:
        read(data_at(table.path, version))
    assert str(table.path) in raised.value.where


def test_a_data_file_that_is_gone_is_named_and_put_back(table, tmp_path):
    data = data_at(table.path)
    lost = max(table.path.glob(table.missing_file), key=lambda file: file.stat().st_mtime_ns)
    if isinstance(table, Delta):
        lost = Path(deltalake.DeltaTable(table.path).file_uris()[0])
    away = shutil.move(lost, tmp_path / "away")
    with pytest.raises(DataError, match=lost.name) as raised:
        read(data)
    assert raised.value.where == str(table.path)
    shutil.move(away, lost)
    assert len(read(data)) == 10


@pytest.mark.parametrize("kind", ["delta", "iceberg", "lance"])
def test_a_file_that_is_no_table(tmp_path, kind):
    path = file_of(tmp_path, "a,label\n1,x\n")
    with pytest.raises(DataError, match=f"(?i)no {kind}") as raised:
        readers.names(UPath(path), data_of(path, format=kind))
    assert str(path) in raised.value.where


def test_a_table_without_rows(tmp_path):
    catalog = SqlCatalog("c", uri="sqlite://", warehouse=f"file://{tmp_path}")
    catalog.create_namespace("shop")
    catalog.create_table("shop.none", schema=rows(0).schema)
    (path,) = sources.listed(str(tmp_path / "shop" / "none"))
    assert readers.names(path, data_at(path)) == NAMES
    assert readers.pieces([path], data_at(path)) == []


def test_columns_of_later_versions_are_null_in_earlier_files(tmp_path):
    deltalake.write_deltalake(tmp_path / "t", rows(0).drop_columns("city"))
    deltalake.write_deltalake(tmp_path / "t", rows(6), mode="append", schema_mode="merge")
    found = read(data_at(tmp_path / "t")).sort_by("id")
    assert found["city"].to_pylist() == [None] * 6 + rows(6)["city"].to_pylist()


def test_partition_columns_are_columns(tmp_path):
    deltalake.write_deltalake(tmp_path / "t", rows(0), partition_by=["label", "city"])
    assert by_id(read(data_at(tmp_path / "t"))) == by_id(
        deltalake.DeltaTable(tmp_path / "t").to_pyarrow_table()
    )


def test_mapped_column_names(tmp_path):
    mapping = {"delta.columnMapping.mode": "name"}
    deltalake.write_deltalake(tmp_path / "t", rows(0), configuration=mapping)
    assert by_id(read(data_at(tmp_path / "t"))) == by_id(rows(0))


def test_deletion_vectors(tmp_path):
    path = tmp_path / "t"
    vectors = {"delta.enableDeletionVectors": "true"}
    deltalake.write_deltalake(path, rows(0), configuration=vectors)
    delete_by_vector(path, [1, 4])
    assert read(data_at(path)).sort_by("id")["id"].to_pylist() == [0, 2, 3, 5]


def delete_by_vector(path: Path, positions: list[int]) -> None:
    """Commit the deletion of rows of the only data file, as Spark does, by Delta's protocol.

    The vector is a 64-bit roaring bitmap of one array container, inline, in Z85.
    """
    (name,) = (Path(uri).name for uri in deltalake.DeltaTable(path).file_uris())
    (first,) = (path / "_delta_log").glob("*.json")
    add = next(a["add"] for a in map(json.loads, first.open()) if "add" in a)
    values = b"".join(struct.pack("<H", position) for position in positions)
    bitmap = struct.pack("<IIHHI", 12346, 1, 0, len(positions) - 1, 16) + values
    whole = struct.pack("<IQI", 1681511377, 1, 0) + bitmap
    padded = whole + b"\0" * (-len(whole) % 4)
    vector = {
        "storageType": "i",
        "pathOrInlineDv": z85(padded),
        "sizeInBytes": len(whole),
        "cardinality": len(positions),
    }
    remove = {"path": name, "deletionTimestamp": 1, "dataChange": True}
    actions = [{"remove": remove}, {"add": add | {"deletionVector": vector}}]
    second = path / "_delta_log" / f"{1:020}.json"
    second.write_text("\n".join(map(json.dumps, actions)))


def z85(content: bytes) -> str:
    ours = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    theirs = (
        b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
    )
    return base64.b85encode(content).translate(bytes.maketrans(theirs, ours)).decode()


def test_two_metadata_files_of_one_number_are_not_guessed_between(tmp_path):
    table = Iceberg(tmp_path)
    newest = iceberg.metadata_file(UPath(table.path))
    assert table.table.metadata_location == f"file://{newest}"
    shutil.copy(newest, newest.parent / f"{newest.name[:5]}-other.metadata.json")
    with pytest.raises(DataError, match="both claim to be the newest"):
        read(data_at(table.path))
    assert len(read(data_at(newest))) == 10


def test_a_glob_of_tables_and_other_files(tmp_path):
    Lance(tmp_path)
    Delta(tmp_path)
    file_of(tmp_path, "x", "note.txt")
    assert [path.name for path in sources.listed(f"{tmp_path}/[ds]*")] == ["delta", "sales.lance"]


@pytest.mark.usefixtures("ray_cluster")
def test_a_table_as_a_jobs_source_and_its_older_version_as_the_test(tmp_path):
    table = Delta(tmp_path)
    found = collected(data_at(table.path))
    assert [row["id"] for row in sorted(found, key=lambda row: row["id"])] == list(range(2, 12))
    assert {row["_source"] for row in found} == {str(table.path)}
