"""The endpoint's app, called as a server calls it, without Ray."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time

import httpx
import jsonschema
import numpy as np
import pyarrow as pa
import pytest

from ray_pipeline.deploy.app import Endpoint
from ray_pipeline.deploy.auth import Gate
from ray_pipeline.deploy.batcher import Batcher
from ray_pipeline.deploy.counters import BOUNDS, Counters, add, no_counts
from ray_pipeline.deploy.edge import Edge
from ray_pipeline.deploy.example import example_row, statistics
from ray_pipeline.deploy.exposition import exposition
from ray_pipeline.deploy.guard import Guard
from ray_pipeline.deploy.keyring import described
from ray_pipeline.deploy.pages import pages
from ray_pipeline.deploy.predictions import plain_numbers
from ray_pipeline.deploy.runtime import Predictor, columns_from_table
from ray_pipeline.job import Serve

KEY = "rp_test"
SETTINGS = Serve(max_rows=50, max_bytes=20_000)


class Server:
    """An endpoint and a client of it."""

    def __init__(self, bundle, settings=SETTINGS, wrap=lambda app: app, keys=()):
        self.counters, self.runs = Counters(), []
        self.predictor = Predictor(bundle)
        predict = self.predictor.of_clean
        self.predictor.of_clean = lambda columns: (
            self.runs.append(len(next(iter(columns.values())))) or predict(columns)
        )
        self.app = Endpoint(
            "model",
            self.predictor,
            settings,
            gate=Gate("model", [described("own", KEY), *keys]),
            guard=None if settings.guard == "off" else Guard(statistics(bundle)),
            pages=pages("model", bundle, settings),
            counters=self.counters,
            started=lambda: None,
            stopped=lambda: None,
        )
        self.transport = httpx.ASGITransport(wrap(self.app))

    def ask(self, method, path, headers=None, **more):
        return asyncio.run(self.asks([(method, path, headers, more)]))[0]

    async def asks(self, requests):
        async with httpx.AsyncClient(transport=self.transport, base_url="http://test") as client:
            return await asyncio.gather(
                *(
                    client.request(m, p, headers=h or {"X-API-Key": KEY}, **x)
                    for m, p, h, x in requests
                )
            )

    def predict(self, **more):
        return self.ask("POST", "/model/predict", **more)


@pytest.fixture(scope="module")
def server(classifier):
    return Server(classifier.bundle)


@pytest.fixture(scope="module")
def row(classifier):
    return example_row(classifier.bundle)


def error(response):
    found = response.json()["error"]
    assert set(found) == {"code", "message", "where"}
    return found


def expected(bundle, rows):
    schema = bundle.manifest.schema
    table = pa.Table.from_pylist(rows).select([column.name for column in schema.features])
    return Predictor(bundle).predict(columns_from_table(table, schema))


def test_it_predicts_what_the_model_does(server, classifier, row):
    rows = [{**row, "age": age} for age in (17, 40, 80)]
    answer = server.predict(json={"rows": rows})
    assert answer.status_code == 200
    predictions = answer.json()["predictions"]
    classes = classifier.bundle.manifest.classes
    found = [[one["probabilities"][name] for name in classes] for one in predictions]
    np.testing.assert_allclose(found, expected(classifier.bundle, rows), atol=1e-6)
    for one, probabilities in zip(predictions, found, strict=True):
        assert one["label"] == classes[int(np.argmax(probabilities))]
        assert one["probability"] == max(probabilities)
    assert answer.json()["version"] == classifier.bundle.manifest.version


def test_a_regression_answers_values(regressor):
    row = example_row(regressor.bundle)
    answer = Server(regressor.bundle).predict(json={"rows": [row]}).json()
    value = answer["predictions"][0]["value"]
    assert np.float32(value) == expected(regressor.bundle, [row])[0]


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"X-Other": "1"}, 401, "no_key"),
        ({"X-API-Key": "rp_other"}, 403, "wrong_key"),
        ({"Authorization": "Bearer rp_other"}, 403, "wrong_key"),
    ],
)
def test_no_key_no_prediction(server, row, headers, status, code):
    answer = server.predict(json={"rows": [row]}, headers=headers)
    assert answer.status_code == status
    assert error(answer)["code"] == code
    assert ("www-authenticate" in answer.headers) == (status == 401)


def test_a_bearer_may_call(server, row):
    headers = {"Authorization": f"Bearer {KEY}"}
    assert server.predict(json={"rows": [row]}, headers=headers).status_code == 200


def test_errors_say_where(server, row):
    answer = server.predict(json={"rows": [row, {**row, "age": "abc"}]})
    assert answer.status_code == 422
    assert error(answer) == {
        "code": "invalid_request",
        "message": 'expected integer, found "abc"',
        "where": "rows[1].age",
    }


def test_what_is_not_json(server):
    assert server.predict(content=b"hello").status_code == 400


def test_too_many_bytes_are_refused_before_they_are_read(server):
    read = []

    async def receive():
        read.append(1)
        return {"type": "http.request", "body": b"", "more_body": True}

    headers = [(b"x-api-key", KEY.encode()), (b"content-length", b"10000000")]
    sent = asyncio.run(raw_call(server.app, headers, receive))
    assert sent[0]["status"] == 413
    assert (b"connection", b"close") in sent[0]["headers"]
    assert not read


def test_too_many_bytes_without_a_length_are_read_no_further(server):
    chunks = iter([b"x" * 9_000] * 1000)
    read = []

    async def receive():
        read.append(next(chunks))
        return {"type": "http.request", "body": read[-1], "more_body": True}

    sent = asyncio.run(raw_call(server.app, [(b"x-api-key", KEY.encode())], receive))
    assert sent[0]["status"] == 413
    assert len(read) == 3


def test_a_body_in_pieces_is_put_together(server, row):
    content = json.dumps({"rows": [row]}).encode()
    pieces = [content[:10], content[10:90], content[90:]]

    async def receive():
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    sent = asyncio.run(raw_call(server.app, [(b"x-api-key", KEY.encode())], receive))
    assert sent[0]["status"] == 200


def test_a_client_that_leaves_gets_no_answer(server):
    async def receive():
        return {"type": "http.disconnect"}

    assert asyncio.run(raw_call(server.app, [(b"x-api-key", KEY.encode())], receive)) == []
    assert server.counters.in_flight == 0


async def raw_call(app, headers, receive):
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/model/predict", "headers": headers}
    await app(scope, receive, send)
    return sent


def test_too_many_rows(server, row):
    answer = server.predict(json={"rows": [{"age": 1}] * 51})
    assert (answer.status_code, error(answer)["code"]) == (413, "too_many_rows")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/model/predict", 405),
        ("PUT", "/model/predict", 405),
        ("POST", "/model/", 405),
        ("GET", "/model/nothing", 404),
        ("POST", "/model/nothing", 404),
    ],
)
def test_other_paths_and_methods(server, method, path, status):
    answer = server.ask(method, path)
    assert answer.status_code == status
    assert error(answer)["where"] == path
    assert ("allow" in answer.headers) == (status == 405)


def test_a_fault_is_told_by_a_number_alone(classifier, row, caplog):
    server = Server(classifier.bundle)

    def broken(columns):
        raise RuntimeError(f"secret {columns}")

    server.predictor.of_clean = broken
    with caplog.at_level("ERROR"):
        answer = server.predict(json={"rows": [row]})
    assert answer.status_code == 500
    number = re.search(r"[0-9a-f]{12}", error(answer)["message"])
    assert number
    assert number[0] in caplog.text
    assert "secret" not in answer.text
    assert server.counters.in_flight == 0


def test_requests_at_the_same_time_share_a_run(classifier, row):
    server = Server(classifier.bundle)
    rows = [{**row, "age": 20 + number} for number in range(12)]
    requests = [("POST", "/model/predict", None, {"json": {"rows": [one]}}) for one in rows]
    answers = asyncio.run(server.asks(requests))
    assert sum(server.runs) == 12
    assert len(server.runs) < 12
    found = [list(answer.json()["predictions"][0]["probabilities"].values()) for answer in answers]
    np.testing.assert_allclose(found, expected(classifier.bundle, rows), atol=1e-6)


def test_a_bad_request_does_not_harm_those_beside_it(classifier, row):
    server = Server(classifier.bundle)
    bodies = [{"rows": [row]}, {"rows": [{**row, "age": "abc"}]}, {"rows": [row]}]
    answers = asyncio.run(
        server.asks([("POST", "/model/predict", None, {"json": body}) for body in bodies])
    )
    assert [answer.status_code for answer in answers] == [200, 422, 200]


def test_a_run_has_no_more_rows_than_allowed():
    runs = []

    async def ask():
        batcher = Batcher(lambda rows: runs.append(len(rows)) or rows, max_rows=10)
        return await asyncio.gather(*(batcher.results([number] * 4) for number in range(7)))

    results = asyncio.run(ask())
    assert results == [[number] * 4 for number in range(7)]
    assert runs == [8, 8, 8, 4]


@pytest.mark.parametrize(
    ("row_s", "runs"),
    [(0.01, [10, 5, 5, 5]), (0.001, [10, 10, 5]), (1.0, [10] + [1] * 15)],
)
def test_a_run_has_no_more_rows_than_it_can_do_in_its_time(row_s, runs):
    now, seen = [0.0], []

    def run(rows):
        seen.append(len(rows))
        now[0] += row_s * len(rows)
        return rows

    async def ask():
        batcher = Batcher(run, max_rows=10, target_s=0.05, clock=lambda: now[0])
        return await asyncio.gather(*(batcher.results([number]) for number in range(25)))

    assert asyncio.run(ask()) == [[number] for number in range(25)]
    assert seen == runs


def test_rows_of_one_request_stay_together_and_a_change_of_pace_is_noticed():
    now, row_s, seen = [0.0], [1.0], []

    def run(rows):
        seen.append(len(rows))
        now[0] += row_s[0] * len(rows)
        return rows

    async def ask():
        batcher = Batcher(run, max_rows=10, target_s=0.05, clock=lambda: now[0])
        await batcher.results([0] * 7)
        row_s[0] = 0.001
        for _ in range(20):
            await asyncio.gather(*(batcher.results([number]) for number in range(10)))

    asyncio.run(ask())
    assert seen[:3] == [7, 1, 1]
    assert seen[-1] > 2


def test_requests_are_read_while_a_long_run_is_made():
    """They share the next run, and an error of one run is no other's."""
    begun, go_on, runs = threading.Event(), threading.Event(), []

    def run(rows):
        runs.append(rows)
        if len(runs) == 2:
            begun.set()
            assert go_on.wait(30)
            raise ValueError("of the second")
        time.sleep(0.03)
        return rows

    async def ask():
        batcher = Batcher(run, max_rows=10)
        assert await batcher.results([1]) == [1]  # from which it knows that runs are long
        second = asyncio.ensure_future(batcher.results([2]))
        assert await asyncio.to_thread(begun.wait, 30)
        later = [asyncio.ensure_future(batcher.results([number])) for number in (3, 4)]
        await asyncio.sleep(0)
        later[0].cancel()
        go_on.set()
        return await asyncio.gather(second, *later, return_exceptions=True)

    second, third, fourth = asyncio.run(ask())
    assert str(second) == "of the second"
    assert isinstance(third, asyncio.CancelledError)
    assert fourth == [4]
    assert runs == [[1], [2], [3, 4]]


def test_a_cancelled_request_leaves_the_others_alone():
    async def ask():
        batcher = Batcher(lambda rows: rows, max_rows=10)
        tasks = [asyncio.ensure_future(batcher.results([number])) for number in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, second, third = asyncio.run(ask())
    assert (first, third) == ([0], [2])
    assert isinstance(second, asyncio.CancelledError)


def test_numbers_are_written_without_false_digits():
    values = np.array([0.1, 123456.78, 1e-20, -0.0], np.float32)
    assert [np.float32(value) for value in plain_numbers(values)] == list(values)
    assert plain_numbers(values)[0] == 0.1
    assert plain_numbers(np.array([[0.3, 0.7]], np.float32)) == [[0.3, 0.7]]


def test_the_openapi_document_describes_what_is_answered(server, row):
    api = server.ask("GET", "/model/openapi.json").json()
    content = api["paths"]["/model/predict"]["post"]["requestBody"]["content"]
    request = content["application/json"]["example"]
    answer = server.predict(json=request)
    assert answer.status_code == 200

    def check(document, schema):
        root = {**api, "$ref": f"#/components/schemas/{schema}"}
        jsonschema.validate(document, root, jsonschema.Draft202012Validator)

    check(request, "Request")
    check(answer.json(), "Response")
    check(server.predict(content=b"no").json(), "Error")
    for wrong in ({"rows": []}, {"rows": [{**row, "age": "abc"}]}, {"rows": [{**row, "aeg": 1}]}):
        with pytest.raises(jsonschema.ValidationError):
            check(wrong, "Request")
        assert server.predict(json=wrong).status_code == 422


@pytest.mark.parametrize("path", ["/model/", "/model/docs"])
def test_pages_are_whole_and_let_nothing_in(server, path, classifier):
    page = server.ask("GET", path)
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy
    assert "frame-ancestors 'none'" in policy
    assert not re.findall(r"(?:src|href)=[\"'](?:https?:)?//", page.text)
    assert not re.findall(r"\son\w+=|\sstyle=", page.text)
    for column in classifier.bundle.manifest.schema.features:
        assert column.name in page.text
    assert server.ask("HEAD", path).content == b""


def test_pages_escape_what_a_schema_may_hold(classifier):
    page = pages("model", with_a_class("<script>alert(1)</script>", classifier.bundle), SETTINGS)
    assert b"<script>alert(1)" not in page["/model/"].body
    assert b"&lt;script&gt;alert(1)" in page["/model/"].body


def with_a_class(name, bundle):
    import dataclasses

    manifest = dataclasses.replace(bundle.manifest, classes=(name, *bundle.manifest.classes[1:]))
    return dataclasses.replace(bundle, manifest=manifest)


def test_the_open_inference_protocol(server, classifier, row):
    rows = [row, {**row, "age": 70}]
    inputs = [
        {"name": name, "shape": [2], "datatype": "BYTES", "data": [one[name] for one in rows]}
        for name in row
    ]
    body = json.dumps({"id": "7", "inputs": inputs}).encode()
    headers = [(b"x-api-key", KEY.encode())]
    answer = asyncio.run(server.app.infer(body, headers))
    assert answer.status == 200
    found = json.loads(answer.body)
    outputs = {output["name"]: output for output in found["outputs"]}
    assert (found["id"], outputs["probabilities"]["shape"][0]) == ("7", 2)
    np.testing.assert_allclose(
        np.reshape(outputs["probabilities"]["data"], outputs["probabilities"]["shape"]),
        expected(classifier.bundle, rows),
        atol=1e-6,
    )
    inputs[0]["shape"] = [3]
    wrong = asyncio.run(server.app.infer(json.dumps({"inputs": inputs}).encode(), headers))
    assert wrong.status == 422
    assert asyncio.run(server.app.infer(body, [])).status == 401


def test_counts_become_prometheus_text(server, row):
    server.counters.taken()
    server.predict(json={"rows": [row, row]})
    server.predict(content=b"no")
    total = no_counts()
    add(total, server.counters.taken())
    add(total, server.counters.taken())  # nothing new
    figures = {"version": "v1", "counts": total, "in_flight": 0, "replicas": 2}
    lines = exposition({"model": figures}).splitlines()
    assert 'ray_pipeline_requests_total{endpoint="model",code="200"} 1' in lines
    assert 'ray_pipeline_requests_total{endpoint="model",code="400"} 1' in lines
    assert 'ray_pipeline_rows_total{endpoint="model"} 2' in lines
    assert 'ray_pipeline_request_seconds_bucket{endpoint="model",le="+Inf"} 2' in lines
    assert 'ray_pipeline_replicas{endpoint="model"} 2' in lines
    buckets = [float(line.split()[-1]) for line in lines if "request_seconds_bucket" in line]
    assert buckets == sorted(buckets)
    assert len(buckets) == len(BOUNDS) + 1


@pytest.mark.parametrize(("status", "code"), [(429, "busy"), (503, "unavailable")])
def test_the_edge_makes_refusals_of_serve_json(status, code):
    async def refusing(scope, receive, send):
        headers = [(b"content-type", b"text/plain"), (b"retry-after", b"1")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"Request dropped"})

    async def ask():
        transport = httpx.ASGITransport(Edge(refusing))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/model/predict")

    answer = asyncio.run(ask())
    assert answer.status_code == status
    assert error(answer)["code"] == code
    assert answer.headers["retry-after"] == "1"


def test_the_edge_leaves_answers_as_they_are(classifier, row):
    plain, edged = Server(classifier.bundle), Server(classifier.bundle, wrap=Edge)
    for more in ({"json": {"rows": [row]}}, {"content": b"no"}):
        assert edged.predict(**more).content == plain.predict(**more).content
