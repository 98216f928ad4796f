"""A job killed while it writes to its stores, twice, then run again: each row once, everywhere."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.compute as pc
import pytest
import ray

from ray_pipeline import jobfile, pipeline, runs
from ray_pipeline.data import stores

ROWS = 2500
JOB = """
name: killed
storage: storage
data: {{source: rows.csv, label: label, columns: {{id: integer}}, split: {{by: [id]}}}}
stores:
  - {{url: parquet, key: id}}
  - {{url: '{postgres}', table: killed_job, key: id}}
  - {{url: '{redis}', table: killed_job, key: id}}
  - {{url: lance, format: lance, key: id}}
model: {{}}
"""
KILLED = """
import os, signal, sys
import ray
from ray_pipeline import jobfile, pipeline, runs
from ray_pipeline.data import stores
from ray_pipeline.data.stores import postgres, redis

class Quiet:
    def started(self, stage): pass
    def event(self, stage, event): pass
    def ended(self, stage): pass

def dying(write, seen=[]):
    def counted(*given):
        seen.append(1)
        if len(seen) == 2: os.kill(os.getpid(), signal.SIGKILL)
        return write(*given)
    return counted

job, place, address = sys.argv[1:]
ray.init(address=address, log_to_driver=False)
if place == "postgresql": postgres._flat = dying(postgres._flat)
if place == "redis": redis.Redis._put = dying(redis.Redis._put)
stores.BATCH = 1000
with runs.opened(jobfile.read(job), Quiet()) as run:
    for stage in pipeline.path(run):
        if stage.name == "store": break
"""


class Quiet:
    def started(self, stage): ...
    def event(self, stage, event): ...
    def ended(self, stage): ...


def killed(job: Path, place: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(job), place]
    address = ray.get_runtime_context().gcs_address
    done = subprocess.run([*command, address], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.usefixtures("ray_cluster")
def test_each_row_is_in_each_store_once(tmp_path, postgres_url, redis_url):
    lines = [f"{number},{number % 7},{'ab'[number % 2]}" for number in range(ROWS)]
    (tmp_path / "rows.csv").write_text("\n".join(["id,x,label", *lines]) + "\n")
    job = tmp_path / "job.yaml"
    job.write_text(JOB.format(postgres=postgres_url, redis=redis_url))
    opened = [stores.opened(settings) for settings in jobfile.read(job).stores]
    killed(job, "postgresql")
    assert [store.version() is not None for store in opened] == [True, False, False, False]
    killed(job, "redis")
    assert [store.version() is not None for store in opened] == [True, True, False, False]
    with runs.opened(jobfile.read(job), Quiet()) as run:
        stage = next(stage for stage in pipeline.path(run) if stage.name == "store")
    written = [store["written"] for store in stage.record["stores"]]
    assert written == [False, False, True, True]
    for store in opened:
        found = store.search(range(ROWS))
        assert len(found) == pc.count_distinct(found["id"]).as_py() == ROWS
        assert pc.sum(found["x"]).as_py() == sum(number % 7 for number in range(ROWS))
