"""Bounds on what a client may send, each with a real request to a real server."""

from __future__ import annotations

import gzip
import json
import socket
import time
from types import SimpleNamespace

import http_servers
import httpx
import numpy as np
import pytest
from ray.serve.exceptions import BackPressureError

from ray_pipeline.deploy import edge, front
from ray_pipeline.deploy.example import example_row
from ray_pipeline.deploy.inference import CHAT
from ray_pipeline.deploy.keyring import described
from ray_pipeline.job import Serve

SETTINGS = Serve(max_rows=20, max_bytes=50_000, body_within_s=0.5)
HEADERS = {"X-API-Key": http_servers.KEY}


@pytest.fixture(scope="module")
def port(classifier):
    keys = [described("slow", "rp_slow", rate=0.1, burst=1)]
    with http_servers.running(http_servers.endpoint(classifier.bundle, SETTINGS, keys)) as port:
        yield port


@pytest.fixture(scope="module")
def row(classifier):
    return example_row(classifier.bundle)


def post(port, content=b"", headers=HEADERS):
    return httpx.post(f"http://127.0.0.1:{port}/model/predict", content=content, headers=headers)


def told(answer):
    return answer.status_code, answer.json()["error"]["code"]


def test_what_is_right_is_answered(port, row):
    assert post(port, json.dumps({"rows": [row]})).status_code == 200


def test_an_answer_is_written_at_once(port, row, monkeypatch):
    """Whoever is killed has given the whole answer or none of it."""
    written: list[int] = []

    class Counting(edge._Held):
        def flush(self):
            written.append(len(self._parts))
            super().flush()

    monkeypatch.setattr(edge, "_Held", Counting)
    with httpx.Client(headers=HEADERS) as client:
        answers = [
            client.post(f"http://127.0.0.1:{port}/model/predict", json={"rows": [row]}),
            client.get(f"http://127.0.0.1:{port}/model/"),
            client.get(
                f"http://127.0.0.1:{port}/model/openapi.json", headers={"Connection": "close"}
            ),
        ]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert all(answer.content for answer in answers)
    # Headers and body; where the connection is closed after it, they are out before that.
    assert written == [2, 2, 2, 0]


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "zstd", "gzip, gzip", "x"])
def test_a_compressed_body_is_refused_unread(port, coding):
    bomb = gzip.compress(b" " * 10_000_000)
    assert len(bomb) < SETTINGS.max_bytes
    answer = post(port, bomb, {**HEADERS, "Content-Encoding": coding})
    assert told(answer) == (415, "compressed")
    assert answer.headers["accept-encoding"] == "identity"


def test_too_many_headers_are_refused(port):
    many = {f"x-{number}": "1" for number in range(101)}
    assert told(post(port, b"{}", HEADERS | many)) == (431, "too_many_headers")


def test_a_header_that_is_not_ascii_is_refused(port):
    assert told(post(port, b"{}", [(b"x-api-key", b"\xff\xfe")])) == (400, "bad_header")


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b" " * 50_001, 413, "too_large"),
        (b'{"rows": [' + b'{"age": 1},' * 20 + b'{"age": 1}]}', 413, "too_many_rows"),
        (b"[" * 40_000, 400, "not_json"),
        (b'{"rows": [{"income": ' + b"[" * 20_000 + b"]" * 20_000 + b"}]}", 400, "not_json"),
        (b"\x1f\x8b\x08", 400, "not_json"),
    ],
)
def test_bodies_beyond_their_bounds(port, content, status, code):
    assert told(post(port, content)) == (status, code)


def raw(port, sent, wait=5.0):
    """All that the server says to raw bytes until it closes, or has been silent for a while."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as client:
        client.sendall(sent)
        found = b""
        while part := client.recv(65536):
            found += part
        return found


def head(length, **headers):
    lines = [f"{name}: {value}" for name, value in {**HEADERS, **headers}.items()]
    start = ["POST /model/predict HTTP/1.1", "Host: x", f"Content-Length: {length}"]
    return "\r\n".join([*start, *lines, "", ""]).encode()


def test_a_body_that_does_not_come_ends_the_connection(port):
    begun = time.monotonic()
    answer = raw(port, head(1000) + b'{"rows"')
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"slow_body" in answer
    assert time.monotonic() - begun < 4


def drip(client, seconds):
    """Send a byte now and then, until the other side has closed."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        client.sendall(b" ")
        time.sleep(0.05)


def test_a_body_that_drips_is_given_no_more_time(port):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(head(1000))
        begun = time.monotonic()
        with pytest.raises(ConnectionError):
            drip(client, 5)
        assert time.monotonic() - begun < 4


def test_a_web_socket_is_refused(port):
    upgrade = (
        b"GET /model/predict HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert raw(port, upgrade).startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\xff\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /model/predict HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /model/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1e3\r\n\r\n",
        b"POST /model/predict HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"POST /model/predict HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\n",
        b"POST /model/predict HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    ],
)
def test_what_is_no_http_is_a_400(port, sent):
    assert raw(port, sent).startswith(b"HTTP/1.1 400")


def test_a_key_used_too_often_is_told_when_to_come_back(port, row):
    body, slow = json.dumps({"rows": [row]}), {"X-API-Key": "rp_slow"}
    first, second = post(port, body, slow), post(port, body, slow)
    assert first.status_code == 200
    assert first.headers["ratelimit"] == '"key";r=0;t=10'
    assert first.headers["ratelimit-policy"] == '"key";q=1;w=10'
    assert told(second) == (429, "rate_limited")
    assert 1 <= int(second.headers["retry-after"]) <= 10
    assert second.headers["ratelimit"].startswith('"key";r=0')
    assert post(port, body).status_code == 200
    assert "ratelimit" not in post(port, body).headers


def ask(port, *rows):
    return post(port, json.dumps({"rows": rows}))


@pytest.mark.parametrize("guard", ["flag", "refuse"])
def test_rows_unlike_training(classifier, row, guard):
    app = http_servers.endpoint(classifier.bundle, Serve(guard=guard))
    with http_servers.running(app) as port:
        usual = ask(port, row, row)
        assert usual.status_code == 200
        assert "warnings" not in usual.json()
        answer = ask(port, row, {**row, "age": 1000, "job": "Planted"})
    warning = {"where": "rows[1].age", "message": "above the range of the training rows"}
    if guard == "flag":
        assert answer.json()["warnings"] == [
            warning,
            {"where": "rows[1].job", "message": "not among the values that the model knows"},
            {"where": "rows[1]", "message": "far from the training rows as a whole"},
        ]
    else:
        assert told(answer) == (422, "unlike_training")
        assert answer.json()["error"]["where"] == warning["where"]
    assert "Planted" not in answer.text
    counts = app._counters.taken()
    assert (counts["flagged"], counts["flags"]) == (1, {"age": 1, "job": 1, "": 1})
    assert counts["rows"] == (4 if guard == "flag" else 2)


def test_confidence_is_rounded_and_labels_stay(classifier, row):
    rows = [{**row, "age": age} for age in range(17, 37)]
    with http_servers.running(http_servers.endpoint(classifier.bundle, Serve(round=1))) as port:
        rounded = ask(port, *rows).json()["predictions"]
    with http_servers.running(http_servers.endpoint(classifier.bundle, Serve())) as port:
        exact = ask(port, *rows).json()["predictions"]
    assert [one["label"] for one in rounded] == [one["label"] for one in exact]
    for one, other in zip(rounded, exact, strict=True):
        for name, share in one["probabilities"].items():
            assert share == round(other["probabilities"][name], 1)
        assert one["probability"] == one["probabilities"][one["label"]]


def test_values_are_rounded_to_their_digits(regressor):
    row = example_row(regressor.bundle)
    with http_servers.running(http_servers.endpoint(regressor.bundle, Serve(round=3))) as port:
        (found,) = ask(port, row).json()["predictions"]
    with http_servers.running(http_servers.endpoint(regressor.bundle, Serve())) as port:
        (exact,) = ask(port, row).json()["predictions"]
    assert found["value"] == float(np.format_float_scientific(exact["value"], 2))


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v2/models/model/infer"])
def test_a_full_queue_behind_the_front_is_told_as_busy(monkeypatch, path):
    """Ray Serve's handle raises where its proxy would refuse."""

    class Full:
        def options(self, stream):
            return self

        async def refused(self, *_):
            raise BackPressureError(4, 4, 429, 1.5)

        async def refused_stream(self, *_):
            raise BackPressureError(4, 4, 429, 1.5)
            yield

        infer = property(lambda self: SimpleNamespace(remote=self.refused))
        completed = property(lambda self: SimpleNamespace(remote=self.refused_stream))

    async def releases():
        platform = CHAT if path.startswith("/v1") else "onnx"
        return {"model": {"version": "1", "metadata": {"platform": platform}}}

    board = SimpleNamespace(releases=SimpleNamespace(remote=releases))
    monkeypatch.setattr(front, "board", lambda: board)
    monkeypatch.setattr(front.serve, "get_app_handle", lambda name: Full())
    with http_servers.running(front.Front()) as port:
        answer = httpx.post(f"http://127.0.0.1:{port}{path}", json={"model": "model"})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
    assert "too many requests are waiting" in answer.text
