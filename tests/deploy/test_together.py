"""Many bundles in one application, and jobs of an endpoint, behind HAProxy as commands do it."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time

import httpx
import pytest
from upath import UPath

from ray_pipeline import bundle as bundles
from ray_pipeline.deploy import together
from ray_pipeline.deploy.example import example_row
from ray_pipeline.errors import JobError
from ray_pipeline.job import Serve

NAMES = ("first", "second")


@pytest.fixture(scope="module")
def row(classifier):
    return example_row(classifier.bundle)


@pytest.fixture(scope="module")
def copies(classifier, tmp_path_factory):
    """The same model under two names."""
    made, root = classifier.bundle, tmp_path_factory.mktemp("copies")
    files = {name: (made.path / name).read_bytes() for name in made.manifest.files}
    for name in NAMES:
        (root / name).mkdir()
        manifest = dataclasses.replace(made.manifest, name=name, files={}, digest="0" * 64)
        bundles.write(UPath(root / name), manifest, files)
    return [str(root / name) for name in NAMES]


@pytest.fixture(scope="module")
def live(site, classifier, copies):
    """An endpoint of its own, and two in one application of which one is loaded at a time."""
    with site.at_home():
        site.deploy(classifier.bundle, jobs={"max_rows": 5000}, max_rows=100)
    command = [sys.executable, "-W", "ignore", "-m", "ray_pipeline.cli", "serve", "--loaded", "1"]
    settings = [f"port={site.port}", "cpus=0.2", "replicas={min: 1, max: 1}"]
    chosen = [part for one in settings for part in ("--set", one)]
    process = subprocess.Popen(
        [*command, *copies, *chosen], env=site.environment, stdout=subprocess.PIPE, text=True
    )
    lines = [process.stdout.readline().strip() for _ in NAMES]
    assert lines == [f"{site.url}/{name}/predict" for name in NAMES]
    yield site
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert httpx.get(f"{site.url}/first/").status_code == 200  # the cluster was there before


def ask(site, method, path, **more):
    headers = {"X-API-Key": site.key}
    return httpx.request(method, f"{site.url}{path}", headers=headers, timeout=30, **more)


def test_each_has_its_path_and_they_take_turns(live, row):
    for name in (*NAMES, *NAMES):
        answer = ask(live, "POST", f"/{name}/predict", json={"rows": [row]})
        assert answer.status_code == 200, answer.text
    # Who was asked last is loaded still.
    assert ask(live, "GET", "/second/health").json()["requests"] >= 2
    assert httpx.post(f"{live.url}/first/predict", json={"rows": [row]}).status_code == 401


def test_they_are_listed_and_counted_with_the_others(live):
    listed = {one["name"]: one["status"] for one in httpx.get(live.url).json()["endpoints"]}
    assert {name: listed[name] for name in ("model", *NAMES)} == dict.fromkeys(
        ("model", *NAMES), "RUNNING"
    )
    assert httpx.get(f"{live.url}/v2/health/ready").status_code == 200
    assert httpx.get(f"{live.url}/v2/models/second").json()["name"] == "second"
    metrics = httpx.get(f"{live.url}/metrics").text
    assert 'ray_pipeline_replicas{endpoint="first"} 1' in metrics


def test_the_open_inference_protocol_finds_them(live, row):
    inputs = [
        {"name": name, "shape": [1], "datatype": "BYTES", "data": [value]}
        for name, value in row.items()
    ]
    answer = ask(live, "POST", "/v2/models/first/infer", json={"inputs": inputs})
    assert answer.status_code == 200, answer.text


def test_graphql_is_there_for_each(live):
    answer = ask(live, "POST", "/second/graphql", json={"query": "{ card { name } }"})
    assert answer.json() == {"data": {"card": {"name": "second"}}}


def test_a_job_is_done_while_requests_are_answered(live, row):
    rows = [row] * 2000
    sent = ask(live, "POST", "/model/jobs", json={"rows": rows})
    assert sent.status_code == 202, sent.text
    answered, until = 0, time.monotonic() + 90
    while (found := ask(live, "GET", sent.headers["location"])).json()["status"] != "done":
        assert time.monotonic() < until, found.text
        answered += ask(live, "POST", "/model/predict", json={"rows": [row]}).status_code == 200
    one = ask(live, "POST", "/model/predict", json={"rows": [row]}).json()
    assert found.json()["predictions"] == one["predictions"] * 2000
    assert answered > 0


@pytest.mark.parametrize(
    ("change", "loaded"), [({"jobs": {}}, 2), ({"gpus": 1}, 2), ({}, 0)], ids=json.dumps
)
def test_what_they_cannot_have(copies, change, loaded):
    settings = Serve.model_validate(change)
    with pytest.raises(JobError):
        together.deploy(dict(zip(copies, NAMES, strict=True)), settings, loaded)


def test_two_of_one_name_are_refused(copies):
    with pytest.raises(JobError, match="1 names"):
        together.deploy(dict.fromkeys(copies, "same"), Serve(), 2)
