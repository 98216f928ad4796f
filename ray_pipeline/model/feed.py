"""Prepared rows to a worker's training batches and validation chunks.

`MemoryFeed` holds the matrices and takes rows by index; one that reads them is in `stream.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple, Protocol

import pyarrow.dataset as pads
import torch
from torch import Tensor
from upath import UPath

from ray_pipeline.data.matrices import INPUTS, Matrices, matrices
from ray_pipeline.errors import TrainingError
from ray_pipeline.model.batches import bucketed, chunks, lengths, trimmed

__all__ = ["Feed", "Matrices", "MemoryFeed", "Place", "Rows", "dataset", "matrices"]


class Mixed(NamedTuple):
    """What was mixed into the rows of a training step: the other rows' `label`, [N] or [N, K], and
    the `share` [N] that each row has of itself."""

    label: Tensor
    share: Tensor


class Rows(NamedTuple):
    """What a network is called with, by name, and what it should say: `label` [N], or [N, K] uint8
    where a row may have several.

    Of `inputs` those are there that the rows have: `numbers` [N, F] float32, `categories` [N, C]
    integer, `tokens` [N, T] integer, -1 after a text's end, `image` [N, H, W, C] uint8. `weight`
    [N] float32 is what a training row counts for in the loss; None where all count alike. `mixed`
    is of rows that are made of two.
    """

    inputs: dict[str, Tensor]
    label: Tensor
    weight: Tensor | None = None
    mixed: Mixed | None = None

    def to(self, device: torch.device) -> Rows:
        if device.type == "cpu":
            return self
        return self.mapped(lambda part: part.to(device, non_blocking=True))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Rows:
        """Each part changed in the same way."""
        weight = None if self.weight is None else change(self.weight)
        inputs = {name: change(part) for name, part in self.inputs.items()}
        mixed = None if self.mixed is None else Mixed(*(change(part) for part in self.mixed))
        return Rows(inputs, change(self.label), weight, mixed)


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

    def training(self, epoch: int, start: int = 0) -> Iterator[Rows]:
        """The epoch's `steps` batches of `share` rows, in an order drawn from the seed, from the
        batch `start` on."""

    def validation(self) -> Iterator[Rows]:
        """This worker's part of the validation rows; together the parts are all of them."""


class MemoryFeed:
    """Matrices in memory. The order of an epoch is the same for any number of workers.

    Each step takes the next `batch_size` rows of a permutation, a slice for each worker. Rows
    left over at the end of an epoch, fewer than a batch, wait for another permutation. Texts are
    put among others of about their length.
    """

    def __init__(
        self, train: Matrices, validation: Matrices, batch_size: int, place: Place
    ) -> None:
        self.place = place
        self.train = rows(train).to(place.device)
        own = slice(place.rank, None, place.world)
        self.held_out = rows(validation).mapped(itemgetter(own)).to(place.device)
        self.total = len(self.train.label)
        self.share, self.steps = shared(self.total, batch_size, place.world)
        tokens = self.train.inputs.get("tokens")
        self.lengths = None if tokens is None else lengths(tokens)

    def training(self, epoch: int, start: int = 0) -> Iterator[Rows]:
        generator = torch.Generator().manual_seed(self.place.seed * 1_000_003 + epoch)
        order = torch.randperm(self.total, generator=generator).to(self.place.device)
        width = self.share * self.place.world
        if self.lengths is not None:
            order = bucketed(order, self.lengths, width, generator)
        for step in range(start, self.steps):
            first = step * width + self.place.rank * self.share
            yield taken(self.train, order[first : first + self.share])

    def validation(self) -> Iterator[Rows]:
        yield from chunked(self.held_out)


def dataset(folder: UPath) -> pads.Dataset:
    """The parquet files of a folder, on any file system."""
    return pads.dataset(folder.path, filesystem=folder.fs, format="parquet")


def row_groups(folder: UPath) -> list[pads.ParquetFileFragment]:
    """The row groups of a folder's files, each of which can be read for itself."""
    found = dataset(folder).get_fragments()
    return [group for fragment in found for group in fragment.split_by_row_group()]


def rows(arrays: Matrices) -> Rows:
    """Tensors over the same memory as the arrays, which may be read-only: nothing writes there."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        inputs = {name: torch.from_numpy(arrays[name]) for name in INPUTS if name in arrays}
        label = torch.from_numpy(arrays["label"])
        return Rows(
            inputs, label, torch.from_numpy(arrays["weight"]) if "weight" in arrays else None
        )


def chunked(held_out: Rows) -> Iterator[Rows]:
    """Validation rows, as many at a time as fit into memory."""
    for places, inputs in chunks(held_out.inputs) if len(held_out.label) else ():
        yield Rows(inputs, held_out.label[places])


def taken(held: Rows, index: Tensor) -> Rows:
    """The rows at some places, texts cut to the longest among them."""
    batch = held.mapped(lambda part: part.index_select(0, index))
    return batch._replace(inputs=trimmed(batch.inputs))


def shared(total: int, batch_size: int, world: int) -> tuple[int, int]:
    """Rows of a worker's batch, and steps of an epoch.

    Raises:
        TrainingError: a step has fewer rows than there are workers.
    """
    share = min(batch_size, total) // world
    if share == 0:
        raise TrainingError(
            f"{min(batch_size, total)} rows a step cannot be shared by {world} workers",
            where="train.batch_size" if batch_size < world else "the training rows",
            hint="lower train.workers, or raise train.batch_size",
        )
    return share, total // (share * world)
