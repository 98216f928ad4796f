"""The rows in shares of one task each, which reads its share twice: to compare, then to write.

Rows never lie in memory all at once, however many there are. Between the two readings a copy of
the typed rows is kept on disk: parsing costs more than the copy, and a database may answer
otherwise. Where disk is an object store, Parquet is read again instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import ray
from upath import UPath

from ray_pipeline.data.sources import Piece
from ray_pipeline.files import LOCAL
from ray_pipeline.job import Data

Read = Callable[[], Iterable[pa.Table]]


@dataclass(frozen=True)
class Share:
    """`read` yields its rows as tables; `copy` is where they are kept once they were read."""

    number: int
    read: Read
    copy: UPath | None = None

    def first(self) -> Iterator[pa.Table]:
        """The rows, which are kept if they are to be."""
        yield from self.read() if self.copy is None else _copied(self.read(), self.copy)

    def again(self) -> Iterator[pa.Table]:
        """The same rows in the same tables."""
        if self.copy is not None and self.copy.exists():
            yield from _kept(self.copy)
        else:
            yield from self.read()


def of_pieces(
    pieces: Iterable[tuple[Any, Read]], data: Data, scratch: UPath, first: int = 0
) -> list[Share]:
    """A share for each piece of a source and what reads it, numbered from `first`."""
    local = scratch.protocol in LOCAL
    return [
        Share(
            number,
            read,
            scratch / f"{number:06d}.arrow" if local or not _cheap(piece, data) else None,
        )
        for number, (piece, read) in enumerate(pieces, start=first)
    ]


def of_blocks(references: Iterable[Any]) -> list[Share]:
    """A share for each table in the object store."""
    return [Share(number, partial(_block, found)) for number, found in enumerate(references)]


def _block(reference: Any) -> list[pa.Table]:
    return [ray.get(reference)]


def _cheap(piece: Any, data: Data) -> bool:
    return isinstance(piece, Piece) and piece.format == "parquet" and data.privacy is None


def _copied(tables: Iterable[pa.Table], path: UPath) -> Iterator[pa.Table]:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A disk takes the bytes sooner than they are compressed; an object store does not.
    options = pa.ipc.IpcWriteOptions(compression=None if path.protocol in LOCAL else "lz4")
    with ExitStack() as stack:
        file = stack.enter_context(path.open("wb"))
        writer = None
        for table in tables:
            if writer is None:
                writer = pa.ipc.new_stream(file, table.schema, options=options)
                stack.enter_context(writer)
            writer.write_table(table)
            yield table


def _kept(path: UPath) -> Iterator[pa.Table]:
    if not path.stat().st_size:  # a share without rows
        return
    mapped = path.protocol in LOCAL
    with pa.memory_map(str(path)) if mapped else path.open("rb") as file:
        for batch in pa.ipc.open_stream(file):
            yield pa.Table.from_batches([batch])
