"""READERS: for each format, the columns of a file, what their types say, and its rows as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from upath import UPath

from ray_pipeline.data import sources
from ray_pipeline.data.faults import told
from ray_pipeline.data.readers import columnar, delimited, delta, excel, iceberg, jsonl, lance
from ray_pipeline.data.readers.versioned import TableFormat
from ray_pipeline.data.sources import Format, Piece
from ray_pipeline.job import Data
from ray_pipeline.schema import Kind


def untyped(path: UPath, data: Data) -> dict[str, Kind]:
    """The kinds that a format without types tells: none."""
    return {}


class Reader(NamedTuple):
    """How a format is read. What the path is read with, `sheet` or `version`, is in `data.source`.

    `names(path, data)`: the columns, in order.
    `tables(piece, data, names)`: tables as rows.py describes; columns have any flat Arrow type.
    `kinds(path, data)`: what the file's own types say; of all columns, of some, or of none.
    `pieces(path, data)`: what one task each reads; if absent, by bytes, or the file whole.
    `version(path, data)`: JSON-able, other when the rows are; the file's size and time if absent.
    """

    names: Callable[[UPath, Data], list[str]]
    tables: Callable[[Piece, Data, Sequence[str]], Iterator[pa.Table]]
    kinds: Callable[[UPath, Data], dict[str, Kind]] = untyped
    pieces: Callable[[UPath, Data], list[Piece]] | None = None
    version: Callable[[UPath, Data], Any] | None = None


def _versioned(tables: TableFormat) -> Reader:
    return Reader(tables.names, tables.tables, tables.kinds, tables.pieces, tables.version)


READERS: dict[Format, Reader] = {
    "csv": Reader(delimited.names, delimited.tables),
    "tsv": Reader(delimited.names, delimited.tables),
    "jsonl": Reader(jsonl.names, jsonl.tables),
    "parquet": Reader(columnar.parquet_names, columnar.parquet_tables, columnar.parquet_kinds),
    "arrow": Reader(columnar.arrow_names, columnar.arrow_tables, columnar.arrow_kinds),
    "excel": Reader(excel.names, excel.tables, pieces=excel.pieces),
    "delta": _versioned(TableFormat(delta.opened)),
    "iceberg": _versioned(TableFormat(iceberg.opened)),
    "lance": _versioned(TableFormat(lance.opened)),
}


def names(path: UPath, data: Data) -> list[str]:
    """The columns of a file or table, in order. Raises DataError."""
    with told(path):
        return _reader(path, data).names(path, data)


def kinds(path: UPath, data: Data) -> dict[str, Kind]:
    """The kinds that the types of a file or table say. Raises DataError."""
    with told(path):
        return _reader(path, data).kinds(path, data)


def version(path: UPath, data: Data) -> Any:
    """What a file's or table's content hangs on, JSON-able; a change of it changes this."""
    with told(path):
        own = _reader(path, data).version
        return own(path, data) if own else state(path)


def state(path: UPath) -> Any:
    """What tells a file's content from what it was, JSON-able: the tag that an object store gives
    it, else its size and time, else all that fsspec knows."""
    info = path.fs.info(path.path)
    tag = info.get("ETag") or info.get("etag") or info.get("mtime")
    return [tag, info["size"]] if tag else path.fs.ukey(path.path)


def pieces(paths: Sequence[UPath], data: Data) -> list[Piece]:
    """What one task each reads, of all `paths`. Raises DataError."""
    found: list[Piece] = []
    plain = []
    for path in paths:
        own = _reader(path, data).pieces
        if own is None:
            plain.append(path)
            continue
        with told(path):
            found += own(path, data)
    return found + sources.pieces(plain, data)


def tables(piece: Piece, data: Data, names: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of a piece. Raises DataError where it cannot be read to its end."""
    with told(piece.path):
        yield from READERS[piece.format].tables(piece, data, names)


def _reader(path: UPath, data: Data) -> Reader:
    return READERS[sources.format_of(path, data)]
