"""Sources of the test databases, and their rows as `collect` gives them."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import sqlalchemy as sa
from servers import PASSWORD, Server

from ray_pipeline.data.connectors import connector
from ray_pipeline.job import Data, Source


def urls(kind: str, server: Server | None, folder: Any) -> tuple[str, str]:
    """The URL for a job file, and the same with its password for the test itself."""
    if kind == "sqlite":
        return (f"sqlite:///{folder}/rows.db",) * 2
    name, user, database = {
        "postgresql": ("postgresql+psycopg", "postgres", "postgres"),
        "mariadb": ("mariadb+pymysql", "reader", "shop"),
    }[kind]
    os.environ["ROWS_PASSWORD"] = PASSWORD
    rest = f"@127.0.0.1:{server.port}/{database}"
    job = f"{kind}://{user}:${{ROWS_PASSWORD}}{rest}"
    return job, f"{name}://{user}:{quote(PASSWORD, safe='')}{rest}"


class Database:
    """A database: `url` for job files, and `execute` for what a test needs in it."""

    def __init__(self, kind: str, server: Server | None, folder: Any) -> None:
        self.kind, self.server = kind, server
        self.url, self.open_url = urls(kind, server, folder)
        self.engine = sa.create_engine(self.open_url, poolclass=sa.pool.NullPool)

    def execute(self, *statements: str, rows: list[dict] | None = None) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.execute(sa.text(statement), *([rows] if rows else []))

    def source(self, **options: Any) -> Source:
        return Source(url=self.url, **options)


def read(source: Source, names: list[str] | None = None) -> tuple[pa.Table, list[Any]]:
    """All pieces' rows, piece after piece, without Ray; and the pieces."""
    data = Data(source=source, label="label")
    found = connector(source, data)
    names = names or found.names(source, data)
    pieces = found.pieces(source, data)
    tables = [table for piece in pieces for table in found.tables(piece, data, names)]
    return pa.concat_tables(tables, promote_options="permissive") if tables else None, pieces
