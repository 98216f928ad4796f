"""A disk without room, by the device that always is: said as such, and gone on from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from upath import UPath

from ray_pipeline import files, runs
from ray_pipeline.data import parts
from ray_pipeline.errors import PipelineError
from ray_pipeline.job import Data, Job

FULL = Path("/dev/full")


class Silent:
    def started(self, stage: str) -> None: ...
    def event(self, stage: str, event: dict[str, Any]) -> None: ...
    def ended(self, stage: runs.Stage) -> None: ...


def kept(out: UPath) -> dict[str, Any]:
    (out / "kept").write_text("kept")
    return {}


def written(full: str, out: UPath) -> dict[str, Any]:
    """Writes a file in a task; onto a full device while the file `full` is there."""

    def write(item: int):
        target = Path(out / f"{item}.parquet")
        if Path(full).exists():
            target.symlink_to(FULL)
        parts.written(pa.table({"n": list(range(10_000))}), UPath(target))
        yield pa.table({"item": [item]})

    rows = parts.executed(parts.pieced([0, 1], write).take_all)
    return {"rows_out": len(rows)}


@pytest.mark.usefixtures("ray_cluster")
def test_a_run_goes_on_when_there_is_room_again(tmp_path):
    full = tmp_path / "full"
    full.touch()
    job = Job(
        name="room",
        storage=str(tmp_path / "storage"),
        data=Data(source="rows.csv", label="label"),
        model={},
    )

    def run() -> list[runs.Stage]:
        with runs.opened(job, Silent()) as current:
            return [current.stage("kept", kept), current.stage("written", written, str(full))]

    with pytest.raises(PipelineError, match="the disk is full") as raised:
        run()
    assert type(raised.value) is PipelineError
    assert "make room" in raised.value.hint
    (record,) = runs.listed(job.storage)
    assert record["status"] == "failed"
    full.unlink()
    first, second = run()
    assert (first.cached, second.cached) == (True, False)
    assert [parts.read(path).num_rows for path in parts.files(second.path)] == [10_000] * 2


def test_a_file_replaced_whole_is_as_it_was_where_there_is_no_room(tmp_path):
    path = UPath(tmp_path / "mark.json")
    files.write_whole(path, b"before")
    beside = tmp_path / f".mark.json.{os.getpid()}"
    beside.symlink_to(FULL)
    with pytest.raises(PipelineError, match="the disk is full"):
        files.write_whole(path, b"after" * 100_000)
    assert path.read_bytes() == b"before"
    beside.unlink()
    files.write_whole(path, b"after")
    assert path.read_bytes() == b"after"


def test_other_troubles_of_the_system_are_not_called_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError), files.room(UPath(tmp_path)):
        (tmp_path / "file" / "below").write_text("")
