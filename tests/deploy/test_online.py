"""Features written by a job, read by the endpoint within a request, on a real Redis."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import http_servers
import httpx
import jsonschema
import pyarrow as pa
import pytest
from upath import UPath

sys.path.insert(0, str(Path(__file__).parents[1]))

import servers

from ray_pipeline.data import parts, stores
from ray_pipeline.deploy import openapi, release
from ray_pipeline.deploy.example import example_row
from ray_pipeline.deploy.online import Lookup, latency
from ray_pipeline.errors import JobError
from ray_pipeline.job import Online, Serve, Store

COLUMNS = ("age", "hours a week")


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory):
    with servers.redis(Path(tmp_path_factory.mktemp("redis"))) as server:
        yield server


@pytest.fixture
def settings(redis_server, monkeypatch, tmp_path):
    """Where the features of two jobs are, written by a store as a run does."""
    monkeypatch.setenv("REDIS_PASSWORD", servers.PASSWORD)
    url = f"redis://127.0.0.1:{redis_server.port}/0"
    rows = pa.table(
        {"job": ["nurse", "clerk"], "age": [40, 61], "hours a week": [37.5, None], "more": [1, 2]}
    )
    parts.written(rows, UPath(tmp_path / "rows" / "1.parquet"))
    store = Store(url=url, table="worker", key="job", columns=COLUMNS)
    assert stores.write(UPath(tmp_path), [store], "one")["stores"][0]["rows"] == 2
    return Online(url=url, table="worker", key="job", columns=COLUMNS)


@pytest.fixture
def ask(classifier, settings):
    """A function that asks an endpoint which looks features up."""
    app = http_servers.endpoint(classifier.bundle, Serve(auth="none"), online=Lookup(settings))

    def asked(*rows):
        async def sent():
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.post("/model/predict", json={"rows": rows})

        return loop.run(sent())

    with asyncio.Runner() as loop:  # one loop, as in a replica: connections belong to it
        yield asked


@pytest.fixture
def row(classifier):
    return example_row(classifier.bundle)


def without(row, *names):
    return {name: value for name, value in row.items() if name not in names}


def predictions(response):
    assert response.status_code == 200, response.text
    return response.json()["predictions"]


def test_features_that_a_row_lacks_come_from_the_store(ask, row):
    lacking = without(row, *COLUMNS) | {"job": "nurse"}
    whole = lacking | {"age": 40, "hours a week": 37.5}
    assert predictions(ask(lacking, whole)) == predictions(ask(whole, whole))
    assert predictions(ask(lacking)) != predictions(ask(whole | {"age": 90}))


def test_what_the_row_carries_itself_is_kept(ask, row):
    whole = row | {"job": "nurse", "age": 77}
    partly = without(whole, "hours a week")
    assert predictions(ask(partly)) == predictions(ask(whole | {"hours a week": 37.5}))


def test_an_unknown_key_and_a_stored_null_are_missing_values(ask, row):
    for job in ("astronaut", "clerk"):
        lacking = without(row, *COLUMNS) | {"job": job}
        age = 61 if job == "clerk" else None
        assert predictions(ask(lacking)) == predictions(
            ask(lacking | {"age": age, "hours a week": None})
        )


@pytest.mark.parametrize("wrong", [{"job": None}, {"job": ["nurse"]}, {"ville": 1.5, "age": "x"}])
def test_a_row_that_cannot_be_looked_up_says_what_it_lacks(ask, row, wrong):
    response = ask(without(row, *COLUMNS, *wrong) | wrong)
    assert response.status_code == 422
    assert response.json()["error"]["where"].startswith("rows[0].")


def test_other_bodies_are_refused_as_ever(ask):
    assert ask().status_code == 422
    assert ask(7).json()["error"]["where"] == "rows[0]"


def test_a_store_that_is_down_is_503_and_the_endpoint_lives_on(ask, row, redis_server):
    lacking = without(row, *COLUMNS) | {"job": "nurse"}
    redis_server.kill()
    try:
        response = ask(lacking)
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "online_store"
        assert servers.PASSWORD not in response.text
    finally:
        redis_server.start()
    assert ask(row | {"job": "astronaut"}).status_code == 200


def test_the_lookup_is_measured(settings):
    taken = latency(settings, rounds=20)
    assert 0 < taken["p50"] <= taken["p99"]


def test_the_openapi_tells_which_columns_may_be_absent(classifier, settings, row):
    manifest = classifier.bundle.manifest
    document = json.loads(openapi.document("model", manifest, Serve(online=settings), row))
    schema = document["components"]["schemas"]["Row"]
    jsonschema.validate(without(row, *COLUMNS), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(without(row, "ville"), schema)


@pytest.mark.parametrize("changes", [{"key": "jbo"}, {"columns": ("shoe",)}])
def test_columns_that_the_model_does_not_know_are_refused(classifier, settings, changes):
    wrong = settings.model_copy(update=changes)
    with pytest.raises(JobError, match="knows no column"):
        release.deploy(classifier.bundle.path, "model", Serve(online=wrong))
