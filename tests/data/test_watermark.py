"""How far a table was read: each row in exactly one step, whoever is killed, whatever is late."""

from __future__ import annotations

import pyarrow as pa
import pytest
import sqlalchemy as sa
from databases import read
from upath import UPath

from ray_pipeline.data import watermark
from ray_pipeline.errors import DataError
from ray_pipeline.job.source import New


@pytest.fixture
def events(database):
    """A table `events` of any database, with a function that adds rows to it."""
    kind = {"postgresql": "TIMESTAMPTZ", "mariadb": "DATETIME(6)", "sqlite": "INTEGER"}
    database.execute(
        "DROP TABLE IF EXISTS events",
        f"CREATE TABLE events (id INTEGER PRIMARY KEY, at {kind[database.kind]}, label VARCHAR(9))",
    )

    def add(*rows):
        whole = database.kind == "sqlite"

        def moment(n):
            return n if whole or n is None else f"2020-01-01 00:00:{n:02}"

        values = [{"id": i, "at": moment(n), "v": f"v{i}"} for i, n in rows]
        database.execute("INSERT INTO events VALUES (:id, :at, :v)", rows=values)

    return database, add


class Taker:
    """Whoever takes rows from a table, step by step."""

    def __init__(self, source, new, folder):
        self.source, self.new, self.mark = source, New(**new), UPath(folder / "mark.json")

    def open(self):
        """The rows of this step, which stays open."""
        self.step = watermark.settled(self.source, self.new, self.mark)
        table, _ = read(self.source.model_copy(update={"new": self.step}))
        return [] if table is None else sorted(table["id"].to_pylist())

    def take(self):
        rows = self.open()
        watermark.committed(self.step, self.mark)
        return rows


@pytest.fixture
def taker(events, tmp_path):
    def of(**new):
        folder = tmp_path / f"taker {len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        return Taker(events[0].source(table="events"), {"column": "at", **new}, folder)

    return of


def test_each_step_has_the_rows_since_the_last_one_and_all_has_all(events, taker):
    _, add = events
    new, whole = taker(rows="new"), taker()
    add((1, 5), (2, 7), (3, 7))
    assert new.take() == whole.take() == [1, 2, 3]
    assert new.take() == whole.take() == [1, 2, 3]  # nothing is new: the same step again
    add((4, 8), (5, 9))
    assert (new.take(), whole.take()) == ([4, 5], [1, 2, 3, 4, 5])
    assert (new.take(), whole.take()) == ([4, 5], [1, 2, 3, 4, 5])


def test_a_step_that_is_open_is_the_same_when_it_is_taken_again(events, taker):
    _, add = events
    new = taker(rows="new")
    add((1, 5))
    new.take()
    add((2, 6), (3, 7))
    assert new.open() == [2, 3]  # and whoever read them is killed
    add((4, 8))
    assert new.take() == [2, 3]
    watermark.committed(new.step, new.mark)  # told twice
    assert new.take() == [4]


def test_rows_nearer_than_the_lag_wait_so_that_late_ones_are_taken(events, taker):
    _, add = events
    lagging = taker(rows="new", lag=5)
    add((1, 10), (2, 20), (3, None))
    assert lagging.take() == [1]
    add((4, 16), (5, 20), (6, 30))  # 16 commits after 20 did
    assert lagging.take() == [2, 4, 5]
    add((7, 40))
    assert lagging.take() == [6]


def test_a_transaction_that_is_open_is_taken_when_it_commits(postgres, tmp_path):
    postgres.execute(
        "DROP TABLE IF EXISTS slow", "CREATE TABLE slow (id SERIAL PRIMARY KEY, label INTEGER)"
    )
    source = postgres.source(table="slow")
    taker = Taker(source, {"column": "id", "lag": 1, "rows": "new"}, tmp_path)
    postgres.execute("INSERT INTO slow (label) VALUES (0)", "INSERT INTO slow (label) VALUES (0)")
    with postgres.engine.connect() as late:
        late.execute(sa.text("INSERT INTO slow (label) VALUES (1)"))  # id 3, not yet committed
        postgres.execute("INSERT INTO slow (label) VALUES (2)")
        assert taker.open() == [1, 2]  # up to 4 - 1
        late.commit()
        assert taker.take() == [1, 2, 3]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("NUMERIC(9,2)", ["1.50", "2.25", "2.26"]),
        ("DATE", ["2020-01-01", "2020-01-02", "2020-03-01"]),
        ("TEXT", ["a", "b", "it's"]),
        ("TIMESTAMP", ["2020-01-01 00:00:00", "2020-01-01 00:00:00.000001", "2021-01-01"]),
    ],
)
def test_marks_of_every_type_of_column(postgres, tmp_path, kind, values):
    postgres.execute(
        "DROP TABLE IF EXISTS typed", f"CREATE TABLE typed (id INT, at {kind}, label INT)"
    )
    taker = Taker(postgres.source(table="typed"), {"column": "at", "rows": "new"}, tmp_path)
    for number, value in enumerate(values):
        postgres.execute(
            f"INSERT INTO typed VALUES (:id, CAST(:at AS {kind}), 0)",
            rows=[{"id": number, "at": value}],
        )
        assert taker.take() == [number]


def test_a_query_is_taken_step_by_step_too(sqlite, tmp_path):
    sqlite.execute("CREATE TABLE log (id INTEGER, label TEXT)", "INSERT INTO log VALUES (1, 'a')")
    source = sqlite.source(query="SELECT * FROM log WHERE label = 'a'")
    taker = Taker(source, {"column": "id", "rows": "new"}, tmp_path)
    assert taker.take() == [1]
    sqlite.execute("INSERT INTO log VALUES (2, 'b'), (3, 'a')")
    assert taker.take() == [3]


def test_what_cannot_be_taken_is_a_clear_error(sqlite, tmp_path):
    sqlite.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, at TEXT, label TEXT)")
    source = sqlite.source(table="events")
    with pytest.raises(DataError, match="there is no row yet"):
        Taker(source, {"column": "id"}, tmp_path).open()
    with pytest.raises(DataError, match="no column is called `att`") as raised:
        Taker(source, {"column": "att"}, tmp_path).open()
    assert raised.value.hint == "did you mean `at`?"
    sqlite.execute("INSERT INTO events VALUES (1, 'x', 'y')")
    with pytest.raises(DataError, match="a column of texts has no `lag`"):
        Taker(source, {"column": "at", "lag": 1}, tmp_path).open()
    (tmp_path / "mark.json").write_text("{}")
    with pytest.raises(DataError, match="the mark cannot be read"):
        Taker(source, {"column": "id"}, tmp_path).open()
    assert isinstance(read(source)[0], pa.Table)
