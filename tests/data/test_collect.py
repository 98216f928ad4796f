"""Files of every format as texts with their lineage, and what is said of files that are wrong."""

from __future__ import annotations

import bz2
import gzip
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from job_files import collected, data_of, file_of

from ray_pipeline.data import collect, parts, sources
from ray_pipeline.data.readers import delimited
from ray_pipeline.errors import DataError

pytestmark = pytest.mark.usefixtures("ray_cluster")

ROWS = [
    {"age": "39", "city": "Genève", "label": "yes"},
    {"age": None, "city": "a, b", "label": "no"},
    {"age": "51", "city": "东京", "label": "yes"},
]
CSV = 'age, city ,label\n39, Genève,yes\n?,"a, b",no\n 51 ,东京,yes\n'


def texts(rows: list[dict]) -> list[dict]:
    return [
        {name: None if row[name] is None else str(row[name]) for name in ("age", "city", "label")}
        for row in rows
    ]


def written(folder, kind: str):
    if kind == "csv":
        return file_of(folder, CSV)
    if kind == "bom":
        return file_of(folder, b"\xef\xbb\xbf" + CSV.replace("\n", "\r\n").encode())
    if kind == "tsv":
        return file_of(folder, CSV.replace(",", "\t").replace('"a\t b"', "a, b"), "rows.tsv")
    if kind == "gz":
        return file_of(folder, gzip.compress(CSV.encode()), "rows.csv.gz")
    if kind == "bz2":
        return file_of(folder, bz2.compress(CSV.encode()), "rows.csv.bz2")
    if kind == "jsonl":
        lines = [json.dumps(row | {"age": row["age"] and int(row["age"])}) for row in ROWS]
        return file_of(folder, "\n".join(lines), "rows.jsonl")
    ages = pa.array([39, None, 51], pa.int16())
    cities = pa.array([row["city"] for row in ROWS]).dictionary_encode()
    labels = [row["label"] for row in ROWS]
    pq.write_table(pa.table({"age": ages, "city": cities, "label": labels}), folder / "r.parquet")
    return folder / "r.parquet"


@pytest.mark.parametrize("kind", ["csv", "bom", "tsv", "gz", "bz2", "jsonl", "parquet"])
def test_every_format_gives_the_same_values(tmp_path, kind):
    path = written(tmp_path, kind)
    found = collected(data_of(path, missing=["?"]))
    assert texts(found) == ROWS
    first = 1 if kind in {"jsonl", "parquet"} else 2
    assert [row["_row"] for row in found] == [first, first + 1, first + 2]
    assert {row["_source"] for row in found} == {str(path)}
    assert {row["_error"] for row in found} == {None}


def test_rows_with_too_many_or_too_few_fields_are_kept_apart(tmp_path):
    path = file_of(tmp_path, "|1x3 Cross validator\n1,x\n\n2,y,z\n3,\n", "rows.data")
    data = data_of(path, header=False, columns={"n": "integer", "label": "category"})
    found = collected(data)
    assert [(row["_row"], row["n"], row["_error"], row["_raw"]) for row in found] == [
        (1, None, "expected 2 fields, found 1", "|1x3 Cross validator"),
        (2, "1", None, None),
        (3, None, "expected 2 fields, found 3", "2,y,z"),
        (4, "3", None, None),
    ]


def test_quoted_line_ends_delimiters_and_quotes(tmp_path):
    frame = pd.DataFrame({"text": ["a\nb", 'say "hi"', "x;y", "plain"], "label": list("1234")})
    frame.to_csv(tmp_path / "rows.csv", sep=";", index=False)
    found = collected(data_of(tmp_path / "rows.csv", delimiter=";"))
    assert [row["text"] for row in found] == frame["text"].tolist()


def test_lines_that_are_no_json_objects_are_kept_apart(tmp_path):
    lines = ['{"n": 1, "label": "a"}', "{oops", "", "[1]", '{"label": "2020-01-01", "n": "x"}']
    data = data_of(file_of(tmp_path, "\n".join(lines), "rows.jsonl"))
    found = collected(data)
    assert [(row["_row"], row["n"], row["label"], row["_error"]) for row in found] == [
        (1, "1", "a", None),
        (2, None, None, "expected JSON"),
        (4, None, None, "expected a JSON object"),
        (5, "x", "2020-01-01", None),
    ]
    assert found[1]["_raw"] == "{oops"


def test_json_numbers_keep_their_digits(tmp_path):
    line = '{"a": 9007199254740993, "b": 1.10, "c": true, "d": NaN, "label": "x"}\n'
    (row,) = collected(data_of(file_of(tmp_path, line, "rows.jsonl")))
    assert [row[name] for name in "abcd"] == ["9007199254740993", "1.10", "true", "NaN"]


def test_a_file_in_pieces_is_the_file_whole(tmp_path, monkeypatch):
    lines = [f"{i},{i % 2}" if i % 7 else f"{i}" for i in range(400)]
    data = data_of(file_of(tmp_path, "n,label\n" + "\n".join(lines)))
    whole = collected(data)
    schema = collect.schema(data)
    pieces = sources.pieces(collect.files(data), data, size=97)
    assert len(pieces) > 10
    monkeypatch.setattr(sources, "pieces", lambda paths, data: pieces)
    cut = parts.executed(collect.rows(data.source, data, schema).take_all)
    assert sorted(cut, key=lambda row: row["_row"]) == whole
    assert len(whole) == 400


def test_row_numbers_over_many_blocks(tmp_path, monkeypatch):
    lines = [f"{i},{i % 2}" if i % 5 else f"{i}" for i in range(300)]
    path = file_of(tmp_path, "n,label\n" + "\n".join(lines))
    monkeypatch.setattr(delimited, "BLOCK", 64)
    data = data_of(path)
    (piece,) = sources.pieces(collect.files(data), data)
    tables = list(delimited.tables(piece, data, ["n", "label"]))
    rows = [row for table in tables for row in table.to_pylist()]
    assert len(tables) > 10
    assert {row["_row"]: row["n"] or row["_raw"] for row in rows} == {
        i + 2: str(i) for i in range(300)
    }


def test_columns_of_many_files_go_by_name(tmp_path):
    file_of(tmp_path, "a,label\n1,x\n", "1.csv")
    file_of(tmp_path, "label,extra,a\ny,0,2\n", "2.csv")
    found = collected(data_of(tmp_path))
    assert [(row["a"], row["label"]) for row in found] == [("1", "x"), ("2", "y")]


def test_kinds_are_inferred_and_given(tmp_path):
    text = "id,zip,x,flag,c,given,none,label\n" + "\n".join(
        f"{i},0{i},{i}.5,{'true' if i % 2 else 'False'},c{i},{i},?,{i % 3}" for i in range(40)
    )
    columns = {"given": "number", "id": {"kind": "integer", "role": "ignore"}}
    schema = collect.schema(data_of(file_of(tmp_path, text), columns=columns, missing=["?"]))
    assert {column.name: column.kind for column in schema} == {
        "id": "integer",
        "zip": "category",
        "x": "number",
        "flag": "boolean",
        "c": "category",
        "given": "number",
        "none": "category",
        "label": "category",
    }
    assert schema["id"].role == "ignore"
    assert schema.label.name == "label"
    assert schema.missing == ("?",)


def test_a_label_of_many_whole_numbers_is_a_quantity(tmp_path):
    text = "a,label\n" + "\n".join(f"1,{i}" for i in range(30))
    assert collect.schema(data_of(file_of(tmp_path, text))).label.kind == "integer"


@pytest.mark.parametrize(
    ("text", "settings", "message", "detail"),
    [
        ("a,label\n1,x\n", {"label": "lable"}, "no column is called `lable`", "`label`"),
        ("ages,label\n1,x\n", {"columns": {"age": "integer"}}, "called `age`", "`ages`"),
        ("a,a,label\n1,2,x\n", {}, "two columns are called `a`", "own name"),
        (b"a,label\n1,x\n\xff,y\n", {}, "line 3 is not UTF-8", "iconv"),
        ("\xff\xfea".encode("utf-16"), {}, "is not UTF-8", "iconv"),
        ("a,_row,label\n1,2,x\n", {}, "called `_row`", "rename"),
        ("a,label\n1\n", {}, "no row can be read", "fields"),
    ],
)
def test_what_is_said_of_a_wrong_file(tmp_path, text, settings, message, detail):
    with pytest.raises(DataError, match=message) as raised:
        collect.schema(data_of(file_of(tmp_path, text), **settings))
    assert detail in str(raised.value)
    assert str(tmp_path) in raised.value.where


@pytest.mark.parametrize("second", ["a,lebel\n1,x\n", b"a,label\n1,\xff\n"])
def test_errors_of_a_later_file_reach_the_driver(tmp_path, second):
    file_of(tmp_path, "a,label\n1,x\n", "1.csv")
    schema = collect.schema(data_of(tmp_path))
    file_of(tmp_path, second, "2.csv")
    data = data_of(tmp_path)
    with pytest.raises(DataError, match=r"no column is called `label`|not UTF-8") as raised:
        parts.executed(collect.rows(data.source, data, schema).take_all)
    assert type(raised.value) is DataError
    assert raised.value.where.endswith("2.csv")


def test_not_a_parquet_file(tmp_path):
    with pytest.raises(DataError, match="not a Parquet file"):
        collect.schema(data_of(file_of(tmp_path, "a,b\n", "rows.parquet")))


def test_nested_parquet_columns_are_refused(tmp_path):
    pq.write_table(pa.table({"a": [{"x": 1}], "label": ["y"]}), tmp_path / "r.parquet")
    with pytest.raises(DataError, match="column `a` holds struct"):
        collect.schema(data_of(tmp_path / "r.parquet"))
