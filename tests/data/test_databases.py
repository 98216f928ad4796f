"""What is said when a database refuses, breaks or changes; and that no password is ever said."""

from __future__ import annotations

import signal
import tempfile
from itertools import islice
from pathlib import Path

import pytest
import ray
from databases import Database, read
from servers import PASSWORD, postgres
from upath import UPath

from ray_pipeline import jobfile, pipeline, progress, report, runs
from ray_pipeline.data import adbc, clean, collect, sql
from ray_pipeline.data.credentials import Login, login
from ray_pipeline.errors import DataError, JobError
from ray_pipeline.job import Data, Source


def filled(database, rows=300):
    database.execute("DROP TABLE IF EXISTS people")
    database.execute("CREATE TABLE people (id INTEGER PRIMARY KEY, age INTEGER, label VARCHAR(3))")
    values = [{"id": i, "age": i % 90, "label": "ab"[i % 2]} for i in range(rows)]
    if values:
        database.execute("INSERT INTO people VALUES (:id, :age, :label)", rows=values)


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_wrong_password(kind, request, monkeypatch):
    name = "postgres_server" if kind == "postgresql" else "mariadb_server"
    database = Database(kind, request.getfixturevalue(name), None)
    monkeypatch.setenv("ROWS_PASSWORD", "wrong7Secret")
    with pytest.raises(DataError, match="refused the user or the password") as raised:
        read(database.source(table="people"))
    assert raised.value.hint == "check ROWS_PASSWORD in the environment of this command"
    assert "wrong7Secret" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_variable_that_is_not_set(postgres, monkeypatch):
    monkeypatch.delenv("ROWS_PASSWORD")
    with pytest.raises(DataError, match=r"names \$\{ROWS_PASSWORD\}, which is not set"):
        read(postgres.source(table="people"))


@pytest.mark.parametrize(
    "url", ["postgresql://u@no.such.host.invalid/d", "mysql://u@127.0.0.1:1/d"]
)
def test_a_host_that_does_not_answer(url):
    with pytest.raises(DataError, match="cannot be reached"):
        read(Source(url=url, table="people"))


def test_tables_and_columns_that_are_not_there(database):
    filled(database)
    with pytest.raises(DataError, match="there is no table `peeple`") as raised:
        read(database.source(table="peeple"))
    assert raised.value.hint == "did you mean `people`?"
    with pytest.raises(DataError, match="no column is called `idd`"):
        read(database.source(table="people", key="idd"))
    with pytest.raises(DataError, match="no column is called `lebel`"):
        collect.schema(Data(source=database.source(table="people"), label="lebel"))
    with pytest.raises(DataError, match="agge"):
        read(database.source(query="SELECT agge FROM people"))


def test_a_table_that_vanishes_between_ranges(database):
    filled(database)
    source = database.source(table="people", partitions=3)
    data = Data(source=source, label="label")
    first, second, _ = sql.pieces(source, data)
    assert sum(len(table) for table in sql.tables(first, data, ["id"])) == 100
    database.execute("DROP TABLE people")
    with pytest.raises(DataError, match="the table is not there"):
        list(sql.tables(second, data, ["id"]))
    filled(database)  # mended, the same goes on
    assert sum(len(table) for table in sql.tables(second, data, ["id"])) == 100


def test_a_driver_that_is_not_there():
    with pytest.raises(DataError, match="needs `oracledb`, which is not installed"):
        read(Source(url="oracle+oracledb://u@h/d", table="people"))


def test_a_server_killed_mid_read(monkeypatch):
    with tempfile.TemporaryDirectory() as folder, postgres(Path(folder)) as server:
        database = Database("postgresql", server, None)
        filled(database, 0)
        more = "INSERT INTO people SELECT i, i % 90, 'a' FROM generate_series(1, 1000000) AS i"
        database.execute(more)  # more than sockets hold
        monkeypatch.setattr(adbc, "BATCH_BYTES", 1000)
        source = database.source(table="people")
        data = Data(source=source, label="label")
        piece = sql.Range(source, login(source), sql.pieces(source, data)[0].relation)
        reading = sql.tables(piece, data, ["id", "age"])
        next(reading)
        server.process.send_signal(signal.SIGQUIT)  # what PostgreSQL calls an immediate shutdown
        server.process.wait()
        with pytest.raises(DataError, match=r"the connection broke|cannot be reached") as raised:
            list(reading)
        assert "run the same command again" in raised.value.hint
        server.start()
        monkeypatch.undo()
        assert sum(len(table) for table in sql.tables(piece, data, ["id", "age"])) == 1_000_000


@pytest.mark.usefixtures("ray_cluster")
def test_a_refused_stage_runs_when_the_cause_is_mended(postgres, tmp_path):
    """Dropped after it was looked at: the stage says so, writes nothing, and can be run again."""
    filled(postgres)
    data = Data(source=postgres.source(table="people", partitions=3), label="label")
    schema = collect.schema(data)
    postgres.execute("DROP TABLE people")
    out = UPath(tmp_path / "out")
    with pytest.raises(DataError, match="there is no table `people`"):
        clean.write(data, schema, out)
    filled(postgres)
    record = clean.write(data, schema, out)
    assert record["rows_in"] == record["rows_out"] + record["rows_quarantined"] == 300


JOB = """
name: people
storage: {storage}
data:
  source: {{url: "{url}", table: people, partitions: 3}}
  label: label
"""


@pytest.mark.usefixtures("ray_cluster")
def test_no_password_is_kept_anywhere(postgres, tmp_path, capfd):
    """A real run's storage and report, its output, and the logs of Ray and its workers."""
    filled(postgres)
    postgres.execute("UPDATE people SET label = NULL WHERE id = 7")
    (tmp_path / "job.yaml").write_text(JOB.format(storage=tmp_path / "storage", url=postgres.url))
    job = jobfile.read(tmp_path / "job.yaml")
    with progress.watcher() as watcher, runs.opened(job, watcher) as run:
        stages = islice(pipeline.path(run), 2)
        assert [stage.name for stage in stages] == ["clean", "split"]
    report.write(run.record, run.folder)
    logs = Path(ray._private.worker._global_node.get_session_dir_path())
    places = [*tmp_path.rglob("*"), *(logs / "logs").rglob("*")]
    kept = {path: path.read_bytes() for path in places if path.is_file()}
    assert b"ROWS_PASSWORD" in kept[Path(str(run.folder / "run.json"))]
    assert any(path.name.startswith("worker") for path in kept)
    said = "".join(capfd.readouterr())
    for secret in (PASSWORD, PASSWORD.replace("%", "%25").replace("/", "%2F"), "hush7"):
        assert secret not in said
        assert not [path for path, content in kept.items() if secret.encode() in content]


@pytest.mark.parametrize(
    "source",
    [
        '"postgresql://u:plain7Text@h/d"',
        '{url: "postgresql://u:plain7Text@h/d", table: t}',
        '{url: "mysql://u@h/d?password=plain7Text", table: t}',
    ],
)
def test_a_password_in_the_job_file_is_refused_without_repeating_it(tmp_path, source):
    path = tmp_path / "job.yaml"
    path.write_text(f"name: people\ndata:\n  source: {source}\n  label: x\n")
    with pytest.raises(JobError, match="the URL holds a password") as raised:
        jobfile.read(path)
    assert "plain7Text" not in str(raised.value)
    assert "line 3" in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"table": "a", "query": "SELECT 1"}, "not both"),
        ({"query": "SELECT 1", "join": [{"table": "b", "on": ["x"]}]}, "needs a `table`"),
        ({"query": "SELECT 1", "partitions": 2}, "name the `key`"),
        ({"url": "rows.csv", "table": "a"}, "need the URL of a database"),
    ],
)
def test_settings_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        Source(**{"url": "postgresql://h/d", **options})


def test_the_environment_fills_what_a_url_leaves_out(monkeypatch):
    monkeypatch.setenv("PGUSER", "ann@x")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    filled_in = login(Source(url="postgresql://h:1/d", table="t"))
    assert filled_in.url == "postgresql://ann%40x:hush7Secret%25%2Fx@h:1/d"
    assert PASSWORD not in repr(filled_in)
    assert login(Source(url="postgresql://bob@h/d", table="t")).url.startswith("postgresql://bob:")


def test_secrets_are_taken_out_of_what_a_database_says():
    entry = Login("postgresql://ann:s%2Fcret@h/d")
    said = 'connection of "ann" with s/cret or s%2Fcret failed for annex'
    assert entry.scrubbed(said) == 'connection of "***" with *** or *** failed for annex'


def test_what_may_be_shown_of_a_source():
    source = Source(url="postgresql://ann:${X}@h:1/d?sslmode=require", table="t")
    assert str(source) == "postgresql://h:1/d t"
