"""An index as tables of PostgreSQL, with vectors by pgvector, in a schema of its own.

    passages   a row for each, with its vector
    words      for each word and group: the passages that have it, and its share of their BM25
    fragments  the same for pieces of words

A question's BM25 is the sum of these shares, so that it is the same as LanceDB's for pieces. Words
are told apart by the server's own rules of English.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from ray_pipeline.chat.chunks import Passage
from ray_pipeline.chat.corrections import DOCUMENT
from ray_pipeline.chat.search import Hit, Ranked, Vectors
from ray_pipeline.chat.server import Server
from ray_pipeline.chat.support import plain
from ray_pipeline.chat.words import fragments

INDEXED = 20_000
"""From this many passages on vectors are searched through an index; below, all are compared."""
_FIELDS = ", ".join(f'"{name}"' for name in Passage._fields)
_TEMPORARY = "pg_temp"
"""The schema of tables that their connection alone sees, and which end with it."""
_CREATE = """
CREATE TABLE {schema}.passages (
    id integer PRIMARY KEY, digest text NOT NULL, document text NOT NULL, source text NOT NULL,
    section text NOT NULL, place integer NOT NULL, headings text NOT NULL, "group" text NOT NULL,
    text text NOT NULL, searched text NOT NULL, pieces text NOT NULL, vector vector({part}) NOT NULL
);
ALTER TABLE {schema}.passages ALTER vector SET STORAGE MAIN;
CREATE TABLE {schema}.words (
    term text, "group" text, ids integer[] NOT NULL, shares real[] NOT NULL,
    PRIMARY KEY (term, "group")
);
CREATE TABLE {schema}.fragments (LIKE {schema}.words INCLUDING ALL)
"""
"""Vectors are to stand in their rows, where texts are not: all are read to be compared."""
_WORDS = "SELECT lexeme, cardinality(positions) FROM unnest(to_tsvector('english', {text}))"
_PIECES = """SELECT piece, count(*) FROM unnest(string_to_array({text}, ' ')) AS piece
    WHERE piece <> '' GROUP BY piece"""
_SHARES = """
INSERT INTO {schema}.{name}
WITH counted AS MATERIALIZED (
    SELECT id, "group", term, times
    FROM {schema}.passages CROSS JOIN LATERAL ({part}) AS counted (term, times)
), lengths AS (
    SELECT id, sum(times) AS length FROM counted GROUP BY id
), holding AS (
    SELECT term, count(*) AS number FROM counted GROUP BY term
), about AS (
    SELECT (SELECT count(*) FROM {schema}.passages) AS number, avg(length) AS length FROM lengths
)
SELECT term, "group", array_agg(id ORDER BY id), array_agg((
    ln(1 + (about.number - holding.number + 0.5) / (holding.number + 0.5)) * times * 2.2
    / (times + 1.2 * (0.25 + 0.75 * lengths.length / about.length))
)::real ORDER BY id)
FROM counted JOIN lengths USING (id) JOIN holding USING (term) CROSS JOIN about
GROUP BY term, "group"
"""
"""Robertson & Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), with
LanceDB's k1 of 1.2 and b of 0.75."""
_MATCHING = """
SELECT found.id, sum(asked.times * found.share::float8) AS score
FROM ({part}) AS asked (term, times) JOIN {schema}.{name} USING (term),
    unnest(ids, shares) AS found (id, share)
WHERE "group" = ANY(%(groups)s)
GROUP BY found.id ORDER BY score DESC, found.id LIMIT %(count)s
"""
_NEAREST = """
SELECT id, -(vector <#> %(vector)s::vector) FROM {schema}.passages
WHERE "group" = ANY(%(groups)s)
ORDER BY vector <#> %(vector)s::vector LIMIT %(count)s
"""
"""By the product: of vectors of length 1 it is the cosine, and of one of zeros it is 0."""


class Asked(Protocol):
    """What answers queries: a Server, or one connection."""

    def rows(self, query: Any, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]: ...


class PostgresPassages:
    """Such tables: `search.Passages`. Nothing is asked of the server before the first search."""

    def __init__(self, server: Asked, schema: str) -> None:
        self._server, self._schema = server, schema

    @cached_property
    def groups(self) -> frozenset[str]:
        return frozenset(row[0] for row in self._told('SELECT DISTINCT "group"'))

    def by_vector(
        self, vector: Sequence[float], groups: Collection[str], count: int
    ) -> list[Ranked]:
        asked = {"vector": _text(vector), "groups": list(groups), "count": count}
        return self._ranked(_sql(_NEAREST, self._schema), asked)

    def by_words(self, question: str, groups: Collection[str], count: int) -> list[Ranked]:
        return self._matching("words", _WORDS, question, groups, count)

    def by_fragments(self, question: str, groups: Collection[str], count: int) -> list[Ranked]:
        return self._matching("fragments", _PIECES, fragments(question), groups, count)

    def read(self, ranked: Sequence[Ranked]) -> list[Hit]:
        asked = {"ids": [row for row, _ in ranked]}
        told = self._told(f"SELECT id, {_FIELDS}", "WHERE id = ANY(%(ids)s)", asked)
        passages = {row: Passage(*fields) for row, *fields in told}
        return [Hit(passages[row], score) for row, score in ranked]

    def corrected(self, question: str, ranked: Sequence[Ranked]) -> Sequence[Ranked]:
        own = self._corrections.get(plain(question), ())
        return [one for one in ranked if one.row in own] or ranked

    def sections(self) -> dict[int, str]:
        return dict(self._told("SELECT id, section"))

    def everything(self) -> list[Passage]:
        return [Passage(*fields) for fields in self._told(f"SELECT {_FIELDS}", "ORDER BY id")]

    def vectors(self) -> Iterator[tuple[str, Vectors]]:
        for digest, sent in self._told("SELECT digest, vector_send(vector)"):
            yield digest, np.frombuffer(sent, ">f4", offset=4).astype(np.float32)

    @cached_property
    def _corrections(self) -> dict[str, set[int]]:
        """The rows of corrections by the words of their questions."""
        rows: dict[str, set[int]] = {}
        asked = {"document": DOCUMENT}
        told = self._told("SELECT id, headings", "WHERE document = %(document)s", asked)
        for row, headings in told:
            rows.setdefault(plain(headings), set()).add(row)
        return rows

    def _told(
        self, select: str, which: str = "", asked: Mapping[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        query = _sql(f"{select} FROM {{schema}}.passages {which}", self._schema)
        return self._server.rows(query, asked or {})

    def _matching(
        self, table: str, terms: str, text: str, groups: Collection[str], count: int
    ) -> list[Ranked]:
        query = _sql(_MATCHING, self._schema, table, terms.format(text="%(text)s::text"))
        return self._ranked(query, {"text": _clean(text), "groups": list(groups), "count": count})

    def _ranked(self, query: Any, asked: Mapping[str, Any]) -> list[Ranked]:
        found = (Ranked(row, float(score)) for row, score in self._server.rows(query, asked))
        return sorted(found, key=lambda one: (-one.score, one.row))


def written(
    server: Server, schema: str, passages: Sequence[Passage], vectors: Mapping[str, Any]
) -> None:
    """Write the index as `schema`, whole or not at all; one that was there is taken the place of.

    Raises:
        UnavailableError: the server does not answer, or refuses.
    """
    fresh = f"{schema}_new"
    with server.connected() as connection:
        connection.execute(_sql("CREATE SCHEMA {schema}", fresh))
        _filled(connection, fresh, passages, vectors)
        connection.execute(_sql("DROP SCHEMA IF EXISTS {schema} CASCADE", schema))
        connection.execute(_sql("ALTER SCHEMA {schema} RENAME TO {name}", fresh, schema))


def dropped(server: Server, schema: str) -> None:
    """Remove an index. Raises UnavailableError."""
    with server.connected() as connection:
        connection.execute(_sql("DROP SCHEMA IF EXISTS {schema} CASCADE", schema))


@contextmanager
def temporary(
    server: Server, passages: Sequence[Passage], vectors: Mapping[str, Any]
) -> Iterator[PostgresPassages]:
    """An index that nobody else sees, and that is gone at the end, however it ends.

    Raises:
        UnavailableError: the server does not answer, or refuses.
    """
    with server.connected(autocommit=True) as connection:
        _filled(connection, _TEMPORARY, passages, vectors)
        yield PostgresPassages(_One(connection), _TEMPORARY)


class _One:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def rows(self, query: Any, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self._connection.execute(query, parameters).fetchall()
        return found


def _filled(
    connection: Any, schema: str, passages: Sequence[Passage], vectors: Mapping[str, Any]
) -> None:
    """Make the tables, with all that is in them."""
    width = str(len(vectors[passages[0].digest]))
    connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    connection.execute(_sql(_CREATE, schema, part=width))
    columns = f"id, {_FIELDS}, pieces, vector"
    copied = _sql(f"COPY {{schema}}.passages ({columns}) FROM STDIN", schema)
    with connection.cursor().copy(copied) as copy:
        for number, one in enumerate(passages):
            told = [_clean(value) if isinstance(value, str) else value for value in one]
            copy.write_row(
                (number, *told, fragments(one.searched), _text(vectors[one.digest].tolist()))
            )
    connection.execute(_sql("ANALYZE {schema}.passages", schema))
    for table, terms, column in (("words", _WORDS, "searched"), ("fragments", _PIECES, "pieces")):
        connection.execute(_sql(_SHARES, schema, table, terms.format(text=column)))
        connection.execute(_sql("ANALYZE {schema}.{name}", schema, table))
    if len(passages) >= INDEXED:
        near = "CREATE INDEX ON {schema}.passages USING hnsw (vector vector_ip_ops)"
        connection.execute(_sql(near, schema))
        connection.execute(_sql('CREATE INDEX ON {schema}.passages ("group")', schema))


def _sql(template: str, schema: str, name: str = "", part: str = "") -> Any:
    """SQL on the tables of `schema`. Template and `part` are this module's own; what is from
    elsewhere is a parameter."""
    from psycopg.sql import SQL, Identifier

    own: Any = (template, part)  # its types take no text that is not written where it is used
    whole, inner = map(SQL, own)
    return whole.format(schema=Identifier(schema), name=Identifier(name), part=inner)


def _text(vector: Sequence[float]) -> str:
    """A vector as pgvector reads it."""
    return json.dumps(list(vector))


def _clean(text: str) -> str:
    """A text without the one character that PostgreSQL's texts cannot hold."""
    return text.replace("\0", " ")
