"""One task per part: results in order, errors as themselves, nothing on the terminal."""

from __future__ import annotations

import subprocess
import sys

import pyarrow as pa
import pytest
from job_files import folder

from ray_pipeline.data import parts
from ray_pipeline.errors import DataError

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_results_keep_the_items_order():
    found = parts.results(range(20), lambda number: number * number)
    assert found == [number * number for number in range(20)]


def test_an_error_of_ours_is_raised_as_itself():
    def refused(number: int) -> int:
        if number >= 3:
            raise DataError("too large", where=f"number {number}", hint="take less")
        return number

    with pytest.raises(DataError) as raised:
        parts.results([1, 2, 3], refused)
    assert type(raised.value) is DataError
    assert str(raised.value) == "number 3: too large\n  do: take less"


def test_any_other_error_keeps_its_trace():
    with pytest.raises(TypeError, match="unsupported operand"):
        parts.results([None], lambda item: item + 1)


def test_a_table_written_is_read_again(tmp_path):
    table = pa.table({"a": [1, None], "b": ["x", "東京"]})
    path = folder(tmp_path, "out") / "deep" / "0.parquet"
    parts.written(table, path)
    assert parts.read(path).equals(table)
    assert parts.read(path, ["b"]).column_names == ["b"]
    assert parts.existing_files(path.parent) == [path]
    with pytest.raises(DataError, match="there are no rows"):
        parts.existing_files(path.parent / "other")


def test_the_terminal_is_left_alone(ray_cluster):
    script = (
        f"import ray; ray.init({ray_cluster.address!r}, log_to_driver=False,"
        " configure_logging=False);"
        "from ray_pipeline.data import parts; print(parts.results([1, 2], str))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "['1', '2']\n", done.stderr
    said = [line for line in done.stderr.splitlines() if "data" in line.lower()]
    assert not said
