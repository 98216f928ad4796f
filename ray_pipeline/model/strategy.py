"""How the workers share a model: plain torch, data parallel (DDP), or a DeepSpeed ZeRO stage.

Each way is an `Engine`: the loop hands it the rows of a step, and a function that makes their loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ray_pipeline.job import Train
from ray_pipeline.model import memory, recompute
from ray_pipeline.model.adamw import AdamW
from ray_pipeline.model.feed import Rows

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

Weights = dict[str, Tensor]
LossOf = Callable[[nn.Module, Rows], Tensor]
"""A model's loss on some rows of a worker's batch, as a share of the whole batch's mean."""


class Engine(Protocol):
    """A model and its optimizer, on one worker. Every method is called on every worker."""

    model: nn.Module

    def set_learning_rate(self, rate: float) -> None: ...

    def step(self, parts: Sequence[Rows], loss_of: LossOf) -> Tensor:
        """One step of the optimizer, and the parts' summed loss.

        Forward and backward over each part, gradients summed over the parts and averaged over the
        workers, clipped, then the optimizer's step.
        """

    def weights(self) -> Weights:
        """A copy of the whole model's state on the CPU, the same on every worker."""

    def optimizer_state(self) -> Any:
        """What `restore` needs, the same on every worker and for any number of them: tensors,
        numbers and containers only."""

    def restore(self, state: Any) -> None: ...


def chosen(train: Train, model: memory.Shape, workers: int, share: int, available: int) -> str:
    """The name of the least sharding that fits: each further stage costs messages.

    `share` rows are a worker's of a step, `available` the bytes that it may use. The last stage is
    the answer where nothing fits.
    """
    fitting = (
        name
        for name in memory.STRATEGIES
        if memory.needed(model, train, name, workers, share).total <= available
    )
    return next(fitting, memory.STRATEGIES[-1])


def prepared(
    network: nn.Module, train: Train, name: str, device: torch.device, share: int
) -> Engine:
    """`network` made ready for training by the strategy `name`; `share` is a worker's batch.

    Raises:
        JobError: `train.checkpointing` asks for blocks, and it has none.
        TrainingError: DeepSpeed is needed, and not installed.
    """
    network = network.to(device).train()
    if train.checkpointing:
        recompute.inside_blocks(network, reentrant=name == "zero3")
    if name.startswith("zero"):
        from ray_pipeline.model.zero import Zero  # it knows this module's types

        return Zero(network, train, int(name.removeprefix("zero")), device, share)
    return Plain(network, train, device)


class Plain:
    """torch as it is, and DDP around the model where there is more than one worker."""

    def __init__(self, network: nn.Module, train: Train, device: torch.device) -> None:
        self.network, self.clip = network, train.clip
        self.device, self.dtype = device.type, DTYPES.get(train.precision)
        self.model: nn.Module = network
        self.shared = worker_count() > 1
        if self.shared:
            self.model = nn.parallel.DistributedDataParallel(
                network, forward_sync_buffers=False, gradient_as_bucket_view=True
            )
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.optimizer = AdamW(self.parameters, train.learning_rate, train.weight_decay)
        self.scaler = torch.amp.GradScaler(self.device, enabled=train.precision == "fp16")

    def set_learning_rate(self, rate: float) -> None:
        self.optimizer.rate = rate

    def step(self, parts: Sequence[Rows], loss_of: LossOf) -> Tensor:
        for parameter in self.parameters:
            parameter.grad = None
        total = torch.zeros((), device=self.device)
        for number, part in enumerate(parts, 1):
            last = number == len(parts)
            with self._gradients_shared(last), self._shorter():
                loss = loss_of(self.model, part)
            total += loss.detach()
            with self._gradients_shared(last):
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)  # type: ignore[arg-type]  # it reads its groups alone
        nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.scaler.step(self.optimizer)  # type: ignore[arg-type]
        self.scaler.update()
        return total

    def _gradients_shared(self, now: bool) -> AbstractContextManager[object]:
        """Gradients cross the network once a step, with its last part."""
        if now or not isinstance(self.model, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()

    def _shorter(self) -> AbstractContextManager[object]:
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device, self.dtype)

    def weights(self) -> Weights:
        return {name: copied(value) for name, value in self.network.state_dict().items()}

    def optimizer_state(self) -> Any:
        return {**self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def restore(self, state: Any) -> None:
        if state is not None:
            self.scaler.load_state_dict(state.get("scaler") or {})
            self.optimizer.load_state_dict({k: v for k, v in state.items() if k != "scaler"})


def worker_count() -> int:
    """Workers in the process group; 1 where there is none."""
    return dist.get_world_size() if dist.is_initialized() else 1


def summed(values: Tensor) -> Tensor:
    """The sum of `values` over all workers, on each of them."""
    if worker_count() > 1:
        dist.all_reduce(values)
    return values


def average_buffers(network: nn.Module) -> None:
    """Give all workers the mean of their running statistics, so that they judge one model."""
    if worker_count() == 1:
        return
    for buffer in network.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer.div_(worker_count())


def copied(value: Tensor) -> Tensor:
    """The tensor's values, on the CPU."""
    return value.detach().cpu().clone()
