"""What training needs of a worker's memory under each strategy.

The states' bytes are those of section 5 of Rajbhandari et al., "ZeRO" (2020),
https://arxiv.org/abs/1910.02054, for weights in float32, and what DeepSpeed adds: stages keep a
second copy of the weights that they own, and reduce gradients through a buffer. Activations are
measured: what a forward pass keeps for the backward pass, per row.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ray_pipeline.job import Train

FLOAT = 4
"""Bytes of a float32."""
STRATEGIES = ("ddp", "zero1", "zero2", "zero3")
USABLE = 0.8
"""Share of a worker's memory that is planned with: allocators lose some, and so do libraries."""
BUCKET = 50_000_000
"""Most parameters in DeepSpeed's reduce buffer, and gathered ahead by stage 3."""


@dataclass(frozen=True)
class Shape:
    """A network in numbers: parameters that are `trained`, `frozen` ones, those of its `largest`
    layer, and `row_bytes` of activations."""

    trained: int
    frozen: int
    largest: int
    row_bytes: float

    @property
    def parameters(self) -> int:
        return self.trained + self.frozen


@dataclass(frozen=True)
class Memory:
    """Bytes of one worker. `host` is what was offloaded to its machine's memory, beside `total`."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    host: float = 0.0

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations


def needed(model: Shape, train: Train, strategy: str, workers: int, share: int) -> Memory:
    """A worker's memory with `share` rows a step. For Ψ trained parameters and W workers, bytes:

    ddp   4 Ψ weights, 4 Ψ gradients, 8 Ψ moments
    zero1 4 Ψ weights, 4 Ψ gradients and the buffer, 4 Ψ/W copies of the weights, 8 Ψ/W moments
    zero2 the same with 4 Ψ/W gradients
    zero3 the same with 4 Ψ/W weights, and the layers that are gathered at one time

    What `train.offload` names is counted for the host instead; nothing of it on a disk.
    """
    trained = model.trained
    owned = trained if strategy == "ddp" else -(-trained // workers)
    sharded = strategy in ("zero2", "zero3")
    weights = model.parameters
    if strategy == "zero3":
        gathered = min(model.parameters, model.largest + BUCKET)
        weights = -(-model.parameters // workers) + gathered
    gradients = owned if sharded else trained
    gradients += 0 if strategy == "ddp" else min(trained, BUCKET)
    optimizer = (2 if strategy == "ddp" else 3) * owned
    host = 0
    if train.offload is not None:
        if train.offload.optimizer is not None:
            host += optimizer + owned if train.offload.optimizer == "cpu" else 0
            optimizer = 0
        if train.offload.parameters is not None:
            kept = -(-model.parameters // workers)
            host += kept if train.offload.parameters == "cpu" else 0
            weights -= kept
    rows = -(-share // train.accumulate)
    return Memory(
        FLOAT * weights, FLOAT * gradients, FLOAT * optimizer, model.row_bytes * rows, FLOAT * host
    )


def shape(network: nn.Module, loss: Callable[[int], Tensor]) -> Shape:
    """`network` in numbers; `loss(rows)` runs it forward on so many rows, 4 and 8.

    Activations grow with the rows from a fixed part, which is left out.
    """
    parameters = list(network.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    largest = max(
        (sum(p.numel() for p in module.parameters(recurse=False)) for module in network.modules()),
        default=0,
    )
    few, more = (kept_bytes(network, partial(loss, rows)) for rows in (4, 8))
    frozen = sum(p.numel() for p in parameters) - trained
    return Shape(trained, frozen, largest, max(0, more - few) / 4)


def kept_bytes(network: nn.Module, loss: Callable[[], Tensor]) -> int:
    """Bytes of the tensors that `loss()` keeps for its backward pass, besides the network's own."""
    own = {
        tensor.untyped_storage().data_ptr()
        for tensor in itertools.chain(network.parameters(), network.buffers())
    }
    kept: dict[int, int] = {}
    held = []  # so that no storage is freed and its address used again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss()
    return sum(kept.values())
