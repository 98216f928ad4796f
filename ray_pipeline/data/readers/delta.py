"""Delta tables, through delta-rs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from upath import UPath

from ray_pipeline.data.faults import missing
from ray_pipeline.data.readers.stores import options
from ray_pipeline.data.readers.versioned import Table, Version
from ray_pipeline.errors import DataError


def opened(path: UPath, version: Version = None) -> Table:
    """A Delta table as it is, or was: at a version's number, or at a time (ISO 8601).

    With deletion vectors or column mapping it is read in one task, in an order of the engine's.
    """
    table = _table(path, version)
    identity = f"{table.metadata().id} {table.version()}"
    schema = pa.schema(table.schema().to_arrow())
    if _needs_engine(table):

        def whole(start: int, end: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
            yield from pa.RecordBatchReader.from_stream(table.scan(columns=columns))

        return Table(schema, table.version(), identity, [(0, 0)], whole)

    dataset = table.to_pyarrow_dataset()
    fragments = sorted(dataset.get_fragments(), key=lambda fragment: str(fragment.path))

    def scan(start: int, end: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
        for fragment in fragments[start:end]:
            yield from fragment.to_batches(
                schema=dataset.schema, columns=columns, use_threads=False
            )

    return Table(dataset.schema, table.version(), identity, _files(table, fragments), scan)


def _table(path: UPath, version: Version) -> Any:
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError
    except ImportError:
        raise missing("deltalake", "delta", str(path)) from None
    try:
        number = version if isinstance(version, int) else None
        table = DeltaTable(str(path), version=number, storage_options=options())
        if isinstance(version, str):
            table.load_as_version(version)
    except (DeltaError, OSError, ValueError) as error:
        at = "" if version is None else f" at version {version}"
        message = str(error).partition("\n")[0]
        raise DataError(f"no Delta table{at}: {message}", where=str(path)) from error
    return table


def _needs_engine(table: Any) -> bool:
    """Whether Arrow alone would misread the data files: take deleted rows, or miss columns."""
    mapping = table.metadata().configuration.get("delta.columnMapping.mode", "none")
    return mapping != "none" or "deletionVectors" in (table.protocol().reader_features or ())


def _files(table: Any, fragments: list[Any]) -> list[tuple[int, int]]:
    """Bytes and rows of each fragment, counted in the file where the log does not say."""
    actions = pa.table(table.get_add_actions(flatten=True))
    columns = [actions[name].to_pylist() for name in ("path", "size_bytes", "num_records")]
    said = {_spelled(path): (size, rows) for path, size, rows in zip(*columns, strict=True)}
    found = []
    for fragment in fragments:
        size, rows = said[_spelled(fragment.path)]
        found.append((size, fragment.count_rows() if rows is None else rows))
    return found


def _spelled(path: str) -> str:
    """A path without escapes: those of partition values are escaped again in one of the two."""
    while (plain := unquote(path)) != path:
        path = plain
    return path
