"""What training needs of a worker's memory under each strategy.

The states' bytes are those of section 5 of Rajbhandari et al., "ZeRO" (2020),
https://arxiv.org/abs/1910.02054, for weights in float32, and what DeepSpeed adds: stages keep a
second copy of the weights that they own, and reduce gradients through a buffer. Activations are
measured: what a forward and a backward pass hold at one time, per row.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ray_pipeline.job import Train

FLOAT = 4
"""Bytes of a float32."""
STRATEGIES = ("ddp", "zero1", "zero2", "zero3")
USABLE = {"cuda": 0.8, "cpu": 0.6}
"""Share of a worker's memory that is planned with. Allocators and the libraries' own buffers take
the rest: on CPUs a process was seen to grow by 1.4 to 1.7 times the bytes of its tensors."""
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


def available(device: torch.device, workers: int) -> int:
    """Usable bytes of each of `workers` on this machine: a GPU's, or of its part of the memory."""
    if device.type == "cuda":
        total = int(torch.cuda.get_device_properties(device).total_memory)
    else:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // workers
    return int(total * USABLE[device.type])


def shape(network: nn.Module, loss: Callable[[int], Tensor]) -> Shape:
    """`network` in numbers; `loss(rows)` runs it on so many rows, which is done with 8 and 16.

    Activations grow with the rows from a fixed part, which is left out. No gradient stays.
    """
    parameters = list(network.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    largest = max(
        (sum(p.numel() for p in module.parameters(recurse=False)) for module in network.modules()),
        default=0,
    )
    few, more = (peak_bytes(network, partial(loss, rows)) for rows in (8, 16))
    frozen = sum(p.numel() for p in parameters) - trained
    return Shape(trained, frozen, largest, max(0, more - few) / 8)


def peak_bytes(network: nn.Module, loss: Callable[[], Tensor]) -> int:
    """Most bytes at one time that `loss()` and its backward pass make, besides weights' gradients:
    what is kept for the backward pass, and what passes through it."""
    live = _Live({parameter.numel() for parameter in network.parameters()})
    with live:
        loss().backward()  # type: ignore[no-untyped-call]
    network.zero_grad()
    return live.peak


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that operations make, for as long as they are held."""

    def __init__(self, besides: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.besides = besides
        self.now: int = 0
        self.peak: int = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.numel() not in self.besides:
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        place, size = storage.data_ptr(), storage.nbytes()
        if place in self.known or not size:
            return  # a view of what was counted
        self.known.add(place)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, place, size)

    def _freed(self, place: int, size: int) -> None:
        self.known.discard(place)
        self.now -= size
