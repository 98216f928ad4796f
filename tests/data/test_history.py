"""Aggregates of a past that is in files, joined to cleaned rows by key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from job_files import data_of, file_of, folder, table_in

from ray_pipeline.data import history, parts, windows
from ray_pipeline.errors import JobError
from ray_pipeline.job import History
from ray_pipeline.schema import Column, Schema

START = datetime(2021, 3, 1, tzinfo=UTC)
SCHEMA = Schema(
    columns=(
        Column(name="who", kind="integer"),
        Column(name="when", kind="date"),
        Column(name="label", kind="category", role="label"),
    ),
    missing=("?",),
)
AMOUNTS = {
    "key": "who",
    "time": "when",
    "windows": ["2d", "7d"],
    "aggregates": {"amount": ["mean", "count"]},
}


def rows_of(count: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    when = [START + timedelta(hours=int(hour)) for hour in rng.integers(0, 500, count)]
    return pa.table(
        {
            "who": rng.integers(0, 9, count),
            "when": when,
            "label": rng.choice(["a", "b"], count),
        }
    ).cast(SCHEMA.arrow())


def past_of(count: int) -> pa.Table:
    rng = np.random.default_rng(9)
    return (
        rows_of(count, 9).select(["who", "when"]).append_column("amount", [rng.normal(size=count)])
    )


def csv_of(past: pa.Table) -> str:
    rows = [f"{row['who']},{row['when'].isoformat()},{row['amount']!r}" for row in past.to_pylist()]
    return "\n".join(["who,when,amount", *rows]) + "\n"


def cleaned_in(tmp_path) -> tuple:
    cleaned = folder(tmp_path, "cleaned")
    rows, test = [rows_of(40, 1), rows_of(30, 2)], rows_of(20, 3)
    for index, table in enumerate(rows):
        parts.written(table, cleaned / "rows" / f"{index}.parquet")
    parts.written(test, cleaned / "test" / "0.parquet")
    return cleaned, pa.concat_tables(rows), test


def in_order(table: pa.Table) -> list[dict]:
    return sorted(table.to_pylist(), key=str)


@pytest.mark.usefixtures("ray_cluster")
def test_rows_and_test_rows_get_the_past_of_files(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "ROWS", 30)  # four parts of keys
    cleaned, rows, test = cleaned_in(tmp_path)
    past = past_of(200)
    bad = "x,2021-03-01,1.0\n3,soon,1.0\n3,2021-03-01,?\n"
    amounts = file_of(tmp_path, csv_of(past) + bad, "past.csv")
    visits = file_of(tmp_path, csv_of(past).replace("amount", "visits"), "visits.csv")
    settings = (
        History(source=str(amounts), **AMOUNTS),
        History(source=str(visits), **AMOUNTS | {"aggregates": {"visits": ["last"]}}),
    )
    data = data_of("unused", history=settings, missing=["?"])
    out = folder(tmp_path, "out")
    record = history.write(cleaned, data, SCHEMA, out)
    assert (record["rows_in"], record["rows_out"], record["rows_quarantined"]) == (90, 90, 0)
    assert [(p["rows"], p["quarantined"]) for p in record["past"]] == [(201, 2), (200, 0)]
    renamed = past.rename_columns(["who", "when", "visits"])
    for side, plain in (("rows", rows), ("test", test)):
        expected = windows.added(plain, past, settings[0])
        expected = windows.added(expected, renamed, settings[1])
        found = table_in(out / side)
        assert found.column_names == list(history.extended(SCHEMA, settings).names)
        assert in_order(found) == in_order(expected)
    names = sorted(path.name for path in out.iterdir())
    assert names == ["latest0", "latest1", "quarantine", "rows", "test"]
    newest = pc.max(past["when"]).as_py()
    assert record["past"][0]["as_of"] == newest.isoformat()
    now = windows.latest(past, settings[0], newest + timedelta(microseconds=1))
    assert in_order(table_in(out / "latest0")) == in_order(now.drop_columns(["when"]))
    aside = table_in(out / "quarantine")
    assert aside["reason"].to_pylist() == [
        "who: expected integer, found 'x'",
        "when: expected date (ISO 8601), found 'soon'",
    ]


def test_columns_of_the_past_are_features():
    found = history.extended(SCHEMA, (History(source="x", **AMOUNTS),))
    assert [(column.name, column.kind) for column in found][3:] == [
        ("amount_mean_2d", "number"),
        ("amount_mean_7d", "number"),
        ("amount_count_2d", "integer"),
        ("amount_count_7d", "integer"),
    ]
    assert len(found.features) == 6


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"key": "whom"}, r"data.history\[0\].key: there is no column `whom`"),
        ({"time": "who"}, "`who` is of the kind integer"),
    ],
)
def test_columns_that_do_not_suit_are_refused(wrong, message):
    with pytest.raises(JobError, match=message):
        history.extended(SCHEMA, (History(source="x", **AMOUNTS | wrong),))


def test_a_name_that_is_taken_is_refused():
    twice = (History(source="x", **AMOUNTS), History(source="y", **AMOUNTS))
    with pytest.raises(JobError, match=r"history\[1\]: there is a column `amount_mean_2d` already"):
        history.extended(SCHEMA, twice)
