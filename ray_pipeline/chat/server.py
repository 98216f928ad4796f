"""Connections to a PostgreSQL server: opened when they are needed, kept, opened anew where the
server was restarted. No password is in anything that is said."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray_pipeline.data.credentials import Login, login
from ray_pipeline.data.media.extras import library
from ray_pipeline.errors import UnavailableError
from ray_pipeline.job import Source

_CONNECTED_S, _SILENT_MS = 5, 10_000
"""Until a server that does not answer is given up, at first and later."""
_SEARCHING = """SET hnsw.iterative_scan = strict_order; SET hnsw.max_scan_tuples = 1000000;
    SET hnsw.ef_search = 200; SET statement_timeout = """
"""How connections search, in indexes of vectors: where the nearest are others' passages, they go on
until enough are found that one may read. And for how many milliseconds."""
_LONGEST_MS, _ENDLESS = 30_000, 0
_SHUT = "57P"
"""How the codes begin of what a server says that is being stopped."""


class Server:
    """The server at a URL without its password, whose `${NAME}`s are variables of the environment.

    As many connections are kept as searches went on at a time.

    Raises:
        DataError: a variable is not set, or the driver is not installed.
    """

    def __init__(self, url: str) -> None:
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._driver, self._source = library("psycopg", "sql"), Source(url=url)
        self._login: Login = login(self._source)

    def rows(self, query: Any, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """What a query that changes nothing finds.

        Raises:
            UnavailableError: the server does not answer, or has not what is asked for.
        """
        while True:
            connection, kept = self._taken()
            try:
                found: list[tuple[Any, ...]] = connection.execute(query, parameters).fetchall()
            except self._driver.Error as error:
                ended = connection.broken or (error.sqlstate or "").startswith(_SHUT)
                connection.close()
                if not (kept and ended):  # a kept one may have ended before it was asked
                    raise self._said(error) from None
            else:
                self._idle.put(connection)
                return found

    @contextmanager
    def connected(self, autocommit: bool = False) -> Iterator[Any]:
        """A connection of its own, closed at the end. Without `autocommit` it is one transaction:
        kept if the block ends, else undone.

        Raises:
            UnavailableError: the server does not answer, or refuses.
        """
        try:
            with self._opened(_ENDLESS, autocommit) as connection:
                yield connection
        except self._driver.Error as error:
            raise self._said(error) from None

    def close(self) -> None:
        """Close the connections that are kept."""
        while not self._idle.empty():
            self._idle.get_nowait().close()

    def __del__(self) -> None:
        self.close()

    def _taken(self) -> tuple[Any, bool]:
        """A connection to search by, and whether it was kept since an earlier search."""
        try:
            return self._idle.get_nowait(), True
        except queue.Empty:
            return self._opened(_LONGEST_MS, autocommit=True), False

    def _opened(self, longest_ms: int, autocommit: bool) -> Any:
        try:
            connection = self._driver.connect(
                self._login.url,
                autocommit=autocommit,
                connect_timeout=_CONNECTED_S,
                tcp_user_timeout=_SILENT_MS,
                prepare_threshold=None,  # a plan for any question searches without the index
            )
            connection.execute(f"{_SEARCHING}{longest_ms}")
        except self._driver.Error as error:
            raise self._said(error) from None
        return connection

    def _said(self, error: Exception) -> UnavailableError:
        lines = [line for line in str(error).splitlines() if line.strip()]
        gone = ("3F000", "42P01")  # no such schema, no such table
        if getattr(error, "sqlstate", None) in gone:
            return UnavailableError(
                "the server has not this version of the index (any more)",
                where=str(self._source),
                hint="restore it, or remove the stage's folder and run the job again",
            )
        return UnavailableError(
            f"PostgreSQL: {self._login.scrubbed(lines[0] if lines else type(error).__name__)}",
            where=str(self._source),
            hint="check that the server runs, with pgvector 0.8 or newer, and the URL's variables",
        )
