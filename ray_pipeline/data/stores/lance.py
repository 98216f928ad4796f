"""A Lance table: a write is one commit, whose number the version is a tag of."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import lance
import pyarrow as pa
from upath import UPath

from ray_pipeline.data.stores import sql
from ray_pipeline.job import Store

ERASED = "ray_pipeline.erased"


class Lance:
    def __init__(self, settings: Store) -> None:
        self.url, self.key, self.mode = settings.url, settings.key, settings.mode

    def version(self) -> str | None:
        table = self._table()
        if table is None:
            return None
        tags = table.tags.list()
        return max(tags, key=lambda name: tags[name]["version"], default=None)

    def write(self, rows: pa.RecordBatchReader, version: str) -> int:
        table = self._table()
        if table is None or self.mode == "replace":
            table = lance.write_dataset(rows, self.url, mode="overwrite")
            count = table.count_rows()
        else:
            merged = (
                table.merge_insert(str(self.key))
                .when_matched_update_all()
                .when_not_matched_insert_all()
                .execute(rows)
            )
            count = merged["num_inserted_rows"] + merged["num_updated_rows"]
            table = lance.dataset(self.url)
        tags = table.tags.list()
        (table.tags.update if version in tags else table.tags.create)(version, table.version)
        return int(count)

    def reset(self) -> None:
        if (table := self._table()) is not None:
            for tag in table.tags.list():
                table.tags.delete(tag)

    def search(self, keys: Sequence[Any]) -> pa.Table:
        table = self._table()
        if table is None:
            return pa.table({})
        found = [table.to_table(filter=f) for f in sql.among(str(self.key), keys, "`")]
        return pa.concat_tables(found) if found else table.to_table(limit=0)

    def delete(self, keys: Sequence[Any] | None) -> int:
        table, removed = self._table(), 0
        if table is None:
            return 0
        newest = self.version()
        before = table.count_rows()
        for condition in sql.among(str(self.key), keys, "`"):
            table.delete(condition)
        removed = before - table.count_rows()
        # Rows are only marked: write the files anew, and drop the versions that still hold them.
        # The newest version says how it came to be, so that must not be by a condition on keys.
        table.update_config({ERASED: newest or ""})
        table.optimize.compact_files(materialize_deletions_threshold=0.0)
        for tag in table.tags.list():
            table.tags.delete(tag)
        table.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
        if newest:
            table.tags.create(newest, table.version)
        return removed

    def holding(self, column: str, texts: Collection[str]) -> list[Any]:
        table = self._table()
        if table is None or column not in table.schema.names:
            return []
        held = sql.texts_among(column, texts, "`")
        return list(table.to_table(columns=[str(self.key)], filter=held)[0].to_pylist())

    def trim(self, before: datetime) -> None:
        if (table := self._table()) is not None:
            newest = self.version()
            for tag in table.tags.list():
                if tag != newest:
                    table.tags.delete(tag)
            age = max(datetime.now(UTC) - before, timedelta(0))
            table.cleanup_old_versions(older_than=age, delete_unverified=True)

    def _table(self) -> lance.LanceDataset | None:
        if not (UPath(self.url) / "_versions").exists():
            return None
        return lance.dataset(self.url)
