"""How a trained model is compressed."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ray_pipeline.job.augment import Augment
from ray_pipeline.job.base import Settings
from ray_pipeline.job.model import Model


class Prune(Settings):
    """The trained network with weights set to 0, and trained on without them."""

    share: float = Field(0.5, gt=0, lt=1, description="Share of the weights that become 0.")
    pattern: Literal["magnitude", "2:4"] = Field(
        "magnitude",
        description="`magnitude`: the smallest of all; `2:4`: the two smallest of every four in a "
        "row, which GPUs with sparse tensor cores skip.",
    )
    epochs: int = Field(3, ge=1, description="Epochs of training after that.")
    learning_rate: float | None = Field(
        None, gt=0, description="The rate of that training; that of `train` if not given."
    )

    @field_validator("pattern", mode="before")
    @classmethod
    def _without_quotes(cls, pattern: object) -> object:
        # YAML reads 2:4 as minutes and seconds.
        return "2:4" if pattern == 2 * 60 + 4 else pattern

    @model_validator(mode="after")
    def _half(self) -> Prune:
        if self.pattern == "2:4" and self.share != 0.5:
            raise ValueError("the pattern 2:4 keeps half of the weights: leave `share` out")
        return self


class Distill(Settings):
    """A smaller network, the student, that learns from the trained one besides the labels."""

    model: dict[str, Any] = Field(
        min_length=1,
        description="What differs from `model` (as the search left it).",
        examples=[{"width": 32, "depth": 1}],
    )
    temperature: float = Field(
        2.0, gt=0, description="By how much the logits of both are divided: softens them."
    )
    alpha: float = Field(
        0.5, ge=0, le=1, description="Weight of the teacher's word in the loss, beside the label's."
    )
    hidden: float = Field(
        0.0,
        ge=0,
        description="Weight of the distance between what their last layers read, which must be of "
        "one width: more of a teacher than a few probabilities tell.",
    )
    epochs: int | None = Field(
        None, ge=1, description="Epochs of the student; as many as `train` if not given."
    )
    learning_rate: float | None = Field(
        None, gt=0, description="The student's rate; that of `train` if not given."
    )

    augment: Augment | None = Field(
        None,
        description="What is done to images or tokens of which the teacher then says what they "
        "are; `train.augment` if not given.",
    )

    @field_validator("model")
    @classmethod
    def _of_a_model(cls, model: dict[str, Any]) -> dict[str, Any]:
        Model.model_validate(model)
        return model


class Compress(Settings):
    int8: Literal["auto", "never"] = Field(
        "auto",
        description="8-bit weights, inputs scaled as they come. `auto`, of each form: take it when "
        "it is better here by `objective` and within `max_drop`.",
    )
    int8_static: Literal["auto", "never"] = Field(
        "never", description="8-bit weights and inputs, on scales found over training rows."
    )
    int4: Literal["auto", "never"] = Field("never", description="4-bit weights.")
    fp16: Literal["auto", "never"] = Field("never", description="16-bit floats.")
    prune: Prune | None = Field(None, description="Train a network on with weights set to 0.")
    distill: Distill | None = Field(None, description="Teach a smaller network.")
    objective: Literal["latency", "size", "quality"] = Field(
        "latency",
        description="What is best: the fastest, the smallest (when packed), or the highest score "
        "of those that are not clearly slower.",
    )
    max_drop: float = Field(
        0.005,
        ge=0,
        description="Largest loss of validation accuracy (or R²) allowed, in all, from the trained "
        "network to what is deployed.",
    )
