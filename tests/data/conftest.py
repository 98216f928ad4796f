"""One server of each kind for the whole session."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import servers
from databases import Database


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[servers.Server]:
    with tempfile.TemporaryDirectory() as folder, servers.postgres(Path(folder)) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[servers.Server]:
    with tempfile.TemporaryDirectory() as folder, servers.mariadb(Path(folder)) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[servers.Server]:
    with tempfile.TemporaryDirectory() as folder, servers.redis(Path(folder)) as server:
        yield server


@pytest.fixture
def postgres(postgres_server) -> Database:
    return Database("postgresql", postgres_server, None)


@pytest.fixture
def sqlite(tmp_path) -> Database:
    return Database("sqlite", None, tmp_path)


@pytest.fixture(params=["postgresql", "mariadb", "sqlite"])
def database(request, tmp_path) -> Database:
    if request.param == "sqlite":
        return Database("sqlite", None, tmp_path)
    name = "postgres" if request.param == "postgresql" else "mariadb"
    return Database(request.param, request.getfixturevalue(f"{name}_server"), None)
