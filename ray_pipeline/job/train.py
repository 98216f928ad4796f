"""How a network is trained: on which workers, in which steps, in how much memory."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from ray_pipeline.job.augment import Augment
from ray_pipeline.job.base import Fraction, Settings


class Elastic(Settings):
    """A number of workers that follows what the cluster has."""

    min: int = Field(ge=1, description="Training waits until so many can be had.")
    max: int = Field(ge=1, description="No more than these are asked for.")

    @model_validator(mode="after")
    def _in_order(self) -> Elastic:
        if self.min > self.max:
            raise ValueError("min must not be above max")
        return self


class Offload(Settings):
    """What a ZeRO stage keeps outside a GPU's memory."""

    optimizer: Literal["cpu", "nvme"] | None = Field(
        None, description="Where Adam's moments are; on a disk they begin anew after a restart."
    )
    parameters: Literal["cpu", "nvme"] | None = Field(
        None, description="Where the weights are that a layer does not need now; zero3 alone."
    )
    folder: str | None = Field(None, description="For `nvme`: a folder on a fast local disk.")

    @model_validator(mode="after")
    def _has_a_place(self) -> Offload:
        if self.optimizer is None and self.parameters is None:
            raise ValueError("give optimizer, parameters or both")
        if "nvme" in (self.optimizer, self.parameters) and self.folder is None:
            raise ValueError("nvme needs a folder")
        return self


class Train(Settings):
    strategy: Literal["auto", "ddp", "zero1", "zero2", "zero3"] = Field(
        "auto",
        description="How workers share the work: plain data parallel, or a DeepSpeed ZeRO stage. "
        "`auto`: the least sharding that fits the workers' memory.",
    )
    workers: int | Literal["auto"] | Elastic = Field(
        "auto",
        description="Training processes. `auto`: one per GPU, or one inside the driver where the "
        "cluster has no GPU; 0 asks for the latter. {min, max}: as many as the cluster has room "
        "for, when training starts and whenever it starts again.",
        examples=[{"min": 2, "max": 8}],
    )
    cpus: float = Field(1, gt=0, description="CPUs for a worker.")
    epochs: int = Field(12, ge=1)
    batch_size: int = Field(512, ge=1, description="Rows per step, over all workers.")
    accumulate: int = Field(
        1,
        ge=1,
        description="Parts that a worker takes its rows of a step in, one after the other: less "
        "memory for activations, the same step.",
    )
    learning_rate: float = Field(2e-3, gt=0, description="Highest rate of the schedule.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine",
        description="How the rate falls to 0 over the epochs, or that it stays.",
    )
    warm_up: Fraction = Field(0.1, description="Share of the steps in which the rate rises from 0.")
    weight_decay: float = Field(1e-4, ge=0)
    clip: float = Field(1.0, gt=0, description="Largest gradient norm.")
    patience: int = Field(
        4, ge=1, description="Stop after this many epochs without a lower validation loss."
    )
    augment: Augment | None = Field(
        None,
        description="What is done to the images or tokens of a training step; absent, nothing.",
        examples=[{"flip": True, "shift": 0.1, "rotate": 10, "cutout": 0.25}],
    )
    mixup: float = Field(
        0.0,
        ge=0,
        description="Alpha of mixup: each training row of numbers, or image, is mixed with another "
        "by a share drawn from Beta(alpha, alpha), and so is what it should say. 0: not at all; "
        "0.2 to 0.4 are usual.",
    )
    smoothing: Fraction = Field(
        0.0,
        description="Label smoothing: the share of a training label's certainty that goes to all "
        "classes alike; 0.1 is usual.",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32",
        description="What layers compute in; weights stay float32. fp16 scales the loss, so that "
        "small gradients are not lost.",
    )
    checkpointing: bool = Field(
        False,
        description="Keep the activations between blocks only, and compute those inside again in "
        "the backward pass: less memory, about a third more time.",
    )
    offload: Offload | None = Field(
        None,
        description="What a ZeRO stage keeps outside a GPU's memory.",
        examples=[{"optimizer": "cpu", "parameters": "nvme", "folder": "/local"}],
    )
    checkpoint_every: int | None = Field(
        None,
        ge=1,
        description="Steps between checkpoints inside an epoch; without, one at its end.",
    )
    price_per_hour: float | None = Field(
        None, gt=0, description="What a worker costs in an hour: `validate` tells the whole price."
    )
    feed: Literal["auto", "memory", "stream"] = Field(
        "auto",
        description="`memory` shares the prepared rows through Ray's object store; `stream` reads "
        "them again each epoch; `auto` streams what exceeds a quarter of that store.",
    )
    seed: int = 0

    @field_validator("workers")
    @classmethod
    def _not_negative(cls, workers: int | str | Elastic) -> int | str | Elastic:
        if isinstance(workers, int) and workers < 0:
            raise ValueError("must be 0 or more, or auto")
        return workers

    @model_validator(mode="after")
    def _offloaded_by_a_stage(self) -> Train:
        if self.offload is None:
            return self
        if not self.strategy.startswith("zero"):
            raise ValueError("offload needs strategy zero1, zero2 or zero3")
        if self.strategy != "zero3" and (
            self.offload.parameters is not None or self.offload.optimizer == "nvme"
        ):
            raise ValueError("only zero3 offloads parameters, or the optimizer to nvme")
        return self
