"""How the workers share a model: plain torch, data parallel (DDP), or a DeepSpeed ZeRO stage.

Each way is an `Engine`: the loop computes a loss with `engine.model` and calls `engine.step(loss)`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.adamw import adamw

from ray_pipeline.errors import TrainingError
from ray_pipeline.job import Train

WEIGHTS, GRADIENTS, ADAM = 4, 4, 8
"""Bytes per parameter in float32; Adam keeps two moments."""

Weights = dict[str, Tensor]


class Engine(Protocol):
    """A model and its optimizer, on one worker. Every method is called on every worker."""

    model: nn.Module

    def set_learning_rate(self, rate: float) -> None: ...

    def step(self, loss: Tensor) -> None:
        """Backward, gradients averaged over the workers, clipped, then the optimizer's step."""

    def weights(self) -> Weights:
        """A copy of the whole model's state on the CPU, the same on every worker."""

    def optimizer_state(self) -> Any:
        """What `restore` needs, on rank 0: tensors, numbers and containers only."""

    def restore(self, state: Any) -> None: ...


def chosen(train: Train, parameters: int, workers: int, gpu_bytes: int | None) -> str:
    """The strategy's name: what the job asks for, or the least sharding that fits under `auto`.

    Fitting means that weights, gradients and Adam's moments take at most half of a GPU's memory;
    the other half is for activations. Bytes per parameter for W workers, after section 5 of
    Rajbhandari et al., "ZeRO" (2020), https://arxiv.org/abs/1910.02054, in float32 throughout:
    DDP 4 + 4 + 8; stage 1: 4 + 4 + 8/W; stage 2: 4 + (4 + 8)/W; stage 3: 16/W.
    """
    if train.strategy != "auto":
        return train.strategy
    if workers < 2 or gpu_bytes is None:
        return "ddp"
    needed = {
        "ddp": WEIGHTS + GRADIENTS + ADAM,
        "zero1": WEIGHTS + GRADIENTS + ADAM / workers,
        "zero2": WEIGHTS + (GRADIENTS + ADAM) / workers,
    }
    fitting = (name for name, bytes_ in needed.items() if bytes_ * parameters <= gpu_bytes / 2)
    return next(fitting, "zero3")


def prepared(
    network: nn.Module, train: Train, name: str, device: torch.device, share: int
) -> Engine:
    """`network` made ready for training by the strategy `name`; `share` is a worker's batch."""
    network = network.to(device).train()
    if name.startswith("zero"):
        return Zero(network, train, int(name.removeprefix("zero")), device, share)
    return Plain(network, train)


class Plain:
    """torch as it is, and DDP around the model where there is more than one worker."""

    def __init__(self, network: nn.Module, train: Train) -> None:
        self.network, self.clip = network, train.clip
        self.model: nn.Module = network
        if worker_count() > 1:
            self.model = nn.parallel.DistributedDataParallel(
                network, forward_sync_buffers=False, gradient_as_bucket_view=True
            )
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.optimizer = AdamW(self.parameters, train.learning_rate, train.weight_decay)

    def set_learning_rate(self, rate: float) -> None:
        self.optimizer.rate = rate

    def step(self, loss: Tensor) -> None:
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()

    def weights(self) -> Weights:
        return {name: _copy(value) for name, value in self.network.state_dict().items()}

    def optimizer_state(self) -> Any:
        return self.optimizer.state_dict()

    def restore(self, state: Any) -> None:
        self.optimizer.load_state_dict(state)


class AdamW:
    """torch's AdamW kernel, without torch.optim's classes.

    Those import the compiler and sympy when the first one is made: 1.2 s in every process, which
    is a whole short trial. Parameters without a gradient are left alone, as there.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], rate: float, decay: float) -> None:
        self.parameters, self.rate, self.decay = parameters, rate, decay
        self.means = [torch.zeros_like(parameter) for parameter in parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in parameters]
        self.steps = [torch.zeros((), device=parameter.device) for parameter in parameters]

    @torch.no_grad()
    def step(self) -> None:
        lists: tuple[list[Tensor], ...] = ([], [], [], [], [])
        everything = (self.parameters, self.means, self.squares, self.steps)
        for parameter, *state in zip(*everything, strict=True):
            if parameter.grad is not None:
                for each, value in zip(lists, (parameter, parameter.grad, *state), strict=True):
                    each.append(value)
        parameters, gradients, means, squares, steps = lists
        adamw(
            parameters,
            gradients,
            means,
            squares,
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.rate,
            weight_decay=self.decay,
            eps=1e-8,
            maximize=False,
        )

    def state_dict(self) -> dict[str, list[Tensor]]:
        return {"means": self.means, "squares": self.squares, "steps": self.steps}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        for name, saved in state.items():
            for mine, value in zip(getattr(self, name), saved, strict=True):
                mine.copy_(value)


class Zero:
    """A DeepSpeed engine that shards optimizer (1), gradients (2) and parameters (3)."""

    def __init__(
        self, network: nn.Module, train: Train, stage: int, device: torch.device, share: int
    ) -> None:
        if device.type == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"  # read when deepspeed is imported
        self.deepspeed = _imported_deepspeed()
        self.stage = stage
        self.network = network
        self.engine, self.sharded, _, _ = self.deepspeed.initialize(
            model=network,
            optimizer=torch.optim.AdamW(
                network.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay
            ),
            config={
                "train_micro_batch_size_per_gpu": share,
                "gradient_clipping": train.clip,
                "zero_optimization": {"stage": stage},
                "zero_allow_untested_optimizer": True,
            },
            dist_init_required=False,  # Ray Train has set up the process group
        )
        self.model: nn.Module = self.engine

    def set_learning_rate(self, rate: float) -> None:
        for group in self.sharded.param_groups:
            group["lr"] = rate

    def step(self, loss: Tensor) -> None:
        self.engine.backward(loss)
        self.engine.step()

    def weights(self) -> Weights:
        if self.stage < 3:
            return {name: _copy(value) for name, value in self.network.state_dict().items()}
        state = {name: _copy(value) for name, value in self.network.named_buffers()}
        for name, parameter in self.network.named_parameters():
            # One at a time: a worker never holds more than its shard and one whole parameter.
            with self.deepspeed.zero.GatheredParameters([parameter]):
                state[name] = _copy(parameter)
        return {name: state[name] for name in self.network.state_dict()}

    def optimizer_state(self) -> Any:
        """One entry a worker: Adam's state of each of its flat shards."""
        inner = self.sharded.optimizer.state
        mine = [
            {key: _copy(value) for key, value in inner[shard].items()} for shard in self._shards()
        ]
        parts: list[Any] | None = [None] * worker_count() if dist.get_rank() == 0 else None
        dist.gather_object(mine, parts)
        return parts

    def restore(self, state: Any) -> None:
        for shard, saved in zip(self._shards(), state[dist.get_rank()], strict=True):
            self.sharded.optimizer.state[shard] = {
                key: value if key == "step" else value.to(shard.device)
                for key, value in saved.items()
            }

    def _shards(self) -> list[Tensor]:
        attribute = (
            "fp32_partitioned_groups_flat" if self.stage == 3 else "single_partition_of_fp32_groups"
        )
        return list(getattr(self.sharded, attribute))


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


def _copy(value: Tensor) -> Tensor:
    return value.detach().cpu().clone()


def _imported_deepspeed() -> Any:
    try:
        import deepspeed
    except ImportError as error:
        raise TrainingError(
            "DeepSpeed is not installed",
            where="train.strategy",
            hint="pip install 'ray-pipeline[deepspeed]', or choose ddp",
        ) from error
    return deepspeed
