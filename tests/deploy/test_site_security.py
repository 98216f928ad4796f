"""A real endpoint behind HAProxy: Triton's own client, keys that come and go, logs that tell
nothing."""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.http
from tritonclient.utils import InferenceServerException

from ray_pipeline import __version__, cluster
from ray_pipeline.deploy.example import example_row
from ray_pipeline.deploy.inference import DATATYPES


@pytest.fixture(scope="module")
def live(site, classifier):
    with site.at_home():
        site.deploy(classifier.bundle, metrics="key", guard="flag", body_within_s=1)
        yield site


@pytest.fixture(scope="module")
def row(classifier):
    return example_row(classifier.bundle)


def inputs_of(rows, schema, binary):
    kinds = {"BYTES": object, "INT64": np.int64, "FP64": np.float64, "BOOL": np.bool_}
    made = []
    for column in schema.features:
        datatype = DATATYPES[column.kind]
        values = np.array([row[column.name] for row in rows], kinds[datatype])
        given = tritonclient.http.InferInput(column.name, [len(rows)], datatype)
        made.append(given.set_data_from_numpy(values, binary_data=binary))
    return made


@pytest.fixture(scope="module")
def triton(live):
    client = tritonclient.http.InferenceServerClient(live.url.removeprefix("http://"))
    yield client
    client.close()


def test_triton_client_learns_what_there_is(live, triton, classifier):
    manifest = classifier.bundle.manifest
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("model")
    assert triton.is_model_ready("model", manifest.version)
    assert not triton.is_model_ready("model", "other")
    assert not triton.is_model_ready("nothing")
    assert triton.get_server_metadata() == {
        "name": "ray_pipeline",
        "version": __version__,
        "extensions": ["binary_tensor_data"],
    }
    told = triton.get_model_metadata("model", manifest.version)
    assert [one["name"] for one in told["inputs"]] == [c.name for c in manifest.schema.features]
    assert [one["name"] for one in told["outputs"]] == ["label", "probabilities"]


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("asked", [True, False])
def test_triton_client_predicts(live, triton, classifier, row, sent, asked):
    rows = [row, {**row, "age": 70, "ville": "東京"}]
    outputs = [
        tritonclient.http.InferRequestedOutput(name, binary_data=asked)
        for name in ("probabilities", "label")
    ]
    answer = triton.infer(
        "model",
        inputs_of(rows, classifier.bundle.manifest.schema, sent),
        outputs=outputs,
        request_id="7",
        headers={"X-API-Key": live.key},
    )
    expected = [live.predict(one).json()["predictions"][0] for one in rows]
    assert answer.get_response()["id"] == "7"
    found = answer.as_numpy("probabilities")
    np.testing.assert_allclose(
        found, [list(one["probabilities"].values()) for one in expected], atol=1e-6
    )
    labels = [text.decode() if asked else text for text in answer.as_numpy("label").tolist()]
    assert labels == [one["label"] for one in expected]


def test_triton_client_is_refused(live, triton, classifier, row):
    inputs = inputs_of([row], classifier.bundle.manifest.schema, binary=True)
    with pytest.raises(InferenceServerException, match="401"):
        triton.infer("model", inputs)
    with pytest.raises(InferenceServerException, match="415"):
        triton.infer(
            "model",
            inputs,
            headers={"X-API-Key": live.key},
            request_compression_algorithm="gzip",
        )


def call(live, key, row):
    headers = {"X-API-Key": key} if key else {}
    url = f"{live.url}/model/predict"
    return httpx.post(url, json={"rows": [row]}, headers=headers).status_code


def until(wanted, asked, seconds=10.0):
    """What `asked` says last: `wanted`, or whatever it says when the time is over."""
    ends = time.monotonic() + seconds
    while (found := asked()) != wanted and time.monotonic() < ends:
        time.sleep(0.1)
    return found


def test_keys_come_and_go_while_it_answers(live, row, tmp_path):
    made = {
        "app": live.command(tmp_path, "keys", "add", "app"),
        "other": live.command(tmp_path, "keys", "add", "other", "--endpoint", "other"),
        "board": live.command(tmp_path, "keys", "add", "board", "--scope", "metrics"),
    }
    app, other, board = (text.strip() for text in made.values())
    assert until(200, lambda: call(live, app, row)) == 200
    assert call(live, other, row) == 403
    assert call(live, board, row) == 403
    figures = {
        key: httpx.get(f"{live.url}/metrics", headers={"X-API-Key": key}).status_code
        for key in (app, board, live.key)
    }
    assert figures == {app: 403, board: 200, live.key: 200}
    live.command(tmp_path, "keys", "revoke", "app")
    assert until(403, lambda: call(live, app, row)) == 403
    assert call(live, live.key, row) == 200


def test_figures_take_a_key_where_the_job_says_so(live):
    others = httpx.get(f"{live.url}/metrics")
    if others.status_code == 200:  # of endpoints beside it, whose jobs do not say so
        assert 'endpoint="model"' not in others.text
    else:
        assert others.status_code == 401
    told = httpx.get(f"{live.url}/metrics", headers={"Authorization": f"Bearer {live.key}"})
    assert 'ray_pipeline_model_info{endpoint="model"' in told.text


def test_a_body_that_does_not_come_is_given_up(live):
    lines = ["POST /model/predict HTTP/1.1", "Host: x", f"X-API-Key: {live.key}"]
    sent = "\r\n".join([*lines, "Content-Length: 100", "", '{"rows"']).encode()
    port = int(live.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(sent)  # HAProxy waits for it, so that it can be sent again
        assert client.recv(4096).startswith(b"HTTP/1.1 408")


def logs() -> dict[Path, str]:
    """All that the cluster's processes have logged, by file."""
    commands = [" ".join(process.cmdline()) for process in cluster.processes(cluster.record())]
    (session,) = {found[0] for c in commands if (found := re.search(r"/\S+/session_[\w-]+", c))}
    paths = [path for path in Path(session, "logs").rglob("*") if path.is_file()]
    return {path: path.read_text(errors="ignore") for path in paths}


def test_logs_hold_no_bodies_and_no_keys(live, row, tmp_path):
    planted = live.command(tmp_path, "keys", "add", "planted").strip()
    assert until(200, lambda: call(live, planted, row)) == 200
    for body in (
        json.dumps({"rows": [row | {"ville": "Planted Town"}]}),
        json.dumps({"rows": [row | {"age": "Planted Age"}]}),
        '{"rows": [{"ville": "Planted Town"',
        json.dumps({"inputs": [{"name": "ville", "shape": [1], "data": ["Planted Town"]}]}),
    ):
        for path in ("/model/predict", "/v2/models/model/infer"):
            for key in (planted, "rp_Planted-Key"):
                httpx.post(live.url + path, content=body, headers={"X-API-Key": key})
    httpx.get(f"{live.url}/model/?name=Planted")
    secrets = ("Planted", planted, live.key)
    found = logs()
    assert len(found) > 5
    assert not [path for path, text in found.items() if any(word in text for word in secrets)]
    for process in cluster.processes(cluster.record()):
        assert planted not in " ".join(process.cmdline())
