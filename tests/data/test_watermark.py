"""New rows of a growing table: each exactly once, whoever is killed, whatever commits late."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
import sqlalchemy as sa
from upath import UPath

from ray_pipeline.data import parts, watermark
from ray_pipeline.errors import DataError


@pytest.fixture
def events(database):
    """A table `events` of any database, with a function that adds rows to it."""
    kind = {"postgresql": "TIMESTAMPTZ", "mariadb": "DATETIME(6)", "sqlite": "INTEGER"}
    database.execute(
        "DROP TABLE IF EXISTS events",
        f"CREATE TABLE events (id INTEGER PRIMARY KEY, at {kind[database.kind]}, v VARCHAR(9))",
    )

    def add(*rows):
        whole = database.kind == "sqlite"

        def moment(n):
            return n if whole or n is None else f"2020-01-01 00:00:{n:02}"

        values = [{"id": i, "at": moment(n), "v": f"v{i}"} for i, n in rows]
        database.execute("INSERT INTO events VALUES (:id, :at, :v)", rows=values)

    return database, add


def stored(folder):
    return [i for path in watermark.batches(folder) for i in parts.read(path)["id"].to_pylist()]


def test_each_row_once_with_ties(events, tmp_path):
    database, add = events
    source, folder = database.source(table="events"), UPath(tmp_path / "new")
    add((1, 5), (2, 7), (3, 7))
    assert watermark.taken(source, "at", folder)["rows_in"] == 3
    add((4, 7), (5, 9))  # one more of the value that the mark has
    record = watermark.taken(source, "at", folder)
    assert (record["rows_in"], record["rows_out"], record["rows_quarantined"]) == (2, 2, 0)
    nothing = watermark.taken(source, "at", folder)
    assert (nothing["rows_in"], nothing["batch"]) == (0, None)
    assert stored(folder) == [1, 2, 3, 4, 5]


def test_late_commits_within_the_lag_are_seen_and_only_these(events, tmp_path):
    database, add = events
    source = database.source(table="events")
    strict, lagging = UPath(tmp_path / "strict"), UPath(tmp_path / "lagging")
    add((1, 10), (2, 20), (3, None))
    for folder, lag in ((strict, 0), (lagging, 5)):
        assert watermark.taken(source, "at", folder, lag=lag)["rows_in"] == 2
    add((4, 16), (5, 14), (6, 20))
    for folder, lag in ((strict, 0), (lagging, 5)):
        watermark.taken(source, "at", folder, lag=lag)
        watermark.taken(source, "at", folder, lag=lag)
    assert sorted(stored(strict)) == [1, 2, 6]
    assert sorted(stored(lagging)) == [1, 2, 4, 6]


def test_equal_rows_of_a_table_without_a_key_count(sqlite, tmp_path):
    sqlite.execute("CREATE TABLE log (at INTEGER, v TEXT)")
    source, folder = sqlite.source(table="log"), UPath(tmp_path / "new")
    sqlite.execute("INSERT INTO log VALUES (1, 'a'), (1, 'a')")
    watermark.taken(source, "at", folder)
    sqlite.execute("INSERT INTO log VALUES (1, 'a'), (1, 'b')")
    assert watermark.taken(source, "at", folder)["rows_in"] == 2
    values = [v for path in watermark.batches(folder) for v in parts.read(path)["v"].to_pylist()]
    assert Counter(values) == {"a": 3, "b": 1}


SCRIPT = """
import os, sys
from upath import UPath
from ray_pipeline import files
from ray_pipeline.data import sql, watermark
from ray_pipeline.job import Source
place, url, folder = sys.argv[1:]
sql.BATCH = 100
def die(*_): os._exit(9)
def slow(write, seen=[]):
    def counted(*given):
        seen.append(1)
        return die() if len(seen) > 3 else write(*given)
    return counted
if place == "before the mark": files.write_whole = die
if place == "in the batch": sql.as_table = slow(sql.as_table)
watermark.taken(Source(url=url, table="events"), "at", UPath(folder))
"""


@pytest.mark.parametrize("place", ["in the batch", "before the mark"])
def test_a_killed_process_neither_loses_nor_repeats(sqlite, tmp_path, place):
    sqlite.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, at INTEGER)")
    folder, source = UPath(tmp_path / "new"), sqlite.source(table="events")

    def add(start, end):
        rows = [{"id": i, "at": i // 3} for i in range(start, end)]
        sqlite.execute("INSERT INTO events VALUES (:id, :at)", rows=rows)

    add(0, 500)
    assert watermark.taken(source, "at", folder)["rows_in"] == 500
    add(500, 1300)
    killed = [sys.executable, "-c", SCRIPT, place, source.url, str(folder)]
    assert subprocess.run(killed, check=False).returncode == 9
    assert stored(folder) == list(range(500))
    assert (folder / "batch-000002.parquet").exists()
    add(1300, 1400)
    assert watermark.taken(source, "at", folder)["rows_in"] == 900
    assert stored(folder) == list(range(1400))


def test_a_transaction_that_is_open_is_taken_when_it_commits(postgres, tmp_path):
    postgres.execute(
        "DROP TABLE IF EXISTS slow", "CREATE TABLE slow (id SERIAL PRIMARY KEY, v INTEGER)"
    )
    source, folder = postgres.source(table="slow"), UPath(tmp_path / "new")
    with postgres.engine.connect() as late:
        late.execute(sa.text("INSERT INTO slow (v) VALUES (1)"))  # id 1, not yet committed
        postgres.execute("INSERT INTO slow (v) VALUES (2)")
        assert watermark.taken(source, "id", folder, lag=10)["rows_in"] == 1
        late.commit()
    assert watermark.taken(source, "id", folder, lag=10)["rows_in"] == 1
    assert sorted(stored(folder)) == [1, 2]


def test_a_column_that_is_not_there(sqlite, tmp_path):
    sqlite.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, at INTEGER)")
    with pytest.raises(DataError, match="no column is called `att`") as raised:
        watermark.taken(sqlite.source(table="events"), "att", UPath(tmp_path / "new"))
    assert raised.value.hint == "did you mean `at`?"
