"""Connections to SQL databases, and what is said when a database refuses."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ray_pipeline.data.credentials import Login, variables
from ray_pipeline.errors import DataError
from ray_pipeline.job import Source

if TYPE_CHECKING:
    import sqlalchemy as sa

DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
_REFUSED = re.compile(
    r"password|authenticat|access denied|role .* does not exist|no pg_hba.conf", re.IGNORECASE
)
_GONE = re.compile(r"no such table|doesn't exist|relation .* does not exist", re.IGNORECASE)
_BROKEN = re.compile(
    r"lost connection|closed|terminat|gone away|SSL|EOF|broken pipe|reset by peer", re.IGNORECASE
)


@contextmanager
def connected(source: Source, login: Login, *, stream: bool = False) -> Iterator[sa.Connection]:
    """A connection, closed at the end; with `stream`, results stay on the server until fetched.

    Raises:
        DataError: the driver is not installed, the database cannot be reached or refuses, or it
            fails while the connection is used; without users, passwords or parameters.
    """
    try:
        import sqlalchemy as sa
        from sqlalchemy.pool import NullPool
    except ImportError:
        raise missing("sqlalchemy", source) from None
    options = {"stream_results": True, "max_row_buffer": 10_000} if stream else {}
    try:
        engine = sa.create_engine(_url(login), poolclass=NullPool, hide_parameters=True)
        with engine.connect().execution_options(**options) as connection:
            yield connection
    except ModuleNotFoundError as error:
        raise missing(error.name or "driver", source) from None
    except sa.exc.NoSuchModuleError:
        raise missing(source.scheme, source) from None
    except sa.exc.SQLAlchemyError as error:
        raise said(error, source, login) from None


def _url(login: Login) -> sa.URL:
    import sqlalchemy as sa

    url = sa.make_url(login.url)
    return url.set(drivername=DRIVERS.get(url.drivername, url.drivername))


def missing(module: str, source: Source) -> DataError:
    """What to say where a database's driver is not installed."""
    return DataError(
        f"reading {source.scheme} needs `{module}`, which is not installed",
        where=str(source),
        hint="pip install 'ray-pipeline[sql]', or the driver that the URL names",
    )


def said(error: Exception, source: Source, login: Login) -> DataError:
    """A database's error as ours: its first line, without secrets, and what to do."""
    found = str(getattr(error, "orig", None) or error)
    lines = [line.strip() for line in found.splitlines() if line.strip()]
    text = login.scrubbed(lines[0] if lines else type(error).__name__)
    where = str(source)
    if _GONE.search(found) and not _REFUSED.search(found):
        return DataError(
            f"the table is not there (any more): {text}",
            where=where,
            hint="restore it and run the same command again",
        )
    if _REFUSED.search(found):
        wanted = variables(source)
        hint = f"check {wanted} in the environment of this command" if wanted else ""
        return DataError(
            f"the database refused the user or the password: {text}", where=where, hint=hint
        )
    if _BROKEN.search(found) or getattr(error, "connection_invalidated", False):
        return DataError(
            f"the connection broke: {text}",
            where=where,
            hint="run the same command again when the database is back; what is stored is kept",
        )
    if type(error).__name__ == "OperationalError":
        return DataError(
            f"the database cannot be reached or used: {text}",
            where=where,
            hint="check the host, the port and the name in the URL, and that the server runs",
        )
    return DataError(f"the database says: {text}", where=where)


def table(name: str, source: Source, connection: sa.Connection) -> sa.Table:
    """The table called `name`, or `schema.name`, with its columns and primary key.

    Raises:
        DataError: there is no such table.
    """
    import sqlalchemy as sa

    schema, _, short = name.rpartition(".")
    schema_name = schema or source.namespace
    try:
        return sa.Table(
            short, sa.MetaData(), schema=schema_name, autoload_with=connection, resolve_fks=False
        )
    except sa.exc.NoSuchTableError:
        inspector = sa.inspect(connection)
        names = inspector.get_table_names(schema_name) + inspector.get_view_names(schema_name)
    near = difflib.get_close_matches(short, names, 1)
    raise DataError(
        f"there is no table `{name}`",
        where=source.place,
        expected=f"one of {', '.join(sorted(names)[:20])}" if names else "a database with tables",
        hint=f"did you mean `{near[0]}`?" if near else "",
    )
