"""Vectors in LanceDB, embedded: a folder, no server."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import lancedb
import pyarrow as pa
from upath import UPath

from ray_pipeline import files
from ray_pipeline.data.stores import sql
from ray_pipeline.data.stores.rows import unique
from ray_pipeline.errors import DataError
from ray_pipeline.job import Store

INDEXED = 50_000
"""From this many rows on vectors are searched through an index; below, all are compared."""

_VECTORS = "vectors of one length: FixedSizeList<float32>"


class LanceDb:
    def __init__(self, settings: Store) -> None:
        self.settings = settings
        self.key, self.vector = str(settings.key), str(settings.vector)
        self.database = lancedb.connect(settings.url)
        self.marker = UPath(settings.url) / f"{settings.table}.version"

    def version(self) -> str | None:
        return self.marker.read_text() if self.marker.exists() else None

    def write(self, rows: pa.RecordBatchReader, version: str) -> int:
        table = self._table(rows.schema)
        before = table.version
        merge = table.merge_insert(self.key).when_matched_update_all()
        merge = merge.when_not_matched_insert_all()
        if self.settings.mode == "replace":
            merge = merge.when_not_matched_by_source_delete()
        held = rows.read_all()  # the merge looks at all of it
        unique(held[self.key], self.settings)
        merge.execute(held)
        if table.count_rows() >= INDEXED and table.version != before:
            table.create_index(metric="cosine", vector_column_name=self.vector, replace=True)
        files.write_whole(self.marker, version.encode())
        return len(held)

    def reset(self) -> None:
        self.marker.unlink(missing_ok=True)

    def search(self, keys: Sequence[Any]) -> pa.Table:
        table = self._opened()
        if table is None:
            return pa.table({})
        found = [
            table.search().where(c).limit(sql.MOST).to_arrow()
            for c in sql.among(self.key, keys, "`")
        ]
        return pa.concat_tables(found) if found else table.to_arrow().slice(0, 0)

    def delete(self, keys: Sequence[Any] | None) -> int:
        table = self._opened()
        if table is None:
            return 0
        before = table.count_rows()
        for condition in sql.among(self.key, keys, "`"):
            table.delete(condition)
        removed = int(before - table.count_rows())
        # The newest version says how it came to be: that must not be by a condition on keys.
        table.to_lance().update_config({"ray_pipeline.erased": self.version() or ""})
        table.checkout_latest()
        self._tidied(table, timedelta(0))
        return removed

    def holding(self, column: str, texts: Collection[str]) -> list[Any]:
        table = self._opened()
        if table is None or column not in table.schema.names:
            return []
        query = table.search().where(sql.texts_among(column, texts, "`")).select([self.key])
        return list(query.limit(table.count_rows() or 1).to_arrow()[self.key].to_pylist())

    def trim(self, before: datetime) -> None:
        if (table := self._opened()) is not None:
            self._tidied(table, max(datetime.now(UTC) - before, timedelta(0)))

    @staticmethod
    def _tidied(table: Any, age: timedelta) -> None:
        """Write the files anew, for deleted rows are only marked, and drop versions of that age.

        It warns of readers of the old ones, which is what an erasure is to stop.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            table.optimize(cleanup_older_than=age, delete_unverified=True)

    def nearest(self, vector: Sequence[float], count: int = 10, where: str = "") -> pa.Table:
        query = self._table().search(list(vector), vector_column_name=self.vector)
        query = query.distance_type("cosine").limit(count)
        if where:
            query = query.where(where, prefilter=True)
        found = query.to_arrow()
        names = ["distance" if name == "_distance" else name for name in found.column_names]
        return found.rename_columns(names)

    def _opened(self) -> Any:
        """The table; None where nothing was written yet."""
        folder = UPath(self.settings.url) / f"{self.settings.table}.lance"
        return self.database.open_table(self.settings.table) if folder.exists() else None

    def _table(self, schema: pa.Schema | None = None) -> Any:
        name = self.settings.table
        if schema is None:
            return self.database.open_table(name)
        vector = schema.field(self.vector)
        if not pa.types.is_fixed_size_list(vector.type):
            raise self._unfit(f"column `{self.vector}` holds {vector.type}", _VECTORS)
        table = self._opened()
        if table is None:
            return self.database.create_table(name, schema=schema)
        if sorted(table.schema.names) != sorted(schema.names):
            there = f"the table has the columns {', '.join(table.schema.names)}"
            raise self._unfit(there, ", ".join(schema.names))
        return table

    def _unfit(self, what: str, expected: str) -> DataError:
        return DataError(what, where=f"stores, lancedb {self.settings.table}", expected=expected)
