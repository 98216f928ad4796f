"""The network, and the search for its settings and those of its training."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ray_pipeline.job.base import Fraction, Settings


class Trees(Settings):
    """Gradient-boosted trees. An epoch adds `rounds` of them for each class."""

    rounds: int = Field(50, ge=1, description="Trees that an epoch adds, for each class.")
    learning_rate: float = Field(0.05, gt=0, le=1, description="What a tree's leaves count for.")
    leaves: int = Field(31, ge=2, description="Most leaves of a tree.")
    min_rows: int = Field(20, ge=1, description="Fewest training rows in a leaf.")
    columns: float = Field(0.5, gt=0, le=1, description="Share of the columns that a tree sees.")
    l2: float = Field(0.0, ge=0, description="L2 penalty on the leaves.")


class Lora(Settings):
    """Low-rank additions to a pretrained network's linear layers, which themselves stay."""

    rank: int = Field(8, ge=1)
    alpha: int = Field(16, ge=1, description="The addition counts alpha / rank.")
    dropout: Fraction = 0.0


class Model(Settings):
    name: str = Field(
        "mlp",
        description="`mlp`, `resnet`, `ft_transformer`, `trees`; of images `cnn` or `convnet`; of "
        "a text's tokens `encoder`, or `language`, which writes answers; or "
        "your own as module:function; "
        "`auto` lets the search choose among those that suit the data.",
        examples=["resnet"],
    )
    base: str | None = Field(
        None,
        description="Weights to begin with, of a `convnet`, an `encoder` or a `language` (there "
        "by default of what makes the tokens): a folder or a hub's id, with config.json and "
        "model.safetensors.",
    )
    layers: int | None = Field(
        None, ge=1, description="Layers of an `encoder` that are kept, evenly spaced; or all."
    )
    lora: Lora | None = Field(
        None,
        description="Train an `encoder` or a `language` through low-rank additions, not in full.",
    )
    width: int = Field(128, ge=1, description="Units in a hidden layer; of a token, if `heads`.")
    depth: int = Field(2, ge=1, le=64, description="Hidden layers, residual or attention blocks.")
    heads: int = Field(8, ge=1, description="Attention heads of a transformer; they share `width`.")
    dropout: Fraction = 0.2
    trees: Trees = Trees()
    embedding: int = Field(
        8, ge=1, description="Length of the vector that stands for a category or a number."
    )
    frequencies: int = Field(
        16,
        ge=0,
        description="Sines and cosines that a number is given to the network as, besides itself: "
        "they let it see fine steps; 0 for none.",
    )
    frequency_scale: float = Field(
        4.0, gt=0, description="Standard deviation of the frequencies at the start of training."
    )


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
    trials: int = Field(16, ge=1, description="Settings tried.")
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
