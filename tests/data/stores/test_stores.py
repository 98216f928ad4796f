"""Every store: what is written can be searched and deleted, and no write leaves a duplicate."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import servers
from upath import UPath

from ray_pipeline.data import stores
from ray_pipeline.errors import DataError
from ray_pipeline.job import Store

TABLES = ("parquet", "delta", "lance", "postgresql", "redis")
UPSERTED = ("delta", "lance", "postgresql", "redis", "lancedb")
VECTORS = ("lancedb", "postgresql")


def rows_of(ids, value=1.0):
    """Rows with a key and all that a clean row may hold, nulls included."""
    count = len(ids)
    return pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "amount": pa.array([None if i == 1 else value * i for i in range(count)], pa.float64()),
            "visits": pa.array(range(count), pa.int64()),
            "open": pa.array([i % 2 == 0 for i in range(count)], pa.bool_()),
            "note": pa.array(
                [None, "", 'a "quoted", text\nwith lines', "naïve ☃"][:count], pa.string()
            )
            if count <= 4
            else pa.array([f"note {i}" for i in range(count)], pa.string()),
            "seen": pa.array(
                [datetime(2013, 1, 1, i % 24, tzinfo=UTC) for i in range(count)],
                pa.timestamp("us", "UTC"),
            ),
        }
    )


@pytest.fixture
def settings(tmp_path, request):
    """A function that gives a store's settings; servers are started when first asked for."""

    def of(kind, **changes):
        table = "t_" + re.sub(r"\W", "_", request.node.name)[:40].lower()
        url = {
            "redis": lambda: request.getfixturevalue("redis_url"),
            "postgresql": lambda: request.getfixturevalue("postgres_url"),
        }.get(kind, lambda: str(tmp_path / kind))()
        known = {"url": url, "table": table, "key": "id"}
        if kind not in ("redis", "postgresql"):
            known["format"] = kind
        return Store(**known | changes)

    return of


def reader(table):
    return table.to_reader(max_chunksize=2)


def by_id(table):
    return {row["id"]: row for row in table.to_pylist()}


@pytest.mark.parametrize("kind", TABLES)
def test_what_is_written_is_found_with_its_types_and_nulls(kind, settings):
    store = stores.opened(settings(kind))
    table = rows_of(["a", "b", "it's", "d"])
    assert store.version() is None
    assert store.write(reader(table), "one") == 4
    assert store.version() == "one"
    found = by_id(store.search(["a", "it's", "nobody"]))
    wanted = {key: by_id(table)[key] for key in ("a", "it's")}
    if kind == "redis":  # JSON has no times, and a hash has no nulls
        wanted = {
            k: {n: str(v) if n == "seen" else v for n, v in row.items() if v is not None}
            for k, row in wanted.items()
        }
        found = {k: {n: v for n, v in row.items() if v is not None} for k, row in found.items()}
    assert found == wanted


@pytest.mark.parametrize("kind", TABLES)
def test_the_same_write_again_changes_nothing_and_the_next_one_replaces(kind, settings):
    store = stores.opened(settings(kind))
    for _ in range(2):
        store.write(reader(rows_of(["a", "b", "c"])), "one")
    assert len(store.search(["a", "b", "c"])) == 3
    store.write(reader(rows_of(["b", "d"], value=5.0)), "two")
    assert set(by_id(store.search(["a", "b", "c", "d"]))) == {"b", "d"}
    assert by_id(store.search(["d"]))["d"]["visits"] == 1
    assert store.version() == "two"


@pytest.mark.parametrize("kind", [kind for kind in UPSERTED if kind != "lancedb"])
def test_an_upsert_overwrites_by_key_and_keeps_the_others(kind, settings):
    store = stores.opened(settings(kind, mode="upsert"))
    store.write(reader(rows_of(["a", "b"])), "one")
    for _ in range(2):
        store.write(reader(rows_of(["x", "y", "b"], value=7.0)), "two")
    found = by_id(store.search(["a", "b", "x", "y"]))
    assert set(found) == {"a", "b", "x", "y"}
    assert found["b"]["amount"] == 14.0
    assert found["a"]["amount"] == 0.0


@pytest.mark.parametrize("kind", [*TABLES, "lancedb"])
def test_what_is_deleted_is_nowhere_any_more(kind, settings, tmp_path):
    vectors = {"vector": "embedding"} if kind == "lancedb" else {}
    store = stores.opened(settings(kind, **vectors))
    secret = "Ada-Planted-Name"
    assert (store.holding("id", {secret}), store.delete([secret])) == ([], 0)  # nothing yet
    for version, last in (("one", "c"), ("two", "d")):
        rows = rows_of([secret, "b", last])
        store.write(reader(with_vectors(rows) if vectors else rows), version)
    assert store.holding("id", {secret, "nobody"}) == [secret]
    assert store.holding("visits", {"1"}) == ["b"]
    assert store.holding("shoe", {"1"}) == []
    assert store.delete([secret, "nobody"]) == 1
    assert store.delete([secret]) == 0
    assert set(by_id(store.search([secret, "b", "d"]))) == {"b", "d"}
    assert store.version() == "two"
    for path in (tmp_path / kind).rglob("*"):
        if not path.is_file():
            continue
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content += str(pq.read_table(path).to_pylist()).encode()
        assert secret.encode() not in content, path


@pytest.mark.parametrize("kind", ["postgresql", "lancedb"])
def test_a_key_that_stands_twice_is_an_error_and_nothing_is_written(kind, settings):
    vectors = {"vector": "embedding"} if kind == "lancedb" else {}
    store = stores.opened(settings(kind, **vectors))
    table = rows_of(["a", "b", "a"])
    if vectors:
        table = with_vectors(table)
    with pytest.raises(DataError, match="twice"):
        store.write(reader(table), "one")
    assert store.version() is None


def with_vectors(table, seed=0):
    values = np.random.default_rng(seed).normal(size=(len(table), 8)).astype(np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 8)
    return table.append_column("embedding", lists)


@pytest.mark.parametrize("kind", VECTORS)
def test_the_nearest_vectors_are_those_of_a_full_comparison(kind, settings):
    table = with_vectors(rows_of([f"k{i}" for i in range(60)]))
    store = stores.opened(settings(kind, vector="embedding"))
    store.write(reader(table), "one")
    matrix = np.array(table["embedding"].to_pylist())
    query = np.random.default_rng(1).normal(size=8)
    cosine = 1 - matrix @ query / (np.linalg.norm(matrix, axis=1) * np.linalg.norm(query))
    best = np.argsort(cosine)[:5]
    found = store.nearest(query.tolist(), 5)
    assert found["id"].to_pylist() == [f"k{i}" for i in best]
    assert found["distance"].to_pylist() == pytest.approx(cosine[best], abs=1e-5)
    some = store.nearest(query.tolist(), 3, where="visits < 10")
    few = [i for i in np.argsort(cosine) if i < 10][:3]
    assert some["id"].to_pylist() == [f"k{i}" for i in few]


@pytest.mark.parametrize("kind", VECTORS)
def test_vectors_are_replaced_upserted_and_deleted(kind, settings):
    first, second = with_vectors(rows_of(["a", "b"])), with_vectors(rows_of(["b", "c"]), seed=3)
    for mode, left in (("upsert", {"a", "b", "c"}), ("replace", {"b", "c"})):
        chosen = settings(kind, vector="embedding", mode=mode)
        store = stores.opened(chosen)
        store.write(reader(first), f"{mode} one")
        for _ in range(2):
            store.write(reader(second), f"{mode} two")
        assert set(store.nearest([1.0] * 8, 10)["id"].to_pylist()) == left
    found = by_id(store.search(["b"]))["b"]["embedding"]
    found = [float(v) for v in found.strip("[]").split(",")] if isinstance(found, str) else found
    assert np.allclose(found, second["embedding"][0].as_py())
    assert store.delete(["b"]) == 1
    assert store.nearest([1.0] * 8, 10)["id"].to_pylist() == ["c"]


KILLED = """
import os, signal, sys
import pyarrow as pa, pyarrow.parquet as pq
from ray_pipeline.data import stores
from ray_pipeline.job import Store

table = pq.read_table(sys.argv[2])

def batches():
    for number, batch in enumerate(table.to_batches(max_chunksize=500)):
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch

store = stores.opened(Store.model_validate_json(sys.argv[1]))
store.write(pa.RecordBatchReader.from_batches(table.schema, batches()), "two")
"""


@pytest.mark.parametrize("kind", TABLES)
def test_a_killed_write_leaves_no_duplicate_and_no_hole(kind, settings, tmp_path):
    chosen = settings(kind)
    store = stores.opened(chosen)
    store.write(reader(rows_of(["old"])), "one")
    table = rows_of([f"k{i}" for i in range(4000)])
    pq.write_table(table, tmp_path / "rows.parquet")
    command = [sys.executable, "-W", "ignore", "-c", KILLED, chosen.model_dump_json()]
    done = subprocess.run([*command, str(tmp_path / "rows.parquet")], check=False)
    assert done.returncode == -signal.SIGKILL
    store = stores.opened(chosen)
    assert store.version() == "one"  # readers still have the old rows
    assert len(store.search(["old"])) == 1
    assert store.write(table.to_reader(), "two") == 4000
    found = store.search(table["id"].to_pylist())
    assert len(found) == 4000
    assert pc.count_distinct(found["id"]).as_py() == 4000
    assert math.isclose(pc.sum(found["visits"]).as_py(), sum(range(4000)))
    assert len(store.search(["old"])) == 0


def test_parquet_keeps_its_versions(settings):
    store = stores.opened(settings("parquet"))
    store.write(reader(rows_of(["a"])), "one")
    store.write(reader(rows_of(["b", "c"])), "two")
    assert [known["rows"] for known in store.versions()] == [1, 2]
    assert store.read("one")["id"].to_pylist() == ["a"]
    assert store.read()["id"].to_pylist() == ["b", "c"]
    with pytest.raises(DataError, match="no version `three`"):
        store.read("three")


def test_a_stage_is_written_once_to_each_store(settings, tmp_path):
    rows = UPath(tmp_path / "rows")
    rows.mkdir()
    pq.write_table(rows_of(["a", "b"]), rows / "1.parquet")
    pq.write_table(rows_of(["c"]), rows / "2.parquet")
    chosen = [settings("delta"), settings("redis", columns=("amount", "visits"))]
    first = stores.write(UPath(tmp_path), chosen, "digest")
    assert [store["rows"] for store in first["stores"]] == [3, 3]
    assert not first["unchanged"]
    assert stores.write(UPath(tmp_path), chosen, "digest")["unchanged"]
    online = stores.opened(chosen[1])
    assert online.values(["a", "zzz"], ["visits", "note"]) == [{"visits": 0}, {}]


def test_a_column_that_is_not_there_is_named(settings, tmp_path):
    rows = UPath(tmp_path / "rows")
    rows.mkdir()
    pq.write_table(rows_of(["a"]), rows / "1.parquet")
    with pytest.raises(DataError, match="no column is called `shoe`"):
        stores.write(UPath(tmp_path), [settings("parquet", columns=("shoe",))], "digest")


def test_another_table_of_that_name_is_left_alone(settings):
    store = stores.opened(settings("postgresql"))
    store.write(reader(rows_of(["a"])), "one")
    with pytest.raises(DataError, match="the table has the columns"):
        store.write(reader(rows_of(["a"]).select(["id", "visits"])), "two")
    assert len(store.search(["a"])) == 1


@pytest.mark.parametrize(
    ("url", "kind"),
    [("redis://127.0.0.1:1/0", "Redis"), ("postgresql://x@127.0.0.1:1/x", "PostgreSQL")],
)
def test_a_server_that_does_not_answer_is_named(url, kind):
    with pytest.raises(DataError, match=kind):
        stores.opened(Store(url=url, table="t", key="id")).version()


@pytest.mark.parametrize("kind", ["redis", "postgresql"])
def test_passwords_come_from_the_environment_and_are_never_shown(kind, settings, monkeypatch):
    chosen = settings(kind)
    assert stores.opened(chosen).version() is None
    monkeypatch.setenv("STORES_PASSWORD", "hunter2")
    with pytest.raises(DataError) as raised:
        stores.opened(chosen).version()
    assert "hunter2" not in str(raised.value)
    monkeypatch.delenv("STORES_PASSWORD")
    with pytest.raises(DataError, match="STORES_PASSWORD"):
        stores.opened(chosen).version()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"url": "redis://h/0", "key": "id"}, "`table` is needed"),
        ({"url": "redis://h/0", "table": "t"}, "`key` is needed"),
        ({"url": "x", "format": "lancedb", "table": "t", "key": "id"}, "`vector` is needed"),
        ({"url": "x", "mode": "upsert", "key": "id"}, "cannot be upserted"),
        ({"url": "x", "format": "delta", "vector": "v"}, "lancedb or postgresql"),
        ({"url": "redis://:pw@h/0", "table": "t", "key": "id"}, "holds a password"),
    ],
)
def test_impossible_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Store(**wrong)


def test_the_test_rows_are_as_odd_as_they_should_be():
    assert os.linesep in rows_of(["a", "b", "c", "d"])["note"].to_pylist()[2]


def test_a_server_killed_while_it_is_written_to(tmp_path, monkeypatch):
    """Redis without persistence: it comes back empty, and the same write makes it whole."""
    monkeypatch.setenv("STORES_PASSWORD", servers.PASSWORD)
    table = rows_of([f"k{i}" for i in range(3000)])
    with servers.redis(tmp_path) as server:
        url = f"redis://:${{STORES_PASSWORD}}@127.0.0.1:{server.port}/0"
        store = stores.opened(Store(url=url, table="t", key="id"))
        batches = broken_off(table, server.kill)
        with pytest.raises(DataError, match="Redis"):
            store.write(batches, "one")
        server.start()
        assert store.version() is None
        assert store.write(table.to_reader(), "one") == 3000
        assert len(store.search(table["id"].to_pylist())) == 3000


def test_a_connection_cut_while_it_is_written_to(settings, postgres_server):
    chosen = settings("postgresql")
    store = stores.opened(chosen)
    store.write(reader(rows_of(["old"])), "one")
    login = {"user": "postgres", "password": servers.PASSWORD, "host": "127.0.0.1"}

    def cut():
        with psycopg.connect(port=postgres_server.port, **login, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE query LIKE 'COPY incoming%' AND pid <> pg_backend_pid()"
            )

    table = rows_of([f"k{i}" for i in range(3000)])
    with pytest.raises(DataError, match="PostgreSQL"):
        store.write(broken_off(table, cut), "two")
    assert (store.version(), len(store.search(["old"]))) == ("one", 1)
    assert store.write(table.to_reader(), "two") == 3000
    assert len(store.search(table["id"].to_pylist())) == 3000


def broken_off(table, what):
    """The rows in batches, with `what` happening before the third."""

    def batches():
        for number, batch in enumerate(table.to_batches(max_chunksize=500)):
            if number == 2:
                what()
            yield batch

    return pa.RecordBatchReader.from_batches(table.schema, batches())
