"""The endpoint as KubeRay has Serve make it: from the manifest's configuration."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from sites import Site

from ray_pipeline import cluster
from ray_pipeline.deploy import declared
from ray_pipeline.deploy.example import example_row
from ray_pipeline.deploy.kubernetes import site as kubernetes_site
from ray_pipeline.deploy.kubernetes_ray import serve_config
from ray_pipeline.errors import JobError
from ray_pipeline.job import Job, Serve

APPLY = """
import json, sys, time
import httpx
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema
from ray_pipeline import cluster

cluster.connect()
config = ServeDeploySchema.model_validate_json(sys.argv[1])
where = {"host": "127.0.0.1", "port": config.http_options.port}
serve.start(proxy_location="EveryNode", http_options=where)
_get_global_client().deploy_apps(config)
until, url, answers = time.monotonic() + 150, "http://127.0.0.1:{port}".format(**where), {}
body = {"rows": [json.loads(sys.argv[2])]}
asked = {
    "right": lambda: httpx.post(url + "/shop/predict", json=body, headers={"X-API-Key": "right"}),
    "wrong": lambda: httpx.post(url + "/shop/predict", json=body, headers={"X-API-Key": "wrong"}),
    "ready": lambda: httpx.get(url + "/v2/models/shop"),
    "metrics": lambda: httpx.get(url + "/metrics"),
}
for name, ask in asked.items():
    while time.monotonic() < until:
        try:
            answers[name] = [(answer := ask()).status_code, answer.text]
        except httpx.HTTPError:
            answers[name] = [0, ""]
        if answers[name][0] not in (0, 404, 500, 503):
            break
        time.sleep(0.3)
found = serve.status().applications.items()
states = {name: [app.status.value, app.message] for name, app in found}
print(json.dumps([states, answers]))
"""


def test_the_manifests_configuration_answers(tmp_path, monkeypatch, classifier):
    made = classifier.bundle
    data = {"source": "s3://bucket/rows", "label": "left"}
    job = Job(name="shop", storage="s3://bucket", data=data, serve={"cpus": 0.2})
    config = serve_config(kubernetes_site(job, image="i", bundle=str(made.path)))
    place = Site(tmp_path)
    config["http_options"] = {"host": "127.0.0.1", "port": place.port}
    for name in ("RAY_AUTH_MODE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(declared.KEY, "right")
    with place.at_home():
        cluster.up(cpus=4)
    try:
        done = subprocess.run(
            [sys.executable, "-c", APPLY, json.dumps(config), json.dumps(example_row(made))],
            capture_output=True, text=True, env=place.environment, check=False, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        states, answers = json.loads(done.stdout.splitlines()[-1])
        assert {name: code for name, (code, _) in answers.items()} == {
            **{"right": 200, "wrong": 403},
            **{"ready": 200, "metrics": 200},
        }, states
        assert json.loads(answers["right"][1])["version"] == made.manifest.version
        assert 'endpoint="shop"' in answers["metrics"][1]
    finally:
        place.down()


def test_an_endpoint_without_its_key_is_not_open_to_all(monkeypatch):
    monkeypatch.delenv(declared.KEY, raising=False)
    with pytest.raises(JobError, match="none is set"):
        declared._keyring(Serve())
    assert declared._keyring(Serve(auth="none")) is None
