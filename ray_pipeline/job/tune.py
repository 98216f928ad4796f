"""The search for settings of the model and its training."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ray_pipeline.job.base import Settings
from ray_pipeline.job.model import Model, Trees

CHANGEABLE = ("train.learning_rate", "train.weight_decay", "train.clip", "model.dropout")
"""What may change while a network trains: its weights stay what they are."""


class Range(Settings):
    """One dimension of a search: exactly one of the four."""

    choice: tuple[Any, ...] | None = Field(None, min_length=1)
    uniform: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = None
    integer: tuple[int, int] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Range:
        given = [name for name, value in self if value is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of choice, uniform, log_uniform, integer")
        for bounds in (self.uniform, self.log_uniform, self.integer):
            if bounds is not None and bounds[0] >= bounds[1]:
                raise ValueError("the first bound must be below the second")
        if self.log_uniform is not None and self.log_uniform[0] <= 0:
            raise ValueError("log_uniform needs bounds above 0")
        return self


class Tune(Settings):
    trials: int = Field(16, ge=1, description="Settings tried; under `pbt`, the population.")
    epochs: int = Field(8, ge=1, description="Epochs of the trials that are let run to the end.")
    parallel: int | None = Field(
        None, ge=1, description="Trials at a time; as many as fit the cluster if not given."
    )
    cpus: float = Field(1, gt=0, description="CPUs for a trial; may be a fraction.")
    gpus: float = Field(0, ge=0, description="GPUs for a trial; may be a fraction.")
    seed: int = 0
    algorithm: Literal["tpe", "random"] = Field(
        "tpe", description="How settings are proposed: by what earlier trials showed, or at random."
    )
    scheduler: Literal["asha", "pbt"] = Field(
        "asha",
        description="`asha` stops poor trials early. `pbt` (population based training) has poor "
        "trials go on from the weights of good ones, with settings near theirs; what it ends with "
        "is the trained model.",
    )
    interval: int = Field(
        1, ge=1, description="Epochs of `pbt` after which poor trials give way to good ones."
    )
    objectives: tuple[Literal["loss", "latency"], ...] = Field(
        ("loss",),
        description="What is to be low: the validation loss, or that and the milliseconds that "
        "the network takes for one row.",
        examples=[["loss", "latency"]],
    )
    max_latency: float | None = Field(
        None,
        gt=0,
        description="Of the trials that take at most so many milliseconds, the best is chosen. "
        "Without it, one where less loss would cost much latency.",
    )
    space: dict[str, Range] = Field(
        {},
        description="What is searched, by key: `model.…` or `train.…`. Where `model.name` is "
        "`auto`, each architecture has a space of its own, which these are added to.",
        examples=[{"train.learning_rate": {"log_uniform": [1e-4, 1e-2]}}],
    )

    @field_validator("space")
    @classmethod
    def _known_keys(cls, space: dict[str, Range]) -> dict[str, Range]:
        known = [f"model.{key}" for key in Model.model_fields]
        known += [f"model.trees.{key}" for key in Trees.model_fields]
        known += [f"train.{key}" for key in ("batch_size", "learning_rate", "weight_decay", "clip")]
        for key in space:
            if key not in known:
                raise ValueError(f"{key!r} cannot be searched; these can: {', '.join(known)}")
        return space

    @field_validator("objectives")
    @classmethod
    def _loss_first(cls, objectives: tuple[str, ...]) -> tuple[str, ...]:
        if objectives not in {("loss",), ("loss", "latency")}:
            raise ValueError("give [loss] or [loss, latency]")
        return objectives

    @property
    def timed(self) -> bool:
        """Whether trials are compared by their latency too."""
        return "latency" in self.objectives

    @model_validator(mode="after")
    def _latency_is_sought(self) -> Tune:
        if self.max_latency is not None and not self.timed:
            raise ValueError("max_latency needs objectives [loss, latency]")
        return self

    @model_validator(mode="after")
    def _a_population(self) -> Tune:
        if self.scheduler != "pbt":
            return self
        if self.trials < 2:
            raise ValueError("pbt needs trials: 2 or more, to learn from each other")
        if self.parallel is not None:
            raise ValueError("pbt takes as many trials at a time as fit; set cpus or gpus")
        if self.timed:
            raise ValueError("pbt knows one objective, loss")
        if self.space and not any(key in CHANGEABLE for key in self.space):
            raise ValueError(f"pbt needs one of these in space: {', '.join(CHANGEABLE)}")
        return self
