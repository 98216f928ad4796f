"""A real endpoint behind HAProxy: released, replaced under load, refused where it must be."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import small_bundles
from upath import UPath

from ray_pipeline import bundle as bundles
from ray_pipeline import cluster
from ray_pipeline.bundle import Bundle
from ray_pipeline.data.privacy import keys
from ray_pipeline.deploy.example import example_row
from ray_pipeline.deploy.ports import free_ports
from ray_pipeline.deploy.runtime import Predictor


@pytest.fixture(scope="module")
def released(site, classifier):
    """The first release of all, which starts the cluster and Serve."""
    with site.at_home():
        yield site.deploy(classifier.bundle)


@pytest.fixture(scope="module")
def row(classifier):
    return example_row(classifier.bundle)


def another_version(made: Bundle, folder, version: str, **changes) -> Bundle:
    folder.mkdir()
    files = {name: (made.path / name).read_bytes() for name in made.manifest.files}
    changes |= {"version": version, "files": {}, "digest": "0" * 64}
    manifest = dataclasses.replace(made.manifest, **changes)
    bundles.write(UPath(folder), manifest, files)
    return bundles.opened(folder)


def test_it_answers_and_is_listed(site, released, classifier, row):
    live, listed = released
    assert live["endpoint"] == f"{site.url}/model/predict"
    assert not live["unchanged"]
    answer = site.predict(row)
    assert answer.status_code == 200
    assert answer.json()["version"] == classifier.bundle.manifest.version
    assert [(one["name"], one["status"], one["replicas"]) for one in listed] == [
        ("model", "RUNNING", 1)
    ]


def test_the_curl_line_works_as_printed(site, released, tmp_path):
    # `$(ray-pipeline key)` is the shell's business; here a stand-in prints the key.
    command = tmp_path / "ray-pipeline"
    command.write_text(f"#!/bin/sh\necho {site.key}\n")
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        released[0]["curl"],
        shell=True,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert "predictions" in json.loads(done.stdout), done.stderr


def test_releasing_the_same_again_does_nothing(site, released, classifier):
    assert site.deploy(classifier.bundle)[0]["unchanged"]


def test_the_key_stays_with_its_owner(site, released, row):
    assert httpx.post(f"{site.url}/model/predict", json={"rows": [row]}).status_code == 401
    for process in cluster.processes(cluster.record()):
        assert site.key not in " ".join(process.cmdline())


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200),
        ("/v2", 200),
        ("/v2/health/live", 200),
        ("/v2/health/ready", 200),
        ("/v2/models/model", 200),
        ("/v2/models/model/ready", 200),
        ("/v2/models/nothing", 404),
        ("/v2/models/model/nothing", 404),
        ("/v2/models/model/infer", 405),
        ("/model", 200),
        ("/model/", 200),
        ("/model/docs", 200),
        ("/model/openapi.json", 200),
        ("/model/predict", 405),
        ("/model/nothing", 404),
        ("/models", 404),
        ("/nothing", 404),
        ("/metrics", 200),
    ],
)
def test_every_path_answers(site, released, path, status):
    answer = httpx.get(site.url + path)
    assert answer.status_code == status
    if status >= 400:
        told = answer.json()
        assert set(told if path.startswith("/v2/") else told["error"]) >= {"code", "where"}


def test_ten_megabytes_are_refused(site, released):
    content = b'{"rows": [' + b" " * 10_000_000 + b"]}"
    headers = {"X-API-Key": site.key}
    answer = httpx.post(f"{site.url}/model/predict", content=content, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def test_the_open_inference_protocol_through_the_front(site, released, row):
    inputs = [
        {"name": name, "shape": [1], "datatype": "BYTES", "data": [value]}
        for name, value in row.items()
    ]
    url = f"{site.url}/v2/models/model/infer"
    answer = httpx.post(url, json={"inputs": inputs}, headers={"X-API-Key": site.key})
    assert answer.status_code == 200
    expected = site.predict(row).json()["predictions"][0]
    outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
    assert outputs["label"] == [expected["label"]]
    assert outputs["probabilities"] == list(expected["probabilities"].values())
    assert httpx.post(url, json={"inputs": inputs}).status_code == 401


def metric(site, name):
    lines = httpx.get(f"{site.url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_every_request_is_counted(site, released, row):
    time.sleep(2)  # replicas report once a second
    before = metric(site, 'ray_pipeline_requests_total{endpoint="model",code="200"}')
    for _ in range(7):
        site.predict(row)
    until = time.monotonic() + 10
    counted = before
    while counted != before + 7 and time.monotonic() < until:
        time.sleep(0.2)
        counted = metric(site, 'ray_pipeline_requests_total{endpoint="model",code="200"}')
    assert counted == before + 7
    assert metric(site, "ray_pipeline_replicas") == 1


def test_another_port_on_the_same_cluster_is_refused(site, released, classifier):
    code, told = site.tried(classifier.bundle, port=free_ports(1)[0])
    assert code == 1
    assert f"on port {site.port} already" in told


def test_a_damaged_bundle_is_not_released(site, released, bundle_copy, row):
    with (bundle_copy / "model.onnx").open("r+b") as file:
        file.seek(100)
        file.write(b"\0\0\0")
    _, told = site.tried(Bundle(bundle_copy, None))
    assert "BundleError" in told
    assert site.predict(row).status_code == 200


def test_a_new_version_takes_over_without_a_failed_request(
    site, released, classifier, row, tmp_path
):
    second = another_version(classifier.bundle, tmp_path / "second", "second")
    stop, versions, failures = threading.Event(), [], []

    def load():
        with httpx.Client(headers={"X-API-Key": site.key}, timeout=30) as client:
            while not stop.is_set():
                answer = client.post(f"{site.url}/model/predict", json={"rows": [row]})
                if answer.status_code == 200:
                    versions.append(answer.json()["version"])
                else:
                    failures.append((answer.status_code, answer.text))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    live, _ = site.deploy(second)
    time.sleep(7)  # the old replica drains for 5 seconds before it ends
    stop.set()
    for thread in threads:
        thread.join()
    assert live["version"] == "second"
    assert failures == []
    assert versions[0] == classifier.bundle.manifest.version
    assert set(versions[-20:]) == {"second"}


def test_more_than_may_wait_are_told_to_come_back(site, released, classifier, row):
    site.deploy(classifier.bundle, auth="none", max_ongoing_requests=1, max_queued_requests=1)
    answers = []

    def load():
        with httpx.Client(timeout=30) as client:
            for _ in range(30):
                answers.append(client.post(f"{site.url}/model/predict", json={"rows": [row] * 50}))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    busy = [answer for answer in answers if answer.status_code == 429]
    assert {answer.status_code for answer in answers} == {200, 429}
    assert busy[0].json()["error"]["code"] == "busy"
    assert int(busy[0].headers["retry-after"]) >= 1


def logs_of_the_cluster() -> dict[Path, str]:
    """All that the cluster's processes have logged, by file."""
    commands = [" ".join(process.cmdline()) for process in cluster.processes(cluster.record())]
    (session,) = {found[0] for c in commands if (found := re.search(r"/\S+/session_[\w-]+", c))}
    paths = [path for path in Path(session, "logs").rglob("*") if path.is_file()]
    return {path: path.read_text(errors="ignore") for path in paths}


@pytest.fixture
def private(released, tmp_path, monkeypatch) -> Bundle:
    """A bundle of a job that hashes the city and makes the age a decade."""
    hashed = keys.keys()[0].hashed  # the site's own key
    monkeypatch.setattr(small_bundles, "CITIES", tuple(map(hashed, small_bundles.CITIES)))
    made = small_bundles.exported(UPath(tmp_path / "made"), "classification").bundle
    treated = {"ville": {"hash": keys.keys()[0].id}, "age": {"generalise": 10}}
    return another_version(made, tmp_path / "private", "private", privacy=treated)


def test_a_request_is_treated_before_anything_else_and_logged_nowhere(site, private, row):
    site.deploy(private)
    plain = Predictor(dataclasses.replace(private, manifest=dataclasses.replace(
        private.manifest, privacy={})))  # fmt: skip
    hashed = keys.keys()[0].hashed

    def asked(**changes):
        answer = site.predict(row | changes)
        assert answer.status_code == 200, answer.text
        return answer.json()["predictions"][0]["probability"]

    def told(**changes):
        columns = {
            column.name: np.array([(row | changes)[column.name]], object)
            if column.kind == "category"
            else np.array([(row | changes)[column.name]], np.float64)
            for column in private.manifest.schema.features
        }
        return plain.predict(columns).max()

    known = {city: told(ville=hashed(city), age=30) for city in ("Paris", "Genève")}
    assert known["Paris"] != known["Genève"]
    for city, wanted in known.items():
        assert asked(ville=city, age=37) == pytest.approx(wanted, abs=1e-6)
    assert asked(ville="Planted Town", age=37) == pytest.approx(
        told(ville="never seen", age=30), abs=1e-6
    )
    wrong = site.predict(row | {"age": "Planted Age", "ville": "Planted Town"})
    assert wrong.status_code == 422
    headers = {"X-API-Key": site.key, "content-type": "application/json"}
    broken = b'{"rows": [{"ville": "Planted Town", "age": "Planted'
    answer = httpx.post(f"{site.url}/model/predict", content=broken, headers=headers)
    assert answer.status_code == 400
    logs = logs_of_the_cluster()
    assert len(logs) > 5
    assert not [path for path, text in logs.items() if "Planted" in text]


FREE = """
import ray
from ray_pipeline import cluster
cluster.connect(start=False)
print(ray.available_resources()["CPU"], ray.cluster_resources()["CPU"])
"""


def test_on_a_machine_alone_it_leaves_the_cpus_to_runs(site, classifier):
    site.deploy(classifier.bundle, cpus=3.5)
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FREE],
        env=site.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout.split() == ["4.0", "4.0"]
