"""Delta, Iceberg and Lance: folders that keep tables by version, read by runs of data files.

Each library's own scan does the reading, so that rows which a version has deleted stay out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from upath import UPath

from ray_pipeline.data import sources
from ray_pipeline.data.readers.rows import numbered
from ray_pipeline.data.readers.types import check_flat, kinds_of, plain
from ray_pipeline.data.sources import PIECE_BYTES, Piece
from ray_pipeline.job import Data
from ray_pipeline.schema import Kind

Version: TypeAlias = int | str | None


class Table(NamedTuple):
    """One version of a table.

    `version` is how its library finds it again and `identity` what tells it from every other;
    `files` are the bytes and rows of its data files, in an order that is the version's own, and
    `scan(start, end, columns)` reads a run of them. Deleted rows may be among those counted.
    """

    schema: pa.Schema
    version: Version
    identity: str
    files: list[tuple[int, int]]
    scan: Callable[[int, int, list[str]], Iterable[pa.RecordBatch]]


class TableFormat(NamedTuple):
    """A reader's functions for the format whose tables `opened(path, version)` opens."""

    opened: Callable[[UPath, Version], Table]

    def _of(self, path: UPath, data: Data) -> Table:
        return self.opened(path, data.source.version)

    def names(self, path: UPath, data: Data) -> list[str]:
        return list(self._of(path, data).schema.names)

    def kinds(self, path: UPath, data: Data) -> dict[str, Kind]:
        return kinds_of(self._of(path, data).schema)

    def version(self, path: UPath, data: Data) -> str:
        """What the table's content hangs on: the same while the version is."""
        return self._of(path, data).identity

    def pieces(self, path: UPath, data: Data) -> list[Piece]:
        """Runs of data files of about PIECE_BYTES, all of the version that is there now."""
        table = self._of(path, data)
        format_ = sources.format_of(path, data)
        return [
            Piece(path, format_, start, end, rows, table.version)
            for start, end, rows in runs(table.files, PIECE_BYTES)
        ]

    def tables(self, piece: Piece, data: Data, names: Sequence[str]) -> Iterator[pa.Table]:
        """Rows by their place among the version's data files, typed as the table has them."""
        version = data.source.version if piece.part is None else piece.part
        table = self.opened(piece.path, version)
        sources.checked_names(table.schema.names, names, str(piece.path))
        check_flat(table.schema, names, str(piece.path))
        end = len(table.files) if piece.end is None else piece.end
        wanted = pa.schema([(name, plain(table.schema.field(name).type)) for name in names])
        last = piece.lines
        for batch in table.scan(piece.start, end, list(names)):
            rows = pa.Table.from_batches([batch]).select(list(names)).cast(wanted)
            yield numbered(rows, np.arange(last + 1, last + 1 + len(rows)))
            last += len(rows)


def runs(files: Sequence[tuple[int, int]], size: int) -> list[tuple[int, int, int]]:
    """Files by their bytes and rows, as runs [start, end) of at least `size` bytes but the last,
    each with the number of rows before it."""
    found, start, begun, held, rows = [], 0, 0, 0, 0
    for index, (count, more) in enumerate(files):
        held, rows = held + count, rows + more
        if held >= size or index == len(files) - 1:
            found.append((start, index + 1, begun))
            start, begun, held = index + 1, rows, 0
    return found
