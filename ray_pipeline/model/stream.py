"""Prepared rows read from their files in each epoch, for those that no memory holds.

A worker reads them itself, a thread ahead of its training. Ray Data has prepared them; to read them
by its tasks as well would cost two seconds at the begin of each epoch, a copy of all rows in the
object store, and the place where an interrupted epoch was.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pyarrow as pa
import pyarrow.dataset as pads
import torch
from upath import UPath

from ray_pipeline.data.matrices import matrices
from ray_pipeline.model.batches import CHUNK, POOL, bucketed, lengths
from ray_pipeline.model.feed import Place, Rows, chunked, row_groups, rows, shared, taken

READ_ROWS = 8192
"""Rows that are read at a time: of a row group no more than these and those of a pool are held."""
T = TypeVar("T")


class StreamFeed:
    """Parquet files that are read again each epoch.

    An epoch takes the row groups in an order drawn from the seed, and each worker its share of
    those rows; a row is then mixed among those of POOL batches. Rows left over at the end are fewer
    than a batch.
    """

    def __init__(self, features: UPath, batch_size: int, place: Place) -> None:
        self.place = place
        self.groups = row_groups(features / "train")
        self.held_out = row_groups(features / "validation")[place.rank :: place.world]
        self.share, self.steps = shared(sum(map(_count, self.groups)), batch_size, place.world)

    def training(self, epoch: int, start: int = 0) -> Iterator[Rows]:
        """As of every feed. What lies before `start` is not read, but for its last pool."""
        seed = self.place.seed * 1_000_003 + epoch
        order = torch.randperm(len(self.groups), generator=torch.Generator().manual_seed(seed))
        own, width = self.place.rank * self.steps * self.share, POOL * self.share
        first, skipped = divmod(start, POOL)
        groups = [self.groups[place] for place in order.tolist()]
        read = tables(groups, own + first * width, own + self.steps * self.share, width)
        pools = ahead(rows(matrices(table)) for table in read)
        mixed = (
            _mixed(pool, self.share, seed * 1_000_003 + own + number * width)
            for number, pool in enumerate(pools, first)
        )
        for batch in itertools.islice(itertools.chain.from_iterable(mixed), skipped, None):
            yield batch.to(self.place.device)

    def validation(self) -> Iterator[Rows]:
        for group in self.held_out:
            for batch in group.to_batches(batch_size=CHUNK):
                for chunk in chunked(rows(matrices(pa.Table.from_batches([batch])))):
                    yield chunk.to(self.place.device)


def tables(
    groups: Sequence[pads.ParquetFileFragment], begin: int, end: int, size: int
) -> Iterator[pa.Table]:
    """The rows of `groups`, one group after the other, from the place `begin` to before `end`:
    `size` in each table, but in the last what is left."""
    held: list[pa.RecordBatch] = []
    for batch in _cut(groups, begin, end):
        held.append(batch)
        while sum(map(len, held)) >= size:
            whole = pa.Table.from_batches(held)
            yield whole.slice(0, size)
            held = whole.slice(size).to_batches()
    if held:
        yield pa.Table.from_batches(held)


def _cut(
    groups: Sequence[pads.ParquetFileFragment], begin: int, end: int
) -> Iterator[pa.RecordBatch]:
    """Those rows as they are read; a group without any of them is not."""
    at = 0
    for group in groups:
        if at + _count(group) <= begin:
            at += _count(group)
            continue
        for batch in group.to_batches(batch_size=READ_ROWS, use_threads=False):
            if at >= end:
                return
            if at + len(batch) > begin:
                first = max(begin - at, 0)
                yield batch.slice(first, end - at - first)
            at += len(batch)


def _count(group: pads.ParquetFileFragment) -> int:
    """Its rows; `count_rows` of a row group tells those of its file."""
    return sum(part.num_rows for part in group.row_groups)


def ahead(made: Iterator[T]) -> Iterator[T]:
    """`made`, of which a thread makes the next while one is used."""
    with ThreadPoolExecutor(1, "rows") as thread:
        coming = thread.submit(next, made, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, made, None)
            yield item


def _mixed(pool: Rows, size: int, seed: int) -> Iterator[Rows]:
    """A pool's rows in batches of `size`, in an order drawn, texts among others of their length."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    order = torch.randperm(len(pool.label), generator=generator)
    if "tokens" in pool.inputs:
        order = bucketed(order, lengths(pool.inputs["tokens"]), size, generator)
    for index in torch.split(order, size):
        yield taken(pool, index)
