"""A Delta table: a write is one commit, which bears the version in its metadata."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import deltalake
import pyarrow as pa
from deltalake.exceptions import TableNotFoundError

from ray_pipeline.data.stores import sql
from ray_pipeline.job import Store

MARK = "ray_pipeline.version"


class Delta:
    def __init__(self, settings: Store) -> None:
        self.url, self.key, self.mode = settings.url, settings.key, settings.mode

    def version(self) -> str | None:
        table = self._table()
        for commit in table.history() if table else ():
            if MARK in commit:
                return str(commit[MARK]).strip() or None
        return None

    def write(self, rows: pa.RecordBatchReader, version: str) -> int:
        counted = _Counted(rows)
        properties = deltalake.CommitProperties(custom_metadata={MARK: version})
        table = self._table()
        if table is None or self.mode == "replace":
            deltalake.write_deltalake(
                self.url,
                counted.reader,
                mode="overwrite",
                schema_mode="overwrite",
                commit_properties=properties,
            )
        else:
            assert self.key is not None, "an upsert has a key"
            same = f"old.{sql.quoted(self.key)} = new.{sql.quoted(self.key)}"
            (
                table.merge(
                    counted.reader,
                    same,
                    source_alias="new",
                    target_alias="old",
                    commit_properties=properties,
                )
                .when_matched_update_all()
                .when_not_matched_insert_all()
                .execute()
            )
        return counted.rows

    def reset(self) -> None:
        if (table := self._table()) is not None:
            self._set_log(table, "interval 30 days", None)

    def search(self, keys: Sequence[Any]) -> pa.Table:
        table = self._table()
        if table is None:
            return pa.table({})
        return self._found(table, sql.among(str(self.key), keys))

    @staticmethod
    def _found(table: deltalake.DeltaTable, conditions: Iterable[str]) -> pa.Table:
        engine = deltalake.QueryBuilder().register("t", table)
        queries = (
            f"SELECT * FROM t WHERE {condition}"  # noqa: S608 - literals are escaped
            for condition in conditions
        )
        found = [_plain(pa.table(engine.execute(query).read_all())) for query in queries]
        return pa.concat_tables(found)

    def delete(self, keys: Sequence[Any] | None) -> int:
        table, removed, version = self._table(), 0, self.version()
        if table is None:
            return 0
        for condition in sql.among(str(self.key), keys):
            removed += table.delete(condition)["num_deleted_rows"] or 0
        # Old files still hold the rows, and the log their least and greatest values and the keys
        # of this erasure, until both are removed.
        table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
        self._set_log(table, "interval 0 days", version)
        table.create_checkpoint()
        time.sleep(0.002)  # a log as old as the bound is kept, and files have milliseconds
        table.cleanup_metadata()
        self._set_log(table, "interval 30 days", version)
        return removed

    def holding(self, column: str, texts: Collection[str]) -> list[Any]:
        table = self._table()
        if table is None or column not in {field.name for field in table.schema().fields}:
            return []
        found = self._found(table, [sql.texts_among(column, texts)])
        return list(found[str(self.key)].to_pylist())

    def trim(self, before: datetime) -> None:
        if (table := self._table()) is not None:
            hours = max(int((datetime.now(UTC) - before).total_seconds() // 3600), 0)
            table.vacuum(retention_hours=hours, dry_run=False, enforce_retention_duration=False)

    @staticmethod
    def _set_log(table: deltalake.DeltaTable, kept: str, version: str | None) -> None:
        """How long the log is kept; a commit that bears the version, as the log's last must."""
        marked = deltalake.CommitProperties(custom_metadata={MARK: version or " "})
        table.alter.set_table_properties(
            {"delta.logRetentionDuration": kept}, commit_properties=marked
        )

    def _table(self) -> deltalake.DeltaTable | None:
        try:
            return deltalake.DeltaTable(self.url)
        except TableNotFoundError:
            return None


def _plain(rows: pa.Table) -> pa.Table:
    """Texts as Arrow's ordinary strings: few of its functions take views."""
    fields = [
        field.with_type(pa.string()) if pa.types.is_string_view(field.type) else field
        for field in rows.schema
    ]
    return rows.cast(pa.schema(fields))


class _Counted:
    """A reader that counts the rows that went through it."""

    def __init__(self, rows: pa.RecordBatchReader) -> None:
        self.rows, self.source = 0, rows
        self.reader = pa.RecordBatchReader.from_batches(rows.schema, self._batches())

    def _batches(self) -> Any:
        for batch in self.source:
            self.rows += len(batch)
            yield batch
