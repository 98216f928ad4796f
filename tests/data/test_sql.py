"""Tables, joins and queries of real PostgreSQL, MariaDB and SQLite, value by value."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from databases import read

from ray_pipeline.data import adbc, collect, parts, sql
from ray_pipeline.errors import DataError
from ray_pipeline.job import Data

VALUES = [
    (-5, 2**62, Decimal("-12345678901234.56"), 0.1, "a,b 'é' 东", True, date(2013, 1, 31), "x"),
    (0, -(2**62), Decimal("0.01"), -1e300, "", False, date(1999, 12, 31), "y"),
    (7, None, None, None, None, None, None, None),
]
NAMES = ("id", "big", "exact", "real_", "words", "flag", "day", "label")


def filled(database):
    database.execute("DROP TABLE IF EXISTS kinds")
    database.execute(
        "CREATE TABLE kinds (id INTEGER PRIMARY KEY, big BIGINT, exact NUMERIC(20, 2), "
        "real_ DOUBLE PRECISION, words VARCHAR(100), flag BOOLEAN, day DATE, label VARCHAR(5))"
    )
    marks = ", ".join(f":{name}" for name in NAMES)
    rows = [dict(zip(NAMES, row, strict=True)) for row in VALUES]
    if database.kind == "sqlite":
        for row in rows:
            row["exact"] = None if row["exact"] is None else str(row["exact"])
    database.execute(f"INSERT INTO kinds VALUES ({marks})", rows=rows)


def test_types_and_nulls_survive(database):
    filled(database)
    table, _ = read(database.source(table="kinds"))
    found = [tuple(row[name] for name in NAMES) for row in table.to_pylist()]
    assert sorted(found) == VALUES
    types = ["int64", "int64", "decimal128(20, 2)", "double", "string", "bool", "date32[day]"]
    assert [str(table.schema.field(name).type) for name in NAMES[:7]] == types
    assert table["_error"].null_count == len(VALUES)


def test_times_keep_their_microseconds_and_zones(postgres):
    postgres.execute(
        "DROP TABLE IF EXISTS times",
        "CREATE TABLE times (id INT, plain TIMESTAMP, zoned TIMESTAMPTZ, free NUMERIC, doc JSONB)",
        "INSERT INTO times VALUES (1, '2013-03-10 02:30:00.000001', '2013-03-10 02:30+05', "
        "123456789012345678901234567890.123456789, '{\"a\": [1]}'), (2, NULL, NULL, 'NaN', NULL)",
    )
    table, _ = read(postgres.source(table="times"))
    assert table.to_pylist()[0] == {
        "id": 1,
        "plain": datetime(2013, 3, 10, 2, 30, 0, 1),
        "zoned": datetime(2013, 3, 9, 21, 30, tzinfo=UTC),
        "free": "123456789012345678901234567890.123456789",
        "doc": '{"a": [1]}',
        "_row": 1,
        "_error": None,
        "_raw": None,
    }


def numbered(database, keys, kind="INTEGER"):
    database.execute(
        "DROP TABLE IF EXISTS numbered", f"CREATE TABLE numbered (k {kind}, v INTEGER)"
    )
    rows = [{"k": key, "v": place} for place, key in enumerate(keys)]
    database.execute("INSERT INTO numbered VALUES (:k, :v)", rows=rows)
    return [(row["k"], row["v"]) for row in rows]


KEYS = {
    "even": list(range(300)),
    "gaps": [0, 1, 2, 10**6, 10**6 + 1, 2 * 10**9, *range(50)],
    "negative": list(range(-100, 100)),
    "one value": [7] * 200,
    "heaps": [1] * 90 + [2] * 5 + [3] * 90 + [None] * 20,
    "null only": [None] * 30,
    "one row": [5],
}


@pytest.mark.parametrize("case", KEYS)
def test_ranges_hold_each_row_once(database, case):
    rows = numbered(database, KEYS[case])
    table, pieces = read(database.source(table="numbered", key="k", partitions=7))
    found = Counter(zip(table["k"].to_pylist(), table["v"].to_pylist(), strict=True))
    assert found == Counter(rows)
    assert len(set(table["_row"].to_pylist())) == len(rows)
    if case == "even":
        assert [piece.rows for piece in pieces] == [43] * 6 + [42]


def test_dates_and_texts_are_keys_too(database):
    days = [f"2013-{month:02}-{day:02}" for month in range(1, 13) for day in range(1, 29, 3)]
    rows = numbered(database, days, "DATE")
    table, pieces = read(database.source(table="numbered", key="k", partitions=5))
    assert len(pieces) == 5
    assert sorted(table["v"].to_pylist()) == [v for _, v in rows]
    rows = numbered(database, [f"{i % 40:03}é" for i in range(200)], "VARCHAR(9)")
    table, _ = read(database.source(table="numbered", key="k", partitions=5))
    assert sorted(table["v"].to_pylist()) == [v for _, v in rows]


def test_a_primary_key_is_the_rows_number(database):
    database.execute("DROP TABLE IF EXISTS keyed", "CREATE TABLE keyed (id INTEGER PRIMARY KEY)")
    database.execute("INSERT INTO keyed VALUES (:id)", rows=[{"id": 10 * i} for i in range(100)])
    table, pieces = read(database.source(table="keyed", partitions=4))
    assert len(pieces) == 4
    assert table["_row"].to_pylist() == table["id"].to_pylist() == [10 * i for i in range(100)]


def joined_tables(database):
    for name in ("orders", "people"):
        database.execute(f"DROP TABLE IF EXISTS {name}")
    database.execute(
        "CREATE TABLE people (code VARCHAR(3) PRIMARY KEY, name VARCHAR(9), age INTEGER)",
        "INSERT INTO people VALUES ('a', 'Ann', 30), ('b', 'Bob', NULL)",
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, who VARCHAR(3), name VARCHAR(9))",
        "INSERT INTO orders VALUES (1, 'a', 'tea'), (2, 'b', 'ham'), (3, 'z', 'jam'), "
        "(4, NULL, 'nut'), (5, 'a', 'pie')",
    )


def test_tables_are_joined_by_the_database(database):
    joined_tables(database)
    join = {"table": "people", "on": {"who": "code"}, "columns": {"name": "person", "age": "age"}}
    table, pieces = read(database.source(table="orders", join=[join], partitions=2))
    assert len(pieces) == 2
    wanted = [
        {"id": 1, "who": "a", "name": "tea", "person": "Ann", "age": 30},
        {"id": 2, "who": "b", "name": "ham", "person": "Bob", "age": None},
        {"id": 3, "who": "z", "name": "jam", "person": None, "age": None},
        {"id": 4, "who": None, "name": "nut", "person": None, "age": None},
        {"id": 5, "who": "a", "name": "pie", "person": "Ann", "age": 30},
    ]
    assert table.select(list(wanted[0])).to_pylist() == wanted
    table, _ = read(database.source(table="orders", join=[{**join, "how": "inner"}]))
    assert sorted(table["id"].to_pylist()) == [1, 2, 5]


def test_columns_of_one_name_are_refused(sqlite):
    joined_tables(sqlite)
    source = sqlite.source(table="orders", join=[{"table": "people", "on": {"who": "code"}}])
    with pytest.raises(DataError, match="`name` is a column of both") as raised:
        read(source)
    assert "columns: {name: people_name}" in raised.value.hint


def test_a_query_in_ranges(database):
    numbered(database, range(500))
    query = "SELECT k, v * 2 AS twice, 'at 10:30 %s' AS words FROM numbered WHERE k >= 100;"
    table, pieces = read(database.source(query=query, key="k", partitions=3))
    assert len(pieces) == 3
    assert table["k"].to_pylist() == list(range(100, 500))
    assert table["twice"].to_pylist() == [2 * k for k in range(100, 500)]
    assert set(table["words"].to_pylist()) == {"at 10:30 %s"}


def test_values_of_another_type_are_told_apart(sqlite):
    sqlite.execute(
        "CREATE TABLE loose (id INTEGER PRIMARY KEY, n INTEGER, day DATE)",
        "INSERT INTO loose VALUES (1, 5, '2020-02-29'), (2, 'five', '2020-02-30'), (3, 6, NULL)",
    )
    table, _ = read(sqlite.source(table="loose"))
    assert table["n"].to_pylist() == [5, None, 6]
    assert table["day"].to_pylist() == [date(2020, 2, 29), None, None]
    assert table["_error"].to_pylist() == [None, "n: expected int64, found 'five'", None]
    assert table["_raw"].to_pylist() == [None, "2,five,2020-02-30,2", None]


def test_a_table_that_changes_while_it_is_read_is_an_error(database):
    numbered(database, range(100))
    source = database.source(table="numbered", key="k", partitions=4)
    data = Data(source=source, label="v")
    pieces = sql.pieces(source, data)
    database.execute("DELETE FROM numbered WHERE k = 60", "INSERT INTO numbered VALUES (1000, 1)")
    for piece in (pieces[0], pieces[1], pieces[3]):
        assert sum(len(table) for table in sql.tables(piece, data, ["k"])) == 25
    with pytest.raises(DataError, match="24 rows where there were 25"):
        list(sql.tables(pieces[2], data, ["k"]))


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO numbered VALUES (500, 1)",
        "DELETE FROM numbered WHERE k = 3",
        "UPDATE numbered SET v = 99 WHERE k = 3",
        "UPDATE numbered SET v = NULL WHERE k = 3",
    ],
)
def test_the_fingerprint_follows_the_rows(database, change):
    numbered(database, range(50))
    data = Data(source=database.source(table="numbered", key="k"), label="v")
    before = collect.fingerprint(data)
    assert collect.fingerprint(data) == before
    database.execute(change)
    assert collect.fingerprint(data) != before


@pytest.mark.usefixtures("ray_cluster")
def test_ranges_are_read_by_tasks(database):
    filled(database)
    data = Data(source=database.source(table="kinds", partitions=2), label="label")
    schema = collect.schema(data)
    assert {column.name: column.kind for column in schema} == {
        "id": "integer",
        "big": "integer",
        "exact": "number",
        "real_": "number",
        "words": "category",
        "flag": "boolean",
        "day": "date",
        "label": "category",
    }
    rows = parts.executed(collect.rows(data.source, data, schema).take_all)
    assert sorted(row["id"] for row in rows) == [-5, 0, 7]
    assert {row["_source"] for row in rows} == set(collect.places(data))


def test_big_batches_are_streamed(database, monkeypatch):
    numbered(database, range(1000))
    monkeypatch.setattr(sql, "BATCH", 128)
    monkeypatch.setattr(adbc, "BATCH_BYTES", 1024)
    source = database.source(table="numbered", key="k")
    data = Data(source=source, label="v")
    (piece,) = sql.pieces(source, data)
    sizes = [len(table) for table in sql.tables(piece, data, ["k", "v"])]
    assert sum(sizes) == 1000
    assert max(sizes) <= 128


def test_an_empty_table(database):
    numbered(database, [0])
    database.execute("DELETE FROM numbered")
    with pytest.raises(DataError, match="no row can be read"):
        collect.schema(Data(source=database.source(query="SELECT * FROM numbered"), label="v"))
    table, pieces = read(database.source(table="numbered", key="k", partitions=3))
    assert (table, len(pieces)) == (None, 1)


TYPED = """
CREATE TABLE typed (
    id INT PRIMARY KEY, small SMALLINT, big BIGINT, "real" REAL, wide DOUBLE PRECISION,
    exact NUMERIC(9, 2), free NUMERIC, flag BOOLEAN, day DATE, plain TIMESTAMP, zoned TIMESTAMPTZ,
    words TEXT, few CHAR(4), doc JSONB, mark UUID, list INT[], raw BYTEA, host INET, label TEXT
)"""
FILLED = """
INSERT INTO typed VALUES
    (1, 2, 3, 1.1, 2.2, 1.50, 12345678901234567890.123, true, '2020-01-01',
     '2020-01-01 01:02:03.000004', '2020-01-01 01:02:03+05', 'x % : \\:é', 'ab', '{"a": [1]}',
     'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{1,2}', '\\x0102', '1.2.3.4', 'y'),
    (2, NULL, NULL, NULL, 'NaN', 'NaN', 'NaN', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
     NULL, NULL, NULL, NULL)"""
AS_ARROW = ["id", "small", "big", "wide", "exact", "free", "flag", "day", "plain", "zoned"]
AS_ARROW += ["words", "few", "raw", "label"]
AS_OBJECTS = ["real", "doc", "mark", "list", "host"]


def test_both_ways_to_read_postgresql_give_the_same(postgres, monkeypatch):
    with postgres.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS typed")
        connection.exec_driver_sql(TYPED)
        connection.exec_driver_sql(FILLED.replace("%", "%%"))
    source = postgres.source(table="typed")
    (piece,) = sql.pieces(source, Data(source=source, label="label"))
    for name in AS_OBJECTS:  # the whole statement is the ordinary driver's
        assert sql._as_arrow(piece, [*AS_ARROW, name]) is None, name
    found = pa.concat_tables(sql._as_arrow(piece, AS_ARROW))
    wanted = pa.concat_tables(sql._as_objects(piece, AS_ARROW))
    assert found.schema == wanted.schema
    shown = [str(table.to_pylist()) for table in (found, wanted)]  # NaN is not itself
    assert shown[0] == shown[1]
    everything = [*AS_ARROW, *AS_OBJECTS]
    assert read(source, everything)[0]["host"].to_pylist() == ["1.2.3.4", None]


def test_a_date_without_a_year_is_a_fault_of_its_row(postgres):
    postgres.execute(
        "DROP TABLE IF EXISTS endless",
        "CREATE TABLE endless (id INT PRIMARY KEY, day DATE, at TIMESTAMP, label TEXT)",
        "INSERT INTO endless VALUES (1, 'infinity', NULL, 'a'),"
        " (2, '9999-12-31', '9999-12-31', 'b'),"
        " (3, '0001-01-01', '-infinity', 'c'), (4, '0044-03-15 BC', NULL, 'd')",
    )
    table, _ = read(postgres.source(table="endless"))
    rows = {row["id"]: row for row in table.to_pylist()}
    assert rows[2]["day"] == date(9999, 12, 31)
    assert {number for number, row in rows.items() if row["_error"]} == {1, 3, 4}
    assert (
        rows[1]["_error"] == "day: expected date32[day], found a date outside the years 1 to 9999"
    )
    assert rows[1]["_raw"] == "1,None,None,a"
    assert rows[3]["day"] == date(1, 1, 1)
