"""A Lance table: a write is one commit, whose number the version is a tag of."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import lance
import pyarrow as pa
from upath import UPath

from ray_pipeline.data.stores import sql
from ray_pipeline.job import Store


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

    def search(self, keys: Sequence[Any]) -> pa.Table:
        table = self._table()
        assert table is not None, "nothing was written yet"
        found = [table.to_table(filter=f) for f in sql.among(str(self.key), keys, "`")]
        return pa.concat_tables(found) if found else table.to_table(limit=0)

    def delete(self, keys: Sequence[Any]) -> int:
        table, removed = self._table(), 0
        if table is None:
            return 0
        newest = self.version()
        before = table.count_rows()
        for condition in sql.among(str(self.key), keys, "`"):
            table.delete(condition)
        removed = before - table.count_rows()
        # Rows are only marked: write the files anew, and drop the versions that still hold them.
        table.optimize.compact_files(materialize_deletions_threshold=0.0)
        for tag in table.tags.list():
            table.tags.delete(tag)
        table.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
        if newest:
            table.tags.create(newest, table.version)
        return removed

    def _table(self) -> lance.LanceDataset | None:
        if not (UPath(self.url) / "_versions").exists():
            return None
        return lance.dataset(self.url)
