"""A job on three nodes that share no disk: a head without work, and two that come and go.

Each worker node is a raylet of its own, in a mount namespace where the test's folder is empty. The
storage is a server that speaks S3; how to reach it is in the nodes' environment alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from moto.server import ThreadedMotoServer
from sites import Site

from ray_pipeline import cluster, sessions

JOB = """
name: lake
storage: s3://lake/storage
data: {source: s3://lake/in, test: s3://lake/test.parquet, label: label}
label: {functions: {rule: {call: "my_slow:votes"}}}
model: {width: 8, depth: 1}
train: {epochs: 1, workers: 2}
"""
SLOW = """
import pathlib, time
import pyarrow as pa

def votes(rows):
    assert not pathlib.Path(FOLDER).exists(), "the folder of whoever submits"
    time.sleep(4)
    return pa.array([["yes", "no"][int(x) % 2] for x in rows["x"].to_pylist()])
"""
ACCESS = {
    "AWS_ACCESS_KEY_ID": "AKIA-of-a-test",
    "AWS_SECRET_ACCESS_KEY": "hush-of-a-test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture(scope="module")
def store() -> Iterator[s3fs.S3FileSystem]:
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"AWS_ENDPOINT_URL": f"http://{host}:{port}", **ACCESS}.items():
            patch.setenv(name, value)
        client = s3fs.S3FileSystem(skip_instance_cache=True)
        client.mkdir("lake")
        x, label = [i % 17 for i in range(400)], [["yes", "no"][i % 2] for i in range(400)]
        table = pa.table({"x": x, "y": [i % 5 for i in range(400)], "label": label})
        for name, part in {"in/1": table[:200], "in/2": table[200:], "test": table[::7]}.items():
            with client.open(f"lake/{name}.parquet", "wb") as file:
                pq.write_table(part, file)
        yield client
    running.stop()


class Nodes(Site):
    """A head that takes jobs and no work, and nodes that join it."""

    def up(self) -> None:
        with pytest.MonkeyPatch.context() as patch, self.at_home():
            for name in ("RAY_AUTH_MODE", "RAY_ADDRESS"):
                patch.delenv(name, raising=False)
            self.record = cluster.up(cpus=0, jobs=True)

    def joined(self, hidden: Path) -> subprocess.Popen[bytes]:
        """A node of 2 CPUs that does not see what is in the folder `hidden`."""
        ray = shutil.which("ray", path=str(Path(sys.executable).parent))
        start = [ray, "start", f"--address={self.record['address']}", "--num-cpus=2", "--block"]
        start += ["--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"]
        mount = f"mount -t tmpfs tmpfs {shlex.quote(str(hidden.parent))}"
        inside = f"{mount} && exec {shlex.join(start)}"
        access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": self.record["token"]}
        return subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", inside],
            env={**os.environ, **access},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def cpus(self) -> int:
        """Of the nodes that are there."""
        code = "from ray_pipeline import cluster; cluster.connect(start=False); import ray;"
        code += "print(int(ray.cluster_resources().get('CPU', 0)))"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=self.environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return int(done.stdout)


@pytest.fixture(scope="module")
def nodes(store, tmp_path_factory) -> Iterator[Nodes]:
    if subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("this machine refuses mount namespaces, by which nodes share no disk")
    made = Nodes(tmp_path_factory.mktemp("nodes"))
    made.up()
    yield made
    made.down()


def waited(condition, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.5)


def test_a_job_on_nodes_that_share_no_disk_outlives_the_loss_of_one(nodes, store, tmp_path):
    folder = tmp_path / "submitter"
    folder.mkdir()
    (folder / "job.yaml").write_text(JOB)
    (folder / "my_slow.py").write_text(SLOW.replace("FOLDER", repr(str(folder))))
    workers = [nodes.joined(folder) for _ in range(2)]
    try:
        waited(lambda: nodes.cpus() == 4)
        command = [sys.executable, "-W", "ignore", "-m", "ray_pipeline.cli", "submit"]
        command += [str(folder / "job.yaml"), "--until", "evaluate", "--follow", "--json"]
        python = f"{folder}:{nodes.environment.get('PYTHONPATH', '')}"
        following = subprocess.Popen(
            command, env={**nodes.environment, "PYTHONPATH": python},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

        def labelling() -> bool:
            store.invalidate_cache()
            return bool(store.glob("lake/storage/lake/stages/label-*"))

        waited(labelling)
        sessions.end(workers[0].pid)
        workers.append(nodes.joined(folder))
        out, told = following.communicate(timeout=300)
        assert following.returncode == 0, told
        stages = {stage["name"]: stage for stage in json.loads(out.splitlines()[-1])["stages"]}
        assert {"clean", "label", "features", "train", "evaluate"} <= set(stages)
        cleaned = stages["clean"]
        assert cleaned["rows_in"] == 458
        assert cleaned["rows_out"] + cleaned["rows_quarantined"] == 458
        assert not (folder / "storage").exists()
    finally:
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                sessions.end(worker.pid)
            worker.wait()
