"""The flights job: its tables as they are loaded, and its join as it is read."""

from __future__ import annotations

import sys
from pathlib import Path

import psycopg
import pytest
import servers

from ray_pipeline import jobfile
from ray_pipeline.data import collect
from ray_pipeline.data.connectors import connector

JOBS = Path(__file__).parents[1] / "jobs"
FILES = {
    "airlines": "carrier,name\nUA,United Air Lines Inc.\n",
    "airports": "faa,name,lat,lon,alt,tz,dst,tzone\nIAH,Houston,29.98,-95.34,97,-6,A,NA\n",
    "planes": "tailnum,year,type,manufacturer,model,engines,seats,speed,engine\n"
    "N14228,1999,Fixed wing,BOEING,737-824,2,149,NA,Turbo-fan\n",
    "weather": "origin,year,month,day,hour,temp,dewp,humid,wind_dir,wind_speed,wind_gust,precip,"
    "pressure,visib,time_hour\n"
    "EWR,2013,1,1,5,39.02,28.04,64.43,260,12.66,NA,0,1011.9,10,2013-01-01T10:00:00Z\n",
    "flights": "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,"
    "carrier,flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour\n"
    "2013,1,1,517,515,2,830,819,16,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z\n"
    "2013,1,1,533,529,4,850,830,15,UA,1714,N24211,LGA,IAH,227,1416,5,29,2013-01-01T10:00:00Z\n"
    "2013,1,1,NA,529,NA,NA,830,NA,ZZ,1,NA,LGA,XXX,NA,1416,5,29,2013-01-01T10:00:00Z\n",
}


@pytest.fixture
def flights(tmp_path_factory, monkeypatch):
    """The job, over a server with three flights in it."""
    monkeypatch.syspath_prepend(str(JOBS))
    import load_flights

    monkeypatch.setenv("PGPASSWORD", servers.PASSWORD)
    monkeypatch.setenv("FLIGHTS_HOST", "unused")
    folder = tmp_path_factory.mktemp("flights")
    for table, text in FILES.items():
        (folder / f"{table}.csv").write_text(text)
    monkeypatch.setattr(load_flights, "fetched", lambda name: folder)
    with servers.postgres(tmp_path_factory.mktemp("postgres")) as server:
        url = f"postgresql://postgres@127.0.0.1:{server.port}/postgres"
        with psycopg.connect(url) as session:
            assert load_flights.loaded(session) == 3
            assert load_flights.loaded(session) == 3
        yield jobfile.read(JOBS / "flights.yaml", [f"data.source.url={url}"])
    sys.modules.pop("load_flights")


def test_flights_are_joined_and_labelled(flights):
    data = flights.data
    schema = collect.schema(data)
    assert schema["time_hour"].kind == "date"
    assert not {"arr_delay", "arr_time", "air_time", "dep_delay", "dep_time"} & {
        column.name for column in schema.features
    }
    found = connector(data.source, data)
    (piece,) = found.pieces(data.source, data)
    (table,) = found.tables(piece, data, schema.names)
    names = ["arrival", "temp", "built", "dest_alt", "airline"]
    assert [tuple(row[name] for name in names) for row in table.to_pylist()] == [
        ("late", 39.02, 1999, 97, "United Air Lines Inc."),
        ("on time", None, None, 97, "United Air Lines Inc."),
        (None, None, None, None, None),
    ]
