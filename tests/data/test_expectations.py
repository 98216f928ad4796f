"""Expectations: against pandas, merged in any order; what is warned of and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from job_files import data_of, folder

from ray_pipeline.data import clean, collect, expectations
from ray_pipeline.errors import DataError, JobError
from ray_pipeline.job import Expectation
from ray_pipeline.schema import Column, Schema

KINDS = {"id": "integer", "pay": "number", "city": "category", "ok": "boolean", "when": "date"}
SCHEMA = Schema(columns=tuple(Column(name=name, kind=kind) for name, kind in KINDS.items()))
NOW = datetime(2026, 1, 10, tzinfo=UTC)


def table_of(rows, start=1):
    table = pa.Table.from_pylist(rows, schema=SCHEMA.arrow())
    table = table.append_column("_source", pa.repeat("/data/a.csv", len(rows)))
    return table.append_column("_row", pa.array(range(start, start + len(rows)), pa.int64()))


def told(tables, *expected):
    wanted = [Expectation.model_validate(entry) for entry in expected]
    found = [expectations.seen(table, wanted, ["/data/a.csv"]) for table in tables]
    return expectations.described(wanted, found, ["/data/a.csv"]), wanted


ROWS = [
    {"id": 1, "pay": 5.0, "city": "Rome", "ok": True, "when": datetime(2026, 1, 1, tzinfo=UTC)},
    {"id": 2, "pay": -5.0, "city": "rome", "ok": False, "when": datetime(2026, 1, 9, tzinfo=UTC)},
    {"id": 2, "pay": None, "city": None, "ok": None, "when": None},
    {"id": None, "pay": 9.0, "city": "Oslo1", "ok": True, "when": None},
    {"id": None, "pay": 9.0, "city": "Oslo", "ok": True, "when": None},
]


@pytest.mark.parametrize(
    ("expectation", "failed", "first"),
    [
        ({"unique": "id"}, 1, ["row 3 of a.csv"]),
        ({"unique": ["id", "city"]}, 0, []),
        ({"not_null": "id"}, 2, ["row 4 of a.csv", "row 5 of a.csv"]),
        ({"not_null": ["pay", "city"]}, 1, ["row 3 of a.csv"]),
        ({"in_set": {"column": "city", "values": ["Rome", "Oslo"]}}, 2, None),
        ({"in_set": {"column": "id", "values": [1]}}, 2, None),
        ({"in_set": {"column": "ok", "values": [True]}}, 1, ["row 2 of a.csv"]),
        ({"in_set": {"column": "pay", "values": [5, 9]}}, 1, ["row 2 of a.csv"]),
        ({"range": {"column": "pay", "min": 0}}, 1, ["row 2 of a.csv"]),
        ({"range": {"column": "id", "min": 1, "max": 2}}, 0, []),
        ({"rows": {"min": 5, "max": 5}}, 0, []),
        ({"rows": {"max": 4}}, 1, []),
        ({"match": {"column": "city", "regex": "^[A-Z][a-z]+$"}}, 2, None),
    ],
)
@pytest.mark.parametrize("cut", [0, 2, 5])
def test_what_fails_however_the_rows_are_divided(expectation, failed, first, cut):
    tables = [table_of(ROWS[:cut]), table_of(ROWS[cut:], cut + 1)]
    (found,), _ = told(tables, expectation)
    assert (found["rows"], found["failed"]) == (5, failed)
    if first is not None:
        assert found["first"] == first


@given(st.lists(st.none() | st.integers(0, 9), max_size=40), st.randoms())
def test_repeats_are_pandas(values, random):
    tables = [table_of([{"id": value}], row) for row, value in enumerate(values, start=1)] or [
        table_of([])
    ]
    random.shuffle(tables)
    (found,), _ = told(tables, {"unique": "id"})
    series = pd.Series(values, dtype="Int64")
    again = series.dropna().duplicated()
    assert found["failed"] == again.sum()
    wanted = [f"row {row + 1} of a.csv" for row in again[again].index[: expectations.EXAMPLES]]
    assert found["first"] == wanted


def judged(entry, rows=ROWS):
    found, wanted = told([table_of(rows)], entry)
    return expectations.judged({"expectations": found}, wanted, now=NOW)


def test_freshness_is_judged_by_the_latest_date():
    assert judged({"fresh": {"column": "when", "within": "36h"}}) == []
    with pytest.raises(DataError, match="the latest is 2026-01-09T00:00:00Z"):
        judged({"fresh": {"column": "when", "within": "12h"}})
    with pytest.raises(DataError, match="there is no date"):
        judged({"fresh": {"column": "when", "within": "12h"}}, ROWS[2:])


def test_a_warning_is_told_and_a_refusal_says_how_many_and_where():
    entry = {"range": {"column": "pay", "min": 0}}
    assert judged(entry | {"on_failure": "warn"}) == [
        "range (column pay, min 0.0): 1 of 5 rows fail, the first in row 2 of a.csv"
    ]
    with pytest.raises(DataError, match="1 of 5 rows fail, the first in row 2") as raised:
        judged(entry)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"on_failure": "warn"},
        {"unique": "a", "not_null": "b"},
        {"unique": []},
        {"range": {"column": "a"}},
        {"fresh": {"column": "a", "within": "soon"}},
        {"match": {"column": "a", "regex": "("}},
    ],
)
def test_settings_that_say_nothing(entry):
    with pytest.raises(ValueError, match="validation error"):
        Expectation.model_validate(entry)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"unique": "nope"}, "no column is called `nope`"),
        ({"range": {"column": "city", "min": 0}}, "`city` is of the kind category"),
        ({"fresh": {"column": "pay", "within": "1d"}}, "`pay` is of the kind number"),
        ({"match": {"column": "id", "regex": "x"}}, "`id` is of the kind integer"),
    ],
)
def test_columns_that_cannot_be_expected_so(entry, message):
    with pytest.raises(JobError, match=message):
        expectations.check([Expectation.model_validate(entry)], SCHEMA)


@pytest.mark.usefixtures("ray_cluster")
def test_cleaning_counts_what_it_leaves(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("id,label\n1,x\n2,y\n2,x\nz,y\n1,x\n")
    entries = [{"unique": "id", "on_failure": "warn"}, {"rows": {"min": 3, "max": 3}}]
    data = data_of(path, columns={"id": "integer"}, expect=entries, clean={"max_quarantined": 0.3})
    record = clean.write(data, collect.schema(data), folder(tmp_path, "out"))
    assert [(e["rows"], e["failed"], e["first"]) for e in record["expectations"]] == [
        (3, 1, ["row 4 of rows.csv"]),
        (3, 0, []),
    ]
    assert record["findings"][0]["title"] == "Expectations"
    assert len(expectations.judged(record, data.expect)) == 1
