"""DeepSpeed's ZeRO: optimizer (1), gradients (2) and parameters (3) sharded over the workers.

Rajbhandari et al., "ZeRO" (2020), https://arxiv.org/abs/1910.02054; moved to the machine's memory
or its disk as in "ZeRO-Infinity" (2021), https://arxiv.org/abs/2104.07857.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ray_pipeline.errors import TrainingError
from ray_pipeline.job import Offload, Train
from ray_pipeline.model import memory
from ray_pipeline.model.feed import Rows
from ray_pipeline.model.strategy import DTYPES, LossOf, Weights, copied, worker_count

MOMENTS = {"means": "exp_avg", "squares": "exp_avg_sq"}
"""Our names of Adam's two moments, and torch's."""


def configuration(train: Train, stage: int, share: int, parameters: int) -> dict[str, Any]:
    """DeepSpeed's configuration, after https://www.deepspeed.ai/docs/config-json/.

    `share` is a worker's rows of a step. Buffers are as large as the network's `parameters` need,
    not the 2 GB that are DeepSpeed's default. Weights stay float32 whatever the precision: torch's
    autocast computes in the shorter type, as it does without DeepSpeed.
    """
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": max(1, share // train.accumulate),
        "gradient_accumulation_steps": train.accumulate,
        "gradient_clipping": train.clip,
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": min(parameters, memory.BUCKET),
            **_offloaded(train.offload),
        },
        "zero_allow_untested_optimizer": True,
        # torch's AdamW, on the CPU too: DeepSpeed's own has to be compiled at the first start
        "zero_force_ds_cpu_optimizer": False,
    }
    if train.precision != "fp32":
        dtype = str(DTYPES[train.precision]).removeprefix("torch.")
        config["torch_autocast"] = {"enabled": True, "dtype": dtype}
    return config


def _offloaded(offload: Offload | None) -> dict[str, Any]:
    if offload is None:
        return {}
    pinned = torch.cuda.is_available()
    places = {"offload_optimizer": offload.optimizer, "offload_param": offload.parameters}
    return {
        name: {
            "device": place,
            "pin_memory": pinned,
            **({"nvme_path": offload.folder} if place == "nvme" else {}),
        }
        for name, place in places.items()
        if place is not None
    }


class Zero:
    """A DeepSpeed engine. A network that was `restore`d is the same for any number of workers."""

    def __init__(
        self, network: nn.Module, train: Train, stage: int, device: torch.device, share: int
    ) -> None:
        if device.type == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"  # read when deepspeed is imported
        self.deepspeed = _imported_deepspeed()
        self.stage, self.network = stage, network
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.swapped = train.offload is not None and train.offload.optimizer == "nvme"
        self.engine, self.sharded, _, _ = self.deepspeed.initialize(
            model=network,
            optimizer=torch.optim.AdamW(
                self.parameters, lr=train.learning_rate, weight_decay=train.weight_decay
            ),
            config=configuration(train, stage, share, sum(p.numel() for p in self.parameters)),
            dist_init_required=False,  # Ray Train has set up the process group
        )
        self.model: nn.Module = self.engine

    def set_learning_rate(self, rate: float) -> None:
        for group in self.sharded.param_groups:
            group["lr"] = rate

    def step(self, parts: Sequence[Rows], loss_of: LossOf) -> Tensor:
        total = torch.zeros((), device=parts[0].label.device)
        for part in parts:
            loss = loss_of(self.engine, part)
            total += loss.detach()
            self.engine.backward(loss * len(parts))  # it takes the mean over the parts
            self.engine.step()
        return total

    def weights(self) -> Weights:
        if self.stage < 3:
            return {name: copied(value) for name, value in self.network.state_dict().items()}
        state = {name: copied(value) for name, value in self.network.named_buffers()}
        for name, parameter in self.network.named_parameters(remove_duplicate=False):
            # One at a time: a worker never holds more than its shard and one whole parameter.
            with self.deepspeed.zero.GatheredParameters([parameter]):
                state[name] = copied(parameter)
        return {name: state[name] for name in self.network.state_dict()}

    def optimizer_state(self) -> Any:
        """Adam's moments, whole, parameter by parameter, as `Plain` has them.

        None where they are on a disk (they begin anew after an interruption), or where no step
        was taken yet.
        """
        steps = [state["step"] for state in self.sharded.optimizer.state.values() if state]
        if self.swapped or not steps:
            return None
        gathered = self.deepspeed.utils.safe_get_full_optimizer_state
        state = {
            name: [copied(gathered(parameter, key)) for parameter in self.parameters]
            for name, key in MOMENTS.items()
        }
        return {**state, "steps": [copied(steps[0]) for _ in self.parameters]}

    def restore(self, state: Any) -> None:
        if state is None or self.swapped:
            return
        for flat in self._shards():
            self.sharded.optimizer.state[flat] = {
                "step": state["steps"][0].clone(),
                **{key: torch.zeros_like(flat) for key in MOMENTS.values()},
            }
        if self.stage < 3:
            self.sharded._lazy_init_hp_params_optimizer_state()  # else only after a first step
        for name, key in MOMENTS.items():
            for parameter, value in zip(self.parameters, state[name], strict=True):
                self._set_moment(parameter, value, key)

    def _set_moment(self, parameter: nn.Parameter, value: Tensor, key: str) -> None:
        utils = self.deepspeed.utils
        if self.stage < 3:
            utils.safe_set_full_optimizer_state(parameter, value, key)
            return
        held = utils.safe_get_local_optimizer_state(parameter, key)
        padding = held.numel() * worker_count() - value.numel()  # the shards are equally long
        whole = nn.functional.pad(value.flatten(), (0, padding))
        start = held.numel() * torch.distributed.get_rank()
        utils.safe_set_local_optimizer_state(
            parameter, whole[start : start + held.numel()].to(held.device), key
        )

    def _shards(self) -> list[Tensor]:
        attribute = (
            "fp32_partitioned_groups_flat" if self.stage == 3 else "single_partition_of_fp32_groups"
        )
        return list(getattr(self.sharded, attribute))


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
