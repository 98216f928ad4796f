"""A PostgreSQL table, with vectors by pgvector: one transaction a write, the rows by COPY."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.csv as pacsv
from psycopg import sql
from psycopg.rows import dict_row

from ray_pipeline.data.stores.rows import address
from ray_pipeline.errors import DataError
from ray_pipeline.job import Store

WRITES = """CREATE TABLE IF NOT EXISTS ray_pipeline_writes (
    table_name text PRIMARY KEY, version text NOT NULL, rows bigint NOT NULL,
    written timestamptz NOT NULL DEFAULT now())"""
NOTE = """INSERT INTO ray_pipeline_writes (table_name, version, rows) VALUES (%s, %s, %s)
    ON CONFLICT (table_name) DO UPDATE
    SET version = excluded.version, rows = excluded.rows, written = now()"""


class Postgres:
    def __init__(self, settings: Store) -> None:
        self.settings, self.table = settings, sql.Identifier(settings.table)
        self.key, self.vector = settings.key, settings.vector

    def version(self) -> str | None:
        with self._connected() as connection:
            connection.execute(WRITES)
            found = connection.execute(
                "SELECT version FROM ray_pipeline_writes WHERE table_name = %s",
                [self.settings.table],
            ).fetchone()
        return found["version"] if found else None

    def write(self, rows: pa.RecordBatchReader, version: str) -> int:
        with self._connected() as connection:
            connection.execute(WRITES)
            self._create(connection, rows.schema)
            connection.execute(
                sql.SQL("CREATE TEMP TABLE incoming (LIKE {}) ON COMMIT DROP").format(self.table)
            )
            count = _copied(connection, rows)
            self._take_over(connection, rows.schema.names)
            connection.execute(NOTE, [self.settings.table, version, count])
        return count

    def reset(self) -> None:
        with self._connected() as connection:
            connection.execute(WRITES)
            forget = "DELETE FROM ray_pipeline_writes WHERE table_name = %s"
            connection.execute(forget, [self.settings.table])

    def search(self, keys: Sequence[Any]) -> pa.Table:
        query = sql.SQL("SELECT * FROM {} WHERE {} = ANY(%s)").format(self.table, self._key())
        with self._connected() as connection:
            if not self._columns(connection):
                return pa.table({})
            return pa.Table.from_pylist(connection.execute(query, [list(keys)]).fetchall())

    def delete(self, keys: Sequence[Any] | None) -> int:
        of_keys = sql.SQL(" WHERE {} = ANY(%s)").format(self._key()) if keys is not None else None
        query = sql.SQL("DELETE FROM {}{}").format(self.table, of_keys or sql.SQL(""))
        with self._connected() as connection:
            if not self._columns(connection) or (keys is not None and not keys):
                return 0
            removed = int(
                connection.execute(query, None if keys is None else [list(keys)]).rowcount
            )
        with self._connected() as connection:  # the rows are only marked until then
            connection.commit()
            connection.autocommit = True
            connection.execute(sql.SQL("VACUUM {}").format(self.table))
        return removed

    def holding(self, column: str, texts: Collection[str]) -> list[Any]:
        query = sql.SQL("SELECT {} AS key FROM {} WHERE {}::text = ANY(%s)")
        with self._connected() as connection:
            if column not in self._columns(connection):
                return []
            asked = query.format(self._key(), self.table, sql.Identifier(column))
            return [row["key"] for row in connection.execute(asked, [sorted(texts)])]

    def nearest(self, vector: Sequence[float], count: int = 10, where: str = "") -> pa.Table:
        condition = sql.SQL(f" WHERE {where}" if where else "")
        template = "SELECT *, {v} <=> %s::vector AS distance FROM {t}{w} ORDER BY distance LIMIT %s"
        query = sql.SQL(template).format(
            v=sql.Identifier(str(self.vector)), t=self.table, w=condition
        )
        with self._connected() as connection:
            found = connection.execute(query, [_vector_text(vector), count]).fetchall()
        return pa.Table.from_pylist(found)

    def _create(self, connection: Any, schema: pa.Schema) -> None:
        if self.vector:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        columns = [
            sql.SQL("{} {}").format(sql.Identifier(field.name), sql.SQL(_type(field)))
            for field in schema
        ]
        if self.key:
            columns.append(sql.SQL("PRIMARY KEY ({})").format(self._key()))
        create = sql.SQL("CREATE TABLE IF NOT EXISTS {} ({})")
        connection.execute(create.format(self.table, sql.SQL(", ").join(columns)))
        names = self._columns(connection)
        if names != schema.names:
            raise DataError(
                f"the table has the columns {', '.join(names)}",
                where=f"stores, postgresql {self.settings.table}",
                expected=", ".join(schema.names),
                hint="drop the table, or write to another",
            )

    def _columns(self, connection: Any) -> list[str]:
        """The table's columns; none where there is no table."""
        there = connection.execute("SELECT to_regclass(%s) AS t", [f'"{self.settings.table}"'])
        if there.fetchone()["t"] is None:
            return []
        empty = connection.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(self.table))
        return [column.name for column in empty.description]

    def _take_over(self, connection: Any, names: Sequence[str]) -> None:
        if self.settings.mode == "replace":
            connection.execute(sql.SQL("TRUNCATE {}").format(self.table))
        take = sql.SQL("INSERT INTO {} SELECT * FROM incoming").format(self.table)
        if self.settings.mode == "upsert":
            others = [sql.Identifier(name) for name in names if name != self.key]
            changes = [sql.SQL("{0} = excluded.{0}").format(name) for name in others]
            update = sql.SQL("UPDATE SET ") + sql.SQL(", ").join(changes)
            what = update if changes else sql.SQL("NOTHING")
            take += sql.SQL(" ON CONFLICT ({}) DO {}").format(self._key(), what)
        try:
            connection.execute(take)
        except (psycopg.errors.UniqueViolation, psycopg.errors.CardinalityViolation) as error:
            raise DataError(
                "a key stands twice",
                where=f"stores, postgresql {self.settings.table}, column {self.key}",
                expected="a column that tells rows apart",
            ) from error

    def _key(self) -> sql.Identifier:
        if self.key is None:
            raise DataError(
                "rows are told apart by no column",
                where=f"stores, postgresql {self.settings.table}",
                hint="set `key`",
            )
        return sql.Identifier(self.key)

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """One transaction: it is kept if the block ends, and undone if it does not."""
        try:
            with psycopg.connect(address(self.settings), row_factory=dict_row) as connection:
                yield connection
        except psycopg.OperationalError as error:
            raise DataError(
                f"PostgreSQL: {str(error).strip().splitlines()[-1]}",
                where=f"stores, postgresql {self.settings.table}",
                hint="check that the server runs, and PGUSER and PGPASSWORD",
            ) from error


def _type(field: pa.Field) -> str:
    """The column type that holds a field's values. Raises DataError where there is none."""
    if pa.types.is_fixed_size_list(field.type):
        return f"vector({field.type.list_size})"
    for holds, name in _TYPES:
        if holds(field.type):
            return name
    raise DataError(f"column `{field.name}` holds {field.type}, which PostgreSQL does not")


_TYPES = (
    (pa.types.is_integer, "bigint"),
    (pa.types.is_floating, "double precision"),
    (pa.types.is_boolean, "boolean"),
    (pa.types.is_timestamp, "timestamptz"),
    (pa.types.is_date, "date"),
    (pa.types.is_string, "text"),
)


def _copied(connection: Any, rows: pa.RecordBatchReader) -> int:
    """Stream the rows into `incoming`; how many."""
    count = 0
    with connection.cursor().copy("COPY incoming FROM STDIN (FORMAT csv)") as copy:
        for batch in rows:
            buffer = io.BytesIO()
            options = pacsv.WriteOptions(include_header=False)  # nulls bare, texts in quotes
            pacsv.write_csv(_flat(batch), buffer, options)
            copy.write(buffer.getvalue())
            count += len(batch)
    return count


def _flat(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with vectors as the texts that pgvector reads."""
    for index, field in enumerate(batch.schema):
        if pa.types.is_fixed_size_list(field.type):
            texts = [
                None if v is None else _vector_text(v) for v in batch.column(index).to_pylist()
            ]
            batch = batch.set_column(index, field.name, pa.array(texts, pa.string()))
    return batch


def _vector_text(vector: Sequence[float]) -> str:
    return "[" + ",".join(map(repr, map(float, vector))) + "]"
