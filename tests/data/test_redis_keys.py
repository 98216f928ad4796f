"""Hashes and JSON texts of a real Redis, each key once."""

from __future__ import annotations

import pytest
import redis
from databases import read
from servers import PASSWORD

from ray_pipeline.data import collect, parts, redis_keys
from ray_pipeline.errors import DataError
from ray_pipeline.job import Data, Source


@pytest.fixture
def client(redis_server, monkeypatch):
    monkeypatch.setenv("REDIS_PASSWORD", PASSWORD)
    found = redis.Redis(port=redis_server.port, password=PASSWORD)
    found.flushall()
    yield found
    found.close()


def source_of(server, **options):
    return Source(url=f"redis://127.0.0.1:{server.port}/0", **{"pattern": "user:*", **options})


def test_each_key_once_in_pieces(redis_server, client):
    for i in range(2500):
        client.hset(f"user:{i}", mapping={"age": i, "name": f"Zoë {i}"})
    client.hset("other:1", mapping={"age": 1})
    table, pieces = read(source_of(redis_server, partitions=4))
    assert len(pieces) == 4
    assert table.column_names[:3] == ["key", "age", "name"]
    assert sorted(map(int, table["age"].to_pylist())) == list(range(2500))
    assert table["name"].to_pylist() == [f"Zoë {age}" for age in table["age"].to_pylist()]
    assert table["_row"].to_pylist() == list(range(1, 2501))


def test_json_and_what_is_no_row(redis_server, client):
    client.set("user:1", '{"age": 39, "tags": ["a"], "name": null}')
    client.hset("user:2", mapping={"age": "5", "name": "Bob"})
    client.lpush("user:3", "x")
    client.set("user:4", "{oops")
    client.hset("user:5", mapping={"age": b"\xff"})
    table, _ = read(source_of(redis_server))
    assert table.select(["key", "age", "tags", "name"]).to_pylist()[:2] == [
        {"key": "user:1", "age": "39", "tags": '["a"]', "name": None},
        {"key": "user:2", "age": "5", "tags": None, "name": "Bob"},
    ]
    assert table["_error"].to_pylist() == [
        None,
        None,
        "expected a hash or a JSON object, found list",
        "expected a hash or a JSON object, found text",
        "expected UTF-8 text",
    ]
    assert table["_raw"].to_pylist() == [None, None, "user:3", "user:4", "user:5"]


def test_a_key_that_goes_while_it_is_read_is_counted(redis_server, client):
    for i in range(10):
        client.hset(f"user:{i}", mapping={"age": i})
    source = source_of(redis_server)
    data = Data(source=source, label="age")
    (piece,) = redis_keys.pieces(source, data)
    client.delete("user:3")
    (table,) = redis_keys.tables(piece, data, ["age"])
    assert table["age"].to_pylist() == [None if i == 3 else str(i) for i in range(10)]
    assert table["_error"][3].as_py() == "the key is gone"


@pytest.mark.usefixtures("ray_cluster")
def test_tasks_read_with_the_drivers_password(redis_server, client):
    for i in range(100):
        client.hset(f"user:{i}", mapping={"age": i, "label": "ab"[i % 2]})
    data = Data(source=source_of(redis_server, partitions=3), label="label")
    schema = collect.schema(data)
    assert [(column.name, column.kind) for column in schema] == [
        ("key", "category"),
        ("age", "integer"),
        ("label", "category"),
    ]
    rows = parts.executed(collect.rows(data.source, data, schema).take_all)
    assert sorted(int(row["age"]) for row in rows) == list(range(100))


def test_the_fingerprint_follows_the_values(redis_server, client):
    client.hset("user:1", mapping={"age": 1})
    data = Data(source=source_of(redis_server), label="age")
    before = collect.fingerprint(data)
    assert collect.fingerprint(data) == before
    client.hset("user:1", mapping={"age": 2})
    assert collect.fingerprint(data) != before


def test_what_is_said_when_it_refuses(redis_server, client, monkeypatch):
    with pytest.raises(DataError, match="no key matches"):
        read(source_of(redis_server))
    monkeypatch.setenv("REDIS_PASSWORD", "wrong")
    with pytest.raises(DataError, match="refused the user or the password") as raised:
        read(source_of(redis_server))
    assert "REDIS_PASSWORD" in raised.value.hint
    assert "wrong" not in str(raised.value)
    with pytest.raises(DataError, match="cannot be reached"):
        read(Source(url="redis://127.0.0.1:1/0", pattern="*"))
