"""S3 over its own protocol: what a job reads from there, and stores there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import deltalake
import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from moto.server import ThreadedMotoServer
from pyiceberg.catalog.sql import SqlCatalog

from ray_pipeline.data import readers, sources
from ray_pipeline.deploy.ports import free_ports
from ray_pipeline.errors import DataError
from ray_pipeline.job import Data

SECRET = "wJalrXUtnFEMI-of-a-test"
KEY = "AKIA-of-a-test"
TABLE = pa.table(
    {
        "x": [i % 17 + i % 5 for i in range(400)],
        "city": [["Genève", "东京", None, "x"][i % 4] for i in range(400)],
        "label": [["yes", "no"][i % 3 == 0] for i in range(400)],
    }
)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def store(server, monkeypatch, request) -> Iterator[s3fs.S3FileSystem]:
    """A client, and the environment by which the project finds its own way."""
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    client = s3fs.S3FileSystem()
    client.mkdir("lake")
    yield client
    client.rm("lake", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


def read(url: str) -> pa.Table:
    data = Data(source=url, label="label")
    paths = sources.listed(url)
    names = readers.names(paths[0], data)
    found = [
        table.select(TABLE.column_names)
        for piece in readers.pieces(paths, data)
        for table in readers.tables(piece, data, names)
    ]
    return pa.concat_tables(found)


def test_files_a_folder_and_a_glob(store):
    store.pipe("lake/in/a b.csv", b"x,city,label\n1,x,yes\n")
    store.pipe("lake/in/deep/c.csv", b"x,city,label\n2,x,no\n")
    store.pipe("lake/in/deep/_done.csv", b"")
    assert read("s3://lake/in")["x"].to_pylist() == ["1", "2"]
    assert read("s3://lake/in/*.csv")["x"].to_pylist() == ["1"]
    assert read("s3://lake/in/a b.csv")["x"].to_pylist() == ["1"]
    store.pipe("lake/in/d.csv", b"x,city,label\n3,x,no\n")
    assert read("s3://lake/in/*.csv")["x"].to_pylist() == ["1", "3"]


def test_parquet(store):
    with store.open("lake/rows.parquet", "wb") as file:
        pq.write_table(TABLE, file)
    assert read("s3://lake/rows.parquet").to_pylist() == TABLE.to_pylist()


def test_delta_and_lance_tables(store):
    plain = {"allow_http": "true"}
    deltalake.write_deltalake("s3://lake/delta", TABLE, storage_options=plain)
    lance.write_dataset(TABLE, "s3://lake/rows.lance", storage_options=plain)
    for url in ("s3://lake/delta", "s3://lake/rows.lance"):
        assert read(url).to_pylist() == TABLE.to_pylist()


def test_iceberg_tables(store, server):
    at = {"warehouse": "s3://lake/iceberg", "s3.endpoint": server, "s3.region": "us-east-1"}
    catalog = SqlCatalog("c", uri="sqlite://", **at)
    catalog.create_namespace("shop")
    catalog.create_table("shop.sales", schema=TABLE.schema).append(TABLE)
    assert read("s3://lake/iceberg/shop/sales").to_pylist() == TABLE.to_pylist()


def test_the_version_of_an_object_is_its_content_however_it_was_found(store):
    store.pipe("lake/in/a.csv", b"label\nyes\n")
    data = Data(source="s3://lake/in", label="label")

    def version(url: str) -> object:
        s3fs.S3FileSystem.clear_instance_cache()
        (path,) = sources.listed(url)
        return readers.version(path, data)

    before = version("s3://lake/in")
    assert before == version("s3://lake/in/a.csv") == version("s3://lake/*/a.csv")
    store.pipe("lake/in/a.csv", b"label\nno\n\n")
    assert version("s3://lake/in") != before


def test_what_is_not_there(store):
    store.pipe("lake/in/rows.csv", b"label\nyes\n")
    with pytest.raises(DataError, match="no such file") as raised:
        sources.listed("s3://lake/in/row.csv")
    assert "rows.csv" in raised.value.hint
    with pytest.raises(DataError, match="no such file"):
        sources.listed("s3://pond/in/rows.csv")


def test_a_store_that_does_not_answer(store, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(DataError, match="cannot be reached") as raised:
        sources.listed("s3://lake/in/rows.csv")
    assert "environment" in raised.value.hint
    assert SECRET not in str(raised.value)


def test_an_object_that_vanished(store):
    store.pipe("lake/in/rows.csv", b"label\nyes\n")
    data = Data(source="s3://lake/in", label="label")
    (piece,) = readers.pieces(sources.listed("s3://lake/in"), data)
    store.rm("lake/in/rows.csv")
    with pytest.raises(DataError, match="a file is gone") as raised:
        list(readers.tables(piece, data, ["label"]))
    assert raised.value.where == "s3://lake/in/rows.csv"


JOB = """
name: lake
storage: s3://lake/storage
data: {{source: s3://lake/in, test: s3://lake/test.parquet, label: label}}
model: {{width: 8, depth: 1}}
train: {{epochs: 1}}
serve: {{port: {port}, cpus: 0.2}}
"""
RUN = """
import json, sys
import httpx, ray
from ray_pipeline import jobfile, pipeline
from ray_pipeline.deploy import auth

class Quiet:
    def started(self, stage): pass
    def event(self, stage, event): pass
    def ended(self, stage): pass

ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
job = jobfile.read(sys.argv[1])
records = [pipeline.run(job, Quiet()) for _ in range(2)]
answer = httpx.post(records[1]["endpoint"], json={"rows": [{"x": 3, "city": "x"}]},
                    headers={"X-API-Key": auth.key()}, timeout=30)
print(json.dumps([*(record["stages"] for record in records), records[1]["bundle"], answer.json()]))
ray.shutdown()
"""


def test_a_whole_job_that_reads_stores_and_answers_from_there(store, tmp_path):
    (tmp_path / "job.yaml").write_text(JOB.format(port=free_ports(1)[0]))
    for name, part in {"in/1": TABLE[:200], "in/2": TABLE[200:], "test": TABLE[::7]}.items():
        with store.open(f"lake/{name}.parquet", "wb") as file:
            pq.write_table(part, file)
    store.pipe("lake/in/3.csv", b"x,city,label\n1,x,yes\n2,x\n")

    command = [sys.executable, "-c", RUN, str(tmp_path / "job.yaml")]
    home, cache = str(tmp_path / "home"), tmp_path / "cache"
    environment = os.environ | {"RAY_PIPELINE_HOME": home, "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stderr + done.stdout

    first, second, bundle, answer = json.loads(done.stdout.splitlines()[-1])
    stages = ["clean", "split", "features", "train", "evaluate", "export", "deploy"]
    assert [stage["name"] for stage in first] == stages
    cleaned = first[0]
    assert cleaned["rows_in"] == 402 + 58
    assert cleaned["rows_out"] + cleaned["rows_quarantined"] == cleaned["rows_in"]
    assert [stage["cached"] for stage in first + second] == [False] * 7 + [True] * 7
    assert bundle.startswith("s3://lake/storage/lake/bundles/")
    assert answer["predictions"][0]["label"] in {"yes", "no"}
    assert [path.name for path in cache.glob("ray_pipeline/bundles/*/*.onnx")] == ["model.onnx"]
    store.invalidate_cache()  # others have written there
    stored = [name for name in store.find("lake/storage") if not name.endswith("/")]
    assert {name.split("/")[-1] for name in stored} >= {"run.json", "report.html", "stage.json"}
    assert not [name for name in stored if SECRET.encode() in store.cat(name)]
