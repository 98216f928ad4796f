"""A table of Parquet files: one folder a version, and a list of versions that is replaced whole."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from upath import UPath

from ray_pipeline import files
from ray_pipeline.data import parsing, parts
from ray_pipeline.errors import DataError
from ray_pipeline.job import Store

ROWS = 1_000_000
"""Rows of a file."""


class Parquet:
    def __init__(self, settings: Store) -> None:
        self.root, self.key = UPath(settings.url), settings.key

    def versions(self) -> list[dict[str, Any]]:
        """All versions, oldest first: `version`, `rows`, `written`."""
        path = self.root / "versions.json"
        return list(json.loads(path.read_text())) if path.exists() else []

    def version(self) -> str | None:
        known = self.versions()
        return known[-1]["version"] if known else None

    def write(self, rows: pa.RecordBatchReader, version: str) -> int:
        folder = self.root / version
        files.clear(folder)
        count = number = 0
        for table in _files_of(rows):
            parts.written(table, folder / f"part-{number:05}.parquet")
            count, number = count + len(table), number + 1
        entry = {
            "version": version,
            "rows": count,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        others = [known for known in self.versions() if known["version"] != version]
        self._list([*others, entry])
        return count

    def read(self, version: str | None = None) -> pa.Table:
        """All rows of a version, the newest if none is named."""
        chosen = version or self.version()
        if chosen is None or all(known["version"] != chosen for known in self.versions()):
            raise DataError(f"there is no version `{chosen}`", where=str(self.root))
        folder = self.root / chosen
        return pads.dataset(folder.path, filesystem=folder.fs, format="parquet").to_table()

    def reset(self) -> None:
        self._keep([])  # a folder that no version names is none of the table's rows

    def search(self, keys: Sequence[Any]) -> pa.Table:
        if self.version() is None:
            return pa.table({})
        rows = self.read()
        return rows.filter(pc.is_in(rows[self._key()], pa.array(keys)))

    def delete(self, keys: Sequence[Any] | None) -> int:
        newest, removed = self.version(), 0
        if keys is None:
            removed = sum(e["rows"] for e in self.versions() if e["version"] == newest)
            self._keep([])
            return removed
        for known in self.versions():
            for path in parts.files(self.root / known["version"]):
                rows = parts.read(path)
                kept = rows.filter(pc.invert(pc.is_in(rows[self._key()], pa.array(keys))))
                if len(kept) < len(rows):
                    removed += (len(rows) - len(kept)) * (known["version"] == newest)
                    beside = path.with_name(f".{path.name}")
                    parts.written(kept, beside)
                    files.write_whole(path, beside.read_bytes())
                    beside.unlink()
        return removed

    def holding(self, column: str, texts: Collection[str]) -> list[Any]:
        found: list[Any] = []
        for known in self.versions():
            for path in parts.files(self.root / known["version"]):
                if column in (rows := parts.read(path)).column_names:
                    held = pc.is_in(parsing.as_texts(rows[column]), pa.array(sorted(texts)))
                    found += rows.filter(held)[self._key()].to_pylist()
        return list(dict.fromkeys(found))

    def trim(self, before: datetime) -> None:
        known = self.versions()
        fresh = [e for e in known[:-1] if datetime.fromisoformat(e["written"]) >= before]
        self._keep([*fresh, *known[-1:]])

    def _keep(self, entries: list[dict[str, Any]]) -> None:
        """Remove all versions but these: their folders first, so that none is left unlisted."""
        names = {entry["version"] for entry in entries}
        for known in self.versions():
            if known["version"] not in names:
                files.clear(self.root / known["version"])
        self._list(entries)

    def _list(self, entries: list[dict[str, Any]]) -> None:
        files.write_whole(self.root / "versions.json", json.dumps(entries, indent=1).encode())

    def _key(self) -> str:
        if self.key is None:
            raise DataError(
                "rows are told apart by no column", where=str(self.root), hint="set `key`"
            )
        return self.key


def _files_of(rows: pa.RecordBatchReader) -> Any:
    """The rows as tables of at most about ROWS rows; one empty table if there are none."""
    held: list[pa.RecordBatch] = []
    written = False
    for batch in rows:
        held.append(batch)
        if sum(map(len, held)) >= ROWS:
            yield pa.Table.from_batches(held)
            held, written = [], True
    if held or not written:
        yield pa.Table.from_batches(held, rows.schema)
