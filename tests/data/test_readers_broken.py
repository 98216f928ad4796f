"""Text files that are cut off, gone, or have a quote left open: nothing is lost unsaid."""

from __future__ import annotations

import csv
import gzip
import io
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from job_files import collected, data_of, file_of
from upath import UPath

from ray_pipeline.data import readers, sources
from ray_pipeline.data.readers import delimited
from ray_pipeline.data.sources import Piece
from ray_pipeline.errors import DataError


def read(path: object, **options) -> list[dict]:
    data = data_of(path, **options)
    found = UPath(str(path))
    piece = Piece(found, sources.format_of(found, data))
    names = readers.names(found, data)
    return [row for table in readers.tables(piece, data, names) for row in table.to_pylist()]


OPEN = 'n,label\n1,a\n2,"b\n3,c\n'
LEFT_OPEN = {
    "to the end of the file": (OPEN + "4,d\n", 3),
    "to the next quote": (OPEN + '4,"d"\n5,e\n', 3),
    "to a quote in another column": (OPEN + '"4",d\n5,e\n', 3),
    "to a quote, with too many fields": (OPEN + '4,d,"e"\n5,f\n', 3),
    "after rows with line ends of their own": (
        'n,label\n1,"a\nb"\n2,"say ""hi""\nthere"\n3,"c\n4,d\n5,"e"\n',
        6,
    ),
    "in the first column": ('n,label\n"1,a\n2,b\n3,"c"\n', 2),
}


@pytest.mark.parametrize("case", LEFT_OPEN)
@pytest.mark.parametrize("block", [8 << 20, 24])
def test_a_quote_left_open_is_named_by_its_line(tmp_path, monkeypatch, case, block):
    monkeypatch.setattr(delimited, "BLOCK", block)
    text, line = LEFT_OPEN[case]
    path = file_of(tmp_path, text)
    with pytest.raises(DataError, match=f"begins in line {line} opens a quote") as raised:
        read(path)
    assert raised.value.where == str(path)


def test_the_corrected_file_is_read(tmp_path):
    path = file_of(tmp_path, OPEN)
    with pytest.raises(DataError, match="opens a quote"):
        read(path)
    file_of(tmp_path, OPEN.replace('"b', "b"))
    assert [row["label"] for row in read(path)] == ["a", "b", "c"]


SOUND = {
    "quotes and line ends": 'n,label\n1,"say ""hi""\nthere"\n2,"x\n"\n',
    "a quote in mid-field": 'n,label\n1,5" pipe\n2,"a\nb"\n',
    "too many fields over two lines": 'n,label\n1,"a\nb",c\n2,d\n',
    "left open in the last line, after which nothing is": 'n,label\n1,a\n2,"b',
    "text after a closing quote": 'n,label\n1,"a"b\n2,"c\nd"\n',
}


@pytest.mark.parametrize("case", SOUND)
def test_other_quotes_are_no_fault(tmp_path, case):
    found = read(file_of(tmp_path, SOUND[case]))
    assert len(found) == 2
    expected = list(csv.reader(io.StringIO(SOUND[case])))[1:]
    whole = [row for row in expected if len(row) == 2]
    assert [row["label"] for row in found if row["_error"] is None] == [row[1] for row in whole]


FIELD = st.text(st.sampled_from('a"\n,é '), max_size=5)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=6))
def test_any_well_formed_file_is_read_as_csv_reads_it(tmp_path_factory, rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([("n", "label"), *rows])
    found = read(file_of(tmp_path_factory.mktemp("csv"), text.getvalue()))
    assert [(row["n"], row["label"]) for row in found] == rows


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.sampled_from('ab,"\n'), min_size=1, max_size=30))
def test_any_lines_at_all_are_read_or_refused_but_never_fewer(tmp_path_factory, text):
    path = file_of(tmp_path_factory.mktemp("csv"), f"n,label\n{text}\n")
    found, refusal = [], ""
    try:
        found = read(path)
    except DataError as error:
        refusal = str(error)
    if refusal:
        assert "opens a quote" in refusal
        return
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    assert len(found) == len(rows)


def test_a_delimited_file_packed_and_cut_in_half(tmp_path):
    whole = gzip.compress(os.urandom(3000).hex().encode() + b"\n", 1)
    path = file_of(tmp_path, whole[: len(whole) // 2], "rows.csv.gz")
    with pytest.raises(DataError, match="cut off or broken") as raised:
        read(path, header=False, columns={"label": "category"})
    assert raised.value.where == str(path)
    path.write_bytes(whole)
    assert len(read(path, header=False, columns={"label": "category"})) == 1


@pytest.mark.parametrize("name", ["rows.csv.gz", "rows.jsonl.gz", "rows.jsonl.xz", "rows.csv.bz2"])
def test_broken_packing(tmp_path, name):
    path = file_of(tmp_path, b"label\nthis was never packed\n", name)
    with pytest.raises(DataError, match=r"cut off or broken|cannot be read") as raised:
        read(path)
    assert raised.value.where == str(path)


def test_a_file_that_vanished_between_listing_and_reading(tmp_path):
    path = file_of(tmp_path, "n,label\n1,a\n")
    data = data_of(path)
    (piece,) = readers.pieces(sources.listed(str(path)), data)
    path.unlink()
    with pytest.raises(DataError, match="a file is gone") as raised:
        list(readers.tables(piece, data, ["n", "label"]))
    assert raised.value.where == str(path)
    file_of(tmp_path, "n,label\n1,a\n")
    (table,) = readers.tables(piece, data, ["n", "label"])
    assert table["label"].to_pylist() == ["a"]


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    path = file_of(tmp_path, "n,label\n1,a\n")

    def refused(*_, **__):  # the tests may run as root, whom no mode refuses
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(sources, "opened", refused)
    with pytest.raises(DataError, match="no permission") as raised:
        read(path)
    assert "credentials in the environment" in raised.value.hint


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("text", [OPEN + '4,"d"\n', "n,label\n1,a\n"])
def test_the_same_is_said_of_a_jobs_later_file(tmp_path, text):
    file_of(tmp_path, "n,label\n1,a\n", "1.csv")
    content = text.encode() if '"' in text else gzip.compress(text.encode() * 99)[:-20]
    file_of(tmp_path, content, "2.csv" if '"' in text else "2.csv.gz")
    with pytest.raises(DataError, match=r"opens a quote|cut off") as raised:
        collected(data_of(tmp_path))
    assert type(raised.value) is DataError
    assert "2.csv" in raised.value.where
