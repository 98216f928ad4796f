"""Cleaning: typed rows, quarantine with reasons, duplicates, leaks, and refusals."""

from __future__ import annotations

import re

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from job_files import data_of, file_of, folder, table_in

from ray_pipeline.data import clean, collect
from ray_pipeline.data.sources import pieces
from ray_pipeline.errors import DataError

pytestmark = pytest.mark.usefixtures("ray_cluster")

COLUMNS = {"age": "integer", "pay": "number", "city": "category", "label": "category"}


def cleaned(tmp_path, text, test=None, **settings):
    """The record and the folder of `clean.write` over a headerless CSV."""
    given = {"columns": COLUMNS, "header": False, "clean": {"max_quarantined": 1.0}, **settings}
    if test is not None:
        given["test"] = str(file_of(tmp_path, test, "test.csv"))
    data = data_of(file_of(tmp_path, text, "train.csv"), **given)
    out = folder(tmp_path, "out")
    return clean.write(data, collect.schema(data), out), out


def test_values_missing_values_and_reasons(tmp_path):
    record, out = cleaned(
        tmp_path,
        "39,1.5,Paris,a\nabc,1,Rome,b\n40,inf,?,b\n,nan,Rome,a\n41,1,Rome,\n1,2,3\n7,12 €,Rome,a\n",
        missing=["?"],
    )
    rows = table_in(out / "rows")
    assert rows.schema.names == ["age", "pay", "city", "label"]
    assert rows.schema.types == [pa.int64(), pa.float64(), pa.string(), pa.string()]
    assert rows.to_pydict() == {
        "age": [39, 40, None],
        "pay": [1.5, None, None],
        "city": ["Paris", None, "Rome"],
        "label": ["a", "b", "a"],
    }
    aside = sorted(table_in(out / "quarantine").to_pylist(), key=lambda row: row["row"])
    assert [(row["row"], row["reason"], row["raw"]) for row in aside] == [
        (2, "age: expected integer, found 'abc'", "abc,1,Rome,b"),
        (5, "label: missing label", "41,1,Rome,"),
        (6, "expected 4 fields, found 3", "1,2,3"),
        (7, "pay: expected number, found '12 €'", "7,12 €,Rome,a"),
    ]
    assert {row["source"] for row in aside} == {str(tmp_path / "train.csv")}
    assert record["quarantine"] == {
        "age: expected integer": 1,
        "label: missing label": 1,
        "expected 4 fields": 1,
        "pay: expected number": 1,
    }
    assert (record["rows_in"], record["rows_out"], record["rows_quarantined"]) == (7, 3, 4)
    age = record["columns"]["age"]
    assert (age["missing"], age["min"], age["mean"], age["max"]) == (1, 39, 39.5, 40)
    assert record["columns"]["city"]["top"] == [("Paris", 1), ("Rome", 1)]
    assert not (out / "test").exists()


def test_texts_that_parquet_keeps_in_a_dictionary(tmp_path):
    texts = ["long ago", "so so", "long ago", None]
    table = pa.table({"said": texts, "label": [["x", "y"], [], ["y"], ["z"]]})
    pq.write_table(table, tmp_path / "rows.parquet")
    kinds = {"said": "text", "label": "labels"}
    data = data_of(tmp_path / "rows.parquet", columns=kinds, clean={"duplicates": "keep"})
    out = folder(tmp_path, "out")
    record = clean.write(data, collect.schema(data), out)
    assert table_in(out / "rows")["said"].to_pylist() == texts
    assert record["columns"]["said"]["mean"] == pytest.approx((8 + 5 + 8) / 3)
    assert dict(record["columns"]["label"]["top"]) == {"x": 1, "y": 2, "z": 1}


def test_duplicates_and_leaks(tmp_path):
    text = "1,1,x,a\n2,2,y,b\n1,1.0,x,a\n3,3,z,a\n1,1,x,b\n"
    record, out = cleaned(tmp_path, text, test="2,2,y,b\n2,2,y,b\n9,9,w,a\n")
    assert table_in(out / "rows")["age"].to_pylist() == [1, 3, 1]
    assert table_in(out / "test")["age"].to_pylist() == [2, 2, 9]
    aside = sorted(table_in(out / "quarantine").to_pylist(), key=lambda row: row["row"])
    assert [row["reason"] for row in aside] == [
        "also in the test file, the same as row 1 of test.csv",
        "duplicate, the same as row 1 of train.csv",
    ]
    assert record["quarantine"] == {"also in the test file": 1, "duplicate": 1}
    assert {side: found["rows"] for side, found in record["sides"].items()} == {
        "train": 3,
        "test": 3,
    }


def test_duplicates_may_be_kept_but_leaks_never(tmp_path):
    kept = {"duplicates": "keep"}
    record, out = cleaned(tmp_path, "1,1,x,a\n1,1,x,a\n2,2,y,b\n3,3,y,b\n", "2,2,y,b\n", clean=kept)
    assert table_in(out / "rows")["age"].to_pylist() == [1, 1, 3]
    assert record["quarantine"] == {"also in the test file": 1}


def test_spellings_are_replaced(tmp_path):
    replace = {"label": {"a.": "a", "none": "?"}, "age": {"old": "99"}}
    record, out = cleaned(
        tmp_path,
        "old,1,x,a.\n2,2,x,b\n3,3,x,none\n",
        missing=["?"],
        clean={"replace": replace, "max_quarantined": 0.5},
    )
    assert table_in(out / "rows").select(["age", "label"]).to_pydict() == {
        "age": [99, 2],
        "label": ["a", "b"],
    }
    assert record["quarantine"] == {"label: missing label": 1}


def test_many_files(tmp_path):
    (tmp_path / "in").mkdir()
    for index in range(5):
        file_of(tmp_path / "in", f"{index},1,x,a\n7,7,same,b\n", f"{index}.csv")
    data = data_of(tmp_path / "in", columns=COLUMNS, header=False)
    out = folder(tmp_path, "out")
    record = clean.write(data, collect.schema(data), out)
    assert sorted(table_in(out / "rows")["age"].to_pylist()) == [0, 1, 2, 3, 4, 7]
    reasons = table_in(out / "quarantine")["reason"].to_pylist()
    assert reasons == ["duplicate, the same as row 2 of 0.csv"] * 4
    assert record["rows_in"] == 10


@pytest.mark.parametrize(
    ("text", "test", "settings", "message", "detail"),
    [
        ("1,1,x,a\n2,2,y,a\n", None, {}, "every row has the label `a`", "data.label"),
        ("1,1,x,a\nz,2,y,b\n", None, {"clean": {}}, "1 of 2 rows cannot be used", "age: expected"),
        ("1\n2\n", None, {}, "no row is left to train on", "train.csv"),
        ("1,1,x,a\n2,2,y,b\n", "3,3,z,a.\n", {}, "`a.` is a class of the test file", "replace"),
        ("1,1,x,a\n2,2,y,b\n", "3\n", {}, "no row is left to test on", "test.csv"),
        (
            "1,2,x,a\n1,3,y,b\n",
            None,
            {"columns": {**COLUMNS, "label": "number"}, "clean": {}},
            "2 of 2 rows cannot be used",
            "label: expected number (2 rows)",
        ),
        (
            "1,2,x,5\n1,3,y,5\n",
            None,
            {"columns": {**COLUMNS, "label": "number"}},
            "every row has the label `5.0`",
            "different values",
        ),
    ],
)
def test_what_cannot_be_trained_on(tmp_path, text, test, settings, message, detail):
    with pytest.raises(DataError, match=re.escape(message)) as raised:
        cleaned(tmp_path, text, test, **settings)
    assert detail in str(raised.value)
    assert raised.value.exit_code == 2


def test_duplicates_do_not_count_as_unusable(tmp_path):
    record, _ = cleaned(tmp_path, "1,1,x,a\n" * 9 + "2,2,y,b\n", clean={"max_quarantined": 0.1})
    assert record["rows_quarantined"] == 8


FIELDS = st.sampled_from(["1", "2", "x", "", "?", "inf", "1.0", "a,b"])


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(st.lists(FIELDS, min_size=2, max_size=4).map(",".join), max_size=12))
def test_rows_in_are_rows_out_and_quarantined(tmp_path_factory, rows):
    text = "\n".join([*rows, "1,1,u,a", "1,1,u,b"])
    record, out = cleaned(tmp_path_factory.mktemp("rows"), text)
    assert record["rows_in"] == len(text.split("\n"))
    assert record["rows_out"] == len(table_in(out / "rows"))
    aside = len(table_in(out / "quarantine")) if record["rows_quarantined"] else 0
    assert record["rows_quarantined"] == aside == sum(record["quarantine"].values())
    assert record["rows_in"] == record["rows_out"] + record["rows_quarantined"]


def test_typed_takes_any_table_of_collected_texts(tmp_path):
    """A file to predict has no label, which is then nothing to miss."""
    data = data_of(file_of(tmp_path, "age,label\n5,\nx,a\n"))
    schema = collect.schema(data_of(file_of(tmp_path, "age,label\n5,a\n", "other.csv")))
    unlabelled = schema.model_copy(
        update={"columns": tuple(c.model_copy(update={"role": "feature"}) for c in schema)}
    )
    (piece,) = pieces(collect.files(data), data)
    (table,) = collect._rows(piece, data.source, data, schema)
    usable, aside = clean.typed(table, unlabelled)
    assert usable.to_pydict() == {"age": [5], "label": [None]}
    assert aside.column_names == ["source", "row", "reason", "raw"]
    assert aside["reason"].to_pylist() == ["age: expected integer, found 'x'"]
    assert clean.typed(table, schema)[0].num_rows == 0


def test_as_pandas_cleans(tmp_path):
    frame = pd.DataFrame(
        {
            "age": [i % 9 for i in range(200)],
            "pay": [float(i % 7) for i in range(200)],
            "city": [f"c{i % 5}" for i in range(200)],
            "label": [("a", "b")[i % 2] for i in range(200)],
        }
    )
    record, out = cleaned(tmp_path, frame.to_csv(index=False, header=False))
    expected = frame.drop_duplicates().reset_index(drop=True)
    pd.testing.assert_frame_equal(table_in(out / "rows").to_pandas(), expected, check_dtype=False)
    assert record["columns"]["pay"]["deviation"] == pytest.approx(expected["pay"].std(ddof=0))
