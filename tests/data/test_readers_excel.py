"""Excel sheets beside what pandas reads from them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import openpyxl
import pandas as pd
import pyarrow as pa
import pytest
from job_files import collected, file_of
from upath import UPath

from ray_pipeline.data import readers
from ray_pipeline.data.readers import excel
from ray_pipeline.errors import DataError
from ray_pipeline.job import Data

HEADER = ["n", "x", "city", "code", "day", "at", "label"]
ROWS = [
    [1, 0.1, "Genève", "007", dt.date(2024, 2, 29), dt.datetime(2024, 2, 29, 6, 30), True],
    [
        2**40,
        -1e300,
        "东京 🗼",
        "12",
        dt.date(1999, 12, 31),
        dt.datetime(1999, 12, 31, 23, 59),
        False,
    ],
    [None, None, None, None, None, None, True],
]


def book(folder: Path, **sheets: list[list]) -> Path:
    whole = openpyxl.Workbook()
    whole.remove(whole.active)
    for name, cells in sheets.items():
        sheet = whole.create_sheet(name)
        for row in cells:
            sheet.append(row)
    whole.save(folder / "book.xlsx")
    return folder / "book.xlsx"


def data_at(path: object, **source: str) -> Data:
    return Data(source={"url": str(path), **source}, label="label")


def read(data: Data) -> pa.Table:
    path = UPath(data.source.url)
    names = readers.names(path, data)
    (piece,) = readers.pieces([path], data)
    return pa.concat_tables(readers.tables(piece, data, names))


def test_cells_are_the_values_that_pandas_reads(tmp_path):
    path = book(tmp_path, first=[HEADER, *ROWS])
    found, frame = read(data_at(path)), pd.read_excel(path, dtype={"code": str})
    assert found["n"].to_pylist() == ["1", str(2**40), None]
    for name in ("n", "x"):
        ours = [None if text is None else float(text) for text in found[name].to_pylist()]
        assert ours == frame[name].astype(object).where(frame[name].notna(), None).tolist()
    for name in ("city", "code"):
        assert found[name].to_pandas().fillna("").tolist() == frame[name].fillna("").tolist()
    for name in ("day", "at"):
        assert pd.to_datetime(found[name].to_pandas()).equals(pd.to_datetime(frame[name]))
    assert found["label"].to_pylist() == ["true", "false", "true"]


def test_rows_have_excels_numbers_and_empty_ones_are_left_out(tmp_path):
    path = book(tmp_path, first=[HEADER, ROWS[0], [None] * 7, ROWS[1]])
    assert read(data_at(path))["_row"].to_pylist() == [2, 4]


def test_a_sheet_by_its_name(tmp_path):
    path = book(tmp_path, first=[["a"], [1]], second=[["label"], ["yes"], ["no"]])
    found = read(data_at(path, sheet="second"))
    assert found["label"].to_pylist() == ["yes", "no"]
    with pytest.raises(DataError, match="no sheet `third`") as raised:
        read(data_at(path, sheet="third"))
    assert raised.value.expected == "one of first, second"


def test_sheets_without_a_header_and_with_short_rows(tmp_path):
    path = book(tmp_path, first=[["x", 1], ["y"], ["z", 3, "beyond"]])
    data = data_at(path).model_copy(
        update={"header": False, "columns": {"label": "category", "n": "integer"}}
    )
    assert read(data).select(["label", "n"]).to_pylist() == [
        {"label": "x", "n": "1"},
        {"label": "y", "n": None},
        {"label": "z", "n": "3"},
    ]


def test_many_rows_in_tables_of_some(tmp_path, monkeypatch):
    monkeypatch.setattr(excel, "ROWS", 10)
    path = book(tmp_path, first=[["label"], *([i] for i in range(95))])
    found = read(data_at(path))
    assert found["label"].num_chunks == 10
    assert found["_row"].to_pylist() == list(range(2, 97))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a,b\n1,2\n", "not an Excel file"), (b"PK\x03\x04cut", "not an Excel file")],
)
def test_a_file_that_is_no_sheet(tmp_path, content, message):
    path = file_of(tmp_path, content, "rows.xlsx")
    with pytest.raises(DataError, match=message) as raised:
        read(data_at(path))
    assert raised.value.where == str(path)


def test_a_sheet_cut_off_and_copied_again(tmp_path):
    path = book(tmp_path, first=[HEADER, *ROWS])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not an Excel file"):
        read(data_at(path))
    path.write_bytes(whole)
    assert len(read(data_at(path))) == 3


@pytest.mark.parametrize(
    ("header", "message"),
    [([], "empty"), (["a", None, "label"], "column 2 has no name"), (["a", "a"], "two columns")],
)
def test_headers_that_name_nothing(tmp_path, header, message):
    with pytest.raises(DataError, match=message):
        read(data_at(book(tmp_path, first=[header, [1, 2, 3]] if header else [[]])))


@pytest.mark.usefixtures("ray_cluster")
def test_a_sheet_as_a_jobs_source_and_another_as_its_test(tmp_path):
    path = book(
        tmp_path, train=[["n", "label"], [1, "a"]], test=[["n", "label"], [2.5, "b"], [None, "a"]]
    )
    sides = {
        "source": {"url": str(path), "sheet": "train"},
        "test": {"url": str(path), "sheet": "test"},
    }
    data = Data(**sides, label="label")
    assert [row["n"] for row in collected(data)] == ["1"]
    tested = Data(**sides | {"source": sides["test"]}, label="label")
    assert [row["n"] for row in collected(tested)] == ["2.5", None]
