"""A watched folder: every row once, whenever the taker is killed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time

import fsspec
import pytest
from job_files import file_of
from upath import UPath

from ray_pipeline.data import stream
from ray_pipeline.errors import DataError


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "in"
    path.mkdir()
    return path


@pytest.fixture
def mark(tmp_path):
    return UPath(tmp_path / "mark.json")


def new(folder: object, mark: UPath, still_s: float = 0) -> list[str]:
    batch = stream.new_files(str(folder), mark, still_s)
    return sorted(path.name for path in batch.files) if batch else []


def take(folder: object, mark: UPath) -> list[str]:
    names = new(folder, mark)
    if names:
        stream.taken(mark, stream.new_files(str(folder), mark))
    return names


def test_each_file_is_given_once(folder, mark):
    assert new(folder, mark) == []
    file_of(folder, "a\n1\n", "1.csv")
    file_of(folder, "a\n2\n", "2.csv")
    assert take(folder, mark) == ["1.csv", "2.csv"]
    assert take(folder, mark) == []
    file_of(folder, "a\n3\n", "3.csv")
    assert take(folder, mark) == ["3.csv"]


def test_an_open_batch_is_given_again_as_it_was(folder, mark):
    file_of(folder, "a\n1\n", "1.csv")
    first = stream.new_files(str(folder), mark, 0)
    file_of(folder, "a\n2\n", "2.csv")
    assert stream.new_files(str(folder), mark, 0) == first
    stream.taken(mark, first)
    stream.taken(mark, first)
    assert take(folder, mark) == ["2.csv"]


def test_another_batch_cannot_be_closed(folder, mark):
    file_of(folder, "a\n1\n", "1.csv")
    stream.new_files(str(folder), mark, 0)
    with pytest.raises(DataError, match="not the one that is open"):
        stream.taken(mark, stream.Batch("0" * 16, [UPath(folder / "other.csv")]))


def test_a_replaced_file_is_new_and_one_that_is_touched_by_no_one_is_not(folder, mark):
    file_of(folder, "a\n1\n", "1.csv")
    take(folder, mark)
    (folder / "1.csv").unlink()
    file_of(folder, "a\n9\n", "1.csv")
    assert take(folder, mark) == ["1.csv"]


@pytest.mark.parametrize(
    "name", [".1.csv", "_1.csv", "1.csv.tmp", "1.csv.part", "1.csv~", "1.csv.crdownload"]
)
def test_temporary_names_wait_until_they_are_changed(folder, mark, name):
    path = file_of(folder, "a\n1\n", name)
    assert new(folder, mark) == []
    path.rename(folder / "1.csv")
    assert new(folder, mark) == ["1.csv"]


def test_a_file_that_grows_waits_until_it_stands_still(folder, mark):
    file_of(folder, "a\n1\n", "whole.csv")
    growing = folder / "growing.csv"
    ended = threading.Event()

    def grow() -> None:
        with growing.open("w") as file:
            while not ended.is_set():
                file.write("a\n1\n")
                file.flush()
                time.sleep(0.01)

    writer = threading.Thread(target=grow)
    writer.start()
    time.sleep(0.1)
    try:
        assert new(folder, mark, 0.2) == ["whole.csv"]
    finally:
        ended.set()
        writer.join()
    stream.taken(mark, stream.new_files(str(folder), mark))
    assert new(folder, mark, 0.05) == ["growing.csv"]


def test_an_empty_file_waits(folder, mark):
    path = file_of(folder, "", "1.csv")
    assert new(folder, mark) == []
    path.write_text("a\n1\n")
    assert new(folder, mark) == ["1.csv"]


@pytest.mark.parametrize("change", ["gone", "replaced"])
def test_a_file_that_changes_while_its_batch_is_open(folder, mark, change):
    path = file_of(folder, "a\n1\n", "1.csv")
    new(folder, mark)
    kept = path.rename(folder.parent / "kept")
    if change == "replaced":
        file_of(folder, "a\n1\n2\n", "1.csv")
    with pytest.raises(DataError, match=change) as raised:
        new(folder, mark)
    assert raised.value.where == str(path)
    kept.rename(path)
    assert new(folder, mark) == ["1.csv"]


def test_a_mark_that_is_none(folder, mark):
    mark.write_text("[]")
    with pytest.raises(DataError, match="mark cannot be read"):
        new(folder, mark)


def test_any_file_system():
    memory = fsspec.filesystem("memory")
    memory.pipe("/watched/in/1.csv", b"a\n1\n")
    mark = UPath("memory://watched/mark.json")
    assert take("memory://watched/in", mark) == ["1.csv"]
    assert take("memory://watched/in", mark) == []


TAKER = """
import sys, time
from pathlib import Path
from upath import UPath
from ray_pipeline.data import stream

folder, out, mark = sys.argv[1:]
print("ready", flush=True)
while True:
    batch = stream.new_files(folder, UPath(mark), 0.005)
    if batch is None:
        time.sleep(0.005)
        continue
    rows = "".join(file.read_text() for file in batch.files)
    with (Path(out) / batch.name).open("w") as file:
        for row in rows.splitlines():
            file.write(row + "\\n")
            file.flush()
            time.sleep(0.0005)
    stream.taken(UPath(mark), batch)
"""


def test_every_row_is_taken_once_by_a_taker_that_is_killed_again_and_again(folder, mark, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    dice = random.Random(7)
    expected, number = [], 0
    for _ in range(4):
        command = [sys.executable, "-c", TAKER, str(folder), str(out), str(mark)]
        taker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert taker.stdout.readline() == "ready\n"
        end = time.monotonic() + dice.uniform(0.1, 0.3)
        while time.monotonic() < end:
            rows = [f"{number}-{i}" for i in range(40)]
            whole = file_of(folder, "\n".join(rows) + "\n", f".{number}.csv")
            whole.rename(folder / f"{number}.csv")
            expected, number = expected + rows, number + 1
            time.sleep(0.02)
        taker.kill()
        taker.wait()
        taker.stdout.close()
    while batch := stream.new_files(str(folder), mark, 0):
        (out / batch.name).write_text("".join(file.read_text() for file in batch.files))
        stream.taken(mark, batch)
    found = [row for path in out.iterdir() for row in path.read_text().splitlines()]
    assert sorted(found) == sorted(expected)
    assert number > 10
    assert len(json.loads(mark.read_text())["taken"]) == number
