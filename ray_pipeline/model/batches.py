"""Rows in the order and the number in which a network takes them: texts among their like."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ray_pipeline.data.matrices import INPUTS, LISTS, Matrices

Inputs = dict[str, Tensor]
"""What a network reads of N rows, by the name of its argument."""

CHUNK, WIDE_CHUNK, WIDEST_CHUNK = 8192, 256, 8
"""Rows that are read at a time where nothing is learned; of texts and images, few, and fewer where
each token makes as many numbers as the vocabulary has words."""
POOL = 50
"""Batches among which texts are sorted by their length."""


_KINDS = {
    "numbers": np.float32,
    "categories": np.int64,
    "image": np.uint8,
    **dict.fromkeys(LISTS, np.int64),
}


def tensors(prepared: Matrices) -> Inputs:
    """A copy of what `prepared` holds for a network, as the graph will be given it."""
    names = [name for name in INPUTS if name in prepared]
    return {name: torch.from_numpy(np.array(prepared[name], _KINDS[name])) for name in names}


def trimmed(inputs: Inputs) -> Inputs:
    """`inputs` with the tokens cut to the longest text's, but not to nothing."""
    cut = {}
    for name in set(LISTS) & inputs.keys():
        read = inputs["tokens" if name == "targets" else name]
        longest = int(lengths(read).max()) if len(read) else 0
        cut[name] = inputs[name][:, : max(longest, 1)]
    return {**inputs, **cut}


def lengths(tokens: Tensor) -> Tensor:
    """Tokens of each text, [N]."""
    return (tokens >= 0).sum(1)


def bucketed(order: Tensor, length: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    """A permutation's whole batches with texts of about one length in each, in a random order.

    Rows only move within POOL batches, so that batches differ from epoch to epoch. `order` [R] are
    places in `length` [N].
    """
    steps = len(order) // batch
    order = order[: steps * batch]
    pool = torch.arange(len(order), device=order.device) // (POOL * batch)
    by_length = (pool * (int(length.max()) + 1) + length[order]).argsort(stable=True)
    mixed = torch.randperm(steps, generator=generator).to(order.device)
    return order[by_length].view(steps, batch)[mixed].flatten()


def chunks(inputs: Inputs) -> Iterator[tuple[Tensor | slice, Inputs]]:
    """All rows, as many at a time as fit into memory, each chunk with its places. There is one
    chunk at least, if an empty one. Texts come in the order of their lengths, but not pairs."""
    count = len(next(iter(inputs.values())))
    if "tokens" in inputs:
        order = lengths(inputs["tokens"]).argsort(stable=True)
        size = WIDEST_CHUNK if "targets" in inputs else WIDE_CHUNK
        for places in torch.split(order, size) if count else [order]:
            yield places, trimmed({name: part[places] for name, part in inputs.items()})
        return
    size = WIDE_CHUNK if {"image", "question"} & inputs.keys() else CHUNK
    for start in range(0, count or 1, size):
        part = slice(start, start + size)
        yield part, trimmed({name: values[part] for name, values in inputs.items()})
