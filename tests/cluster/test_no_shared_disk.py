"""A job on three machines that share no folder: what one of them makes, the others have from S3."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import httpx
import pytest
import s3fs
from moto.server import ThreadedMotoServer
from nodes import TOKEN, can_be_apart, machine
from servers import s3_access

from ray_pipeline.deploy.ports import free_ports

JOB = """
name: spread
storage: s3://machines/storage
data: {{source: s3://machines/rows.csv, label: left}}
train: {{workers: 2, cpus: 2, epochs: 2}}
serve: {{port: {port}, host: 0.0.0.0, replicas: {{min: 1, max: 1}}}}
"""


@pytest.fixture
def secrets():
    """What the machines' `secrets.env` says of a server of S3's protocol."""
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield s3_access(f"http://{host}:{port}")
    running.stop()


@pytest.fixture
def lake(secrets):
    s3fs.S3FileSystem.clear_instance_cache()
    client = s3fs.S3FileSystem(
        key=secrets["AWS_ACCESS_KEY_ID"],
        secret=secrets["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=secrets["AWS_ENDPOINT_URL"],
    )
    client.mkdir("machines")
    rows = [f"{i % 89},{i % 7},{['no', 'yes'][i % 89 > 40]}" for i in range(2000)]
    client.pipe("machines/rows.csv", "\n".join(["x,y,left", *rows]).encode())
    yield client
    # Servers of this kind in one process know the same buckets.
    client.rm("machines", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.skipif(not can_be_apart(), reason="the system refuses mounts of a process's own")
def test_three_machines_share_a_store_and_no_disk(secrets, lake, tmp_path):
    port, serves = free_ports(2)
    with (
        machine(port, cpus=0) as head,
        machine(port, cpus=2) as one,
        machine(port, cpus=2) as other,
    ):
        nodes = (head, one, other)
        for node in nodes:
            node.knows(secrets)
            hidden = [tmp_path, *(each.home for each in nodes if each is not node)]
            node.start("head" if node is head else "worker", hidden)
        (tmp_path / "job.yaml").write_text(JOB.format(port=serves))
        done = subprocess.run(
            [
                *(sys.executable, "-W", "ignore", "-m", "ray_pipeline.cli", "submit", "job.yaml"),
                *("--address", f"http://127.0.0.1:{head.page}", "--follow", "--json"),
            ],
            cwd=tmp_path, env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        assert told["status"] == "succeeded"
        assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]
        for node in nodes:
            assert not list(node.home.rglob("*.parquet")), "it is in the store alone"

        (path,) = lake.glob("machines/storage/spread/runs/*/run.json")
        record = json.loads(lake.cat(path))
        used = {cost["type"]: cost["nodes"] for cost in record["costs"]}
        assert used == {"0 CPU": 1, "2 CPU": 2}
        key = (head.home / ".ray_pipeline" / "key").read_text().strip()
        answer = httpx.post(
            f"http://127.0.0.1:{serves}/spread/predict",
            json={"rows": [{"x": 80, "y": 1}]},
            headers={"X-API-Key": key},
        )
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"][0]["label"] == "yes"
