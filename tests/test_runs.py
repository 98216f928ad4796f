"""The run store: what is made again, what is not, and what a killed driver leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from ray_pipeline import runs
from ray_pipeline.errors import GateRefused, JobError, UsageError
from ray_pipeline.job import Data, Job


class Silent:
    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    def started(self, stage: str) -> None:
        self.seen.append(("started", stage))

    def event(self, stage: str, event: dict[str, Any]) -> None:
        self.seen.append((stage, event))

    def ended(self, stage: runs.Stage) -> None:
        self.seen.append(("ended", stage.name))


calls: list[str] = []


def doubled(number: int, out: UPath) -> dict[str, Any]:
    calls.append("doubled")
    (out / "number").write_text(str(2 * number))
    return {"rows_in": number, "rows_out": number, "rows_quarantined": 0}


def added(before: UPath, number: int, out: UPath, progress: Any) -> dict[str, Any]:
    calls.append("added")
    progress({"row": 1, "rows": 2})
    return {"sum": int((before / "number").read_text()) + number}


def failing(work: UPath, out: UPath) -> dict[str, Any]:
    (out / "half").write_text("half")
    tries = len(list(work.iterdir()))
    (work / f"try{tries}").write_text("")
    if tries == 0:
        raise KeyboardInterrupt
    return {"tries": tries, "half_was_there": (out / "half").read_text()}


@pytest.fixture(params=["disk", "memory"])
def job(request, tmp_path) -> Job:
    storage = str(tmp_path) if request.param == "disk" else f"memory://{tmp_path.name}"
    return Job(name="job", storage=storage, data=Data(source="x", label="y"))


@pytest.fixture(autouse=True)
def _no_calls():
    calls.clear()


def test_a_stage_is_made_once(job):
    for cached in (False, True):
        with runs.opened(job, Silent()) as run:
            first = run.stage("doubled", doubled, 4)
            second = run.stage("added", added, first, 1)
        assert (first.cached, second.cached) == (cached, cached)
        assert second.record == {"sum": 9}
    assert calls == ["doubled", "added"]


def test_a_changed_setting_redoes_what_depends_on_it(job):
    for number in (1, 2):
        with runs.opened(job, Silent()) as run:
            first = run.stage("doubled", doubled, 4)
            run.stage("added", added, first, number)
    assert calls == ["doubled", "added", "added"]
    with runs.opened(job, Silent()) as run:
        first = run.stage("doubled", doubled, 5)
        last = run.stage("added", added, first, 1)
    assert last.record == {"sum": 11}
    assert calls == ["doubled", "added", "added", "doubled", "added"]


def test_what_a_stage_depends_on_besides_its_inputs(job):
    for depends in ("one", "one", "two"):
        with runs.opened(job, Silent()) as run:
            run.stage("doubled", doubled, 4, depends=depends)
    assert calls == ["doubled", "doubled"]


def test_an_interrupted_run_goes_on_under_its_id(job):
    with pytest.raises(KeyboardInterrupt), runs.opened(job, Silent()) as run:
        run.stage("failing", failing)
    first = run.id
    with runs.opened(job, Silent()) as run:
        stage = run.stage("failing", failing)
    assert run.id == first
    assert stage.record["tries"] == 1
    assert not (stage.path / "work").exists() or not list((stage.path / "work").iterdir())
    assert [record["status"] for record in runs.listed(job.storage)] == ["done"]
    with runs.opened(job, Silent()) as run:
        pass
    assert run.id != first


@pytest.mark.parametrize(
    ("error", "status"), [(GateRefused("low"), "refused"), (ValueError("bug"), "failed")]
)
def test_a_run_that_ends_badly_says_so(job, error, status):
    with pytest.raises(type(error)), runs.opened(job, Silent()):
        raise error
    (record,) = runs.listed(job.storage)
    assert record["status"] == status
    assert record["error"]["type"] == type(error).__name__


def test_runs_are_found_by_the_beginning_of_their_id(job):
    with pytest.raises(UsageError, match="none yet"):
        runs.found(job.storage, "latest")
    with runs.opened(job, Silent()) as run:
        pass
    assert runs.found(job.storage, "latest")["run"] == run.id
    assert runs.found(job.storage, run.id[:10])["run"] == run.id
    with pytest.raises(UsageError, match="no run is called `nope`"):
        runs.found(job.storage, "nope")


def test_a_watcher_sees_stages_and_events(job):
    watcher = Silent()
    with runs.opened(job, watcher) as run:
        run.stage("added", added, run.stage("doubled", doubled, 1), 1)
    assert ("added", {"row": 1, "rows": 2}) in watcher.seen
    assert watcher.seen[-1] == ("ended", "added")


KILLED = """
import os, signal, sys
from ray_pipeline import runs
from ray_pipeline.job import Data, Job
sys.path.insert(0, {tests!r})
from test_runs import Silent, doubled
job = Job(name="job", storage={storage!r}, data=Data(source="x", label="y"))
with runs.opened(job, Silent()) as run:
    run.stage("doubled", doubled, 4)
    print(run.id, flush=True)
    os.kill(os.getpid(), signal.{signal})
    import time; time.sleep(60)
"""


def started(storage: Path, how: str) -> subprocess.Popen[str]:
    script = KILLED.format(tests=str(Path(__file__).parent), storage=str(storage), signal=how)
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


def test_a_killed_driver_leaves_a_run_that_goes_on(tmp_path):
    process = started(tmp_path, "SIGKILL")
    first = process.communicate()[0].strip()
    assert process.returncode == -signal.SIGKILL
    job = Job(name="job", storage=str(tmp_path), data=Data(source="x", label="y"))
    with runs.opened(job, Silent()) as run:
        assert run.id == first
        assert run.stage("doubled", doubled, 4).cached
    assert calls == []


def test_two_runs_of_a_job_at_once_are_refused(tmp_path):
    process = started(tmp_path, "SIGSTOP")
    assert process.stdout is not None
    process.stdout.readline()
    job = Job(name="job", storage=str(tmp_path), data=Data(source="x", label="y"))
    try:
        with (
            pytest.raises(JobError, match=rf"going on \(process {process.pid}\)"),
            runs.opened(job, Silent()),
        ):
            pass
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    with runs.opened(job, Silent()):
        pass


def test_digests_do_not_hang_on_order():
    assert runs.digest_of({"a": 1, "b": 2}) == runs.digest_of({"b": 2, "a": 1})
    assert runs.digest_of(["a"]) != runs.digest_of(["b"])
    with pytest.raises(TypeError, match="object has no digest"):
        runs.digest_of(object())


def test_the_record_is_whole_after_every_stage(tmp_path):
    job = Job(name="job", storage=str(tmp_path), data=Data(source="x", label="y"))
    with runs.opened(job, Silent()) as run:
        run.stage("doubled", doubled, 3)
        record = json.loads((run.folder / "run.json").read_text())
        assert record["status"] == "running"
        assert record["stages"][0]["rows_in"] == 3
    assert not list(Path(str(run.folder)).glob(".run.json*"))
