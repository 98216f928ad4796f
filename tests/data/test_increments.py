"""Runs over a source that grows: each row once, when killed between read and commit too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray

from ray_pipeline import jobfile, pipeline, runs
from ray_pipeline.data import stream
from ray_pipeline.errors import DataError, JobError
from ray_pipeline.runs import Stage

JOB = """
name: grown
storage: storage
data:
  source: {source}
  label: label
  columns: {{n: integer, label: category}}
  {more}
model: {{}}
"""
KILLED = """
import os, signal, sys
import ray
from ray_pipeline import jobfile, pipeline, runs
from ray_pipeline.data import clean, increments

class Quiet:
    def started(self, stage): pass
    def event(self, stage, event): pass
    def ended(self, stage): pass

def die(*given): os.kill(os.getpid(), signal.SIGKILL)

job, place, address = sys.argv[1:]
ray.init(address=address, log_to_driver=False)
if place == "before the commit": increments.committed = die
if place == "before the rows are whole": clean._check_usable = die
with runs.opened(jobfile.read(job), Quiet()) as run:
    next(pipeline.path(run))
"""


class Quiet:
    def started(self, stage): ...
    def event(self, stage, event): ...
    def ended(self, stage): ...


def job_file(folder: Path, source: str, more: str = "") -> Path:
    path = folder / "job.yaml"
    path.write_text(JOB.format(source=source, more=more))
    return path


def taken(job: Path) -> Stage:
    """A run as far as its first stage, the cleaned rows."""
    with runs.opened(jobfile.read(job), Quiet()) as run:
        return next(pipeline.path(run))


def rows_of(stage: Stage) -> list[int]:
    files = stage.path.glob("rows/*")
    return sorted(n for path in files for n in pq.read_table(str(path))["n"].to_pylist())


def numbers(*values: int) -> str:
    return "n,label\n" + "".join(f"{n},{'ab'[n % 2]}\n" for n in values)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(stream, "STILL_S", 0)


@pytest.mark.usefixtures("ray_cluster")
def test_a_folder_that_grows(tmp_path):
    job, folder = job_file(tmp_path, "{url: in, new: {rows: new}}"), tmp_path / "in"
    folder.mkdir()
    (folder / "1.csv").write_text(numbers(1, 2))
    assert rows_of(taken(job)) == [1, 2]
    again = taken(job)
    assert (again.cached, rows_of(again)) == (True, [1, 2])
    (folder / "2.csv").write_text(numbers(3, 4))
    assert killed(job, "before the rows are whole") == -signal.SIGKILL
    (folder / "3.csv").write_text(numbers(5, 6))
    assert rows_of(taken(job)) == [3, 4]
    assert rows_of(taken(job)) == [5, 6]
    assert rows_of(taken(job_file(tmp_path, "{url: in, new: {}}"))) == [1, 2, 3, 4, 5, 6]


@pytest.mark.usefixtures("ray_cluster")
def test_a_table_that_grows(postgres, tmp_path):
    postgres.execute(
        "DROP TABLE IF EXISTS grown", "CREATE TABLE grown (n SERIAL PRIMARY KEY, label TEXT)"
    )
    add = "INSERT INTO grown (label) VALUES ('a'), ('b')"
    source = f"{{url: '{postgres.url}', table: grown, new: {{column: n, rows: new}}}}"
    job = job_file(tmp_path, source)
    postgres.execute(add)
    assert rows_of(taken(job)) == [1, 2]
    postgres.execute(add)
    assert killed(job, "before the commit") == -signal.SIGKILL
    postgres.execute(add)
    stage = taken(job)
    assert (stage.cached, rows_of(stage)) == (True, [3, 4])  # by the run that was killed
    assert rows_of(taken(job)) == [5, 6]


def killed(job: Path, place: str) -> int:
    """The exit status of a run, in a process of its own, that is killed at a place."""
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", KILLED, str(job), place, address]
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


def test_impossible_settings_are_refused(tmp_path):
    for source, more, message in (
        ("{url: in, new: {column: n}}", "", "for a table or query, and for nothing else"),
        ("{url: 'sqlite:///x.db', table: t, new: {}}", "", "is needed for a table"),
        ("in", "test: {url: t, new: {}}", "a test set is not to change"),
        (
            "{url: 'sqlite:///x.db', table: t, new: {column: n}}",
            "privacy: {subject: n}",
            "personal data",
        ),
    ):
        with pytest.raises(JobError, match=message):
            jobfile.read(job_file(tmp_path, source, more))


def test_a_folder_without_files_and_a_table_of_versions(tmp_path):
    (tmp_path / "in").mkdir()
    job = job_file(tmp_path, "{url: in, new: {}}")
    with pytest.raises(DataError, match="there is no file yet"):
        taken(job)
    (tmp_path / "in/_delta_log").mkdir()
    (tmp_path / "in/_delta_log/0.json").write_text("{}")
    with pytest.raises(DataError, match="only folders of files and SQL tables"):
        taken(job)
