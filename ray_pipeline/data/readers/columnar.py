"""Parquet and Arrow files: columns that already have types, and keep them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
from upath import UPath

from ray_pipeline.data import sources
from ray_pipeline.data.readers.rows import numbered
from ray_pipeline.data.readers.types import check_flat, kinds_of
from ray_pipeline.data.sources import Piece
from ray_pipeline.errors import DataError
from ray_pipeline.job import Data
from ray_pipeline.schema import Kind

BATCH_ROWS = 1 << 18
"""Rows of Parquet in one table: few enough for little memory, enough for little overhead."""


def parquet_names(path: UPath, data: Data) -> list[str]:
    with _parquet(path) as file:
        return list(file.schema_arrow.names)


def parquet_kinds(path: UPath, data: Data) -> dict[str, Kind]:
    with _parquet(path) as file:
        return kinds_of(file.schema_arrow)


def parquet_tables(piece: Piece, data: Data, names: Sequence[str]) -> Iterator[pa.Table]:
    """Rows of Parquet, numbered from 1. A piece's range is one of row groups.

    Texts stay in the dictionaries that Parquet has them in, unless they are worked on: a look at
    each different text costs less than one at each row.
    """
    plain = bool(data.clean.steps or data.privacy or data.expect)
    with _parquet(piece.path) as file:
        schema = file.schema_arrow
    texts = [] if plain else [n for n in names if n in schema.names and _is_text(schema, n)]
    with _parquet(piece.path, read_dictionary=texts) as file:
        _check(schema, names, piece)
        groups = range(piece.start, file.num_row_groups if piece.end is None else piece.end)
        batches = file.iter_batches(BATCH_ROWS, row_groups=groups, columns=list(names))
        yield from _numbered(batches, names, piece.lines)


def _is_text(schema: pa.Schema, name: str) -> bool:
    return bool(pa.types.is_string(schema.field(name).type))


@contextmanager
def _parquet(path: UPath, read_dictionary: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
    with path.open("rb") as file:
        try:
            parquet = pq.ParquetFile(
                file, read_dictionary=list(read_dictionary), page_checksum_verification=True
            )
        except pa.ArrowInvalid as error:
            raise DataError(
                f"not a Parquet file: {error}",
                where=str(path),
                hint="if it was cut off on its way, copy it again",
            ) from None
        yield parquet


def arrow_names(path: UPath, data: Data) -> list[str]:
    with _arrow(path) as (schema, _):
        return list(schema.names)


def arrow_kinds(path: UPath, data: Data) -> dict[str, Kind]:
    with _arrow(path) as (schema, _):
        return kinds_of(schema)


def arrow_tables(piece: Piece, data: Data, names: Sequence[str]) -> Iterator[pa.Table]:
    """Rows of an Arrow IPC file (Feather) or stream, numbered from 1."""
    with _arrow(piece.path) as (schema, batches):
        _check(schema, names, piece)
        yield from _numbered(batches, names)


@contextmanager
def _arrow(path: UPath) -> Iterator[tuple[pa.Schema, Iterable[pa.RecordBatch]]]:
    """The schema and the batches, of which one at a time is in memory."""
    with sources.opened(path) as file:
        try:
            if file.read(6) == b"ARROW1":
                found: Any = pyarrow.ipc.open_file(file)
                batches = (found.get_batch(i) for i in range(found.num_record_batches))
            else:
                file.seek(0)
                found = batches = pyarrow.ipc.open_stream(file)
        except pa.ArrowInvalid as error:
            raise DataError(
                f"not an Arrow file: {error}",
                where=str(path),
                hint="if it was cut off on its way, copy it again; a file of Feather's first "
                "version must be written anew",
            ) from None
        yield found.schema, batches


def _check(schema: pa.Schema, names: Sequence[str], piece: Piece) -> None:
    sources.checked_names(schema.names, names, str(piece.path))
    check_flat(schema, names, str(piece.path))


def _numbered(
    batches: Iterable[pa.RecordBatch], names: Sequence[str], last: int = 0
) -> Iterator[pa.Table]:
    for batch in batches:
        table = pa.Table.from_batches([batch]).select(list(names))
        yield numbered(table, np.arange(last + 1, last + 1 + len(table)))
        last += len(table)
