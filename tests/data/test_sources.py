"""Which files a location names, their digest, and the pieces of large ones."""

from __future__ import annotations

import gzip

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from job_files import data_of, file_of
from upath import UPath

from ray_pipeline.data import collect, sources
from ray_pipeline.data.sources import Piece
from ray_pipeline.errors import DataError


def names(location: object) -> list[str]:
    return [path.name for path in sources.listed(str(location))]


def test_a_file_a_folder_and_a_glob(tmp_path):
    for name in ("b.csv", "a.csv", "c.txt", "_SUCCESS", ".hidden"):
        file_of(tmp_path, "x", name)
    (tmp_path / "deep").mkdir()
    file_of(tmp_path / "deep", "x", "d.csv")
    assert names(tmp_path / "b.csv") == ["b.csv"]
    assert names(tmp_path) == ["a.csv", "b.csv", "c.txt", "d.csv"]
    assert names(tmp_path / "*.csv") == ["a.csv", "b.csv"]
    assert names(f"file://{tmp_path}/*.csv") == ["a.csv", "b.csv"]


def test_a_name_with_a_bracket_is_a_file(tmp_path):
    assert names(file_of(tmp_path, "x", "rows[1].csv")) == ["rows[1].csv"]


def test_any_fsspec_file_system():
    fsspec.filesystem("memory").pipe("/sources/rows.csv", b"a\n1\n")
    (path,) = sources.listed("memory://sources/*.csv")
    assert sources.opened(path).read() == b"a\n1\n"


def test_a_missing_file_names_the_nearest(tmp_path):
    file_of(tmp_path, "x", "adult.data")
    with pytest.raises(DataError, match="no such file") as raised:
        sources.listed(str(tmp_path / "adult.dat"))
    assert "adult.data" in raised.value.hint


def test_an_empty_file_and_an_empty_glob(tmp_path):
    file_of(tmp_path, "x", "a.csv")
    file_of(tmp_path, "", "b.csv")
    with pytest.raises(DataError, match="is empty") as raised:
        sources.listed(str(tmp_path))
    assert raised.value.where.endswith("b.csv")
    with pytest.raises(DataError, match="no such file"):
        sources.listed(str(tmp_path / "*.parquet"))


def test_the_fingerprint_follows_the_content(tmp_path):
    path = file_of(tmp_path, "a\n1\n")
    test = file_of(tmp_path, "a\n2\n", "test.csv")
    data = data_of(path, test=str(test))
    before = collect.fingerprint(data)
    assert collect.fingerprint(data) == before
    file_of(tmp_path, "a\n22\n", "test.csv")
    assert collect.fingerprint(data) != before


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.csv", "csv"),
        ("a.data", "csv"),
        ("a.TSV", "tsv"),
        ("a.jsonl.gz", "jsonl"),
        ("a.b.parquet", "parquet"),
    ],
)
def test_formats_by_extension(name, expected):
    assert sources.format_of(UPath("/x") / name, data_of("x")) == expected
    assert sources.format_of(UPath("/x") / name, data_of("x", format="tsv")) == "tsv"


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(st.text("ab,", max_size=9), min_size=1), size=st.integers(1, 30))
def test_ranges_part_a_file_into_its_lines(tmp_path_factory, lines, size):
    text = "\n".join(lines).encode()
    path = UPath(file_of(tmp_path_factory.mktemp("ranges"), text))
    found, before = b"", 0
    for start in range(0, max(len(text), 1), size):
        piece = Piece(path, "csv", start, start + size, text[:start].count(b"\n"))
        part, before = sources.lines_of(piece)
        assert not part or found.count(b"\n") == before
        found += part
    assert found == text


@pytest.mark.usefixtures("ray_cluster")
def test_only_what_can_be_cut_is_read_in_pieces(tmp_path):
    plain = file_of(tmp_path, "".join(f"{i},x\n" for i in range(100)), "plain.csv")
    quoted = file_of(tmp_path, "".join(f'{i},"x\ny"\n' for i in range(100)), "quoted.csv")
    packed = file_of(tmp_path, gzip.compress(plain.read_bytes() * 9), "packed.csv.gz")
    data = data_of(tmp_path)
    found = sources.pieces([UPath(path) for path in (plain, quoted, packed)], data, size=20)
    counts = [
        sum(piece.path.name == path.name for piece in found) for path in (plain, quoted, packed)
    ]
    assert counts == [-(-len(plain.read_bytes()) // 20), 1, 1]
