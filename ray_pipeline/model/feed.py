"""Prepared rows to a worker's training batches and validation chunks.

`memory` holds the matrices and takes rows by index; `stream` reads them again each epoch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import torch
from numpy.typing import NDArray
from torch import Tensor
from upath import UPath

from ray_pipeline.errors import TrainingError

CHUNK = 8192
"""Rows of a validation chunk."""
SHUFFLE_BATCHES = 32
"""Batches that a streamed row is shuffled among."""

Matrices = Mapping[str, NDArray[Any]]


class Rows(NamedTuple):
    """`numbers` [N, F] float32, `categories` [N, C] integer, `label` [N].

    `weight` [N] float32 is what a training row counts for in the loss; None where all count alike.
    """

    numbers: Tensor
    categories: Tensor
    label: Tensor
    weight: Tensor | None = None

    def to(self, device: torch.device) -> Rows:
        if device.type == "cpu":
            return self
        return self.mapped(lambda part: part.to(device, non_blocking=True))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Rows:
        """Each part changed in the same way."""
        weight = None if self.weight is None else change(self.weight)
        return Rows(change(self.numbers), change(self.categories), change(self.label), weight)


@dataclass(frozen=True)
class Place:
    """Where a worker stands: its rank among `world`, its device, and the order's seed."""

    rank: int
    world: int
    device: torch.device
    seed: int


class Feed(Protocol):
    """A worker's rows. `steps` is the same on every worker, and `share` the rows of its batch."""

    place: Place
    steps: int
    share: int

    def training(self, epoch: int) -> Iterator[Rows]:
        """The epoch's `steps` batches of `share` rows, in an order drawn from the seed."""

    def validation(self) -> Iterator[Rows]:
        """This worker's part of the validation rows; together the parts are all of them."""


class MemoryFeed:
    """Matrices in memory. The order of an epoch is the same for any number of workers.

    Each step takes the next `batch_size` rows of a permutation, a slice for each worker. Rows
    left over at the end of an epoch, fewer than a batch, wait for another permutation.
    """

    def __init__(
        self, train: Matrices, validation: Matrices, batch_size: int, place: Place
    ) -> None:
        self.place = place
        self.train = rows(train).to(place.device)
        own = slice(place.rank, None, place.world)
        self.held_out = rows(validation).mapped(itemgetter(own)).to(place.device)
        self.total = len(self.train.label)
        self.share, self.steps = _shared(self.total, batch_size, place.world)

    def training(self, epoch: int) -> Iterator[Rows]:
        generator = torch.Generator().manual_seed(self.place.seed * 1_000_003 + epoch)
        order = torch.randperm(self.total, generator=generator).to(self.place.device)
        width = self.share * self.place.world
        numbers, categories, label, weight = self.train
        for step in range(self.steps):
            start = step * width + self.place.rank * self.share
            index = order[start : start + self.share]
            yield Rows(
                numbers.index_select(0, index),
                categories.index_select(0, index),
                label.index_select(0, index),
                None if weight is None else weight.index_select(0, index),
            )

    def validation(self) -> Iterator[Rows]:
        for start in range(0, len(self.held_out.label), CHUNK):
            yield self.held_out.mapped(itemgetter(slice(start, start + CHUNK)))


class StreamFeed:
    """Parquet files that are read again each epoch: Ray Data's shard for training, the worker's
    own row groups for validation (an equal split would drop rows)."""

    def __init__(self, shard: Any, features: UPath, batch_size: int, place: Place) -> None:
        self.shard, self.features, self.place = shard, features, place
        total = dataset(features / "train").count_rows()
        self.share, self.steps = _shared(total, batch_size, place.world)

    def training(self, epoch: int) -> Iterator[Rows]:
        batches = self.shard.iter_batches(
            batch_size=self.share,
            batch_format="pyarrow",
            drop_last=True,
            local_shuffle_buffer_size=SHUFFLE_BATCHES * self.share,
            local_shuffle_seed=self.place.seed * 1_000_003 + epoch,
        )
        for _, table in zip(range(self.steps), batches, strict=False):
            yield rows(matrices(table)).to(self.place.device)

    def validation(self) -> Iterator[Rows]:
        groups = [
            group
            for fragment in dataset(self.features / "validation").get_fragments()
            for group in fragment.split_by_row_group()
        ]
        for group in groups[self.place.rank :: self.place.world]:
            for batch in group.to_batches(batch_size=CHUNK):
                yield rows(matrices(pa.Table.from_batches([batch]))).to(self.place.device)


def dataset(folder: UPath) -> pads.Dataset:
    """The parquet files of a folder, on any file system."""
    return pads.dataset(folder.path, filesystem=folder.fs, format="parquet")


def matrices(table: pa.Table) -> dict[str, NDArray[Any]]:
    """A prepared table's columns as arrays: `numbers` [N, F], `categories` [N, C], `label` [N],
    and `weight` [N] if the table has it."""
    return {
        "numbers": _matrix(table, "numbers", np.float32),
        "categories": _matrix(table, "categories", np.int32),
        "label": table["label"].to_numpy(),
        **({"weight": table["weight"].to_numpy()} if "weight" in table.column_names else {}),
    }


def rows(arrays: Matrices) -> Rows:
    """Tensors over the same memory as the arrays, which may be read-only: nothing writes there."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return Rows(*(torch.from_numpy(arrays[name]) for name in Rows._fields if name in arrays))


def _matrix(table: pa.Table, name: str, dtype: type[np.generic]) -> NDArray[Any]:
    if name not in table.column_names or not table[name].type.list_size:
        return np.empty((len(table), 0), dtype=dtype)
    return np.asarray(table[name].combine_chunks().flatten()).reshape(len(table), -1)


def _shared(total: int, batch_size: int, world: int) -> tuple[int, int]:
    """Rows of a worker's batch, and steps of an epoch."""
    share = min(batch_size, total) // world
    if share == 0:
        raise TrainingError(
            f"{min(batch_size, total)} rows a step cannot be shared by {world} workers",
            where="train.batch_size" if batch_size < world else "the training rows",
            hint="lower train.workers, or raise train.batch_size",
        )
    return share, total // (share * world)
