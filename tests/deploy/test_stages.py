"""How long the stages of a request take, and how many rows go through a model at a time."""

from __future__ import annotations

import asyncio
import json
import socket
import time

import http_servers
import httpx
import pytest

from ray_pipeline.deploy.counters import BATCH_BOUNDS, STAGE_BOUNDS, STAGES, Counters
from ray_pipeline.deploy.example import example_row
from ray_pipeline.job import Serve

HEADERS = {"X-API-Key": http_servers.KEY}


@pytest.fixture
def counters():
    return Counters()


@pytest.fixture
def app(classifier, counters):
    return http_servers.endpoint(classifier.bundle, Serve(max_rows=50), counters=counters)


@pytest.fixture
def row(classifier):
    return example_row(classifier.bundle)


def asked(app, *documents):
    """The statuses of requests that come in the same turn of the loop."""

    async def ask():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answers = (
                client.post("/model/predict", json=one, headers=HEADERS) for one in documents
            )
            return [answer.status_code for answer in await asyncio.gather(*answers)]

    return asyncio.run(ask())


def test_the_stages_of_a_request_are_all_of_it(app, counters, row):
    assert asked(app, {"rows": [row]}) == [200]
    counts = counters.taken()
    assert tuple(counts["stages"]) == STAGES
    assert [sum(one["buckets"]) for one in counts["stages"].values()] == [1] * 5
    seconds = [one["sum"] for one in counts["stages"].values()]
    assert min(seconds) >= 0
    assert 0.5 * counts["seconds"] < sum(seconds) <= counts["seconds"]
    for one in counts["stages"].values():
        place = next(place for place, count in enumerate(one["buckets"]) if count)
        assert place == sum(bound < one["sum"] for bound in STAGE_BOUNDS)


def test_requests_that_come_together_are_one_batch(app, counters, row):
    assert asked(app, {"rows": [row] * 3}, {"rows": [row] * 2}) == [200, 200]
    assert asked(app, {"rows": [row]}) == [200]
    batches = counters.taken()["batches"]
    assert batches["sum"] == 6
    assert batches["buckets"][BATCH_BOUNDS.index(8)] == 1, "of 5 rows"
    assert batches["buckets"][BATCH_BOUNDS.index(1)] == 1
    assert sum(batches["buckets"]) == 2


def test_a_request_that_is_refused_has_the_stages_that_it_came_to(app, counters):
    assert asked(app, {"rows": [{"age": "old"}]}) == [422]
    stages = counters.taken()["stages"]
    counted = {stage: sum(one["buckets"]) for stage, one in stages.items()}
    assert counted == {"body": 1, "read": 0, "wait": 0, "predict": 0, "write": 0}


def test_a_body_that_comes_slowly_is_no_slow_model(app, counters, row):
    body = httpx.Request("POST", "http://x", json={"rows": [row]}).content
    head = (
        "POST /model/predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"X-API-Key: {http_servers.KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    with (
        http_servers.running(app) as port,
        socket.create_connection(("127.0.0.1", port)) as client,
    ):
        client.sendall(head + body[:10])
        time.sleep(0.5)
        client.sendall(body[10:])
        assert client.recv(100).startswith(b"HTTP/1.1 200")
    stages = {stage: one["sum"] for stage, one in counters.taken()["stages"].items()}
    assert stages["body"] > 0.4
    assert stages["body"] > 4 * (stages["read"] + stages["predict"])


def test_the_open_inference_protocol_is_counted_too(app, counters, row):
    inputs = [
        {"name": name, "shape": [1], "datatype": kind, "data": [value]}
        for name, value in row.items()
        for kind in ["BYTES" if isinstance(value, str) else "FP64"]
    ]
    body = json.dumps({"inputs": inputs}).encode()
    headers = [(b"x-api-key", http_servers.KEY.encode())]
    assert asyncio.run(app.infer(body, headers)).status == 200
    counted = {s: sum(one["buckets"]) for s, one in counters.taken()["stages"].items()}
    # Its body was received by the front.
    assert counted == {"body": 0, "read": 1, "wait": 1, "predict": 1, "write": 1}
