"""Parquet: columns that already have types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from ray_pipeline.data import sources
from ray_pipeline.data.readers.rows import numbered
from ray_pipeline.data.readers.types import kinds_of, texts
from ray_pipeline.data.sources import Piece
from ray_pipeline.errors import DataError
from ray_pipeline.job import Data
from ray_pipeline.schema import Kind


def names(path: UPath, data: Data) -> list[str]:
    with _parquet(path) as file:
        return list(file.schema_arrow.names)


def kinds(path: UPath, data: Data) -> dict[str, Kind]:
    """The kinds that the file's types say."""
    with _parquet(path) as file:
        return kinds_of(file.schema_arrow)


def tables(piece: Piece, data: Data, names: Sequence[str]) -> Iterator[pa.Table]:
    """Rows of Parquet, numbered from 1; all types become texts, which for floats are exact."""
    last = 0
    where = str(piece.path)
    with _parquet(piece.path) as file:
        sources.checked_names(file.schema_arrow.names, names, where)
        for batch in file.iter_batches(columns=list(names)):
            columns = [texts(batch[name], name, where) for name in names]
            numbers = np.arange(last + 1, last + 1 + len(batch))
            last += len(batch)
            yield numbered(pa.table(columns, names=list(names)), numbers)


@contextmanager
def _parquet(path: UPath) -> Iterator[pq.ParquetFile]:
    with path.open("rb") as file:
        try:
            yield pq.ParquetFile(file)
        except pa.ArrowInvalid as error:
            raise DataError(f"not a Parquet file: {error}", where=str(path)) from None
